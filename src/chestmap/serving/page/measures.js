// Rulers, angles and the cardiothoracic ratio: lines in image pixels, in millimeters where the file knows their size. Not saved.

export const KINDS = { ruler: "Ruler", angle: "Angle", ctr: "CTR" };
const LINES = { ruler: 1, angle: 2, ctr: 2 };

/** Length of a line; `spacing` is [row, column] in mm, or null for pixels. */
export function lengthOf({ a, b }, spacing) {
  const [row, column] = spacing ?? [1, 1];
  return Math.hypot((b.x - a.x) * column, (b.y - a.y) * row);
}

/** The acute angle between two lines in degrees. */
export function angleBetween(one, other, spacing) {
  const [row, column] = spacing ?? [1, 1];
  const way = ({ a, b }) => Math.atan2((b.y - a.y) * row, (b.x - a.x) * column);
  const apart = Math.abs(way(one) - way(other)) * 180 / Math.PI % 180;
  return Math.min(apart, 180 - apart);
}

/** What a mark says; empty while a line is missing. */
export function told({ kind, lines }, spacing) {
  if (kind === "ruler") return `${lengthOf(lines[0], spacing).toFixed(1)} ${spacing ? "mm" : "px"}`;
  if (lines.length < 2) return kind === "ctr" ? "heart; now the thorax" : "now the second line";
  if (kind === "angle") return `${angleBetween(...lines, spacing).toFixed(1)}°`;
  const [less, more] = lines.map(line => lengthOf(line, spacing)).sort((x, y) => x - y);
  return `CTR ${(less / more).toFixed(2)}`;
}

export class Measures {
  /** `point(at)` leads from the stage to the image; `changed` redraws. */
  constructor(point, changed) { Object.assign(this, { point, changed, marks: [], live: null }); }

  clear() { this.marks = []; this.live = null; this.changed(); }

  dragging(kind, first, at) {
    this.live = { kind, line: { a: this.point(first), b: this.point(at) } };
    this.changed();
  }

  finish() {
    if (!this.live) return;
    const { kind, line } = this.live, last = this.marks.at(-1);
    this.live = null;
    if (last?.kind === kind && last.lines.length < LINES[kind]) last.lines.push(line);
    else this.marks.push({ kind, lines: [line] });
    this.changed();
  }

  /** Takes the last mark away; false where there is none. */
  undo() {
    if (!this.marks.length) return false;
    this.marks.pop();
    this.changed();
    return true;
  }

  /** A mark that lacks a line is let go. */
  letGo() {
    const open = this.live || (this.marks.length && this.marks.at(-1).lines.length < LINES[this.marks.at(-1).kind]);
    if (this.marks.length && this.marks.at(-1).lines.length < LINES[this.marks.at(-1).kind]) this.marks.pop();
    this.live = null;
    if (open) this.changed();
    return Boolean(open);
  }

  /** Lines and words for the painter. */
  shown(spacing) {
    const drawn = this.marks.map(mark => ({ lines: mark.lines, text: told(mark, spacing) }));
    if (this.live) {
      const { kind, line } = this.live, last = this.marks.at(-1);
      const lines = last?.kind === kind && last.lines.length < LINES[kind] ? [...last.lines, line] : [line];
      drawn.push({ lines, text: told({ kind, lines }, spacing) });
    }
    return drawn;
  }
}

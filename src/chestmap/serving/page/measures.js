// Rulers, angles and the cardiothoracic ratio: lines in image pixels, in millimeters where the file knows
// their size. They are part of the review.

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

const stored = ({ a, b }) => ({ x0: a.x, y0: a.y, x1: b.x, y1: b.y });
const drawn = ({ x0, y0, x1, y1 }) => ({ a: { x: x0, y: y0 }, b: { x: x1, y: y1 } });
/** A saved measure as lines from `a` to `b`. */
export const mark = ({ kind, lines }) => ({ kind, lines: lines.map(drawn) });

export class Measures {
  /** `point(at)` leads from the stage to the image; `kept()` gives the review's measures, `keep(list)` changes them. */
  constructor(point, { kept, keep, changed }) { Object.assign(this, { point, kept, keep, changed, first: null, live: null }); }

  dragging(kind, first, at) {
    this.live = { kind, line: { a: this.point(first), b: this.point(at) } };
    this.changed();
  }

  /** A mark of two lines is kept once it has both. */
  finish() {
    if (!this.live) return;
    const { kind, line } = this.live, lines = this.first?.kind === kind ? [...this.first.lines, line] : [line];
    this.live = null;
    this.first = lines.length < LINES[kind] ? { kind, lines } : null;
    if (!this.first) this.keep([...this.kept(), { kind, lines: lines.map(stored) }]);
    this.changed();
  }

  /** Takes the last mark away; false where there is none. */
  undo() {
    if (this.letGo()) return true;
    if (!this.kept().length) return false;
    this.keep(this.kept().slice(0, -1));
    this.changed();
    return true;
  }

  /** A mark that lacks a line is let go. */
  letGo() {
    const open = this.live ?? this.first;
    this.live = this.first = null;
    if (open) this.changed();
    return Boolean(open);
  }

  /** Lines and words for the painter. */
  shown(spacing) {
    const marks = this.kept().map(mark);
    if (this.live) marks.push({ kind: this.live.kind, lines: [...(this.first?.kind === this.live.kind ? this.first.lines : []), this.live.line] });
    else if (this.first) marks.push(this.first);
    return marks.map(one => ({ lines: one.lines, text: told(one, spacing) }));
  }
}

// What a reviewer says of a study: for each finding a verdict and boxes, beside them a note and how far the reading is.
// A review is never changed in place; the log keeps the earlier ones for undo.

export const VERDICTS = ["accept", "reject", "correct"];
export const UNSET = Object.freeze({ verdict: "unset", boxes: Object.freeze([]) });

/** A box with where it came from: drawn, moved from a model's, or that model's own. */
const plainBox = ({ x0, y0, x1, y1, origin, model }) => ({ x0, y0, x1, y1, origin: origin ?? "drawn", model: model ?? "" });

const rounded = value => Math.round(value * 100) / 100;
const measure = ({ kind, lines }) => ({ kind, lines: lines.map(({ x0, y0, x1, y1 }) => ({ x0: rounded(x0), y0: rounded(y0), x1: rounded(x1), y1: rounded(y1) })) });

/** The part of a review that a reviewer makes, in one order, so that equal ones are equal as text. */
export function content(review) {
  const findings = {};
  for (const name of Object.keys(review?.findings ?? {}).sort()) {
    const { verdict, boxes, how, seen } = review.findings[name];
    if (verdict !== "unset") findings[name] = { verdict, boxes: (boxes ?? []).map(plainBox), how: how ?? "considered", seen: seen ?? "" };
  }
  return { state: review?.state ?? "no", findings, note: review?.note ?? "", measures: (review?.measures ?? []).map(measure), key: Boolean(review?.key) };
}

/** A part of a review as text, without what the service may know better: where boxes came from, and what was seen. */
export const text = value => JSON.stringify(value, (key, part) => (["origin", "model", "seen"].includes(key) ? undefined : part));
export const same = (a, b) => text(content(a)) === text(content(b));
export const of = (review, finding) => review.findings[finding] ?? UNSET;

/** The review with one finding said; a first word makes an unread study partly read. `given` is how, and which model was seen. */
export function saying(review, finding, verdict, boxes, given = {}) {
  const findings = { ...review.findings, [finding]: { verdict, boxes, how: "considered", seen: "", ...given } };
  if (verdict === "unset") delete findings[finding];
  return { ...review, findings, state: review.state === "no" ? "part" : review.state };
}

export class Log {
  constructor(review, changed) {
    this.changed = changed;
    this.replace(review);
  }

  /** Another starting point, such as the merged review after a conflict. */
  replace(review) {
    this.now = content(review);
    this.past = [];
    this.future = [];
    this.tag = "";
  }

  /** Makes `next` the review; steps with the same tag in a row, such as a held arrow key, are undone as one. */
  change(next, tag = "") {
    const to = content(next);
    if (same(to, this.now)) return;
    if (!tag || tag !== this.tag) this.past.push(this.now);
    this.tag = tag;
    this.future = [];
    this.now = to;
    this.changed();
  }

  /** Ends a row of steps that would be undone as one. */
  pause() { this.tag = ""; }

  undo() { return this.step(this.past, this.future); }
  redo() { return this.step(this.future, this.past); }

  step(from, to) {
    if (!from.length) return false;
    to.push(this.now);
    this.now = from.pop();
    this.tag = "";
    this.changed();
    return true;
  }
}

// Taking, drawing, moving, resizing and deleting boxes. The boxes themselves belong to the review; a drag is shown as it
// goes and becomes one step of the review when it ends.

import { area, betweenCorners, handleAt, holds, moved, plain, resized, sized } from "./boxes.js";
import { direction } from "./orientation.js";

const CURSORS = { nw: "nwse-resize", se: "nwse-resize", ne: "nesw-resize", sw: "nesw-resize", n: "ns-resize", s: "ns-resize", e: "ew-resize", w: "ew-resize" };

export class Editor {
  /** `shown()` lists the boxes on the image as {finding, index, box}; `boxesOf(finding)` gives those of one finding,
   *  `startOf(finding)` those that a new one is added to;
   *  `chosen()` is the finding that a new box belongs to; `commit(finding, boxes, tag)` makes them the reviewer's. */
  constructor(pane, { shown, boxesOf, startOf, chosen, commit, redraw, tell }) {
    Object.assign(this, { pane, shown, boxesOf, startOf, chosen, commit, redraw, tell, taken: null, live: null, hold: null });
  }

  get image() { return this.pane.image; }
  point(at) { return this.pane.toImage(at); }

  /** The taken box, or null once it is gone (hidden, undone, deleted). */
  get box() {
    if (!this.taken) return null;
    return this.boxesOf(this.taken.finding)[this.taken.index] ?? null;
  }

  take(finding, index) {
    this.taken = finding === null ? null : { finding, index };
    this.live = null;
    const boxes = finding === null ? [] : this.boxesOf(finding);
    if (boxes[index]) this.tell(`${finding}, box ${index + 1} of ${boxes.length}, ${sized(boxes[index])} pixels`);
    this.redraw();
  }

  /** Whether a drag from here would change the taken box. */
  grab(at, reach) {
    const box = this.box;
    if (!box) return false;
    const point = this.point(at), handle = handleAt(box, point, reach / this.pane.view.zoom);
    this.hold = handle ?? (holds(box, point) ? "move" : null);
    return this.hold !== null;
  }

  cursor(at) {
    const box = this.box;
    if (!box) return null;
    const point = this.point(at), handle = handleAt(box, point, 8 / this.pane.view.zoom);
    return handle ? this.pane.orientation.turn || this.pane.orientation.flip ? "crosshair" : CURSORS[handle] : holds(box, point) ? "move" : null;
  }

  dragging(first, at) {
    const from = this.point(first), to = this.point(at), [dx, dy] = [to.x - from.x, to.y - from.y];
    this.live = this.hold === "move" ? moved(this.box, dx, dy, this.image) : resized(this.box, this.hold, dx, dy, this.image);
    this.redraw();
  }

  drawing(first, at) {
    if (!this.chosen()) return;
    this.live = betweenCorners(this.point(first), this.point(at), this.image);
    this.hold = "draw";
    this.redraw();
  }

  finish() {
    const { live, hold } = this;
    this.letGo();
    if (live && hold === "draw") this.put(live);
    else if (live) this.replace(live);
  }

  letGo() {
    this.live = null;
    this.hold = null;
    this.redraw();
  }

  /** Takes the smallest box under the point; a second click takes the next one below it. */
  click(at) {
    const point = this.point(at);
    const hits = this.shown().filter(one => holds(one.box, point)).sort((a, b) => area(a.box) - area(b.box));
    const now = hits.findIndex(one => one.finding === this.taken?.finding && one.index === this.taken.index);
    const next = hits[(now + 1) % hits.length];
    if (next) this.take(next.finding, next.index); else this.take(null);
  }

  /** The next or previous box in the order of the findings; false past the last one. */
  cycle(step) {
    const boxes = this.shown();
    const now = boxes.findIndex(one => one.finding === this.taken?.finding && one.index === this.taken.index);
    const next = boxes[now === -1 ? (step > 0 ? 0 : boxes.length - 1) : now + step];
    if (!next) { this.take(null); return false; }
    this.take(next.finding, next.index);
    return true;
  }

  put(box) {
    const finding = this.chosen();
    if (!finding) return;
    const boxes = [...this.startOf(finding).map(plain), { ...box, origin: "drawn", model: "" }];
    this.commit(finding, boxes, "");
    this.take(finding, boxes.length - 1);
  }

  replace(box, tag = "") {
    const { finding, index } = this.taken;
    const changed = old => ({ ...plain(box), origin: old.origin === "model" || old.origin === "moved" ? "moved" : "drawn", model: old.model });
    this.commit(finding, this.boxesOf(finding).map((old, i) => (i === index ? changed(old) : plain(old))), tag);
  }

  /** A fifth of what is on the stage, in its middle. */
  putInMiddle() {
    const { width, height } = this.pane.stage, a = this.point({ x: 0, y: 0 }), b = this.point({ x: width, y: height });
    const left = Math.max(0, Math.min(a.x, b.x)), right = Math.min(this.image.width, Math.max(a.x, b.x));
    const top = Math.max(0, Math.min(a.y, b.y)), foot = Math.min(this.image.height, Math.max(a.y, b.y));
    const w = (right - left) / 5, h = (foot - top) / 5, x = (left + right) / 2, y = (top + foot) / 2;
    const box = betweenCorners({ x: x - w / 2, y: y - h / 2 }, { x: x + w / 2, y: y + h / 2 }, this.image);
    if (box) this.put(box);
  }

  remove() {
    if (!this.box) return false;
    const { finding, index } = this.taken;
    const left = this.boxesOf(finding).filter((_, i) => i !== index).map(plain);
    this.commit(finding, left, "");
    if (left.length) this.take(finding, Math.min(index, left.length - 1)); else this.take(null);
    return true;
  }

  /** Arrow keys: a step of half a percent of the shorter side; with `stretch`, the right and lower edges move. */
  nudge(key, stretch) {
    const step = Math.max(1, Math.round(Math.min(this.image.width, this.image.height) / 200));
    const x = key.endsWith("Left") ? -step : key.endsWith("Right") ? step : 0, y = key.endsWith("Up") ? -step : key.endsWith("Down") ? step : 0;
    const { x: dx, y: dy } = direction(this.pane.orientation, { x, y });
    if (!this.box) return false;
    const { finding, index } = this.taken;
    const to = stretch ? resized(this.box, "se", dx, dy, this.image) : moved(this.box, dx, dy, this.image);
    this.replace(to, `${stretch ? "stretch" : "nudge"} ${finding} ${index}`);
    this.tell(`${Math.round(to.x0)}, ${Math.round(to.y0)}, ${sized(to)} pixels`);
    return true;
  }
}

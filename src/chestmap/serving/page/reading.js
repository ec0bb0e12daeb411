// One open study without its looks: results of the models, what is shown, what the reviewer says.

import { plain } from "./boxes.js";
import { Log, of, saying, UNSET } from "./review.js";

const AT_FIRST = 3; // so many findings are shown when a study opens

export class Reading {
  /** `blind`: the study comes without what models say. */
  constructor(study, changed, blind = false) {
    this.study = study;
    this.blind = blind;
    this.log = new Log(study.review, changed);
    this.model = study.results[0]?.model ?? null;
    this.rows = this.sorted();
    this.visible = new Set();
    this.chosen = this.rows[0] ?? null;
    for (const name of this.rows) if (this.calls(name) && this.visible.size < AT_FIRST) this.visible.add(name);
    if (!this.visible.size && this.chosen && this.finding(this.chosen)?.threshold === null) this.visible.add(this.chosen);
    for (const name of Object.keys(this.log.now.findings)) if (this.boxesOf(name).length) this.visible.add(name);
    this.before = null;
    this.overlay = true; // whether maps or boxes of the model are on the image
  }

  get models() { return this.study.results.map(result => result.model); }
  get review() { return this.log.now; }

  result(model = this.model) { return this.study.results.find(one => one.model === model) ?? null; }
  finding(name, model = this.model) { return this.result(model)?.findings.find(one => one.name === name) ?? null; }

  /** Whether any model calls the finding. */
  calls(name) { return this.models.some(model => this.finding(name, model)?.over); }

  /** Findings of all models: called ones first, then by the greatest score. The order stays while the study is open. */
  sorted() {
    const names = [...new Set(this.study.results.flatMap(result => result.findings.map(one => one.name)))];
    const best = name => Math.max(...this.models.map(model => this.finding(name, model)?.score ?? 0));
    const rank = name => (this.calls(name) ? 1 : 0);
    return this.blind ? names.sort() : names.sort((a, b) => rank(b) - rank(a) || best(b) - best(a));
  }

  verdict(name) { return of(this.review, name).verdict; }
  modelBoxes(name) { return (this.finding(name)?.boxes ?? []).map(box => ({ ...plain(box), origin: "model", model: this.model })); }
  /** How a verdict of now is given, and with which model in sight. */
  get given() { return { how: "considered", seen: this.overlay && !this.blind ? this.model ?? "" : "" }; }

  /** The reviewer's boxes once there is a verdict, until then the model's. */
  boxesOf(name) { return this.verdict(name) === "unset" ? this.modelBoxes(name) : of(this.review, name).boxes; }

  /** Boxes on the image, in the order of the rows. */
  shown() {
    return this.rows.filter(name => this.visible.has(name))
      .flatMap(name => this.boxesOf(name).map((box, index) => ({ finding: name, index, box })));
  }

  choose(name, show = true) {
    this.chosen = name;
    if (show && name) this.visible.add(name);
  }

  step(by) {
    const at = this.rows.indexOf(this.chosen);
    const next = this.rows[Math.min(this.rows.length - 1, Math.max(0, at + by))];
    if (next && next !== this.chosen) {
      const said = this.verdict(this.chosen);
      if (said === "reject" || (said === "unset" && !this.calls(this.chosen))) this.visible.delete(this.chosen);
      this.choose(next, this.verdict(next) !== "reject");
    }
  }

  toggle(name) {
    if (this.visible.has(name)) this.visible.delete(name); else this.choose(name);
  }

  /** The chosen finding alone; the second time what was shown before. */
  alone() {
    if (this.before) { this.visible = this.before; this.before = null; return; }
    this.before = this.visible;
    this.visible = new Set(this.chosen ? [this.chosen] : []);
  }

  /** Says a verdict on the chosen finding. What is not there needs no map any more; what is there is shown. */
  judge(verdict) {
    const name = this.chosen;
    if (!name) return;
    const own = this.verdict(name) === "correct" || this.verdict(name) === "accept";
    const boxes = verdict === "accept" ? this.modelBoxes(name)
      : verdict === "correct" ? (own ? of(this.review, name).boxes : this.modelBoxes(name)) : UNSET.boxes;
    if (verdict === this.verdict(name) && of(this.review, name).how === "considered") return;
    if (verdict === "reject") this.visible.delete(name); else this.visible.add(name);
    this.log.change(saying(this.review, name, verdict, boxes, this.given));
  }

  /** What a new box is added to: a model's box is only taken along where the model called the finding. */
  startOf(name) { return this.verdict(name) === "unset" && !this.finding(name)?.over ? [] : this.boxesOf(name); }

  /** The reviewer's boxes of a finding, from the editor: it is there, and shown with these. */
  correct(name, boxes, tag) { this.log.change(saying(this.review, name, "correct", boxes, this.given), tag); }

  /** For all that is left: accept what the shown model calls, reject what it does not. Returns how many. */
  agree() {
    const left = this.blind ? [] : this.rows.filter(name => this.verdict(name) === "unset" && this.finding(name));
    let review = this.review;
    for (const name of left) {
      const called = this.finding(name).over;
      review = saying(review, name, called ? "accept" : "reject", called ? this.modelBoxes(name) : [], { ...this.given, how: "bulk" });
    }
    this.log.change(review);
    return left.length;
  }

  setState(state) { this.log.change({ ...this.review, state }); }
  setNote(note) {
    const state = this.review.state === "no" && note ? "part" : this.review.state;
    this.log.change({ ...this.review, note, state }, "note");
  }

  /** Measures and the mark of a key image; the first of them makes an unread study partly read. */
  keep(part) {
    const state = this.review.state === "no" ? "part" : this.review.state;
    this.log.change({ ...this.review, ...part, state });
  }

  /** Another version's words, as a change of this one. */
  restore(version) { this.log.change({ ...version, state: version.state === "no" ? "part" : version.state }); }

  get left() { return this.rows.filter(name => this.verdict(name) === "unset").length; }
}

// The second pane: an earlier image of the patient, or the same image with another model. Zoom and place follow each other.

import * as api from "./api.js";
import { before, filmed, make, one, note } from "./dom.js";
import { attach } from "./pointer.js";
import { Pane } from "./pane.js";

export class Compare {
  /** `layersOf(study, model, image)` and `boxesOf(study, model)` give what to draw; `changed` is called after a choice. */
  constructor(main, { tool, scene, changed }) {
    Object.assign(this, { main, scene, changed, value: "", priors: new Map() });
    this.pane = new Pane(one("pane-b"), () => this.main.follow(this.pane));
    attach(this.pane, () => (tool() === "pan" ? "pan" : "window"));
    this.select = one("compare");
    this.select.addEventListener("change", () => this.choose(this.select.value));
  }

  get on() { return this.value !== ""; }
  /** Called after the main pane's view was changed. */
  follow() { if (this.on && this.pane.ready) this.pane.follow(this.main); }

  /** What can be compared with a study: "" (nothing), "study ID", "model ID". */
  offer(study, title) {
    this.study = study;
    this.priors.clear();
    const priors = (study.priors?.length ? study.priors : [study.prior]).filter(Boolean);
    const days = new Map((study.earlier ?? []).map(one => [one.id, one.days]));
    const options = [["", "nothing"], ...priors.map((id, i) => [`study ${id}`, days.has(id) ? `prior, ${before(days.get(id))}` : i ? `prior ${i + 1}` : "prior"])];
    options.push(...(study.exam_images ?? []).map((id, i) => [`study ${id}`, `same exam, image ${i + 2}`]));
    this.days = days;
    if (study.results.length > 1) options.push(...study.results.map(result => [`model ${result.model}`, title(result.model)]));
    this.select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
    this.select.disabled = options.length === 1;
    this.choose("");
    priors.filter(id => !days.has(id)).forEach((id, i) => this.date(id, i));
  }

  /** The options name the date of each prior once it is known. */
  async date(id, i) {
    if (i > 4) return;
    const prior = await this.prior(id).catch(() => null);
    const option = prior && [...this.select.options].find(one => one.value === `study ${id}`);
    if (option) option.textContent = `prior, ${filmed(prior)}`;
  }

  prior(id) {
    if (!this.priors.has(id)) this.priors.set(id, api.openStudy(id));
    return this.priors.get(id);
  }

  has(kind) { return [...this.select.options].some(option => option.value.startsWith(kind)); }

  /** The next option of that kind; after the last one, nothing. */
  next(kind) {
    const values = [...this.select.options].map(option => option.value).filter(value => value.startsWith(`${kind} `));
    if (!values.length) { note(kind === "study" ? "There is no earlier image of this patient" : "Only one model read this study"); return; }
    const others = values.filter(value => value !== `model ${this.scene.model()}`);
    this.choose(others[others.indexOf(this.value) + 1] ?? "");
  }

  async choose(value) {
    this.value = value;
    this.select.value = value;
    one("panes").classList.toggle("two", this.on);
    one("pane-b").hidden = !this.on;
    this.pane.clear();
    this.shown = null;
    this.changed();
    if (!this.on) return;
    const study = this.study, [kind, id] = [value.split(" ", 1)[0], value.slice(value.indexOf(" ") + 1)];
    try {
      const other = kind === "study" ? await this.prior(id) : study;
      const pixels = await api.pixelsOnce(other.id);
      if (this.value !== value || this.study !== study) return;
      this.shown = { study: other, model: kind === "model" ? id : null, prior: kind === "study", same: (study.exam_images ?? []).includes(id) };
      this.pane.load(other, pixels, () => api.pixelsOnce(other.id, true));
      if (kind === "model") this.pane.setWindow(this.main.window.center, this.main.window.width, this.main.preset);
      if (!this.main.fitted) this.follow();
      this.changed();
    } catch (problem) {
      note(`Cannot be compared: ${problem.message}`, true);
      this.choose("");
    }
  }

  /** Draws the second pane as the scene has it now. */
  async draw() {
    if (!this.shown || !this.pane.ready) return;
    const { study, prior } = this.shown, model = this.shown.model ?? this.scene.model(study);
    this.pane.corner("name", [this.shown.same ? "Same exam" : prior ? "Prior" : "Same image", study.view].filter(Boolean).join(" · "));
    const ago = this.days.get(study.id);
    this.pane.corner("date", prior ? [filmed(study), ago === undefined ? "" : before(ago)].filter(Boolean).join("\n") : "");
    this.pane.corner("model", [model, "research use only"].filter(Boolean).join("\n"));
    this.pane.boxes = this.scene.boxes(study, model, prior);
    this.pane.opacity = this.main.opacity;
    this.pane.draw();
    const layers = await this.scene.layers(study, model);
    if (this.shown?.study !== study) return;
    this.pane.layers = layers;
    this.pane.draw();
  }
}

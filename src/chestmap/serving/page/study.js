// The open study: pane, findings, review and saving, held together. What a key or a button does is in actions.js.

import * as api from "./api.js";
import { Autosave, draftOf } from "./autosave.js";
import { withoutResults } from "./blind.js";
import { Compare } from "./compare.js";
import { settle } from "./conflict.js";
import { all, filmed, make, note, one, percent, person, plural, press, say } from "./dom.js";
import { Editor } from "./editor.js";
import { FindingList } from "./findings.js";
import { History, reviewed } from "./history.js";
import { windowTable } from "./levels.js";
import { Measures } from "./measures.js";
import { Pane, PRESETS } from "./pane.js";
import { shown as shownName } from "./people.js";
import { attach } from "./pointer.js";
import { Reading } from "./reading.js";
import { Reads } from "./reads.js";
import { ReportText, textOf } from "./report_text.js";
import { content, same } from "./review.js";
import { Scene } from "./scene.js";

/** How many images its exam has, where there are others. */
const exam = study => (study.exam_images?.length ? `${plural(study.exam_images.length + 1, "image")} of this exam` : "");

export class StudyScreen {
  /** `landed(id, review)` hears of every saved review; `titles(model)` is the short name of a model. */
  constructor({ colors, titles, landed }) {
    Object.assign(this, { colors, titles, landed, reading: null, tool: "window", opacity: 0.45, maps: true, boxes: true });
    this.pane = new Pane(one("pane-a"), () => this.compare.follow());
    this.scene = new Scene(() => ({
      colors: this.colors, visible: this.reading.visible, model: this.reading.model,
      maps: this.maps && !this.reading.blind, boxes: this.boxes && !this.reading.blind,
    }));
    this.editor = new Editor(this.pane, {
      shown: () => (this.boxes ? this.reading.shown() : []),
      boxesOf: name => this.reading.boxesOf(name),
      startOf: name => this.reading.startOf(name),
      chosen: () => this.reading.chosen,
      commit: (name, boxes, tag) => { this.reading.choose(name); this.reading.correct(name, boxes, tag); },
      redraw: () => this.draw(),
      tell: text => { this.reading.choose(this.editor.taken.finding); this.list.reveal(); say(text); },
    });
    this.measures = new Measures(at => this.pane.toImage(at), {
      kept: () => this.reading?.review.measures ?? [], keep: measures => this.reading.keep({ measures }), changed: () => this.draw(),
    });
    attach(this.pane, () => this.tool, this.editor, this.measures);
    this.compare = new Compare(this.pane, { tool: () => this.tool, scene: this.scene, changed: () => this.draw() });
    this.active = this.pane;
    for (const pane of [this.pane, this.compare.pane]) {
      pane.windowed = () => { if (pane === this.active) one("preset").value = pane.preset; };
      pane.canvas.addEventListener("focus", () => { this.active = pane; pane.windowed(); this.draw(); });
    }
    this.list = new FindingList({
      choose: name => { this.reading.choose(name); this.draw(); },
      toggle: name => { this.reading.toggle(name); this.draw(); },
      judge: (name, verdict) => this.judge(name, verdict),
      takeBox: (name, index) => { this.editor.take(name, index); },
      model: id => this.showModel(id),
    });
    this.history = new History(version => { this.reading.restore(version); this.draw(); });
    this.report = new ReportText(() => (this.reading ? textOf(this.reading, api.reviewer.name, this.pane.image?.spacing) : ""), text => this.reading?.setNote(text));
    this.reads = new Reads({
      reading: () => this.reading, changed: () => this.draw(), preview: (canvas, name, boxes) => this.preview(canvas, name, boxes),
    });
    one("commit").addEventListener("click", () => this.commit());
    one("note").addEventListener("input", () => this.reading?.setNote(one("note").value));
    one("opacity").addEventListener("input", () => { this.opacity = one("opacity").value / 100; this.maps = true; this.draw(); });
    one("preset").replaceChildren(make("option", { value: "", hidden: true }, "By hand"), ...Object.entries(PRESETS).map(([value, text]) => make("option", { value }, text)));
    one("preset").addEventListener("change", () => this.active.setPreset(one("preset").value));
    one("resolve").addEventListener("click", () => this.saving?.conflict(this.saving.theirs));
    document.addEventListener("visibilitychange", () => { if (document.hidden) this.saving?.flush(true); });
    addEventListener("pagehide", () => this.saving?.flush(true));
  }

  /** `active` is the pane that was used last: window, zoom and inversion act on it. */
  async open(id) {
    await this.close();
    this.wanted = id;
    one("loading").hidden = false;
    one("loading").textContent = "Loading…";
    const coming = api.pixelsOnce(id);
    coming.catch(() => {});
    try {
      const study = await api.openToRead(id);
      if (this.wanted === id) this.show(study);
      const pixels = await coming;
      if (this.wanted === id) this.showImage(pixels);
    } catch (problem) {
      if (this.wanted !== id) return;
      await this.close();
      one("loading").textContent = `This study cannot be shown: ${problem.message}`;
    }
  }

  /** Everything but the image, while its pixels are on their way. Nobody judges a study without its image. */
  show(whole) {
    one("verdicts").inert = true;
    const hidden = whole.withheld, study = hidden ? withoutResults(whole) : whole;
    this.scene.forget();
    const reading = new Reading(study, () => { saving.changed(); this.draw(); }, hidden);
    const saving = new Autosave(study.id, study.review, {
      where: study.independent ? "read" : "review", stage: hidden ? "blind" : "open",
      current: () => reading.review,
      told: (state, text) => { if (this.saving === saving) this.status(state, text); },
      settle: (base, mine, theirs) => this.settle(base, mine, theirs),
      landed: (review, written) => {
        this.landed(study.id, review);
        if (written) this.known(review.by);
        if (this.reading === reading) { this.facts(review); this.history.refresh(); }
      },
    });
    Object.assign(this, { reading, saving });
    this.editor.take(null);
    this.measures.first = this.measures.live = null;
    this.list.build(this.reading, this.colors, this.titles);
    this.history.open(study.id);
    this.report.open();
    one("study").dataset.blind = hidden;
    this.facts(study.review);
    this.status("saved", "");
  }

  showImage(pixels) {
    const { study } = this.reading;
    this.pane.load(study, pixels, () => api.pixelsOnce(study.id, true));
    this.compare.offer(study, this.titles);
    this.reads.open(study);
    one("verdicts").inert = false;
    one("loading").hidden = true;
    this.draw();
    this.takeUp(study);
  }

  /** Work of an earlier visit that was never saved: goes on where nobody else saved meanwhile, else both are shown. */
  takeUp(study) {
    const draft = draftOf(study.id);
    if (!draft || (draft.where ?? "review") !== this.saving.where || same(draft.mine, study.review)) return;
    this.saving.saved = draft.base;
    this.reading.log.change(draft.mine);
    note("Unsaved work of an earlier visit was taken up");
    if (draft.base.version === study.review.version) this.saving.saved = study.review;
    this.saving.flush();
  }

  async close() {
    this.wanted = null;
    if (one("conflict").open) one("conflict").close("later");
    const saving = this.saving;
    this.saving = null;
    if (!this.reading) return;
    this.reading = null;
    this.compare.study = null;
    this.pane.clear();
    await saving?.close(true);
  }

  /** Ends the blind read; the study is opened anew, with what models say. */
  async commit() {
    const { saving, reading } = this;
    if (!saving || !reading?.blind) return;
    if (reading.review.state === "no") reading.setState("part");
    if (await saving.commit() && this.reading === reading) {
      await this.open(reading.study.id);
      note("Committed. Results are shown from now on; your blind read stays in the history");
    }
  }

  /** The service has the last word on who reviews: the name may come with a token or from a proxy. */
  known(by) {
    if (!by || by === api.reviewer.name) return;
    api.reviewer.name = by;
    shownName();
  }

  facts(review) {
    const { study } = this.reading, { image } = study;
    one("study-name").textContent = study.name;
    document.title = `${study.name} · chestmap review`;
    const parts = [study.patient, person(study), study.view, study.position, filmed(study), exam(study), `${image.width} × ${image.height}, ${image.bits} bit`, this.reading.blind ? "blind first read" : `suspicion ${percent(study.suspicion)}`];
    one("study-facts").textContent = parts.filter(Boolean).join(" · ");
    one("study-order").textContent = [study.indication && `Indication: ${study.indication}`, study.accession && `Accession ${study.accession}`].filter(Boolean).join(" · ");
    one("study-review").textContent = reviewed(review);
    one("study-review").dataset.state = review.state;
    this.pane.corner("name", [study.patient, study.view].filter(Boolean).join(" · "));
    this.pane.corner("date", filmed(study));
  }

  status(state, text) {
    one("status").dataset.state = state;
    one("status").textContent = text || (this.saving.saved.version ? `Saved, version ${this.saving.saved.version}` : "");
    one("resolve").hidden = state !== "conflict";
  }

  async settle(base, mine, theirs) {
    const preview = (canvas, name, boxes) => this.preview(canvas, name, boxes);
    const chosen = await settle(base, mine, theirs, preview);
    return chosen && { apply: () => { this.reading.log.change(content(chosen)); this.reading.log.pause(); } };
  }

  /** The image small, with boxes. */
  preview(canvas, name, boxes) {
    const { image, raster, window, inverted } = this.pane, table = this.pane.table ?? windowTable(window, inverted), side = 120 * (devicePixelRatio || 1);
    const k = side / Math.max(image.width, image.height);
    canvas.width = Math.round(image.width * k);
    canvas.height = Math.round(image.height * k);
    const context = canvas.getContext("2d");
    const small = raster.canvas(raster.level(k), table, `${window.center} ${window.width} ${inverted}`);
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    context.strokeStyle = this.colors.css(name);
    context.lineWidth = 2;
    for (const box of boxes) context.strokeRect(box.x0 * k, box.y0 * k, (box.x1 - box.x0) * k, (box.y1 - box.y0) * k);
  }

  judge(name, verdict) {
    this.reading.choose(name);
    this.reading.judge(verdict === this.reading.verdict(name) ? "unset" : verdict);
    if (verdict === "correct" && this.reading.verdict(name) === "correct" && this.reading.boxesOf(name).length) this.editor.take(name, 0);
    this.draw();
  }

  showModel(id) {
    this.reading.model = id;
    this.draw();
  }

  setTool(tool) {
    this.tool = tool;
    this.pane.canvas.style.cursor = "";
    this.draw();
  }

  /** Everything as the state has it now. Cheap enough for each step of a drag. */
  draw() {
    if (!this.reading || !this.pane.ready) return;
    const { reading, editor, pane } = this;
    if (!this.compare.shown) this.active = pane;
    if (editor.taken && (!editor.box || !reading.visible.has(editor.taken.finding) || !this.boxes)) { editor.taken = null; editor.live = null; }
    reading.overlay = this.maps || this.boxes;
    pane.opacity = this.opacity;
    pane.boxes = this.boxes ? this.onImage() : [];
    pane.marks = this.measures.shown(pane.image.spacing);
    pane.corner("model", [reading.blind ? "results hidden" : reading.model, "research use only"].filter(Boolean).join("\n"));
    pane.draw();
    this.list.update(editor.taken);
    this.report.update();
    this.controls();
    const turn = this.turn = (this.turn ?? 0) + 1; // maps that were asked for earlier may come later
    this.scene.layers(reading.study, reading.model).then(layers => {
      if (this.reading === reading && this.turn === turn) { pane.layers = layers; pane.draw(); }
    }, problem => note(`The map cannot be shown: ${problem.message}`, true));
    this.compare.draw();
  }

  onImage() {
    const { reading, editor } = this, taken = editor.taken;
    const boxes = reading.shown().map(({ finding, index, box }) => {
      const own = reading.verdict(finding) !== "unset", found = reading.finding(finding);
      const held = taken?.finding === finding && taken.index === index;
      const score = found?.boxes[index]?.score ?? found?.score;
      return this.scene.look(finding, held && editor.live ? editor.live : box, { own, score, called: found?.over, selected: held });
    });
    if (editor.live && editor.hold === "draw") boxes.push(this.scene.look(reading.chosen, editor.live, { own: true, selected: true }));
    return boxes.sort((a, b) => Number(a.selected) - Number(b.selected));
  }

  controls() {
    const { reading } = this, { log, review } = reading;
    for (const button of all("[data-tool]")) press(button, button.dataset.tool === this.tool);
    press(one("maps-button"), this.maps);
    press(one("boxes-button"), this.boxes);
    press(one("invert-button"), this.active.inverted);
    press(one("key-button"), review.key);
    press(one("flip-button"), this.pane.orientation.flip);
    one("undo").disabled = !log.past.length;
    one("redo").disabled = !log.future.length;
    one("opacity").value = Math.round(this.opacity * 100);
    one("done").lastChild.textContent = review.state === "done" ? "Reopen" : "Done";
    if (document.activeElement !== one("note")) one("note").value = review.note;
  }
}

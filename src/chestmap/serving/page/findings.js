// The list of findings: scores of every model against their thresholds, what is shown, the verdicts, the boxes.

import { all, icon, make, one, percent, plural, press } from "./dom.js";
import { sized } from "./boxes.js";

const SIGNS = { accept: ["check", "Accept"], reject: ["cross", "Reject"], correct: ["pen", "Correct"] };

export class FindingList {
  /** `on` holds what a person can do here: choose, toggle, judge, takeBox, model. */
  constructor(on) {
    this.on = on;
    this.list = one("findings");
  }

  build(reading, colors, titles) {
    Object.assign(this, { reading, colors });
    this.list.style.setProperty("--models", String(Math.max(1, reading.models.length)));
    one("finding-head").style.setProperty("--models", String(Math.max(1, reading.models.length)));
    const heads = reading.models.map(model => make("button", {
      type: "button", class: "model", "data-model": model, title: model, onclick: () => this.on.model(model),
    }, titles(model)));
    one("model-heads").replaceChildren(...heads);
    this.list.replaceChildren(...reading.rows.map((name, i) => this.row(name, i)));
    this.update();
  }

  row(name, place) {
    const { reading, colors, on } = this, key = place < 9 ? String(place + 1) : "";
    const eye = make("button", {
      type: "button", class: "eye", "aria-label": `Show ${name}`, title: key ? `Show ${name} (${key})` : `Show ${name}`, onclick: () => on.toggle(name),
    }, make("span", { class: "swatch" }), key);
    eye.firstChild.style.backgroundColor = colors.css(name);
    const bar = make("span", { class: "bar", "aria-hidden": "true" }, make("i", { class: "fill" }), make("i", { class: "tick" }));
    const scores = reading.models.map(model => this.score(name, model));
    const verdicts = Object.entries(SIGNS).map(([verdict, [sign, word]]) => make("button", {
      type: "button", class: verdict, "data-verdict": verdict, "aria-label": `${word} ${name}`, title: word, onclick: () => on.judge(name, verdict),
    }, icon(sign)));
    return make("li", { class: "finding", "data-finding": name },
      eye,
      make("button", { type: "button", class: "name", onclick: () => on.choose(name) }, make("span", {}, name), bar),
      scores,
      make("span", { class: "verdicts", role: "group", "aria-label": `Verdict on ${name}` }, verdicts),
      make("span", { class: "chips" }));
  }

  score(name, model) {
    const found = this.reading.finding(name, model);
    if (!found) return make("span", { class: "score none", "data-model": model, title: "not one of this model's findings" }, "–");
    const limit = found.threshold === null ? "no threshold" : `threshold ${percent(found.threshold)}`;
    return make("span", { class: `score${found.over ? " over" : ""}`, "data-model": model, title: `${limit}, ${found.over ? "called" : "not called"}` },
      make("b", {}, percent(found.score)), make("small", {}, found.threshold === null ? "" : `≥ ${percent(found.threshold)}`),
      make("span", { class: "unseen" }, found.over ? "called" : "not called"));
  }

  update(taken = null) {
    const { reading } = this;
    for (const head of all("#model-heads button")) press(head, head.dataset.model === reading.model);
    for (const row of this.list.children) {
      const name = row.dataset.finding, verdict = reading.verdict(name), found = reading.finding(name);
      row.classList.toggle("chosen", name === reading.chosen);
      row.querySelector(".name").setAttribute("aria-current", String(name === reading.chosen));
      row.dataset.said = verdict;
      press(row.querySelector(".eye"), reading.visible.has(name));
      for (const button of all("[data-verdict]", row)) press(button, button.dataset.verdict === verdict);
      for (const score of all(".score", row)) score.classList.toggle("shown", score.dataset.model === reading.model);
      this.bar(row, found);
      this.chips(row, name, taken);
    }
    one("left").textContent = reading.left ? `${plural(reading.left, "finding")} without a verdict` : "Every finding has a verdict";
  }

  bar(row, found) {
    const fill = row.querySelector(".fill"), tick = row.querySelector(".tick");
    fill.style.width = `${100 * (found?.score ?? 0)}%`;
    row.querySelector(".bar").classList.toggle("over", Boolean(found?.over));
    tick.hidden = found === null || found.threshold === null;
    if (!tick.hidden) tick.style.left = `${100 * found.threshold}%`;
  }

  chips(row, name, taken) {
    const place = row.querySelector(".chips");
    if (name !== this.reading.chosen) { place.replaceChildren(); return; }
    const called = this.reading.blind || this.reading.finding(name)?.over;
    const whose = this.reading.verdict(name) !== "unset" ? "box" : called ? "model's box" : "model's box, not called,";
    const boxes = this.reading.boxesOf(name);
    const held = document.activeElement?.dataset?.box;
    place.replaceChildren(...boxes.map((box, i) => make("button", {
      type: "button", class: "chip", "data-box": `${name} ${i}`, "aria-pressed": String(taken?.finding === name && taken.index === i),
      onclick: () => this.on.takeBox(name, i),
    }, `${whose} ${i + 1}: ${sized(box)}`)));
    if (held) all("[data-box]", place).find(chip => chip.dataset.box === held)?.focus({ preventScroll: true });
    if (!boxes.length) place.append(make("span", { class: "soft" }, this.reading.verdict(name) === "reject" ? "not there" : "no box"));
  }

  reveal() { this.list.querySelector(".chosen")?.scrollIntoView({ block: "nearest" }); }
}

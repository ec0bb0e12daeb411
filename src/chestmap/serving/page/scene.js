// What lies on an image: maps and boxes of the findings that are shown, for any study and model.

import * as api from "./api.js";
import { mapCanvas } from "./colors.js";
import { percent } from "./dom.js";
import { of } from "./review.js";

export class Scene {
  /** `looks()` gives {colors, visible, maps, boxes, model}: what the reader wants to see. */
  constructor(looks) {
    this.looks = looks;
    this.fetched = new Map();
    this.drawn = new Map();
  }

  forget() { this.fetched.clear(); this.drawn.clear(); }

  /** The shown model, where the study has it. */
  model(study) {
    const { model } = this.looks();
    return !study || study.results.some(result => result.model === model) ? model : study.results[0]?.model ?? null;
  }

  result(study, model) { return study.results.find(one => one.model === model) ?? null; }

  /** Map canvases of the shown findings; each model's maps are fetched once for a study. */
  async layers(study, model) {
    const { visible, maps, colors } = this.looks(), info = this.result(study, model)?.maps;
    const names = maps && info ? info.order.filter(name => visible.has(name)) : [];
    if (!names.length) return [];
    const key = `${study.id} ${model}`;
    if (!this.fetched.has(key)) this.fetched.set(key, api.maps(study.id, model));
    this.fetched.get(key).catch(() => this.fetched.delete(key));
    const values = await this.fetched.get(key), cells = info.width * info.height;
    return names.map(name => {
      const slot = `${key} ${name}`, at = info.order.indexOf(name) * cells;
      if (!this.drawn.has(slot)) this.drawn.set(slot, mapCanvas(values.subarray(at, at + cells), info.width, info.height, colors.rgb(name)));
      const strength = this.strength(study, model, name);
      return { canvas: this.drawn.get(slot), width: info.width, height: info.height, matrix: info.matrix, strength };
    });
  }

  /** Each map is scaled to its own maximum, so that of a finding the model does not call would shine as brightly as one it
   *  is sure of: below the threshold it is as much fainter as the score is lower. */
  strength(study, model, name) {
    const found = this.result(study, model)?.findings.find(one => one.name === name);
    return !found || found.over ? 1 : Math.min(1, Math.max(0.15, found.score / (found.threshold || 0.5)));
  }

  /** Boxes of a study that is only looked at: with `reviewed`, the reviewer's where there is a verdict, else the model's. */
  boxes(study, model, reviewed) {
    const { visible, boxes, colors } = this.looks(), found = this.result(study, model)?.findings ?? [];
    if (!boxes) return [];
    const names = new Set([...found.map(one => one.name), ...Object.keys(study.review.findings)]);
    return [...names].filter(name => visible.has(name)).flatMap(name => {
      const said = reviewed && of(study.review, name).verdict !== "unset", one = found.find(one => one.name === name);
      const list = said ? of(study.review, name).boxes : one?.boxes ?? [];
      return list.map(box => this.look(name, box, { own: said, score: box.score ?? one?.score, called: one?.over }));
    });
  }

  /** A box as a pane draws it. Solid: a person's; dashed: of a finding that the model calls; dotted: of one that it does not. */
  look(name, box, { own, score, called = true, selected = false }) {
    const label = own || score === undefined ? name : `${name} ${percent(score)}${called ? "" : ", not called"}`;
    return { box, color: this.looks().colors.css(name), line: own ? "solid" : called ? "dashed" : "dotted", selected, label };
  }
}

// One image on the page: its pixels, window and view. Whoever owns it sets `layers`, `boxes` and `opacity` and calls draw().

import { note } from "./dom.js";
import { valueText, windowText } from "./file_values.js";
import { autoWindow, Raster, windowTable } from "./levels.js";
import { paint } from "./paint.js";
import { fromLying, lying, toLying, UPRIGHT } from "./orientation.js";
import { centered, fit, pan, shared, toImage, toStage, unshared, zoomAbout } from "./viewport.js";

export const PRESETS = { stored: "As stored", auto: "Automatic", full: "Full range" };

export class Pane {
  /** `root` holds canvas.stage and the corner texts; `viewed` hears every change of the view that a person made. */
  constructor(root, viewed) {
    this.root = root;
    this.canvas = root.querySelector("canvas.stage");
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.viewed = viewed;
    this.clear();
    new ResizeObserver(() => this.resize()).observe(root.querySelector(".room"));
  }

  get ready() { return this.raster !== null; }
  /** Width and height of the image as it lies. */
  get lying() { return lying(this.orientation, this.image); }
  /** Between image pixels and the stage, whichever way the image lies. */
  toImage(point) { return fromLying(this.orientation, this.image, toImage(this.view, point)); }
  toStage(point) { return toStage(this.view, toLying(this.orientation, this.image, point)); }
  get stage() { return { width: this.canvas.clientWidth, height: this.canvas.clientHeight }; }

  clear() {
    Object.assign(this, { raster: null, study: null, layers: [], boxes: [], marks: [], opacity: 0.5, inverted: false, orientation: UPRIGHT, preset: "stored", fitted: true });
    this.context.setTransform(1, 0, 0, 1, 0, 0);
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  /** `pixels` may be coarser than the image; `whole` fetches all of them, and is called when they would be seen. */
  load(study, pixels, whole) {
    this.clear();
    this.study = study;
    this.image = study.image;
    this.raster = new Raster(pixels, study.image.width, study.image.height);
    this.fetchWhole = whole;
    this.setPreset("stored");
    this.resize();
    this.fit();
  }

  /** Fetches all pixels of the image, once; what is shown becomes as fine as it can be. */
  async refine() {
    const raster = this.raster;
    if (raster.whole || raster.coming) return;
    raster.coming = true;
    try {
      raster.whole = await this.fetchWhole();
      if (this.raster !== raster) return;
      if (this.preset === "auto") this.setPreset("auto");
      this.draw();
    } catch (problem) {
      raster.coming = false;
      if (this.raster === raster) note(`The image is shown coarser than it is: ${problem.message}`);
    }
  }

  resize() {
    const ratio = window.devicePixelRatio || 1, { width, height } = this.stage;
    if (!width || !height) return;
    const middle = this.ready && this.view && this.held ? shared(this.view, this.lying, this.held) : null;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.held = this.stage;
    if (this.ready) {
      this.view = middle && !this.fitted ? unshared(middle, this.lying, this.stage) : fit(this.lying, this.stage);
      this.paintNow();
    }
  }

  setWindow(center, width, preset = "") {
    const range = this.image.high - this.image.low || 1;
    this.window = {
      center: Math.min(this.image.high + range, Math.max(this.image.low - range, center)),
      width: Math.min(4 * range, Math.max(range / 4096, width)),
    };
    this.preset = preset;
    this.table = null;
    this.windowed?.(preset);
    this.draw();
  }

  setPreset(name) {
    const { low, high, window } = this.image;
    if (name === "auto" && !this.raster.whole) this.refine();
    const chosen = name === "auto" ? autoWindow(this.raster.levels[this.raster.finest].pixels)
      : name === "stored" && window ? window : { center: (low + high) / 2, width: high - low };
    this.setWindow(chosen.center, chosen.width, name);
  }

  /** Moves the window; a drag over `across` pixels changes the width by itself once over. */
  changeWindow(dx, dy) {
    const step = Math.max(this.window.width, (this.image.high - this.image.low) / 64) / 400;
    this.setWindow(this.window.center + dy * step, this.window.width + dx * step);
  }

  /** Turns or mirrors; the whole image is shown afterwards. */
  lay(orientation) {
    this.orientation = orientation;
    this.fit();
  }

  invert() { this.inverted = !this.inverted; this.table = null; this.draw(); }

  look(view, { fitted = false, quiet = false } = {}) {
    this.view = view;
    this.fitted = fitted;
    this.draw();
    if (!quiet) this.viewed?.(this);
  }

  fit() { if (this.ready) this.look(fit(this.lying, this.stage), { fitted: true }); }
  zoom(factor, point = { x: this.stage.width / 2, y: this.stage.height / 2 }) { this.look(zoomAbout(this.view, factor, point)); }
  pan(dx, dy) { this.look(pan(this.view, dx, dy, this.lying, this.stage)); }

  /** One image pixel on one screen pixel, the middle kept. */
  actual() {
    const middle = shared(this.view, this.lying, this.stage), zoom = 1 / (window.devicePixelRatio || 1);
    this.look(centered(zoom, middle.x * this.lying.width, middle.y * this.lying.height, this.stage));
  }

  get common() { return shared(this.view, this.lying, this.stage); }
  follow(other) {
    if (!this.ready) return;
    this.orientation = other.orientation;
    this.look(unshared(other.common, this.lying, this.stage), { fitted: other.fitted, quiet: true });
  }

  draw() {
    if (!this.ready || this.frame) return;
    this.frame = requestAnimationFrame(() => { this.frame = 0; if (this.ready) this.paintNow(); });
  }

  paintNow() {
    if (!this.view || !this.canvas.width) return;
    const { center, width } = this.window, key = `${center} ${width} ${this.inverted}`;
    this.table ??= windowTable(this.window, this.inverted);
    if (this.raster.lacks(this.view.zoom * (window.devicePixelRatio || 1))) this.refine();
    const unit = parseFloat(getComputedStyle(document.documentElement).fontSize) || 16;
    paint(this.context, {
      raster: this.raster, table: this.table, key, image: this.image, view: this.view, ratio: window.devicePixelRatio || 1,
      layers: this.layers, boxes: this.boxes, marks: this.marks, opacity: this.opacity, unit,
      orientation: this.orientation, lying: this.lying, toStage: point => this.toStage(point),
    }, this.stage);
    this.corner("window", `${windowText({ center, width }, this.image.values)}${this.inverted ? "  inverted" : ""}`);
    this.corner("zoom", `${Math.round(this.view.zoom * (window.devicePixelRatio || 1) * 100)} %`);
  }

  corner(name, text) {
    const place = this.root.querySelector(`[data-corner=${name}]`);
    if (place && place.textContent !== text) place.textContent = text;
  }

  /** The grey level under a point of the stage, for the readout. */
  level(point) {
    const at = this.toImage(point), x = Math.floor(at.x), y = Math.floor(at.y);
    if (x < 0 || y < 0 || x >= this.image.width || y >= this.image.height) return "";
    if (!this.raster.whole) { this.refine(); return ""; }
    return `${x}, ${y}: ${valueText(this.raster.whole[y * this.image.width + x], this.image.values)}`;
  }
}

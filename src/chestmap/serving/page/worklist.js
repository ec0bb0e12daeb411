// The worklist: unread studies first, then those in progress, then the done ones; within each in the order the service gives.

import * as api from "./api.js";
import { showAgreement } from "./agreement.js";
import { drafts } from "./autosave.js";
import { blind, TELLING } from "./blind.js";
import { all, filmed, make, note, one, percent, person, plural, press } from "./dom.js";
import { MORE, MoreFilters, NONE } from "./filters.js";
import { reviewed } from "./history.js";

const PAGE = 40, POLL = 8000, SOON = 1500, FILTERS = "chestmap.filters", DENSITY = "chestmap.compact";
const GROUPS = { no: "Unread", part: "In progress", done: "Done" };

export class Worklist {
  constructor() {
    this.filters = { order: "suspicion", ...NONE, ...this.stored() };
    this.more = new MoreFilters(change => this.filter(change), () => this.filters);
    this.rows = [];
    this.totals = { no: 0, part: 0, done: 0 };
    this.uncounted = []; // groups with more studies than the service counts
    this.turn = 0;
    this.left = null;  // the study one comes from, until its row has the focus
    for (const id of ["order", "finding", "state"]) one(id).addEventListener("change", () => this.filter({ [id]: one(id).value }));
    one("search").addEventListener("input", () => { clearTimeout(this.typing); this.typing = setTimeout(() => this.filter({ search: one("search").value.trim() }), 250); });
    one("clear").addEventListener("click", () => this.filter({ ...NONE }));
    one("agreement-button").addEventListener("click", showAgreement);
    one("blind").addEventListener("click", () => { blind.on = !blind.on; this.controls(); this.load(0); });
    one("density").addEventListener("click", () => { localStorage.setItem(DENSITY, localStorage.getItem(DENSITY) ? "" : "1"); this.controls(); });
    for (const tab of all("[data-reviewed]")) tab.addEventListener("click", () => this.filter({ reviewed: tab.dataset.reviewed }));
    one("more").addEventListener("click", () => this.load(this.rows.length));
    setInterval(() => { if (!one("worklist").hidden && !document.hidden) this.refresh(); }, POLL);
  }

  stored() {
    try { return JSON.parse(sessionStorage.getItem(FILTERS)) ?? {}; } catch { return {}; }
  }

  offer(findings) {
    one("finding").append(...findings.map(name => make("option", { value: name }, name)));
    this.controls();
  }

  controls() {
    for (const id of ["order", "finding", "state"]) one(id).value = this.filters[id];
    if (document.activeElement !== one("search")) one("search").value = this.filters.search;
    for (const tab of all("[data-reviewed]")) press(tab, tab.dataset.reviewed === this.filters.reviewed);
    this.more.controls(this.filters);
    const compact = Boolean(localStorage.getItem(DENSITY));
    press(one("density"), compact);
    press(one("blind"), blind.on);
    for (const id of ["order", ...TELLING]) one(id).disabled = blind.on;
    one("worklist").classList.toggle("compact", compact);
    one("worklist").classList.toggle("blind", blind.on);
  }

  filter(change) {
    Object.assign(this.filters, change);
    sessionStorage.setItem(FILTERS, JSON.stringify(this.filters));
    this.controls();
    return this.load(0);
  }

  get groups() { return this.filters.reviewed ? [this.filters.reviewed] : Object.keys(GROUPS); }

  query(group, offset, limit) {
    const order = blind.on ? "received" : this.filters.order, query = { order, reviewed: group, offset, limit }; // an order by score tells
    for (const name of ["finding", "state", "search", "mine", ...MORE]) if (this.filters[name] && !(blind.on && TELLING.includes(name))) query[name] = this.filters[name];
    return api.studies(query);
  }

  /** Rows `offset` … `offset + count` of the groups one after the other. */
  async rowsFrom(offset, count) {
    const out = [], totals = {}, uncounted = [];
    let waits = false;
    for (const group of Object.keys(GROUPS)) {
      const wanted = this.groups.includes(group) ? Math.max(0, count - out.length) : 0;
      const answer = await this.query(group, Math.max(0, offset), Math.max(1, wanted));
      totals[group] = answer.total;
      waits ||= answer.blind === true;
      if (answer.exact === false) uncounted.push(group);
      if (!this.groups.includes(group)) continue;
      if (wanted) out.push(...answer.studies.slice(0, wanted));
      offset -= answer.total;
    }
    return { out, totals, uncounted, waits };
  }

  async load(offset, count = PAGE) {
    const turn = ++this.turn;
    try {
      const { out, totals, uncounted, waits } = await this.rowsFrom(offset, count);
      if (turn !== this.turn) return; // a later question was asked meanwhile
      this.totals = totals;
      this.uncounted = uncounted;
      this.rows = [...this.rows.slice(0, offset), ...out];
      this.show();
      one("list-problem").hidden = true;
      one("list-told").hidden = !waits || blind.on;
      clearTimeout(this.soon);
      if (this.rows.some(row => row.state === "queued")) this.soon = setTimeout(() => { if (!one("worklist").hidden) this.refresh(); }, SOON);
    } catch (problem) {
      if (turn !== this.turn) return;
      one("list-problem").hidden = false;
      one("list-problem").textContent = `The worklist cannot be loaded: ${problem.message}`;
    }
  }

  refresh() { return this.load(0, Math.max(PAGE, this.rows.length)); }

  /** The focus stays on its row, or goes to that of the study one comes from, whichever answer brings that row. */
  returnTo(id, preventScroll) {
    const link = id && !one("worklist").hidden && all("#rows [data-id]").find(row => row.dataset.id === id)?.querySelector("a");
    if (!link) return;
    link.focus({ preventScroll });
    this.left = null;
  }

  /** `count` studies of these groups, or more where the service did not count all. */
  counted(count, groups) { return groups.some(group => this.uncounted.includes(group)) ? `${count}+` : String(count); }

  get total() { return this.groups.reduce((sum, group) => sum + this.totals[group], 0); }

  show() {
    const held = document.activeElement?.closest("#rows [data-id]")?.dataset.id, unsaved = new Set(drafts());
    const old = new Map(all("#rows [data-id]").map(row => [row.dataset.id, row]));
    const out = [];
    let group = null;
    for (const row of this.rows) {
      if (row.review.state !== group && !this.filters.reviewed) {
        group = row.review.state;
        out.push(make("li", { class: "group" }, make("h2", {}, GROUPS[group]), make("span", { class: "soft" }, this.totals[group] === 1 ? "1 study" : `${this.counted(this.totals[group], [group])} studies`)));
      }
      const text = JSON.stringify([row, unsaved.has(row.id)]), kept = old.get(row.id);
      out.push(kept?.made === text ? kept : Object.assign(this.line(row, unsaved.has(row.id)), { made: text }));
    }
    one("rows").replaceChildren(...out);
    this.returnTo(held ?? (document.activeElement?.closest("#worklist") ? null : this.left), Boolean(held));
    for (const tab of all("[data-reviewed]")) {
      const key = tab.dataset.reviewed, count = key ? this.totals[key] : this.totals.no + this.totals.part + this.totals.done;
      tab.querySelector("small").textContent = this.counted(count, key ? [key] : Object.keys(GROUPS));
    }
    this.empty();
    one("more").hidden = this.rows.length >= this.total;
    one("more").textContent = `Show more (${this.counted(this.total - this.rows.length, this.groups)} left)`;
  }

  empty() {
    const filtered = Object.keys(NONE).some(name => this.filters[name]);
    one("none").hidden = this.rows.length > 0;
    one("none-text").textContent = filtered ? "No study fits these filters." : "No study yet. Add images here, or send them to the service.";
    one("clear").hidden = !filtered;
  }

  line(row, unsaved) {
    const ready = row.state === "done";
    const top = row.top.map(one => this.tag(one));
    const line = [
      make("span", { class: "thumb" }, ready ? make("img", { src: api.thumbnail(row.id), alt: "", loading: "lazy", decoding: "async" }) : null),
      make("span", { class: "who" }, make("b", {}, row.name), make("span", { class: "soft" }, [row.patient, person(row), row.view, filmed(row)].filter(Boolean).join(" · "))),
      make("span", { class: "tags" }, ready ? (row.suspicion === null ? make("span", { class: "soft" }, "hidden until you commit") : top) : make("span", { class: row.state === "failed" ? "problem" : "soft" }, row.state === "failed" ? row.error ?? "failed" : "waiting for the model")),
      ready && row.suspicion !== null ? this.suspicion(row.suspicion) : make("span", { class: "suspicion" }),
      make("span", { class: "reviewed", "data-state": row.review.state }, make("i", { class: "dot", "aria-hidden": "true" }), unsaved ? "not saved yet" : reviewed(row.review)),
    ];
    return make("li", { "data-id": row.id, class: row.review.state === "no" ? "unread" : null },
      ready ? make("a", { href: `#/${encodeURIComponent(row.id)}` }, line) : make("a", { class: "still", role: "group", tabindex: "0" }, line));
  }

  /** The number of a line is its suspicion; a score is another number, and is named where it is shown. */
  tag({ finding, score, over }) {
    return make("span", { class: `tag${over ? " called" : ""}`, title: `score ${percent(score)}${over ? ", called" : over === false ? ", not called" : ""}` },
      finding, make("span", { class: "unseen" }, over ? " called" : over === false ? " not called" : ""));
  }

  suspicion(value) {
    const bar = make("span", { class: "bar", "aria-hidden": "true" }, make("i", { class: "fill" }));
    bar.firstChild.style.width = `${100 * Math.min(1, Math.max(0, value))}%`;
    return make("span", { class: "suspicion" }, make("span", { class: "unseen" }, "suspicion "), make("b", {}, percent(value)), bar);
  }

  step(by) {
    const links = all("#rows a"), at = links.indexOf(document.activeElement);
    const next = links[Math.min(links.length - 1, Math.max(0, at === -1 ? 0 : at + by))];
    next?.focus();
    next?.scrollIntoView({ block: "nearest" });
  }

  openHere() {
    const link = document.activeElement?.closest("#rows a") ?? all("#rows a")[0];
    link?.click();
  }

  nextTab() {
    const keys = all("[data-reviewed]").map(tab => tab.dataset.reviewed);
    return this.filter({ reviewed: keys[(keys.indexOf(this.filters.reviewed) + 1) % keys.length] });
  }

  /** The study after or before one in the list; with `unread`, the next one nobody has finished. Loads more at the end. */
  async beside(id, by, unread = false) {
    if (!this.rows.length) await this.load(0);
    const fits = row => row.state === "done" && row.id !== id && (!unread || row.review.state !== "done");
    const at = this.rows.findIndex(row => row.id === id);
    const after = () => (by > 0 ? this.rows.slice(at + 1) : this.rows.slice(0, Math.max(0, at)).reverse()).find(fits);
    if (!after() && by > 0 && this.rows.length < this.total) await this.load(this.rows.length);
    return after()?.id ?? null;
  }

  /** A saved review in the list, which keeps its order until it is loaded again. */
  landed(id, { version, state, by, at }) {
    const row = this.rows.find(one => one.id === id);
    if (row) row.review = { version, state, by, at };
  }

  /** Hands in files one by one, and says what was refused. */
  async upload(files) {
    const refused = [];
    for (const [i, file] of files.entries()) {
      note(`Sending ${i + 1} of ${files.length}: ${file.name}`, true);
      try {
        const answer = await api.upload(file);
        refused.push(...answer.studies.filter(one => one.error).map(one => `${file.name}: ${one.error}`));
      } catch (problem) { refused.push(`${file.name}: ${problem.message}`); }
    }
    const sent = files.length - refused.length;
    note([sent ? `${plural(sent, "image")} sent` : "", ...refused].filter(Boolean).join("\n"), refused.length > 0);
    await this.refresh();
  }
}

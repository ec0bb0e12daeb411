// The filters that are seldom needed: dates, view, sex, scores, who disagrees, who read; sets of filters under a name.

import { make, note, one } from "./dom.js";

export const MORE = ["since", "until", "view", "sex", "least", "most", "disagreement", "reader"];
export const NONE = Object.freeze({ reviewed: "", finding: "", state: "", search: "", mine: "", ...Object.fromEntries(MORE.map(id => [id, ""])) });
const SAVED = "chestmap.saved-filters";

export function saved() {
  try { return JSON.parse(localStorage.getItem(SAVED)) ?? {}; } catch { return {}; }
}

export class MoreFilters {
  /** `change(filters)` asks the service again; `now()` gives what is asked for. */
  constructor(change, now) {
    this.now = now;
    for (const id of MORE) one(id).addEventListener("change", () => { if (one(id).checkValidity()) change({ [id]: one(id).value.trim() }); });
    one("mine").addEventListener("change", () => change({ mine: one("mine").checked ? "1" : "" }));
    one("saved").addEventListener("change", () => { const found = saved()[one("saved").value]; if (found) change({ ...NONE, ...found }); });
    one("save-filters").addEventListener("click", () => this.save());
    this.list();
  }

  list() {
    one("saved").replaceChildren(make("option", { value: "" }, "choose"), ...Object.keys(saved()).sort().map(name => make("option", { value: name }, name)));
  }

  /** Under a name made of what is asked for. */
  save() {
    const kept = Object.fromEntries(Object.entries(this.now()).filter(([key, value]) => key in NONE && value));
    const name = Object.entries(kept).map(([key, value]) => `${key} ${value}`).join(", ").slice(0, 80);
    if (!name) { note("No filter is set"); return; }
    localStorage.setItem(SAVED, JSON.stringify({ ...saved(), [name]: kept }));
    this.list();
    one("saved").value = name;
    note(`Saved: ${name}`);
  }

  controls(filters) {
    for (const id of MORE) if (document.activeElement !== one(id)) one(id).value = filters[id] ?? "";
    one("mine").checked = Boolean(filters.mine);
    const count = [...MORE, "mine"].filter(id => filters[id]).length;
    one("filters-told").textContent = count ? `(${count} set)` : "";
  }
}

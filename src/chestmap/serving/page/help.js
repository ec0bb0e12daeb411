// The sheet of keys, made from the one table that the listener obeys.

import { all, make, one } from "./dom.js";
import { KEYS, single } from "./keys.js";

const NAMES = { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", Escape: "Esc", "=": "=" };

function caps(key) {
  const parts = key.length > 1 && key.includes("+") ? key.split("+") : [key];
  const last = parts.pop();
  if (/^[A-Z]$/.test(last)) parts.push("Shift");
  return [...parts, NAMES[last] ?? (/^[a-zA-Z]$/.test(last) ? last.toUpperCase() : last)];
}

const shown = ({ keys, label }) => (label ? [label.split(" ")] : keys.map(caps));

export function buildHelp() {
  const groups = new Map();
  for (const entry of KEYS) groups.set(entry.group, [...(groups.get(entry.group) ?? []), entry]);
  one("keys").replaceChildren(...[...groups].map(([group, entries]) => make("section", {},
    make("h3", {}, group),
    make("dl", {}, entries.map(entry => make("div", { "data-act": entry.act },
      make("dt", {}, shown(entry).flatMap((keys, i) => [i ? " or " : null, ...keys.map(key => (key === "–" ? " – " : make("kbd", {}, key)))])),
      make("dd", {}, entry.does)))))));
  const box = one("single-keys");
  box.checked = single.on;
  box.addEventListener("change", () => { single.on = box.checked; });
  for (const button of all("[data-closes]")) button.addEventListener("click", () => one(button.dataset.closes).close());
}

export function toggleHelp() {
  const sheet = one("help");
  if (sheet.open) sheet.close(); else sheet.showModal();
}

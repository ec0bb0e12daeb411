// Two reviewers saved the same study: both versions side by side, part by part, and nothing is decided without a choice.

import { icon, make, one } from "./dom.js";
import { compare, merged, told } from "./merge.js";

const SIDES = ["mine", "theirs"];

/** Resolves to the review to go on with, or to null where the decision is put off. `preview` draws boxes on a small canvas. */
export function settle(base, mine, theirs, preview) {
  const dialog = one("conflict"), rows = compare(base, mine, theirs), who = theirs.by || "the other reviewer";
  one("conflict-title").textContent = `${who} saved this study while you worked on it`;
  const clashes = rows.filter(row => row.clash).length;
  one("conflict-text").textContent = clashes
    ? `Nothing was overwritten, and yours is not saved yet. You both changed what is marked “both”: choose for each.`
    : `Nothing was overwritten, and yours is not saved yet. You changed different things: both are chosen below.`;
  one("conflict-theirs").textContent = `${who}, version ${theirs.version}`;
  const ready = () => { one("conflict-save").disabled = rows.some(row => !row.take); };
  one("conflict-rows").replaceChildren(...rows.map((row, i) => line(row, i, ready, preview)));
  ready();
  return new Promise(resolve => {
    const all = side => {
      for (const row of rows) row.take = side;
      for (const input of dialog.querySelectorAll(`input[value=${side}]`)) input.checked = true;
      ready();
    };
    one("conflict-mine").onclick = () => all("mine");
    one("conflict-all-theirs").onclick = () => all("theirs");
    one("conflict-save").onclick = () => dialog.close("save");
    one("conflict-later").onclick = () => dialog.close("later");
    dialog.returnValue = "";
    dialog.onclose = () => resolve(dialog.returnValue === "save" ? merged(mine, theirs, rows) : null);
    dialog.showModal();
  });
}

function line(row, i, ready, preview) {
  const side = (name, value) => {
    const input = make("input", { type: "radio", name: `part-${i}`, value: name, onchange: () => { row.take = name; ready(); } });
    input.checked = row.take === name;
    return make("td", {}, make("label", { class: "side" }, input, make("span", {}, told(row.key, value)), picture(row, value, preview)));
  };
  return make("tr", { class: row.clash ? "clash" : null },
    make("th", { scope: "row" }, row.title, row.clash ? make("span", { class: "both" }, icon("warn"), "both") : null),
    ...SIDES.map(name => side(name, row[name])));
}

function picture(row, value, preview) {
  if (!row.key.startsWith("finding ") || !(row.mine?.boxes.length || row.theirs?.boxes.length)) return null;
  const canvas = make("canvas", { class: "preview", "aria-hidden": "true" });
  preview(canvas, row.title, value?.boxes ?? []);
  return canvas;
}

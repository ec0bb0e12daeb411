// How far independent readers agree, finding by finding.

import * as api from "./api.js";
import { make, note, one, plural } from "./dom.js";

const number = value => (typeof value === "number" ? value.toFixed(2) : "–");

export async function showAgreement() {
  try {
    const { studies, rows } = await api.agreement();
    one("agreement-told").textContent = studies
      ? `${plural(studies, "study", "studies")} with finished independent reads. κ and AC1 say whether a finding is there, IoU where.`
      : "No study has finished independent reads of two readers yet.";
    one("agreement-rows").replaceChildren(...rows.map(row => make("tr", { class: row.readers.length ? null : "whole" },
      make("th", { scope: "row" }, row.finding), make("td", {}, row.readers.join(", ") || "all"), make("td", {}, String(row.images)),
      make("td", {}, number(row.kappa)), make("td", {}, number(row.ac1)), make("td", {}, row.boxes ? `${number(row.iou)} (${row.boxes})` : "–"))));
    one("agreement").showModal();
  } catch (problem) { note(`The agreement cannot be shown: ${problem.message}`, true); }
}

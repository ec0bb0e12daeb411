// A short text made of the verdicts: edited here, then copied or put into the note.

import { note, one, plural } from "./dom.js";
import { mark, told } from "./measures.js";
import { of } from "./review.js";

const list = parts => parts.join("; ");

/** Present and absent findings, and how many nobody judged. */
export function textOf(reading, reader, spacing = null) {
  const said = verdicts => reading.rows.filter(name => verdicts.includes(reading.verdict(name)));
  const place = name => { const count = of(reading.review, name).boxes.length; return count ? `${name} (${plural(count, "region")})` : name; };
  const present = said(["accept", "correct"]), absent = said(["reject"]), left = reading.left, { measures } = reading.review;
  return [
    ...(present.length || absent.length ? [`Present: ${list(present.map(place)) || "none of the findings that were judged"}.`] : []),
    ...(absent.length ? [`Absent: ${list(absent)}.`] : []),
    ...(measures.length ? [`Measured: ${list(measures.map(one => told(mark(one), spacing)))}.`] : []),
    ...(left ? [`Not judged: ${plural(left, "finding")}.`] : []),
    ...(reader ? [`Read by ${reader}. For research.`] : ["For research."]),
  ].join("\n");
}

async function copied(field) {
  try { await navigator.clipboard.writeText(field.value); } catch {
    field.select();
    document.execCommand("copy"); // where the page has no secure address
  }
}

export class ReportText {
  /** `made()` gives the text of the verdicts as they are; `keep(text)` makes it the note. */
  constructor(made, keep) {
    this.made = made;
    this.edited = false;
    this.field = one("report-text");
    this.field.addEventListener("input", () => { this.edited = true; });
    one("report-again").addEventListener("click", () => { this.edited = false; this.update(); });
    one("report-copy").addEventListener("click", async () => { await copied(this.field); note("The text was copied"); });
    one("report-note").addEventListener("click", () => { keep(this.field.value); note("The text is the note now; undo takes it back"); });
  }

  open() { this.edited = false; this.update(); }

  /** Follows the verdicts until somebody writes in it. */
  update() { if (!this.edited) this.field.value = this.made(); }
}

// Independent reads: who reads, and once all are done, what each said, to make one review of it.

import * as api from "./api.js";
import { make, note, one, plural } from "./dom.js";
import { saying } from "./review.js";

const WORDS = { accept: "present", correct: "present", reject: "absent" };

/** Findings with a verdict of any reader: [{name, said: [reader's finding or null], agreed}]; disagreements first. */
export function compared(reads, rows) {
  const names = [...new Set(reads.flatMap(read => Object.keys(read.findings)))].filter(name => reads.some(read => (read.findings[name]?.verdict ?? "unset") !== "unset"));
  const order = name => { const at = rows.indexOf(name); return at < 0 ? rows.length : at; };
  const lines = names.map(name => {
    const said = reads.map(read => (read.findings[name]?.verdict ?? "unset") === "unset" ? null : read.findings[name]);
    return { name, said, agreed: said.every(Boolean) && new Set(said.map(one => WORDS[one.verdict])).size === 1 };
  });
  return lines.sort((a, b) => Number(a.agreed) - Number(b.agreed) || order(a.name) - order(b.name));
}

export class Reads {
  /** `reading()` is the open one; `preview` draws boxes on a small canvas; `changed` redraws. */
  constructor({ reading, preview, changed }) {
    Object.assign(this, { reading, preview, changed });
    one("readers-form").addEventListener("submit", event => { event.preventDefault(); this.assign(); });
    one("take-agreed").addEventListener("click", () => this.takeAgreed());
  }

  open(study) {
    this.study = study;
    const { readers = [], reads = [], independent = false } = study;
    one("independent").hidden = !independent;
    one("independent").textContent = independent
      ? `Independent read: others see yours, and you theirs, when all ${plural(readers.length, "reader")} are done.` : "";
    one("readers-who").textContent = readers.map(({ reader, done, blind }) => `${reader}: ${done ? "done" : blind ? "to read, blind first" : "to read"}`).join(" · ") || "Nobody was asked for an independent read.";
    one("readers-blind").checked = readers.some(({ blind }) => blind);
    one("readers").value = readers.map(({ reader }) => reader).join(", ");
    one("reads").hidden = !reads.length;
    if (reads.length) this.show(reads);
  }

  show(reads) {
    this.lines = compared(reads, this.reading().rows);
    one("reads-head").replaceChildren(make("th", { scope: "col" }, "Finding"), ...reads.map(read => make("th", { scope: "col" }, read.reader)));
    one("reads-rows").replaceChildren(...this.lines.map(line => make("tr", { class: line.agreed ? null : "clash" },
      make("th", { scope: "row" }, line.name), ...line.said.map((said, i) => make("td", {}, this.cell(line.name, said, reads[i].reader))))));
    const apart = this.lines.filter(line => !line.agreed).length;
    one("reads-told").textContent = apart ? `${plural(apart, "finding")} to decide: the readers differ.` : "The readers agree on every finding.";
    one("take-agreed").disabled = !this.lines.some(line => line.agreed);
  }

  cell(name, said, reader) {
    if (!said) return make("span", { class: "soft" }, "not judged");
    const count = said.boxes.length, word = `${WORDS[said.verdict]}${count ? `, ${count}` : ""}`;
    const button = make("button", { type: "button", "aria-label": `Take ${reader}'s: ${name} ${word}`, onclick: () => this.take(name, said) }, word);
    if (!count) return button;
    const picture = make("canvas", { class: "preview", "aria-hidden": "true" });
    this.preview(picture, name, said.boxes);
    return [button, picture];
  }

  take(name, { verdict, boxes }) {
    const reading = this.reading();
    reading.choose(name, verdict !== "reject");
    reading.log.change(saying(reading.review, name, verdict, boxes, { how: "considered", seen: "" }));
    this.changed();
  }

  /** Where all say the same word, with the boxes of the first; whoever decides looks at the rest. */
  takeAgreed() {
    const reading = this.reading();
    let review = reading.review;
    const lines = this.lines.filter(line => line.agreed && reading.verdict(line.name) === "unset");
    for (const { name, said: [first] } of lines) review = saying(review, name, first.verdict, first.boxes, { how: "bulk", seen: "" });
    reading.log.change(review);
    note(`${plural(lines.length, "verdict")} taken; undo takes them back`);
    this.changed();
  }

  async assign() {
    const names = one("readers").value.split(",").map(name => name.trim()).filter(Boolean);
    try {
      const { readers } = await api.putReaders(this.study.id, names, one("readers-blind").checked);
      this.open({ ...this.study, readers });
      note(readers.length ? `Given to ${readers.map(({ reader }) => reader).join(", ")}` : "Nobody is asked for an independent read");
    } catch (problem) { note(`Not assigned: ${problem.message}`, true); }
  }
}

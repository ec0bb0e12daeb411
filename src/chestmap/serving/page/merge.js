// Two reviews that began at the same one: who changed what, and what they make together.

import { content, of, text } from "./review.js";

const TITLES = { note: "Note", state: "Reading", measures: "Measures", key: "Key image" };

/** A review as parts that can be chosen one by one: each finding, the note, how far the reading is. */
function parts(review) {
  const { findings, note, state, measures, key } = content(review), out = new Map();
  for (const name of Object.keys(findings)) out.set(`finding ${name}`, findings[name]);
  out.set("note", note);
  out.set("measures", measures);
  out.set("key", key);
  out.set("state", state);
  return out;
}

function whole(chosen) {
  const review = { findings: {}, note: chosen.get("note") ?? "", state: chosen.get("state") ?? "no", measures: chosen.get("measures"), key: chosen.get("key") };
  for (const [key, value] of chosen) if (key.startsWith("finding ") && value) review.findings[key.slice(8)] = value;
  return content(review);
}

/** Parts that differ: {key, title, base, mine, theirs, clash, take}; `take` is the side to begin with, null at a clash. */
export function compare(base, mine, theirs) {
  const [b, m, t] = [base, mine, theirs].map(parts), rows = [];
  const keys = [...new Set([...b.keys(), ...m.keys(), ...t.keys()])];
  for (const key of keys.sort((one, other) => Number(other.startsWith("finding ")) - Number(one.startsWith("finding ")))) {
    const [was, ours, other] = [b.get(key), m.get(key), t.get(key)];
    if (text(ours) === text(other)) continue;
    const take = text(ours) === text(was) ? "theirs" : text(other) === text(was) ? "mine" : null;
    const title = TITLES[key] ?? key.slice(8);
    rows.push({ key, title, base: was, mine: ours, theirs: other, clash: take === null, take });
  }
  return rows;
}

/** Theirs, with each differing part taken from the side that `take` names. */
export function merged(mine, theirs, rows) {
  const chosen = parts(theirs), ours = parts(mine);
  for (const { key, take } of rows) if (take === "mine") chosen.set(key, ours.get(key));
  return whole(chosen);
}

const VERDICT = { accept: "accepted", reject: "rejected", correct: "corrected", unset: "unset" };
export const STATE = { no: "not read", part: "in progress", done: "done" };

/** A part in words. */
export function told(key, value) {
  if (key === "note") return value ? `“${value}”` : "no note";
  if (key === "state") return STATE[value] ?? "not read";
  if (key === "measures") return value.length ? `${value.length} ${value.length === 1 ? "measure" : "measures"}` : "none";
  if (key === "key") return value ? "marked" : "not marked";
  if (!value) return "nothing said";
  const count = value.boxes.length;
  return VERDICT[value.verdict] + (count ? `, ${count} ${count === 1 ? "box" : "boxes"}` : "");
}

/** What changed from one review to the next, in words, for the history. */
export function changes(from, to) {
  const said = [];
  for (const row of compare(from, to, from)) {
    const boxesOnly = row.mine && row.base && row.mine.verdict && row.mine.verdict === row.base.verdict;
    if (row.key === "measures" || row.key === "key") said.push(`${row.title.toLowerCase()}: ${told(row.key, row.mine)}`);
    else if (row.key === "state") said.push(`reading: ${told(row.key, row.mine)}`);
    else if (row.key === "note") said.push(row.mine ? "note changed" : "note removed");
    else said.push(`${row.title}: ${boxesOnly ? "boxes changed" : told(row.key, of(to, row.title).verdict === "unset" ? null : row.mine)}`);
  }
  return said;
}

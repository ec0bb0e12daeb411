// Blind first read: the service gives a model's scores, maps and boxes out after the reader has committed. Both states stay
// in the history.

const MODE = "chestmap.blind";

export const blind = {
  get on() { return localStorage.getItem(MODE) !== null; },
  set on(value) { if (value) localStorage.setItem(MODE, "1"); else localStorage.removeItem(MODE); },
};

/** Filters that would tell what models say: the service refuses them in blind reading. */
export const TELLING = ["finding", "least", "most", "disagreement"];

/** A study that came without results, with rows for its findings; in the order of the alphabet, since one by score would tell. */
export function withoutResults(study) {
  const findings = [...study.findings].sort().map(name => ({ name, score: null, threshold: null, over: false, boxes: [] }));
  const maps = { width: 1, height: 1, order: [], matrix: [1, 0, 0, 0, 1, 0] };
  return { ...study, results: [{ model: "hidden", findings, maps }] };
}

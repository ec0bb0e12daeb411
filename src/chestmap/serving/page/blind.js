// Blind first read: a model's scores, maps and boxes come after the reader has committed. Both states stay in the history.

const MODE = "chestmap.blind";

export const blind = {
  get on() { return localStorage.getItem(MODE) !== null; },
  set on(value) { if (value) localStorage.setItem(MODE, "1"); else localStorage.removeItem(MODE); },
};

/** The study without what models say of it; findings in the order of the alphabet, since an order by score would tell. */
export function withoutResults(study) {
  const names = [...new Set(study.results.flatMap(result => result.findings.map(one => one.name)))].sort();
  const findings = names.map(name => ({ name, score: null, threshold: null, over: false, boxes: [] }));
  const maps = { width: 1, height: 1, order: [], matrix: [1, 0, 0, 0, 1, 0] };
  return { ...study, suspicion: null, top: [], results: [{ model: "hidden", findings, maps }] };
}

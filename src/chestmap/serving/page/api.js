// The service's HTTP interface. Paths are relative, so the page also works below a reverse proxy's prefix.

import { blind } from "./blind.js";

const REVIEWER = "chestmap.reviewer", SIGNED = "chestmap.signed-in";
const WAIT = 30000, LONG = 120000;

/** What came back instead of an answer; `status` is 0 where the service could not be reached. */
export class Failure extends Error {
  constructor(status, body, retryAfter = 0) {
    super(body?.error ?? (status ? `the service answered ${status}` : "the service cannot be reached"));
    this.status = status;
    this.body = body;
    this.retryAfter = retryAfter;
  }

  /** Trying again later may help: not reached, too busy, or broken for the moment. */
  get passing() { return this.status === 0 || this.status === 429 || this.status >= 500; }
}

export const reviewer = {
  get name() { return localStorage.getItem(REVIEWER) ?? ""; },
  set name(value) { localStorage.setItem(REVIEWER, value); },
  /** Whether the name came with a token. */
  get signed() { return localStorage.getItem(SIGNED) !== null; },
  set signed(value) { if (value) localStorage.setItem(SIGNED, "1"); else localStorage.removeItem(SIGNED); },
};

let signIn = async () => false;
/** `ask` is called at 401 and says whether it is worth another try. */
export function whenSignedOut(ask) { signIn = ask; }

async function send(path, { method = "GET", json, form, keepalive = false, wait = WAIT } = {}) {
  const headers = { "X-Reviewer": encodeURIComponent(reviewer.name) };
  if (method !== "GET") headers["X-Chestmap"] = "1";
  if (json !== undefined) headers["Content-Type"] = "application/json";
  const body = form ?? (json === undefined ? undefined : JSON.stringify(json));
  try {
    return await fetch(path, { method, headers, body, keepalive, credentials: "same-origin", signal: AbortSignal.timeout(wait) });
  } catch (problem) {
    throw new Failure(0, { error: problem.name === "TimeoutError" ? "the service did not answer in time" : undefined });
  }
}

async function ask(path, options = {}, again = true) {
  const answer = await send(path, options);
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  if (answer.status === 401 && again && !options.quiet && await signIn()) return ask(path, options, false);
  throw new Failure(answer.status, body, Number(answer.headers.get("Retry-After")) || 0);
}

const json = async (path, options) => (await ask(path, options)).json();
const bytes = async path => (await ask(path, { wait: LONG })).arrayBuffer();

const worker = new Worker(new URL("pixels_worker.js", import.meta.url)), coming = new Map();
worker.addEventListener("message", ({ data }) => { coming.get(data.turn)(data); coming.delete(data.turn); });
worker.addEventListener("error", () => { for (const land of coming.values()) land({ status: 0, body: null, retry: null }); coming.clear(); });
let turns = 0;

/** Many bytes, which come without work of the main thread. */
async function bytesAside(path, again = true) {
  const turn = ++turns, headers = { "X-Reviewer": encodeURIComponent(reviewer.name) };
  const { status, body, retry } = await new Promise(land => {
    coming.set(turn, land);
    worker.postMessage({ turn, path: new URL(path, document.baseURI).href, headers, wait: LONG });
  });
  if (status === 200) return body;
  if (status === 401 && again && await signIn()) return bytesAside(path, false);
  throw new Failure(status, body, Number(retry) || 0);
}

const study = id => `v1/studies/${encodeURIComponent(id)}`;

export const models = () => json("v1/models").then(answer => answer.models);
export const studies = query => json(`v1/studies?${new URLSearchParams(blind.on ? { ...query, blind: 1 } : query)}`);
export const openStudy = id => json(blind.on ? `${study(id)}?blind=1` : study(id));
/** As `openStudy`; in blind reading the service keeps results from this reader until they commit. */
export const openToRead = id => (blind.on ? json(`${study(id)}/blind`, { method: "PUT" }) : openStudy(id));
export const history = id => json(`${study(id)}/history`).then(answer => answer.versions);
export const thumbnail = id => `${study(id)}/thumbnail`;
/** No finer than this window can show, or, with `whole`, all of them. */
export const pixels = async (id, whole = false) => new Uint16Array(await bytesAside(`${study(id)}/pixels${whole ? "" : `?stage=${screenful()}`}`));
export const maps = async (id, model) => new Uint8Array(await bytes(`${study(id)}/maps/${encodeURIComponent(model)}`));
export const startSession = token => json("v1/session", { method: "POST", json: { token }, quiet: true });

export const endSession = () => ask("v1/session", { method: "DELETE", quiet: true });

/** `where` is "review", or "read" for one's own independent read. */
export const putReview = (id, base, review, keepalive = false, where = "review") =>
  json(`${study(id)}/${where}`, { method: "PUT", json: { base, ...review }, keepalive });
export const putReaders = (id, readers, blind) => json(`${study(id)}/readers`, { method: "PUT", json: { readers, blind } });
export const agreement = () => json("v1/agreement");

/** Hands in one file and does not wait for its result. */
export function upload(file) {
  const form = new FormData();
  form.append("files", file, file.name);
  return json("v1/predict?wait=0", { method: "POST", form, wait: LONG });
}

/** Pixels of the screen that the window takes. */
const screenful = () => [innerWidth, innerHeight].map(side => Math.round(side * (devicePixelRatio || 1))).join("x");

const KEPT = 4, kept = new Map();

/** As `pixels`, fetched once; those of the next study of the list are fetched while the current one is read. */
export function pixelsOnce(id, whole = false) {
  const key = `${id} ${whole}`, found = kept.get(key) ?? pixels(id, whole);
  kept.delete(key);
  kept.set(key, found);
  found.catch(() => kept.delete(key));
  for (const old of [...kept.keys()].slice(0, -KEPT)) kept.delete(old);
  return found;
}

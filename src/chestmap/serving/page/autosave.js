// Saves a review a moment after it was changed. What is not yet saved is kept in this browser, so that neither a lost
// connection nor a closed page loses it; what another reviewer saved meanwhile is never overwritten without being shown.

import * as api from "./api.js";
import { content, same } from "./review.js";

const DRAFT = "chestmap.draft ", DELAY = 700, LONGEST = 30000;

const slot = id => `${DRAFT}${id} ${api.reviewer.name}`;

export function draftOf(id) {
  try { return JSON.parse(localStorage.getItem(slot(id))); } catch { return null; }
}

/** Studies with work of this reviewer that the service has not got yet. */
export function drafts() {
  const end = ` ${api.reviewer.name}`;
  return Object.keys(localStorage).filter(key => key.startsWith(DRAFT) && key.endsWith(end)).map(key => key.slice(DRAFT.length, -end.length));
}

export class Autosave {
  /** `current` gives the review to save; `told` hears (state, text); `settle` is asked at a conflict, see `conflict`.
   *  `where` and `stage` are those of `api.putReview` and of the version. */
  constructor(id, saved, { current, told, settle, landed, where = "review", stage = "open" }) {
    Object.assign(this, { id, saved, current, told, settle, landed, where, stage, state: "saved", timer: 0, wait: 0, busy: null });
    this.online = () => { if (this.state === "offline") this.flush(); };
    addEventListener("online", this.online);
  }

  get open() { return !same(this.current(), this.saved); }

  say(state, text) { this.state = state; this.told(state, text); }

  changed() {
    this.keep();
    if (this.state === "conflict") return;
    this.say("waiting", "Not saved yet");
    this.later(DELAY);
  }

  later(delay) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.flush(), delay);
  }

  keep() {
    try {
      if (!this.open) localStorage.removeItem(slot(this.id));
      else localStorage.setItem(slot(this.id), JSON.stringify({ base: this.saved, mine: content(this.current()), where: this.where, stage: this.stage }));
    } catch { this.say("full", "This browser has no room to keep unsaved work"); }
  }

  /** Saves now what is to be saved; resolves once nothing is under way. */
  flush(keepalive = false) {
    clearTimeout(this.timer);
    this.busy ??= this.send(keepalive).finally(() => {
      this.busy = null;
      if (this.state === "waiting" && this.open) this.later(DELAY);
    });
    return this.busy;
  }

  async send(keepalive) {
    if (this.state === "conflict") return;
    const sent = content(this.current());
    if (same(sent, this.saved)) { this.keep(); this.say("saved", ""); return; }
    this.say("saving", "Saving…");
    try {
      this.accept(await this.put(sent, keepalive), true);
    } catch (problem) {
      if (!(problem instanceof api.Failure)) throw problem;
      await this.failed(problem, sent);
    }
  }

  put(review, keepalive = false, stage = this.stage) {
    return api.putReview(this.id, this.saved.version, { ...review, stage }, keepalive, this.where);
  }

  /** Ends a blind read: one more version, with the same words, after which results may be seen. */
  async commit() {
    await this.flush();
    if (this.open) return false;
    const now = content(this.current());
    try { this.accept(await this.put({ ...now, state: now.state === "no" ? "part" : now.state }, false, "open"), true); } catch (problem) {
      if (!(problem instanceof api.Failure)) throw problem;
      this.say(problem.passing ? "offline" : "refused", `Not committed: ${problem.message}`);
      return false;
    }
    return true;
  }

  /** `written`: the service wrote it just now, for us. */
  accept(review, written = false) {
    this.saved = review;
    this.wait = 0;
    this.keep();
    this.say(this.open ? "waiting" : "saved", this.open ? "Not saved yet" : "");
    this.landed(review, written);
  }

  async failed(problem, sent) {
    const theirs = problem.body?.current;
    if (problem.status === 409 && theirs) {
      if (same(theirs, sent)) this.accept(theirs); // our own, whose answer was lost on the way
      else await this.conflict(theirs);
    } else if (problem.passing) {
      this.wait = Math.min(LONGEST, problem.retryAfter * 1000 || (this.wait * 2 || 2000));
      this.say("offline", "Not saved: kept here, trying again");
      this.later(this.wait);
    } else this.say("refused", `Not saved: ${problem.message}`);
  }

  /** Asks `settle(base, mine, theirs)` for the review to go on with; null puts the question off, the draft stays. */
  async conflict(theirs) {
    this.say("conflict", `${theirs.by || "Someone"} saved another version`);
    this.theirs = theirs;
    if (!this.settle) return;
    const settled = await this.settle(this.saved, content(this.current()), theirs);
    if (!settled) return;
    this.state = "waiting";
    this.saved = theirs;
    settled.apply();
    this.landed(theirs);
    this.keep();
    await this.send(false);
  }

  /** No more of this study on the page: what is open is sent, or stays as a draft. */
  async close(keepalive = false) {
    this.settle = null;
    await this.flush(keepalive);
    clearTimeout(this.timer);
    removeEventListener("online", this.online);
  }
}

/** Sends drafts of studies that are not on the page; a draft that meets another version waits for its study to be opened. */
export async function sendDrafts(except) {
  for (const id of drafts().filter(id => id !== except)) {
    const draft = draftOf(id);
    if (!draft) continue;
    const { where, stage } = draft;
    const saving = new Autosave(id, draft.base, { current: () => draft.mine, told: () => {}, settle: null, landed: () => {}, where, stage });
    await saving.close();
  }
}

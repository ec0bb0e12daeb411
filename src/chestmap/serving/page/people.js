// Who sits here: a name where the service trusts the machine, a token where it does not.

import * as api from "./api.js";
import { note, one } from "./dom.js";

export const shown = () => { one("reviewer-name").textContent = api.reviewer.name || "Who reviews?"; };

function asked(dialog) {
  return new Promise(resolve => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
    dialog.returnValue = "";
    if (!dialog.open) dialog.showModal();
  });
}

/** The reviewer's name, asked for once and kept in this browser; empty where it was not given. */
export async function name(again = false) {
  if (api.reviewer.name && !again) return api.reviewer.name;
  one("name").value = api.reviewer.name;
  if (await asked(one("who")) === "ok" && one("name").value.trim()) api.reviewer.name = one("name").value.trim().slice(0, 64);
  shown();
  return api.reviewer.name;
}

let asking = null;

async function token() {
  for (;;) {
    one("token").value = "";
    if (await asked(one("sign-in")) !== "ok") return false;
    try {
      const answer = await api.startSession(one("token").value.trim());
      if (answer?.name) Object.assign(api.reviewer, { name: answer.name, signed: true });
      shown();
      return true;
    } catch (problem) {
      one("sign-in-problem").textContent = problem.message;
    }
  }
}

/** Somebody else's turn: with tokens, signs out and in; without, asks for the name. */
async function another() {
  if (!api.reviewer.signed) { await name(true); return; }
  await api.endSession();
  Object.assign(api.reviewer, { name: "", signed: false });
  shown();
  await token();
}

/** `leaving` is awaited before another reviewer is asked for, `changed` is called once there is one. */
export function watchPeople({ leaving, changed }) {
  shown();
  api.whenSignedOut(() => {
    asking ??= token().finally(() => { asking = null; });
    return asking;
  });
  one("reviewer").addEventListener("click", async () => {
    const before = api.reviewer.name;
    await leaving();
    await another();
    if (api.reviewer.name === before) return;
    note(`Reviews are saved as ${api.reviewer.name || "nobody"}`);
    changed();
  });
}

// Who reviewed what and when: every version, the newest first, each with what it changed.

import * as api from "./api.js";
import { make, one, when } from "./dom.js";
import { changes, STATE } from "./merge.js";
import { content, same } from "./review.js";

const NOTHING = content(null);

export class History {
  /** `restore` takes a version's content as a change of the present review. */
  constructor(restore) {
    this.restore = restore;
    this.panel = one("history");
    this.panel.addEventListener("toggle", () => this.refresh());
  }

  open(id) {
    this.id = id;
    one("versions").replaceChildren();
    this.refresh();
  }

  toggle() {
    this.panel.open = !this.panel.open;
    this.panel.querySelector("summary").focus();
  }

  async refresh() {
    if (!this.panel.open || !this.id) return;
    const id = this.id;
    try {
      const versions = (await api.history(id)).sort((a, b) => a.version - b.version);
      if (id === this.id) this.show(versions.filter(version => version.version > 0));
    } catch (problem) {
      one("versions").replaceChildren(make("li", { class: "problem" }, problem.message));
    }
  }

  show(versions) {
    const last = versions.at(-1);
    const lines = versions.map((version, i) => {
      const said = changes(i ? versions[i - 1] : NOTHING, version);
      const old = last && !same(version, last);
      return make("li", {},
        make("p", {}, make("b", {}, version.by || "unnamed"), ` ${when(version.at)} · version ${version.version} · ${STATE[version.state] ?? ""}`),
        make("p", { class: "soft" }, said.join("; ") || "nothing changed"),
        old ? make("button", { type: "button", onclick: () => this.restore(version) }, `Use version ${version.version} again`) : null);
    });
    one("versions").replaceChildren(...lines.reverse());
    if (!lines.length) one("versions").append(make("li", { class: "soft" }, "Nobody has reviewed this study yet."));
  }
}

/** One line for the head of a study. */
export function reviewed(review) {
  if (!review?.version || review.state === "no") return "unread";
  return `${STATE[review.state]} · ${review.by || "unnamed"} · ${when(review.at, true)}`;
}


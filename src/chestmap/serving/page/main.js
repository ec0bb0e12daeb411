// Starts the page: which screen is shown, the header, the theme. `#/ID` is a study, anything else the worklist.

import { listActions, studyActions } from "./actions.js";
import * as api from "./api.js";
import { sendDrafts } from "./autosave.js";
import { colorsOf } from "./colors.js";
import { all, icon, make, note, one } from "./dom.js";
import { buildHelp, toggleHelp } from "./help.js";
import { listen } from "./keys.js";
import { name, watchPeople } from "./people.js";
import { StudyScreen } from "./study.js";
import { Worklist } from "./worklist.js";

const THEME = "chestmap.theme", AGAIN = 30000;
const screen = () => (one("study").hidden ? "list" : "study");
const here = () => {
  try { return location.hash.startsWith("#/") ? decodeURIComponent(location.hash.slice(2)) : ""; } catch { return ""; }
};

function theme(value) {
  document.documentElement.dataset.theme = value;
  localStorage.setItem(THEME, value);
}

const page = {
  list: () => { location.hash = "#/"; },
  theme: () => theme(document.documentElement.dataset.theme === "light" ? "dark" : "light"),
  next: async (by, unread = false) => {
    const id = await worklist.beside(here(), by, unread);
    if (id) location.hash = `#/${encodeURIComponent(id)}`;
    else if (unread) { note("That was the last one that is not done"); page.list(); }
    else note(by > 0 ? "This is the last study of the list" : "This is the first study of the list");
  },
};

let models = [];
const titles = id => {
  const model = models.find(one => one.id === id), twins = models.filter(one => one.title === model?.title).length > 1;
  return !model ? id : twins ? `${model.title} ${id.slice(-4)}` : model.title;
};
const worklist = new Worklist();
const study = new StudyScreen({ colors: colorsOf([]), titles, landed: (id, review) => worklist.landed(id, review) });
const actions = { study: studyActions(study, page), list: listActions(worklist, page) };

async function route() {
  const id = here();
  if (id) worklist.left = id;
  one("study").hidden = !id;
  one("worklist").hidden = Boolean(id);
  document.body.dataset.screen = screen();
  if (!id) {
    document.title = "chestmap review";
    await study.close();
    await worklist.refresh();
    return;
  }
  await name();
  if (here() !== id) return;
  await study.open(id);
  study.pane.canvas.focus({ preventScroll: true });
  const next = await worklist.beside(id, 1);
  if (next) api.pixelsOnce(next).catch(() => {});
}

function header() {
  one("models").replaceChildren(...models.map(model => make("li", { title: [model.paper, model.sha256 && `weights sha256 ${model.sha256}`].filter(Boolean).join("\n") },
    make("b", {}, model.title), " ", make("code", {}, model.id))));
  if (!models.length) one("models").append(make("li", {}, "no model"));
}

function buttons() {
  for (const button of all("[data-act]", one("study"))) {
    button.addEventListener("click", event => actions.study[button.dataset.act]?.(event));
  }
  for (const place of all("[data-icon]")) place.prepend(icon(place.dataset.icon));
  one("theme").addEventListener("click", page.theme);
  one("help-button").addEventListener("click", toggleHelp);
  one("skip").addEventListener("click", event => { event.preventDefault(); one(screen() === "study" ? "image-a" : "rows").focus(); });
}

function uploads() {
  const field = one("files"), list = one("worklist");
  field.addEventListener("change", async () => { const files = [...field.files]; field.value = ""; await worklist.upload(files); });
  one("add").addEventListener("click", () => field.click());
  const drop = (type, act) => addEventListener(type, event => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    if (!list.hidden) act(event);
  });
  drop("dragover", () => list.classList.add("dropping"));
  addEventListener("dragleave", event => { if (!event.relatedTarget) list.classList.remove("dropping"); });
  drop("drop", event => { list.classList.remove("dropping"); worklist.upload([...event.dataTransfer.files]); });
}

async function start() {
  theme(localStorage.getItem(THEME) ?? "dark");
  buildHelp();
  buttons();
  uploads();
  watchPeople({ leaving: () => study.saving?.flush(), changed: route });
  listen(screen, () => actions[screen()]);
  try { models = await api.models(); } catch (problem) { note(`The models cannot be listed: ${problem.message}`, true); }
  const findings = [...new Set(models.flatMap(model => model.findings))];
  study.colors = colorsOf(findings);
  header();
  worklist.offer(findings);
  addEventListener("hashchange", route);
  addEventListener("online", () => sendDrafts(here()));
  setInterval(() => sendDrafts(here()), AGAIN);
  await route();
  await sendDrafts(here());
  document.body.dataset.ready = "";
}

start();

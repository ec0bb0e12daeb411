"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)], one = id => document.getElementById(id);
const figures = all(".grid figure"), chosen = new Set();
const pressed = group => all(`[data-${group}-filter][aria-pressed=true]`).map(button => button.dataset[group + "Filter"]);
const value = (id, otherwise) => one(id) ? one(id).value : otherwise;

function update() {
  const limit = +value("limit", .3), low = +value("low", 0), high = +value("high", 1);
  const outcomes = pressed("outcome"), labels = pressed("label");
  let count = 0;
  for (const figure of figures) {
    const data = figure.dataset, outcome = data.iou === "" ? "no box" : +data.iou >= limit ? "hit" : "miss";
    if (data.outcome !== outcome) {
      data.outcome = outcome;
      const said = figure.querySelector(".outcome");
      said.textContent = said.dataset.outcome = outcome;
    }
    const kept = (!chosen.size || chosen.has(data.finding)) && (!outcomes.length || outcomes.includes(outcome))
      && (!labels.length || labels.includes(data.label)) && +data.score >= low && +data.score <= high;
    figure.hidden = !kept;
    count += kept;
  }
  for (const section of all(".finding")) section.hidden = !section.querySelector("figure:not([hidden])");
  for (const part of all(".panel[data-finding], tr[data-finding]")) part.hidden = chosen.size > 0 && !chosen.has(part.dataset.finding);
  document.body.classList.toggle("few", chosen.size > 0 && chosen.size < 4);
  one("all").setAttribute("aria-pressed", chosen.size === 0);
  for (const chip of all("[data-finding-filter]")) chip.setAttribute("aria-pressed", chosen.has(chip.dataset.findingFilter));
  if (one("shown")) one("shown").textContent = `${count} of ${figures.length} pictures`;
  for (const id of ["low", "high"]) if (one(id)) one(id + "-value").textContent = (+one(id).value).toFixed(2).replace(/^0/, "");
}

function sort() {
  const [key, sign] = value("order", "iou -1").split(" ");
  const rank = figure => figure.dataset[key] === "" ? Infinity : +figure.dataset[key] * sign;
  for (const grid of all(".finding .grid"))
    grid.append(...[...grid.children].sort((a, b) => rank(a) - rank(b) || b.dataset.score - a.dataset.score));
}

function reset() {
  chosen.clear();
  for (const button of all("[data-outcome-filter], [data-label-filter]")) button.setAttribute("aria-pressed", false);
  if (one("low")) { one("low").value = 0; one("high").value = 1; }
  update();
}

const flip = button => button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
for (const chip of all("[data-finding-filter]")) chip.onclick = () => {
  const name = chip.dataset.findingFilter;
  chosen.has(name) ? chosen.delete(name) : chosen.add(name);
  update();
};
for (const button of all("[data-outcome-filter], [data-label-filter]")) button.onclick = () => { flip(button); update(); };
function layer(name) {
  const hidden = document.body.classList.toggle("without-" + name);
  for (const button of all(`[data-layer=${name}]`)) button.setAttribute("aria-pressed", !hidden);
}
for (const button of all("[data-layer]")) button.onclick = () => layer(button.dataset.layer);
one("all").onclick = () => { chosen.clear(); update(); };
for (const id of ["limit", "low", "high"]) if (one(id)) one(id).oninput = update;
if (one("order")) one("order").onchange = sort;
if (one("opacity")) one("opacity").oninput = () => document.documentElement.style.setProperty("--map", one("opacity").value);
one("theme").onclick = () => {
  const root = document.documentElement, now = root.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  root.style.colorScheme = now === "dark" ? "light" : "dark";
};

const tabs = all("[role=tab]");
function show(tab) {
  for (const other of tabs) {
    other.setAttribute("aria-selected", other === tab);
    other.tabIndex = other === tab ? 0 : -1;
    one(other.getAttribute("aria-controls")).classList.toggle("folded", other !== tab);
  }
}
tabs.forEach((tab, index) => {
  tab.onclick = () => show(tab);
  tab.onkeydown = event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(index + step + tabs.length) % tabs.length];
    show(next);
    next.focus();
  };
});
if (tabs.length) show(tabs[0]);

const large = one("large"), stage = one("stage"), visible = () => figures.filter(figure => !figure.hidden && figure.isConnected)
  .sort((a, b) => a.compareDocumentPosition(b) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1);
let current = null;
function enlarge(figure) {
  const shown = visible(), copy = figure.cloneNode(true);
  const picture = document.createElement("div");
  picture.className = "picture";
  picture.append(...copy.querySelector(".picture").childNodes);
  stage.replaceChildren(picture, copy.querySelector("figcaption"));
  one("which").textContent = `${figure.dataset.finding}, ${shown.indexOf(figure) + 1} of ${shown.length}`;
  current = figure;
  if (!large.open) large.showModal();
}
function go(step) {
  const shown = visible(), next = shown[(shown.indexOf(current) + step + shown.length) % shown.length];
  if (next) enlarge(next);
}
for (const figure of figures) figure.querySelector(".picture").onclick = () => enlarge(figure);
one("earlier").onclick = () => go(-1);
one("later").onclick = () => go(1);
large.onclose = () => current && current.querySelector(".picture").focus();
for (const button of all("dialog .close")) button.onclick = () => button.closest("dialog").close();
for (const dialog of all("dialog")) dialog.onclick = event => { if (event.target === dialog) dialog.close(); };
one("asks").onclick = () => one("help").showModal();

function walk(step) {
  const shown = visible(), at = shown.findIndex(figure => figure.contains(document.activeElement));
  const next = shown[at < 0 ? 0 : Math.min(Math.max(at + step, 0), shown.length - 1)];
  if (!next) return;
  next.querySelector(".picture").focus({ preventScroll: true });
  next.scrollIntoView({ block: "center" });
}
function fade(step) {
  if (!one("opacity")) return;
  one("opacity").value = +one("opacity").value + step;
  one("opacity").oninput();
}
const keys = { m: () => layer("map"), l: () => layer("outline"), o: () => layer("own"), t: () => layer("true"), "[": () => fade(-.1), "]": () => fade(.1),
  j: () => walk(1), k: () => walk(-1), 0: reset, d: () => one("theme").click(), "/": () => one("all").focus(), "?": () => one("help").showModal() };
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, textarea")) return;
  if (large.open && event.key === "ArrowLeft") go(-1);
  else if (large.open && event.key === "ArrowRight") go(1);
  else if (keys[event.key] && !(document.querySelector("dialog[open]") && "jk0/?".includes(event.key))) {
    event.preventDefault();
    keys[event.key]();
  }
});

const reading = one("reading");
function read(plot, event) {
  const box = plot.getBoundingClientRect(), scale = plot.viewBox.baseVal.width / box.width;
  const [left, top, width, height] = plot.dataset.frame.split(",").map(Number), [x0, x1, y0, y1, log] = plot.dataset.range.split(",").map(Number);
  const at = Math.min(Math.max((event.clientX - box.left) * scale, left), left + width), share = (at - left) / width;
  const x = log ? x0 * (x1 / x0) ** share : x0 + (x1 - x0) * share, digits = v => Math.abs(v) >= 100 ? v.toFixed(0) : String(+v.toPrecision(3)).replace(/^0\./, ".");
  const lines = all("path[data-name]", plot).map(path => {
    const points = path.getAttribute("d").slice(1).split("L").map(point => point.split(",").map(Number));
    const near = points.reduce((best, point) => Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best, points[0]);
    return `${path.dataset.name}  ${digits(y0 + (y1 - y0) * (top + height - near[1]) / height)}`;
  });
  const cross = plot.querySelector(".cross") || plot.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
  cross.setAttribute("class", "cross");
  cross.setAttribute("d", `M${at},${top}V${top + height}`);
  reading.textContent = [`${plot.querySelector(".axis").textContent}  ${digits(x)}`, ...lines].join("\n");
  reading.hidden = false;
  reading.style.left = Math.min(event.clientX + 14, innerWidth - reading.offsetWidth - 8) + "px";
  reading.style.top = event.clientY + 14 + "px";
}
for (const plot of all(".plot")) {
  plot.onpointermove = event => read(plot, event);
  plot.onpointerleave = () => { reading.hidden = true; plot.querySelector(".cross")?.remove(); };
}

const links = all(".anchors a"), seen = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting)
    for (const link of links) link.setAttribute("aria-current", link.hash === "#" + entry.target.id);
}, { rootMargin: "-20% 0px -70% 0px" });
for (const link of links) { const part = document.querySelector(link.hash); if (part) seen.observe(part); }
update();

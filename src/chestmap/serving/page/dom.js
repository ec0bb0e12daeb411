// Elements are made and filled here and nowhere else: text goes in as text nodes, so nothing from a server becomes markup.

export const one = id => document.getElementById(id);
export const all = (selector, root = document) => [...root.querySelectorAll(selector)];

/** An element; `on…` properties are listeners, false and null are left out, `true` is an empty attribute. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter(child => child !== null && child !== undefined));
  return element;
}

/** One of the symbols of index.html; the words beside it carry the meaning. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "icon");
  svg.append(use);
  return svg;
}

export const press = (button, on) => button.setAttribute("aria-pressed", String(Boolean(on)));

/** Read out by a screen reader and shown nowhere. */
export function say(text) {
  one("said").textContent = "";
  requestAnimationFrame(() => { one("said").textContent = text; });
}

let fading = 0;

/** A short note at the foot of the page; with `stays`, until the next one. */
export function note(text, stays = false) {
  const box = one("toast");
  box.textContent = text;
  box.hidden = !text;
  clearTimeout(fading);
  if (text && !stays) fading = setTimeout(() => { box.hidden = true; }, 5000);
}

const WHEN = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const BRIEF = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

/** A moment as the reader's locale writes it; what is no date is shown as it came. */
export function when(text, brief = false) {
  const at = new Date(text);
  return Number.isNaN(at.getTime()) ? String(text ?? "") : (brief ? BRIEF : WHEN).format(at);
}

export const percent = value => (typeof value === "number" ? value.toFixed(2).replace(/^0/, "") : "–");
export const plural = (count, word, words = `${word}${/(s|x)$/.test(word) ? "es" : "s"}`) => `${count} ${count === 1 ? word : words}`;

const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** When a film was taken. A shifted date says so; without any, when the image came. */
export function filmed(study) {
  if (!study.taken) return `received ${when(study.received, true)}`;
  const at = new Date(study.taken);
  return `${Number.isNaN(at.getTime()) ? study.taken : DAY.format(at)}${study.shifted ? " (shifted)" : ""}`;
}

/** "62 y F", from an age as DICOM writes it. */
export function person(study) {
  const age = /^(\d{3})([DWMY])$/.exec(study.age ?? "");
  return [age ? `${Number(age[1])} ${age[2].toLowerCase()}` : "", study.sex ?? ""].filter(Boolean).join(" ");
}

/** How long before: days, weeks, months or years, whichever says it in small numbers. */
export function before(days) {
  if (days === null || days === undefined) return "earlier";
  if (days < 1) return "the same day";
  for (const [unit, length, least] of [["year", 365.25, 730], ["month", 30.44, 61], ["week", 7, 14]]) {
    if (days >= least) return `${plural(Math.round(days / length), unit)} before`;
  }
  return `${plural(days, "day")} before`;
}

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

// Every key of the page, in one table: the help sheet shows it and the listener obeys it.

const OFF = "chestmap.keys-off";

/** `screen` is where a key acts: list, study, both, or image (only while the image or nothing has the focus). */
export const KEYS = [
  { group: "Worklist", screen: "list", keys: ["j", "ArrowDown"], act: "nextRow", does: "next study" },
  { group: "Worklist", screen: "list", keys: ["k", "ArrowUp"], act: "previousRow", does: "previous study" },
  { group: "Worklist", screen: "list", keys: ["Enter"], act: "openRow", does: "open the study" },
  { group: "Worklist", screen: "list", keys: ["/"], act: "search", does: "search" },
  { group: "Worklist", screen: "list", keys: ["F"], act: "filters", does: "more filters" },
  { group: "Worklist", screen: "list", keys: ["u"], act: "tabs", does: "unread, in progress, done, all" },
  { group: "Findings", screen: "study", keys: ["j"], act: "nextFinding", does: "choose the next finding" },
  { group: "Findings", screen: "study", keys: ["k"], act: "previousFinding", does: "choose the previous finding" },
  { group: "Findings", screen: "study", keys: ["1", "2", "3", "4", "5", "6", "7", "8", "9"], label: "1 – 9", act: "toggle", does: "show or hide that finding" },
  { group: "Findings", screen: "study", keys: ["v"], act: "alone", does: "show the chosen finding alone, and back" },
  { group: "Findings", screen: "study", keys: ["a"], act: "accept", does: "accept: it is there, the boxes are right" },
  { group: "Findings", screen: "study", keys: ["x"], act: "reject", does: "reject: it is not there" },
  { group: "Findings", screen: "study", keys: ["c"], act: "correct", does: "correct: it is there, other boxes" },
  { group: "Findings", screen: "study", keys: ["u"], act: "unset", does: "take the verdict back" },
  { group: "Findings", screen: "study", keys: ["A"], act: "agree", does: "agree with the model on all that is left" },
  { group: "Overlay", screen: "study", keys: ["m"], act: "maps", does: "maps on or off" },
  { group: "Overlay", screen: "study", keys: ["o"], act: "overlay", does: "everything on the image on or off" },
  { group: "Overlay", screen: "study", keys: ["["], act: "fainter", does: "maps fainter" },
  { group: "Overlay", screen: "study", keys: ["]"], act: "stronger", does: "maps stronger" },
  { group: "Overlay", screen: "study", keys: ["M"], act: "nextModel", does: "show the next model" },
  { group: "Boxes", screen: "study", keys: ["b"], act: "drawTool", does: "draw boxes with the mouse; again: back to the window" },
  { group: "Boxes", screen: "study", keys: ["B"], act: "addBox", does: "put a box in the middle of the view" },
  { group: "Boxes", screen: "study", keys: ["e"], act: "editBox", does: "go to the image and take its first box" },
  { group: "Boxes", screen: "canvas", keys: ["Tab"], act: "nextBox", does: "next box; after the last one, leave the image" },
  { group: "Boxes", screen: "canvas", keys: ["Shift+Tab"], act: "previousBox", does: "previous box" },
  { group: "Boxes", screen: "image", keys: ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"], label: "← → ↑ ↓", act: "nudge", does: "move the box; without one, move the image" },
  { group: "Boxes", screen: "image", keys: ["Shift+ArrowLeft", "Shift+ArrowRight", "Shift+ArrowUp", "Shift+ArrowDown"], label: "Shift ← → ↑ ↓", act: "stretch", does: "resize the box" },
  { group: "Boxes", screen: "image", keys: ["Delete", "Backspace"], act: "deleteBox", does: "delete the box; without one, the last measure" },
  { group: "Boxes", screen: "study", keys: ["Ctrl+z"], act: "undo", does: "undo" },
  { group: "Boxes", screen: "study", keys: ["Ctrl+Z", "Ctrl+y"], act: "redo", does: "redo" },
  { group: "Image", screen: "study", keys: ["d"], act: "darker", does: "darker" },
  { group: "Image", screen: "study", keys: ["l"], act: "lighter", does: "lighter" },
  { group: "Image", screen: "study", keys: ["h"], act: "harder", does: "more contrast" },
  { group: "Image", screen: "study", keys: ["s"], act: "softer", does: "less contrast" },
  { group: "Image", screen: "study", keys: ["w"], act: "preset", does: "next window: as stored, automatic, full range" },
  { group: "Image", screen: "study", keys: ["i"], act: "invert", does: "invert" },
  { group: "Image", screen: "study", keys: ["+", "="], act: "zoomIn", does: "zoom in" },
  { group: "Image", screen: "study", keys: ["-"], act: "zoomOut", does: "zoom out" },
  { group: "Image", screen: "study", keys: ["f"], act: "fit", does: "fit" },
  { group: "Image", screen: "study", keys: ["z"], act: "actual", does: "1:1, one image pixel on one screen pixel" },
  { group: "Image", screen: "study", keys: ["q"], act: "turn", does: "turn by a quarter" },
  { group: "Image", screen: "study", keys: ["Q"], act: "mirror", does: "mirror" },
  { group: "Image", screen: "study", keys: ["r"], act: "reset", does: "window and view as at first" },
  { group: "Measure", screen: "study", keys: ["g"], act: "rulerTool", does: "ruler: drag a line; again: back to the window" },
  { group: "Measure", screen: "study", keys: ["G"], act: "angleTool", does: "angle between two lines" },
  { group: "Measure", screen: "study", keys: ["R"], act: "ratioTool", does: "cardiothoracic ratio: the heart, then the thorax" },
  { group: "Study", screen: "study", keys: ["K"], act: "keyImage", does: "mark as a key image, or not" },
  { group: "Study", screen: "study", keys: ["p"], act: "prior", does: "compare with the prior image, and back" },
  { group: "Study", screen: "study", keys: ["y"], act: "compareModel", does: "compare with the next model, and back" },
  { group: "Study", screen: "study", keys: ["t"], act: "noteField", does: "write a note" },
  { group: "Study", screen: "study", keys: ["T"], act: "report", does: "the text of the verdicts" },
  { group: "Study", screen: "study", keys: ["C"], act: "commit", does: "blind first read: commit, and show results" },
  { group: "Study", screen: "study", keys: ["H"], act: "history", does: "who reviewed what and when" },
  { group: "Study", screen: "study", keys: ["n"], act: "nextStudy", does: "next study" },
  { group: "Study", screen: "study", keys: ["N"], act: "previousStudy", does: "previous study" },
  { group: "Study", screen: "study", keys: ["Shift+Enter"], act: "done", does: "done, next study" },
  { group: "Page", screen: "both", keys: ["?"], act: "help", does: "this sheet" },
  { group: "Page", screen: "both", keys: ["D"], act: "theme", does: "dark or light" },
  { group: "Page", screen: "both", keys: ["Escape"], act: "escape", does: "let go of the box; then back to the worklist" },
];

/** The key pressed as the table writes it; letters by their place on the keyboard where the layout has no Latin ones. */
export function chord(event) {
  const latin = /^Key([A-Z])$/.exec(event.code)?.[1];
  let key = event.key;
  if (latin && key.length === 1 && key.charCodeAt(0) > 127) key = event.shiftKey ? latin : latin.toLowerCase();
  const alternate = event.getModifierState("AltGraph"); // [ and ] on many keyboards
  if (event.altKey && !alternate) return "";
  const control = (event.ctrlKey || event.metaKey) && !alternate ? "Ctrl+" : "";
  if (control && event.shiftKey && key.length === 1) key = key.toUpperCase();
  else if (key.length === 1 && latin && !event.shiftKey) key = key.toLowerCase(); // caps lock
  return `${control}${event.shiftKey && key.length > 1 ? "Shift+" : ""}${key}`;
}

export const single = {
  get on() { return localStorage.getItem(OFF) === null; },
  set on(value) { if (value) localStorage.removeItem(OFF); else localStorage.setItem(OFF, "1"); },
};

const FIELDS = "textarea, select, input:not([type=checkbox], [type=range], [type=radio], [type=file])";
const TAKES_ARROWS = "input, summary, [role=tab], .scroll";

function fits(entry, screen, target) {
  const free = target === document.body || target.id === "content";
  if (entry.screen === "both") return true;
  if (entry.screen === "canvas") return screen === "study" && target.matches("canvas.stage");
  if (entry.screen === "image") return screen === "study" && (free || target.matches("canvas.stage"));
  return entry.screen === screen;
}

/** Whether the control that has the focus wants this key for itself. */
function taken(pressed, target) {
  if (target.matches(FIELDS)) return pressed !== "Escape";
  if (/^(Enter| )$/.test(pressed)) return target.matches("button, a, input, summary");
  return pressed.includes("Arrow") && target.matches(TAKES_ARROWS);
}

/** Calls `actions()[act](event)`; an action that returns false leaves the key to the browser. */
export function listen(screen, actions) {
  document.addEventListener("keydown", event => {
    if (event.isComposing || document.querySelector("dialog[open]")) return;
    const pressed = chord(event), target = event.target;
    if (!pressed || taken(pressed, target) || (!single.on && pressed.length === 1 && pressed !== "?")) return;
    const entry = KEYS.find(one => one.keys.includes(pressed) && fits(one, screen(), target));
    const act = entry && actions()[entry.act];
    if (act && act(event) !== false) event.preventDefault();
  });
}

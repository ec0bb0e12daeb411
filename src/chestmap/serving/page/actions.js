// What each key of keys.js and each button with data-act does. Returning false leaves the key to the browser.

import { note, one, plural, say } from "./dom.js";
import { toggleHelp } from "./help.js";
import { mirrored, turned, UPRIGHT } from "./orientation.js";
import { PRESETS } from "./pane.js";

/** `page` opens studies: {next(by), list(), theme()}. */
export function studyActions(screen, page) {
  const { pane, editor, compare } = screen;
  const reading = () => screen.reading, active = () => screen.active;
  const drawn = act => event => { act(event); screen.draw(); };
  const judge = verdict => drawn(() => {
    reading().judge(verdict);
    if (verdict === "correct" && reading().boxesOf(reading().chosen).length) editor.take(reading().chosen, 0);
    say(`${reading().chosen}: ${reading().verdict(reading().chosen)}`);
  });
  const toImage = () => pane.canvas.focus({ preventScroll: true });
  const actions = {
    nextFinding: drawn(() => { reading().step(1); screen.list.reveal(); say(reading().chosen); }),
    previousFinding: drawn(() => { reading().step(-1); screen.list.reveal(); say(reading().chosen); }),
    toggle: drawn(event => { const name = reading().rows[Number(event.key) - 1]; if (name) reading().toggle(name); }),
    alone: drawn(() => reading().alone()),
    accept: judge("accept"), reject: judge("reject"), correct: judge("correct"), unset: judge("unset"),
    agree: drawn(() => note(`${plural(reading().agree(), "verdict")} taken from ${reading().model}; undo takes them back`)),
    windowTool: () => screen.setTool("window"),
    panTool: () => screen.setTool("pan"),
    rulerTool: () => measure("ruler"), angleTool: () => measure("angle"), ratioTool: () => measure("ctr"),
    keyImage: drawn(() => reading().keep({ key: !reading().review.key })),
    turn: drawn(() => active().lay(turned(active().orientation, 1))),
    mirror: drawn(() => active().lay(mirrored(active().orientation))),
    commit: () => screen.commit(),
    report: () => { one("report").open = true; one("report-text").focus(); },
    drawTool: () => { screen.setTool(screen.tool === "box" ? "window" : "box"); toImage(); },
    addBox: () => { toImage(); screen.boxes = true; editor.putInMiddle(); },
    editBox: () => {
      toImage();
      const boxes = reading().boxesOf(reading().chosen);
      if (boxes.length) { screen.boxes = true; reading().choose(reading().chosen); editor.take(reading().chosen, 0); }
      else note(`${reading().chosen} has no box; draw one with B, or put one in the middle with Shift B`);
    },
    nextBox: () => editor.cycle(1), previousBox: () => editor.cycle(-1),
    nudge: event => moveBox(event.key, false), stretch: event => moveBox(event.key, true),
    deleteBox: () => editor.remove() || screen.measures.undo(),
    undo: drawn(() => reading().log.undo()), redo: drawn(() => reading().log.redo()),
    darker: () => active().changeWindow(0, 20), lighter: () => active().changeWindow(0, -20),
    harder: () => active().changeWindow(-30, 0), softer: () => active().changeWindow(30, 0),
    preset: drawn(() => {
      const names = Object.keys(PRESETS);
      active().setPreset(names[(names.indexOf(active().preset) + 1) % names.length]);
    }),
    invert: drawn(() => active().invert()),
    zoomIn: () => active().zoom(1.25), zoomOut: () => active().zoom(0.8),
    fit: () => active().fit(), actual: () => active().actual(),
    reset: drawn(() => { if (active().inverted) active().invert(); active().setPreset("stored"); active().lay(UPRIGHT); screen.measures.letGo(); }),
    maps: drawn(() => { screen.maps = !screen.maps; }),
    boxes: drawn(() => { screen.boxes = !screen.boxes; }),
    overlay: drawn(() => { screen.maps = screen.boxes = !(screen.maps || screen.boxes); }),
    fainter: drawn(() => { screen.opacity = Math.max(0, screen.opacity - 0.1); }),
    stronger: drawn(() => { screen.opacity = Math.min(1, screen.opacity + 0.1); screen.maps = true; }),
    nextModel: () => {
      const models = reading().models;
      screen.showModel(models[(models.indexOf(reading().model) + 1) % models.length]);
    },
    prior: () => compare.next("study"), compareModel: () => compare.next("model"),
    noteField: () => one("note").focus(),
    history: () => screen.history.toggle(),
    nextStudy: () => page.next(1), previousStudy: () => page.next(-1),
    done: async () => {
      const state = reading().review.state === "done" ? "part" : "done";
      reading().setState(state);
      screen.draw();
      if (state === "done") await page.next(1, true);
    },
    escape: () => {
      if (document.activeElement?.matches("textarea, input, select")) document.activeElement.blur();
      else if (editor.live) editor.letGo();
      else if (screen.measures.letGo()) return;
      else if (editor.taken) editor.take(null);
      else if (!["window", "pan"].includes(screen.tool)) screen.setTool("window");
      else if (["conflict", "refused", "full"].includes(screen.saving?.state)) note(`Not saved: ${one("status").textContent}; Back leaves it as a draft`, true);
      else page.list();
    },
  };

  function measure(kind) {
    screen.setTool(screen.tool === kind ? "window" : kind);
    toImage();
  }

  function moveBox(key, stretch) {
    if (editor.nudge(key, stretch)) return true;
    if (stretch) return false;
    const step = 40, dx = key === "ArrowLeft" ? step : key === "ArrowRight" ? -step : 0, dy = key === "ArrowUp" ? step : key === "ArrowDown" ? -step : 0;
    active().pan(dx, dy);
    return true;
  }

  const whenOpen = Object.entries(actions).map(([name, act]) =>
    [name, event => (reading() && pane.ready ? act(event) : name === "escape" ? page.list() : undefined)]);
  return { ...Object.fromEntries(whenOpen), help: toggleHelp, theme: page.theme };
}

export function listActions(list, page) {
  return {
    nextRow: () => list.step(1), previousRow: () => list.step(-1), openRow: () => list.openHere(),
    search: () => { one("search").focus(); one("search").select(); },
    tabs: () => list.nextTab(),
    filters: () => { one("more-filters").open = !one("more-filters").open; one("more-filters").querySelector("summary").focus(); },
    escape: () => { document.activeElement?.blur(); },
    help: toggleHelp, theme: page.theme,
  };
}

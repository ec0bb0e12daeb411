// Mouse, pen and fingers on a pane. Left drag: the tool; middle or shift drag: pan; wheel: zoom; two fingers: pan and zoom.
// A drag only moves a box that is already taken, so that windowing over a box does not shift it.

import { KINDS } from "./measures.js";

const STILL = 4; // CSS pixels; less is a click

/** `tool()` is "window", "pan", "box" or a kind of measure; `editor` and `measures` are null where boxes are only shown. */
export function attach(pane, tool, editor = null, measures = null) {
  const canvas = pane.canvas, fingers = new Map();
  let gesture = null;
  const at = event => {
    const edge = canvas.getBoundingClientRect();
    return { x: event.clientX - edge.left, y: event.clientY - edge.top };
  };

  const begin = (event, point) => {
    if (event.button === 1 || event.shiftKey || tool() === "pan") return { kind: "pan" };
    if (event.button !== 0) return null;
    if (measures && tool() in KINDS) return { kind: "measure", measure: tool() };
    const reach = event.pointerType === "mouse" ? 8 : 18;
    return editor?.grab(point, reach) ? { kind: "box" } : tool() === "box" && editor ? { kind: "draw" } : { kind: "window" };
  };

  const pinch = () => {
    const [a, b] = [...fingers.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, span: Math.hypot(a.x - b.x, a.y - b.y) || 1 };
  };

  canvas.addEventListener("pointerdown", event => {
    if (!pane.ready) return;
    const point = at(event);
    fingers.set(event.pointerId, point);
    canvas.setPointerCapture(event.pointerId);
    if (event.button === 1) event.preventDefault();
    canvas.focus({ preventScroll: true });
    if (fingers.size === 2) {
      editor?.letGo();
      gesture = { kind: "pinch", last: pinch() };
    } else if (fingers.size === 1) {
      gesture = begin(event, point);
      if (gesture) Object.assign(gesture, { first: point, last: point, far: false });
    }
  });

  canvas.addEventListener("pointermove", event => {
    if (!pane.ready) return;
    const point = at(event);
    if (fingers.has(event.pointerId)) fingers.set(event.pointerId, point);
    if (!gesture) hover(pane, editor, tool(), point);
    else if (gesture.kind === "pinch" && fingers.size === 2) {
      const now = pinch();
      pane.pan(now.x - gesture.last.x, now.y - gesture.last.y);
      pane.zoom(now.span / gesture.last.span, now);
      gesture.last = now;
    } else if (gesture.first) drag(pane, { editor, measures }, gesture, point);
  });

  const end = event => {
    fingers.delete(event.pointerId);
    const done = gesture;
    if (fingers.size === 0 || done?.kind === "pinch") gesture = null;
    if (!done?.first || !pane.ready) return;
    if (event.type === "pointercancel") { editor?.letGo(); measures?.letGo(); }
    else if (done.kind === "measure") measures.finish();
    else if (!done.far && done.kind !== "pan" && event.button === 0) { editor?.letGo(); editor?.click(done.first); }
    else if (done.kind === "draw" || done.kind === "box") editor.finish();
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("pointerleave", () => pane.corner("level", ""));
  canvas.addEventListener("wheel", event => {
    if (!pane.ready) return;
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : 1;
    pane.zoom(Math.exp(-Math.max(-240, Math.min(240, event.deltaY * lines)) / 480), at(event));
  }, { passive: false });
  canvas.addEventListener("auxclick", event => event.preventDefault());
}

function drag(pane, { editor, measures }, gesture, point) {
  if (!gesture.far && Math.hypot(point.x - gesture.first.x, point.y - gesture.first.y) < STILL) return;
  const from = gesture.far ? gesture.last : gesture.first, dx = point.x - from.x, dy = point.y - from.y;
  gesture.far = true;
  gesture.last = point;
  if (gesture.kind === "pan") pane.pan(dx, dy);
  else if (gesture.kind === "window") pane.changeWindow(dx, dy);
  else if (gesture.kind === "measure") measures.dragging(gesture.measure, gesture.first, point);
  else if (gesture.kind === "draw") editor.drawing(gesture.first, point);
  else editor.dragging(gesture.first, point);
}

function hover(pane, editor, tool, point) {
  pane.corner("level", pane.level(point));
  const cursor = editor?.cursor(point) ?? (tool === "pan" ? "grab" : (tool === "box" || tool in KINDS) && editor ? "crosshair" : "default");
  if (pane.canvas.style.cursor !== cursor) pane.canvas.style.cursor = cursor;
}

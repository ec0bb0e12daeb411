// A view places the image on the stage: stage = image · zoom + (x, y), in CSS pixels. Pure functions, nothing is drawn here.

const LEAST = 0.02, MOST = 40, KEPT = 48;

export function fit(image, stage) {
  const zoom = Math.min(stage.width / image.width, stage.height / image.height) || 1;
  return centered(zoom, image.width / 2, image.height / 2, stage);
}

/** The view at `zoom` with image point (cx, cy) in the middle of the stage. */
export const centered = (zoom, cx, cy, stage) => ({ zoom, x: stage.width / 2 - cx * zoom, y: stage.height / 2 - cy * zoom });

/** Zoom by `factor`; the image point under `point` stays under it. */
export function zoomAbout(view, factor, point) {
  const zoom = Math.min(MOST, Math.max(LEAST, view.zoom * factor)), k = zoom / view.zoom;
  return { zoom, x: point.x - (point.x - view.x) * k, y: point.y - (point.y - view.y) * k };
}

/** Moved by (dx, dy), but so that some of the image stays on the stage. */
export function pan(view, dx, dy, image, stage) {
  const within = (at, size, room) => Math.min(room - KEPT, Math.max(KEPT - size, at));
  return {
    zoom: view.zoom,
    x: within(view.x + dx, image.width * view.zoom, stage.width),
    y: within(view.y + dy, image.height * view.zoom, stage.height),
  };
}

export const toImage = (view, point) => ({ x: (point.x - view.x) / view.zoom, y: (point.y - view.y) / view.zoom });
export const toStage = (view, point) => ({ x: point.x * view.zoom + view.x, y: point.y * view.zoom + view.y });

/** What two panes share: zoom relative to fit, and the middle as a fraction of the image, so that sizes may differ. */
export function shared(view, image, stage) {
  const middle = toImage(view, { x: stage.width / 2, y: stage.height / 2 });
  return { times: view.zoom / fit(image, stage).zoom, x: middle.x / image.width, y: middle.y / image.height };
}

export const unshared = (common, image, stage) =>
  centered(common.times * fit(image, stage).zoom, common.x * image.width, common.y * image.height, stage);

/** Inverse of x' = a·x + b·y + c, y' = d·x + e·y + f, in the order that CanvasRenderingContext2D.transform takes. */
export function inverse([a, b, c, d, e, f]) {
  const det = a * e - b * d;
  return [e / det, -d / det, -b / det, a / det, (b * f - c * e) / det, (c * d - a * f) / det];
}

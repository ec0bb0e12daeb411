// Boxes are half-open {x0, y0, x1, y1} in image pixels. Pure functions: none leaves the image, none is without area.

export const LEAST = 4;
export const HANDLES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];

const tenth = value => Math.round(value * 10) / 10;
const rounded = box => ({ x0: tenth(box.x0), y0: tenth(box.y0), x1: tenth(box.x1), y1: tenth(box.y1) });
const between = (value, low, high) => Math.min(high, Math.max(low, value));
const least = image => Math.min(LEAST, image.width, image.height);

/** The box between two corners in any order, cut at the image; null where it is too small to be meant. */
export function betweenCorners(a, b, image) {
  const box = {
    x0: between(Math.min(a.x, b.x), 0, image.width), y0: between(Math.min(a.y, b.y), 0, image.height),
    x1: between(Math.max(a.x, b.x), 0, image.width), y1: between(Math.max(a.y, b.y), 0, image.height),
  };
  return box.x1 - box.x0 < least(image) || box.y1 - box.y0 < least(image) ? null : rounded(box);
}

/** Moved by (dx, dy) with its size kept; it stops at the image's edges. */
export function moved(box, dx, dy, image) {
  const width = box.x1 - box.x0, height = box.y1 - box.y0;
  const x0 = between(box.x0 + dx, 0, image.width - width), y0 = between(box.y0 + dy, 0, image.height - height);
  return rounded({ x0, y0, x1: x0 + width, y1: y0 + height });
}

/** The edges that `handle` names, moved by (dx, dy); an edge never passes the opposite one. */
export function resized(box, handle, dx, dy, image) {
  const side = least(image), out = { ...box };
  if (handle.includes("w")) out.x0 = between(box.x0 + dx, 0, box.x1 - side);
  if (handle.includes("e")) out.x1 = between(box.x1 + dx, box.x0 + side, image.width);
  if (handle.includes("n")) out.y0 = between(box.y0 + dy, 0, box.y1 - side);
  if (handle.includes("s")) out.y1 = between(box.y1 + dy, box.y0 + side, image.height);
  return rounded(out);
}

export const handlePoint = (box, handle) => ({
  x: handle.includes("w") ? box.x0 : handle.includes("e") ? box.x1 : (box.x0 + box.x1) / 2,
  y: handle.includes("n") ? box.y0 : handle.includes("s") ? box.y1 : (box.y0 + box.y1) / 2,
});

/** The handle within `reach` image pixels of the point, corners before edges. Inside a small box the reach is less, so that
 *  its middle is left to move it by. */
export function handleAt(box, point, reach) {
  const cornersFirst = [...HANDLES].sort((a, b) => b.length - a.length);
  const within = holds(box, point), rx = within ? Math.min(reach, (box.x1 - box.x0) / 4) : reach, ry = within ? Math.min(reach, (box.y1 - box.y0) / 4) : reach;
  return cornersFirst.find(handle => {
    const at = handlePoint(box, handle);
    return Math.abs(at.x - point.x) <= rx && Math.abs(at.y - point.y) <= ry;
  }) ?? null;
}

export const holds = (box, point) => point.x >= box.x0 && point.x < box.x1 && point.y >= box.y0 && point.y < box.y1;
export const area = box => (box.x1 - box.x0) * (box.y1 - box.y0);
export const plain = ({ x0, y0, x1, y1, origin, model }) => ({ x0, y0, x1, y1, origin, model });
export const sized = box => `${Math.round(box.x1 - box.x0)} × ${Math.round(box.y1 - box.y0)}`;

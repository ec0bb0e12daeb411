// Draws a pane: the image in its window, maps, boxes with their labels, a scale where millimeters are known.

import { HANDLES, handlePoint } from "./boxes.js";
import { matrixOf } from "./orientation.js";
import { inverse } from "./viewport.js";

const HALO = "rgb(0 0 0 / 0.75)", INK = "#fff", MARK = "#7df9ff";

/** `scene`: {raster, table, key, image, view, ratio, layers, boxes, marks, opacity, unit, orientation, toStage}; `unit` is the
 *  page's font size in pixels, `toStage` leads from image pixels to the stage. */
export function paint(context, scene, stage) {
  const { view, ratio } = scene;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = "#000";
  context.fillRect(0, 0, stage.width, stage.height);
  context.save();
  context.transform(view.zoom, 0, 0, view.zoom, view.x, view.y);
  context.transform(...matrixOf(scene.orientation, scene.image));
  context.beginPath();
  context.rect(0, 0, scene.image.width, scene.image.height);
  context.clip();
  paintImage(context, scene);
  paintMaps(context, scene);
  context.restore();
  paintBoxes(context, scene, stage);
  paintMarks(context, scene, stage);
  if (scene.image.spacing) paintScale(context, scene, stage);
}

function paintImage(context, { raster, table, key, view, ratio }) {
  const k = raster.level(view.zoom * ratio), canvas = raster.canvas(k, table, key), side = 2 ** k;
  context.imageSmoothingEnabled = view.zoom * ratio < 8;
  context.drawImage(canvas, 0, 0, canvas.width * side, canvas.height * side);
}

function paintMaps(context, { layers, opacity }) {
  context.imageSmoothingEnabled = true;
  for (const { canvas, width, height, matrix, strength } of layers) {
    context.save();
    context.globalAlpha = opacity * strength;
    context.transform(...inverse(matrix));
    context.drawImage(canvas, 0, 0, width, height);
    context.restore();
  }
}

function onStage(box, toStage) {
  const a = toStage({ x: box.x0, y: box.y0 }), b = toStage({ x: box.x1, y: box.y1 });
  return { x: Math.min(a.x, b.x), y: Math.min(a.y, b.y), w: Math.abs(a.x - b.x), h: Math.abs(a.y - b.y) };
}

function paintBoxes(context, { boxes, view, unit, toStage }, stage) {
  const thin = Math.max(2, unit / 7.5), placed = corners(stage, unit);
  for (const { box, color, line, selected } of boxes) {
    const at = onStage(box, toStage);
    context.setLineDash({ dashed: [thin * 4, thin * 3], dotted: [thin, thin * 2] }[line] ?? []);
    for (const [width, style] of [[thin * (selected ? 1.5 : 1) + 2, HALO], [thin * (selected ? 1.5 : 1), color]]) {
      context.lineWidth = width;
      context.strokeStyle = style;
      context.strokeRect(at.x, at.y, at.w, at.h);
    }
    context.setLineDash([]);
    if (selected) paintHandles(context, box, { view, toStage }, color, unit);
  }
  const last = [...boxes].sort((a, b) => Number(Boolean(a.selected)) - Number(Boolean(b.selected))).reverse();
  for (const one of last) if (one.label) paintLabel(context, one, onStage(one.box, toStage), { unit, stage, placed });
}

function paintHandles(context, box, { view, toStage }, color, unit) {
  const side = unit * 0.55;
  for (const handle of HANDLES) {
    if (handle.length === 1 && ("ns".includes(handle) ? box.x1 - box.x0 : box.y1 - box.y0) * view.zoom < side * 5) continue;
    const { x, y } = toStage(handlePoint(box, handle));
    context.fillStyle = color;
    context.strokeStyle = "#000";
    context.lineWidth = 1.5;
    context.fillRect(x - side / 2, y - side / 2, side, side);
    context.strokeRect(x - side / 2, y - side / 2, side, side);
  }
}

/** The texts in the lower corners, of two lines each: no label covers them. */
function corners(stage, unit) {
  const y = stage.height - 2.5 * unit;
  return [{ x: 0, y, width: 6 * unit }, { x: stage.width - 11 * unit, y, width: 11 * unit }];
}

/** The first free place of: above the box, below it, inside at the top, inside at the foot. None free: above. */
function paintLabel(context, { label, color }, at, { unit, stage, placed }) {
  const pad = unit * 0.3, height = unit * 1.25, bar = unit * 0.25;
  context.font = `600 ${unit * 0.82}px system-ui, sans-serif`;
  const width = context.measureText(label).width + 2 * pad + bar;
  if (at.x > stage.width || at.y > stage.height || at.x + at.w < 0 || at.y + at.h < 0) return;
  const x = Math.max(2, Math.min(at.x, stage.width - width - 2));
  const heights = [at.y - height - 3, at.y + at.h + 3, at.y + 3, at.y + at.h - height - 3];
  const free = y => y >= 0 && y + height <= stage.height
    && placed.every(other => x + width < other.x || other.x + other.width < x || y + height < other.y || other.y + height < y);
  const y = heights.find(free) ?? Math.max(2, Math.min(heights[0], stage.height - height - 2));
  placed.push({ x, y, width });
  context.fillStyle = HALO;
  context.fillRect(x, y, width, height);
  context.fillStyle = color;
  context.fillRect(x, y, bar, height);
  context.fillStyle = INK;
  context.textBaseline = "middle";
  context.fillText(label, x + bar + pad, y + height / 2 + 0.5);
}

/** Lines with what they measure, at the end of the last one. */
function paintMarks(context, { marks, toStage, unit }, stage) {
  const placed = [];
  for (const { lines, text } of marks) {
    for (const { a, b } of lines) {
      const [from, to] = [toStage(a), toStage(b)];
      for (const [width, style] of [[unit / 4, HALO], [unit / 9, MARK]]) {
        context.lineWidth = width;
        context.strokeStyle = style;
        context.beginPath();
        context.moveTo(from.x, from.y);
        context.lineTo(to.x, to.y);
        context.stroke();
      }
    }
    const end = toStage(lines.at(-1).b);
    paintLabel(context, { label: text, color: MARK }, { x: end.x, y: end.y, w: 0, h: 0 }, { unit, stage, placed });
  }
}

/** A bar of the greatest round length below a quarter of the stage. */
function paintScale(context, { image, view, unit }, stage) {
  const pixel = image.spacing[1] ?? image.spacing[0];
  if (!(pixel > 0)) return;
  const room = stage.width / 4 / view.zoom * pixel;
  const length = [200, 100, 50, 20, 10, 5, 2, 1].find(mm => mm <= room);
  if (!length) return;
  const width = length / pixel * view.zoom, x = (stage.width - width) / 2, y = stage.height - unit * (stage.width < 40 * unit ? 3.4 : 0.9);
  for (const [line, style] of [[5, HALO], [2, INK]]) {
    context.lineWidth = line;
    context.strokeStyle = style;
    context.beginPath();
    context.moveTo(x, y - 5); context.lineTo(x, y); context.lineTo(x + width, y); context.lineTo(x + width, y - 5);
    context.stroke();
  }
  context.font = `600 ${unit * 0.75}px system-ui, sans-serif`;
  context.textBaseline = "alphabetic";
  context.lineWidth = 3;
  context.strokeStyle = HALO;
  context.strokeText(`${length} mm`, x + width + 8, y);
  context.fillStyle = INK;
  context.fillText(`${length} mm`, x + width + 8, y);
}

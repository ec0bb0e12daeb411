// One color for each finding, the same for its map, its boxes and its row. All are saturated and of middling lightness, so
// that they show on lung and on bone alike; text is never written in them.

const PALETTE = [
  [242, 183, 5], [26, 176, 235], [255, 92, 92], [76, 196, 60], [172, 112, 255], [255, 132, 28], [16, 190, 168], [255, 84, 178],
  [168, 186, 12], [92, 136, 255], [214, 128, 92], [0, 196, 112], [224, 88, 248], [120, 160, 196],
];

/** `order` is the findings of all models in their own order, so that a finding has its color in every study. */
export function colorsOf(order) {
  const rgb = name => PALETTE[Math.max(0, order.indexOf(name)) % PALETTE.length];
  return { rgb, css: name => `rgb(${rgb(name).join(" ")})` };
}

const SIDE = 384, FLOOR = 0.08;

/** Bilinear, cells' middles at halves (align_corners=False), to about SIDE on the longer side. */
function enlarged(values, width, height) {
  const times = Math.max(1, Math.floor(SIDE / Math.max(width, height))), w = width * times, h = height * times;
  const out = new Float32Array(w * h);
  const place = (i, size) => {
    const at = Math.min(size - 1, Math.max(0, (i + 0.5) / times - 0.5)), low = Math.floor(at);
    return [low, Math.min(size - 1, low + 1), at - low];
  };
  const columns = Array.from({ length: w }, (_, x) => place(x, width));
  for (let y = 0, i = 0; y < h; y++) {
    const [top, below, v] = place(y, height);
    for (let x = 0; x < w; x++, i++) {
      const [left, right, u] = columns[x];
      const above = values[top * width + left] * (1 - u) + values[top * width + right] * u;
      const under = values[below * width + left] * (1 - u) + values[below * width + right] * u;
      out[i] = above * (1 - v) + under * v;
    }
  }
  return { out, w, h };
}

/** A map of 0 … 255 as a canvas of one color, the more opaque the greater; what is next to nothing is left out. */
export function mapCanvas(values, width, height, [r, g, b]) {
  const { out, w, h } = enlarged(values, width, height), data = new ImageData(w, h);
  for (let i = 0; i < out.length; i++) {
    const strength = Math.max(0, (out[i] / 255 - FLOOR) / (1 - FLOOR));
    data.data.set([r, g, b, Math.round(255 * strength)], 4 * i);
  }
  const canvas = new OffscreenCanvas(w, h);
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
}

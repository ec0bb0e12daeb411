// Grey levels to what a screen shows: a table from 16-bit level to RGBA, and the image in halves of halves so that a window
// changes within a frame: only as many pixels are looked up as the stage can show.

/** The DICOM LINEAR_EXACT window (PS3.3 C.11.2.1.3.2) as 65,536 little-endian RGBA words. */
export function windowTable({ center, width }, invert) {
  const table = new Uint32Array(65536), slope = 255 / Math.max(width, 1e-6), from = center - width / 2;
  const word = level => {
    const grey = Math.round(Math.max(0, Math.min(255, (level - from) * slope))), shown = invert ? 255 - grey : grey;
    return 0xff000000 | shown << 16 | shown << 8 | shown;
  };
  const within = level => Math.max(0, Math.min(65535, level)), low = within(Math.floor(from)), high = within(Math.ceil(from + width));
  table.fill(word(0), 0, low);
  for (let level = low; level <= high; level++) table[level] = word(level);
  return table.fill(word(65535), high + 1);
}

/** The window from the darkest to the brightest percent of the pixels; every 37th is looked at. */
export function autoWindow(pixels) {
  const counts = new Uint32Array(65536);
  let total = 0;
  for (let i = 0; i < pixels.length; i += 37) { counts[pixels[i]]++; total++; }
  const at = share => {
    let seen = 0;
    for (let level = 0; level < 65536; level++) if ((seen += counts[level]) >= share * total) return level;
    return 65535;
  };
  const low = at(0.01), high = Math.max(low + 1, at(0.99));
  return { center: (low + high) / 2, width: high - low };
}

/** Half the size; a pixel is the mean of the up to four it covers. */
function halved({ pixels, width, height }) {
  const w = (width + 1) >> 1, h = (height + 1) >> 1, out = new Uint16Array(w * h);
  for (let y = 0, i = 0; y < h; y++) {
    const top = 2 * y * width, below = Math.min(2 * y + 1, height - 1) * width;
    for (let x = 0; x < w; x++, i++) {
      const left = 2 * x, right = Math.min(left + 1, width - 1);
      out[i] = (pixels[top + left] + pixels[top + right] + pixels[below + left] + pixels[below + right] + 2) >> 2;
    }
  }
  return { pixels: out, width: w, height: h };
}

export class Raster {
  /** `pixels` are those of the image, or those that are left after its sides were halved a few times. */
  constructor(pixels, width, height) {
    let k = 0, size = { width, height };
    while (size.width * size.height > pixels.length && size.width > 1) { k++; size = { width: (size.width + 1) >> 1, height: (size.height + 1) >> 1 }; }
    if (pixels.length !== size.width * size.height) throw new Error(`${pixels.length} pixels came for ${width} × ${height}; load the study again`);
    this.image = { width, height };
    this.levels = [];
    this.levels[k] = { pixels, ...size };
    this.finest = k;
    this.painted = new Map();
    this.took = 0;
  }

  /** All pixels of the image, where they came; else null. */
  get whole() { return this.levels[0]?.pixels ?? null; }
  set whole(pixels) {
    if (pixels.length !== this.image.width * this.image.height) throw new Error(`${pixels.length} pixels came for ${this.image.width} × ${this.image.height}`);
    this.levels[0] = { pixels, ...this.image };
    this.finest = 0;
  }

  /** Whether finer pixels than those that came would be seen at `scale` screen pixels for an image pixel. */
  lacks(scale) { return this.finest > 0 && scale * 2 ** this.finest > 1; }

  /** The coarsest half that still has a pixel for each screen pixel at `scale`, of those that came. */
  level(scale) {
    let k = this.finest;
    while (scale * 2 ** (k + 1) <= 1 && this.levels[k].width > 64) {
      k++;
      if (!this.levels[k]) this.levels[k] = halved(this.levels[k - 1]);
    }
    return k;
  }

  /** The windowed canvas of level k; `key` names the window, so the same one is not looked up twice. */
  canvas(k, table, key) {
    const kept = this.painted.get(k);
    if (kept?.key === key) return kept.canvas;
    const start = performance.now(), { pixels, width, height } = this.levels[k];
    const made = kept ?? { canvas: new OffscreenCanvas(width, height), data: new ImageData(width, height) };
    const words = new Uint32Array(made.data.data.buffer);
    for (let i = 0, n = pixels.length; i < n; i++) words[i] = table[pixels[i]];
    made.context ??= made.canvas.getContext("2d", { alpha: false });
    made.context.putImageData(made.data, 0, 0);
    made.key = key;
    this.painted.set(k, made);
    this.took = performance.now() - start;
    return made.canvas;
  }
}

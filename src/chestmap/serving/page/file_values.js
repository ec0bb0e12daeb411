// Grey levels as the file writes them: what its header calls the window, and what a pixel holds.

const AS_THEY_ARE = { zero: 0, step: 1, linear: false };

/** Whole numbers without a point, others with as many digits as a step is fine. */
function text(value, step) {
  const digits = Math.abs(step) >= 0.5 ? 1 : Math.min(6, Math.ceil(-Math.log10(Math.abs(step))) + 1);
  return String(Number(value.toFixed(digits)));
}

export function valueText(level, values) {
  const { zero, step } = values ?? AS_THEY_ARE;
  return text(zero + level * step, step);
}

/** A window in levels, by the exact formula, as the file would write it: PS3.3's LINEAR is half a value and one value wider. */
export function windowText({ center, width }, values) {
  const { zero, step, linear } = values ?? AS_THEY_ARE;
  return `W ${text(Math.abs(step) * width + (linear ? 1 : 0), step)}  L ${text(zero + center * step + (linear ? 0.5 : 0), step)}`;
}

"""Whether black and white of a film look exchanged: a header may say MONOCHROME1 and lie."""

import numpy as np
from jaxtyping import Float

CLEARLY = 0.2
"""Of the range from black to white; films with a border that collimation or a cast made bright stay below it."""

EDGE = 0.04


def seems_inverted(pixels: Float[np.ndarray, "h w"]) -> bool:
    """The border, where air is, is clearly brighter than the middle, where the chest is."""
    step = max(1, min(pixels.shape) // 256)
    pixels = pixels[::step, ::step]
    height, width = pixels.shape
    rim = max(1, round(min(height, width) * EDGE))
    border = np.concatenate([
        pixels[:rim].ravel(), pixels[-rim:].ravel(), pixels[:, :rim].ravel(), pixels[:, -rim:].ravel(),
    ])  # fmt: skip
    middle = pixels[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return float(np.median(border)) > float(np.median(middle)) + CLEARLY

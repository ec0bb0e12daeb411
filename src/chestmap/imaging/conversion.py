"""Turns whatever holds an image in Python into a radiograph: a path, bytes, a PIL image, an array, a tensor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

from chestmap.errors import BadImage
from chestmap.imaging.read import radiograph_of, read_radiograph
from chestmap.types import Radiograph

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image as PilImage
    from torch import Tensor

Image: TypeAlias = Union[str, Path, bytes, "NDArray[Any]", "PilImage", "Tensor", Radiograph]

RED_GREEN_BLUE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601, as JPEG has it."""

EXPECTED = "expected gray [height, width] or color [height, width, 3] pixels"


def radiograph_from(image: Image, name: str = "array") -> Radiograph:
    """Without the patient's id; `name` becomes the image id of what has no name of its own."""
    if isinstance(image, Radiograph):
        return image
    if isinstance(image, (str, Path)):
        return replace(read_radiograph(image), patient_id="")
    if isinstance(image, (bytes, bytearray, memoryview)):
        return replace(radiograph_of(bytes(image), name), patient_id="")
    if hasattr(image, "getbands"):
        return Radiograph(pixels=_gray(_of_pil(image)), image_id=name)
    return Radiograph(pixels=_gray(_of_array(image)), image_id=name)


def _of_pil(image: Any) -> NDArray[Any]:
    """Pillow's modes of more than 8 bits stay as they are; a palette or transparency goes through color."""
    if image.mode in {"I;16", "I;16L", "I;16B"}:
        return np.asarray(image).astype(np.uint16)
    if image.mode == "I":
        pixels = np.asarray(image)
        if pixels.size and pixels.min() >= 0 and pixels.max() <= 65535:
            return pixels.astype(np.uint16)
    return np.asarray(image if image.mode in {"L", "RGB", "F"} else image.convert("L" if image.mode == "1" else "RGB"))


def _of_array(image: Any) -> NDArray[Any]:
    """A tensor may be [1 h w] or [3 h w], as torch has images."""
    if hasattr(image, "detach"):
        image = image.detach().cpu()
        image = image.permute(1, 2, 0) if image.ndim == 3 and image.shape[0] in {1, 3} else image
        image = image.numpy() if str(image.dtype) != "torch.bfloat16" else image.float().numpy()
    if not isinstance(image, np.ndarray):
        raise BadImage(f"{type(image).__name__}: expected a path, bytes, a PIL image, an array or a tensor")
    return image


def _gray(pixels: NDArray[Any]) -> NDArray[np.float32]:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if not pixels.size or pixels.ndim not in {2, 3} or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise BadImage(f"array of shape {pixels.shape}: {EXPECTED}")
    if pixels.dtype in {np.dtype(np.uint8), np.dtype(np.uint16)}:
        values = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    elif pixels.dtype.kind != "f" or not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
        raise BadImage(f"array of {pixels.dtype}: expected uint8, uint16, or finite floats in [0, 1]")
    else:
        values = pixels.astype(np.float32)
    return values if values.ndim == 2 else values @ RED_GREEN_BLUE

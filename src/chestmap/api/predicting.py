"""Loads a model and predicts images in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from chestmap.api.model_names import model_folder
from chestmap.imaging.conversion import Image, radiograph_from

if TYPE_CHECKING:
    from chestmap.models.engines import ForwardSettings
    from chestmap.models.predictor import Predictor
    from chestmap.types import Prediction

AT_ONCE = 8
"""Images of a list that go through the network together."""


def load(model: str | Path, settings: ForwardSettings | None = None, **options: Any) -> Predictor:
    """Opens a model: a model folder, a run folder, a known name, or `hf://owner/name`.

    Options are those of `chestmap predict`: `device="cpu"`, `precision="bf16"`, `engine="onnx"`.

    Examples:
        >>> import chestmap
        >>> model = chestmap.load("runs/own", device="cpu")
        >>> len(model.findings)
        3
    """
    from chestmap.models.engines import ForwardSettings
    from chestmap.models.predictor import load as open_predictor
    from chestmap.settings import checked

    chosen = checked(ForwardSettings, options, name="load") if options else settings
    return open_predictor(model_folder(model), chosen)


@overload
def predict(model: Predictor | str | Path, images: Image) -> Prediction: ...
@overload
def predict(model: Predictor | str | Path, images: Sequence[Image]) -> list[Prediction]: ...
def predict(model: Predictor | str | Path, images: Image | Sequence[Image]) -> Prediction | list[Prediction]:
    """Scores, maps and boxes of one image, or of each image of a list.

    An image is a path, the bytes of a file, a PIL image, an array or a tensor; color becomes gray. Arrays hold 8 or 16 bits, or
    floats in [0, 1], where white is dense.

    Examples:
        >>> import chestmap
        >>> found = chestmap.predict("runs/own", "film.png")
        >>> found.image_id, found.map("Mass").ndim
        ('film', 2)
        >>> [one.image_id for one in chestmap.predict("runs/own", ["film.png", "film.png"])]
        ['film', 'film']
    """
    predictor = load(model) if isinstance(model, (str, Path)) else model
    if not isinstance(images, (list, tuple)):
        return predictor.predict(radiograph_from(images))  # pyright: ignore[reportArgumentType] -- a single image here
    found: list[Prediction] = []
    for first in range(0, len(images), AT_ONCE):
        radiographs = [
            radiograph_from(image, f"image-{first + row}") for row, image in enumerate(images[first : first + AT_ONCE])
        ]
        found += predictor.shown(radiographs)
    return found

"""Shows a prediction in a notebook: it keeps its picture."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

from chestmap.predictions.header import OwnRule
from chestmap.types import Prediction, Radiograph

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class ShownPrediction(Prediction):
    """What `chestmap.load(folder).predict(path)` gives; a notebook draws it by itself, `show()` anywhere else."""

    radiograph: Radiograph | None = None
    rule: OwnRule = field(default_factory=lambda: OwnRule(0.5))

    def show(self, longest: int = 512, most: int = 3) -> Image:
        """The image, then the `most` findings of the highest scores with map and box; `longest` side of each in pixels."""
        from PIL.Image import fromarray

        from chestmap.reports.overlay import OverlayStyle, overlay

        assert self.radiograph is not None
        return fromarray(overlay(self.radiograph, self, OverlayStyle(longest, most, rule=self.rule)))

    def _repr_png_(self) -> bytes:
        stream = BytesIO()
        self.show().save(stream, "PNG")
        return stream.getvalue()

    def _repr_html_(self) -> str:
        """The picture above the table of scores."""
        picture = b64encode(self._repr_png_()).decode() if self.radiograph else ""
        shown = f'<img alt="" src="data:image/png;base64,{picture}">' if picture else ""
        return f"<div>{shown}{super()._repr_html_()}</div>"

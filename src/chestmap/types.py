"""The nouns of chestmap that need no torch; `tensors.py` holds the two that do.

Coordinates are continuous: pixel i covers [i, i + 1), boxes are half-open, x runs right and y down. *Image* space is the
publisher's frame of the image (1024 x 1024 for ChestX-ray14 whatever the stored size); *canvas* space is what a network sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float16, Float32

from chestmap.errors import BadInput, UnknownFinding, did_you_mean
from chestmap.geometry import Box as Box
from chestmap.geometry import Frame as Frame

if TYPE_CHECKING:
    import pandas
    import polars


@dataclass(frozen=True)
class Code:
    """One coded concept, e.g. SCT 8186001 "Cardiomegaly"."""

    scheme: str
    value: str
    meaning: str


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


@dataclass(frozen=True)
class Findings:
    """Ordered finding names; spelling variants (case, spaces, underscores, known aliases) resolve to one name.

    Examples:
        >>> from chestmap import Findings
        >>> Findings(("Pleural Effusion", "Mass")).resolve("pleural_effusion")
        'Pleural Effusion'
    """

    names: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)
    codes: Mapping[str, Code] = field(default_factory=dict, hash=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "aliases", MappingProxyType(dict(self.aliases)))
        object.__setattr__(self, "codes", MappingProxyType(dict(self.codes)))
        if len(set(map(_plain, self.names))) != len(self.names) or not self.names:
            raise BadInput(f"findings {list(self.names)!s:.300}: names must be present and differ from each other")

    def __reduce__(self) -> tuple[object, ...]:
        return Findings, (self.names, dict(self.aliases), dict(self.codes))

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _plain(name) in self._lookup

    @cached_property
    def _lookup(self) -> dict[str, str]:
        own = {_plain(name): name for name in self.names}
        return {_plain(alias): name for alias, name in self.aliases.items() if name in self.names} | own

    def resolve(self, name: str) -> str:
        """The vocabulary's own spelling of `name`."""
        found = self._lookup.get(_plain(name))
        if found is None:
            hint = did_you_mean(name, [*self.names, *self.aliases])
            raise UnknownFinding(f'finding "{name}" is not one of {", ".join(self.names)}{hint}')
        return found

    def index(self, name: str) -> int:
        """The column of a finding, by its name or an alias; an unknown name is an error with the nearest one."""
        return self.names.index(self.resolve(name))

    def subset(self, names: Iterable[str]) -> Findings:
        """The same vocabulary with fewer names, in the order given."""
        return Findings(tuple(self.resolve(name) for name in names), self.aliases, self.codes)


@dataclass(frozen=True, eq=False, kw_only=True)
class Radiograph:
    """Grey pixels in [0, 1], 1 is white (dense); whatever had to be done to the stored pixels is listed in `done`.

    `size` is the (width, height) of image space, in which boxes are given; it may differ from the stored pixels' shape.
    """

    pixels: Float32[np.ndarray, "h w"]
    image_id: str
    patient_id: str = ""
    view: str = ""  # PA, AP, LATERAL or unknown ("")
    spacing_mm: tuple[float, float] | None = None  # (row, column) of the stored pixels
    source: str = ""
    size: tuple[float, float] = (0.0, 0.0)
    done: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size == (0.0, 0.0):
            object.__setattr__(self, "size", (float(self.pixels.shape[1]), float(self.pixels.shape[0])))


@dataclass(frozen=True, eq=False)
class Example:
    """One image with what is known of it; a label is 0 (absent), 1 (present) or NaN (unknown)."""

    radiograph: Radiograph
    labels: Float32[np.ndarray, "finding"]
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, eq=False)
class Prediction:
    """A model's answer for one image: maps are raw and non-negative on the canvas grid, boxes in image pixels.

    Examples:
        >>> import chestmap
        >>> found = chestmap.predict("runs/own", "film.png")
        >>> found.to_polars().columns
        ['image_id', 'finding', 'score', 'x0', 'y0', 'x1', 'y1']
        >>> 0 <= found.score("Mass") <= 1
        True
    """

    image_id: str
    patient_id: str
    findings: Findings
    scores: Float[np.ndarray, "finding"]
    maps: Float16[np.ndarray, "finding h w"]
    frame: Frame
    boxes: tuple[Box, ...] = ()

    def score(self, finding: str) -> float:
        """The probability of one finding, by any spelling of its name."""
        return float(self.scores[self.findings.index(finding)])

    def map(self, finding: str) -> Float32[np.ndarray, "h w"]:
        """The map of one finding on the canvas grid."""
        return self.maps[self.findings.index(finding)].astype(np.float32)

    def to_polars(self) -> polars.DataFrame:
        """One row for each finding: image, finding, score and the corners of its box, which are null where it has none."""
        import polars

        boxes = {box.finding: box.corners for box in self.boxes}
        none = (None,) * 4
        rows = [
            (self.image_id, name, float(score), *boxes.get(name, none))
            for name, score in zip(self.findings, self.scores, strict=True)
        ]
        kinds = {"image_id": polars.String, "finding": polars.String}
        numbers = dict.fromkeys(("score", "x0", "y0", "x1", "y1"), polars.Float64)
        return polars.DataFrame(rows, schema={**kinds, **numbers}, orient="row")

    def to_pandas(self) -> pandas.DataFrame:
        """As `to_polars`, for pandas, which must be installed."""
        try:
            import pandas
        except ImportError:
            raise BadInput("to_pandas needs pandas; pip install pandas, or use to_polars()") from None
        return pandas.DataFrame(self.to_polars().to_dict(as_series=False))

    def _repr_html_(self) -> str:
        """A table of scores and boxes, the highest score first, for a notebook."""
        lines = []
        for name, score, *corners in sorted(self.to_polars().drop("image_id").iter_rows(), key=lambda row: -row[1]):
            box = ", ".join(f"{value:.0f}" for value in corners) if corners[0] is not None else ""
            lines.append(f"<tr><td>{escape(name)}</td><td>{score:.3f}</td><td>{box}</td></tr>")
        head = "<tr><th>finding</th><th>score</th><th>box (x0, y0, x1, y1)</th></tr>"
        return f"<table><caption>{escape(self.image_id)}</caption>{head}{''.join(lines)}</table>"


@runtime_checkable
class Writer(Protocol):
    """Turns predictions into files: CSV, COCO, overlays, DICOM."""

    def write(self, prediction: Prediction) -> None: ...

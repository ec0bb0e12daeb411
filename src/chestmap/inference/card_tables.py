"""The tables of a model card, from what model.json and figures.json hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chestmap.evaluation.table import Table

NOTHING = "–"


def calibration_table(about: Mapping[str, Any]) -> Table:
    """Of a calibrated model.json; for the terminal and the card."""
    on, lines = about["calibrated_on"], []
    for name, told in on["findings"].items():
        line, point, level = (about.get(key, {}).get(name) for key in ("calibration", "operating_points", "thresholds"))
        lines.append(
            (
                name,
                f"{told['with']:,} / {told['without']:,}",
                f"{line['slope']:.2f}, {line['offset']:+.2f}" if line else NOTHING,
                "{:.3f} → {:.3f}".format(*told["ece"]) if "ece" in told else NOTHING,
                NOTHING if point is None else f"{point:.3f}",
                f"{told['sensitivity']:.2f} / {told['specificity']:.2f}" if "sensitivity" in told else NOTHING,
                f"{told['boxed']:,}",
                "own rule" if level is None else f"{level:.3f}",
            )
        )
    headers = (
        "finding", "with / without", "slope, offset", "ECE before → after", "present from", "sens. / spec.", "boxed",
        "map cut at",
    )  # fmt: skip
    title = f"Chosen on {on['source']}, split {on['split']}, {on['part']}: {images_of(on)}"
    return Table(title, headers, tuple(lines), 1, tuple(on["notes"]))


def images_of(on: Mapping[str, Any]) -> str:
    return f"{on['images']:,} images of {on['patients']:,} patients"

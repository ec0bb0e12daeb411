"""Prints findings, scores and boxes of each image where `chestmap predict` has no folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import typer

from chestmap.cli.options import print_json

HEAD = ("image", "finding", "score", "present", "x0", "y0", "x1", "y1")
PRESENT = {True: "yes", False: "no", None: ""}


@dataclass(frozen=True, kw_only=True)
class PrintSettings:
    """Which images are taken, and how they are shown."""

    views: Literal["frontal", "any"] = "frontal"
    show_patient: bool = False
    as_json: bool = False


def print_predictions(model: Path, given: Sequence[str], forward: dict[str, Any], how: PrintSettings) -> None:
    """Goes on after an image that cannot be read; the exit code is then 1."""
    from chestmap.imaging.read import ReadSettings
    from chestmap.models.engines import ForwardSettings
    from chestmap.models.predictor import load
    from chestmap.prediction.decoding import Failed
    from chestmap.prediction.without_folder import predictions_of, rows_of
    from chestmap.settings import checked

    predictor, failed, kept = load(model, checked(ForwardSettings, forward, name="options")), 0, []
    if why := getattr(predictor.forward, "why", ""):
        typer.echo(why, err=True)
    widest = max(map(len, (*predictor.findings, HEAD[1])))
    for place, found in enumerate(
        predictions_of(predictor, given, ReadSettings(views=how.views), hide=not how.show_patient)
    ):
        if isinstance(found, Failed):
            failed += 1
            typer.echo(f"{found.name}: {found.reason}", err=True)
            continue
        rows = rows_of(found, predictor.operating_points)
        if how.as_json:
            kept += rows
        else:
            widths = (max(len(found.image_id), len(HEAD[0])), widest, 6, 7, 6, 6, 6, 6)
            cells = [HEAD] if not place else []
            cells += [_cells(row) for row in rows]
            typer.echo("\n".join(_padded(line, widths) for line in cells))
    if how.as_json:
        print_json(kept)
    if failed:
        raise typer.Exit(1)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    corners = [f"{value:.0f}" for value in row["box"]] if row["box"] else [""] * 4
    return row["image"], row["finding"], f"{row['score']:.3f}", PRESENT[row["present"]], *corners


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()

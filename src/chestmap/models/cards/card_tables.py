"""Writes the tables of a model card, from what model.json and figures.json hold.

Every function gives Markdown. Columns without a measured value are left out, so that no card shows an empty promise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chestmap.evaluation.measure import Measure
from chestmap.evaluation.scores import MEAN
from chestmap.evaluation.side_by_side import Table
from chestmap.reports.number_format import interval, number

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
                f"{told['sensitivity']:.2f} / {told['specificity']:.2f}" if Measure.SENSITIVITY in told else NOTHING,
                f"{told['boxed']:,}",
                "own rule" if level is None else f"{level:.3f}",
            )
        )
    headers = (
        "finding", "with / without", "slope, offset", "ECE before → after", "present from", "sens. / spec.", "boxed",
        "map cut at",
    )  # fmt: skip
    title = f"Chosen on {on['source']}, split {on['split']}, {on['part']}: {images_of(on)}"
    return Table(title=title, headers=headers, rows=tuple(lines), labels=1, notes=tuple(on["notes"]))


def images_of(on: Mapping[str, Any]) -> str:
    """Counts images and patients in words, as tables print them."""
    return f"{on['images']:,} images of {on['patients']:,} patients"


Row = Mapping[str, Any]


def figure_table(figures: Mapping[str, Any]) -> Table:
    """A line for each finding, then the means; columns of which nothing was measured are left out."""
    rows = {(row["measure"], row["finding"], row.get("at")): row for row in figures["scores"] if not _is_floor(row)}
    names = dict.fromkeys(row["finding"] for row in figures["scores"] if row["measure"] == Measure.AUC)
    limits = sorted({at for measure, _, at in rows if measure == Measure.IOU_MET})
    columns = [
        (Measure.AUC, Measure.AUC, None),
        (Measure.AP, Measure.AP, None),
        (Measure.ECE, Measure.ECE, None),
        (Measure.SENSITIVITY, "sens.", None),
    ]
    columns += [
        (Measure.SPECIFICITY, "spec.", None),
        *((Measure.IOU_MET, f"box met at {number(at, 1)}", at) for at in limits),
    ]
    columns = [one for one in columns if any(measure == one[0] and at == one[2] for measure, _, at in rows)]
    lines = []
    for name in names:
        auc, boxed = rows[Measure.AUC, name, None], rows.get((Measure.IOU_MET, name, limits[0]), {}) if limits else {}
        cells = [
            _cell(rows.get((measure, name, at)), bare=measure not in (Measure.AUC, Measure.IOU_MET))
            for measure, _, at in columns
        ]
        boxes = [f"{boxed.get('support', 0):,}"] if limits else []
        lines.append((name, f"{auc['support']:,} / {auc.get('negatives', 0):,}", *boxes, *cells))
    headers = ("finding", "with / without", *(["boxed"] if limits else []), *(title for _, title, _ in columns))
    return Table(title="By finding", headers=headers, rows=tuple(lines), labels=1, notes=tuple(_told_of_boxes(figures)))


def _is_floor(row: Row) -> bool:
    return str(row.get("rule", "")).startswith("floor")


def _told_of_boxes(figures: Mapping[str, Any]) -> Iterator[str]:
    if not any(row["measure"] == Measure.IOU_MET for row in figures["scores"]):
        yield "No image here carries a box: where the findings are was not measured."
        return
    floor = [row for row in figures["scores"] if _is_floor(row) and row["finding"] == MEAN]
    if floor:
        met = ", ".join(f"{number(row['value'], 2)} at {number(row['at'], 1)}" for row in floor)
        yield f"A box that knows no image, the medoid of the training boxes, is met on average by {met}."


def _cell(row: Row | None, *, bare: bool = False) -> str:
    """A value with its interval, two digits."""
    if row is None or row.get("value") is None:
        return NOTHING
    ends = "" if bare else interval(row.get("low"), row.get("high"), 2)
    return f"{number(row['value'], 2)} {ends}".strip()


def group_tables(figures: Mapping[str, Any]) -> list[Table]:
    """The means of every group, then for each kind of group a column each."""
    groups: Sequence[Row] = figures["groups"]
    if not groups:
        return []
    lines = [
        (
            f"{row['kind']}: {row['group']}",
            f"{row['images']:,} / {row.get('patients', 0):,}",
            _cell(row),
            number(row.get("of_all"), 2) if "of_all" in row else NOTHING,
            str(row["support"]),
        )
        for row in groups
        if row["finding"] == MEAN
    ]
    headers = ("group", "images / patients", "mean AUC", "of all images", "findings")
    notes = (
        "The mean of a group, and of all images beside it, is over the same findings: those with enough images in the group.",
    )
    return [Table(title="Mean over findings", headers=headers, rows=tuple(lines), labels=1, notes=notes), *_kinds(groups)]


def _kinds(groups: Sequence[Row]) -> Iterator[Table]:
    for kind in dict.fromkeys(row["kind"] for row in groups):
        rows = {(row["finding"], row["group"]): row for row in groups if row["kind"] == kind}
        names = dict.fromkeys(group for _, group in rows)
        findings = [one for one in dict.fromkeys(finding for finding, _ in rows) if one != MEAN]
        lines = [(finding, *(_cell(rows[finding, name]) for name in names)) for finding in findings]
        yield Table(title=f"AUC by {kind}", headers=(f"finding, by {kind}", *names), rows=tuple(lines))

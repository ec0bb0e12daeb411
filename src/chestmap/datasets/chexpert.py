"""CheXpert as Stanford publishes it (CheXpert-v1.0 or CheXpert-v1.0-small), and the public box file for it.

    root/train.csv, valid.csv, test.csv      labels: 1, 0, -1 (uncertain) or blank (not mentioned); one of the three is enough
    root/train/patient00001/study1/...       images, or below root/CheXpert-v1.0*/
    root/BBoxes.json                         {image: {finding: [[x0, y0, x1, y1], ...]}} in pixels of the original images

The small images were shrunk to a shorter side of 320 pixels and do not hold their original size, so on them a box has no place
until `original_sizes` names a CSV (Path, width, height); such boxes are set aside, never put somewhere near.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Float32, Int8
from PIL import Image
from pydantic import field_validator

from chestmap.datasets.chexpert_labels import OTHERS, SMOOTHED, Codes, Policy, filled, label_problems, policy_of, resolved
from chestmap.datasets.columns import (
    CORNERS,
    SEXES,
    UNCERTAIN,
    as_boxes,
    as_images,
    cells,
    numbers,
    unique_rows,
    vocabulary,
    with_age,
    with_boxes_cleaned,
    with_word,
)
from chestmap.datasets.csv_table import Table, read_csv
from chestmap.datasets.layout import Layout
from chestmap.datasets.source import Problem, Source
from chestmap.datasets.text_files import four_numbers, locate, located, read_json
from chestmap.errors import BadTable
from chestmap.settings import Settings
from chestmap.types import Box, Findings
from chestmap.vocabulary import CHEXPERT, NO_FINDING

PARTS = ("train", "valid", "test")
BOX_FILE = "BBoxes.json"
SMALL_SIDE = 320
"""Shorter side of the images of CheXpert-v1.0-small."""

IMAGE = r"((?:train|valid|test)/patient\d+/.+)$"


class ChexpertSettings(Settings):
    """Where CheXpert is, and what becomes of its uncertain and blank labels."""

    name: Literal["chexpert"] = "chexpert"
    root: Path
    findings: tuple[str, ...] | None = None  # a choice of the fourteen, in the order wanted
    frontal_only: bool = True
    uncertain: Policy | dict[str, Policy] = "ignore"  # or a table of finding to policy, where `others` names the rest
    blank: Literal["negative", "unknown"] = "negative"  # what a finding is that the report does not mention
    seed: int = 0  # of the soft labels
    boxes: str = BOX_FILE  # a file in the root, used where it is there; "none" leaves boxes out
    original_sizes: Path | None = None  # CSV of Path, width, height: where boxes lie when the small images are used
    small: bool | None = (
        None  # whether the stored images are the small ones; unset: decided by the files, or by the paths of the table
    )

    @field_validator("findings")
    @classmethod
    def _known(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if names is None else vocabulary(CHEXPERT, names).names

    @field_validator("uncertain")
    @classmethod
    def _resolved(cls, policies: Policy | dict[str, Policy]) -> Policy | dict[str, Policy]:
        if isinstance(policies, str):
            return policies
        return {name if name == OTHERS else CHEXPERT.resolve(name): policy for name, policy in policies.items()}


def read_chexpert(settings: ChexpertSettings) -> Source:
    """Image ids are paths from `train/` on, the same for both editions and in the box file; the tables become lists."""
    findings = vocabulary(CHEXPERT, settings.findings)
    folder = _folder(settings.root)
    parts = [_part(path, part, findings) for part in PARTS if (path := locate(folder, f"{part}.csv", f"{part}_labels.csv"))]
    rows = pl.concat([table.rows for table, _ in parts])
    codes = np.concatenate([codes for _, codes in parts])
    if settings.frontal_only:
        frontal = (rows["view"] != "LATERAL").to_numpy()
        rows, codes = rows.filter(frontal), codes[frontal]
    if rows.is_empty():
        raise BadTable(f"{folder}: the tables hold laterals only; set frontal_only=false to use them")
    problems = [problem for table, _ in parts for problem in table.problems]
    prefix = rows["path"][0].removesuffix(rows["image_id"][0]).rstrip("/")
    images = as_images(rows.with_columns(path=_base(settings.root, prefix) + pl.col("image_id")))
    images, sized = _with_sizes(images, settings)
    boxes, marked = _boxes(folder, settings, images, prefix)
    labels, soft, unsure = _labels(codes, findings, rows, settings)
    problems += [*sized, *marked, *unsure]
    ids = images["image_id"]
    lists = {part: tuple(ids.filter(ids.str.starts_with(part + "/"))) for part in PARTS}
    lists = {part: listed for part, listed in lists.items() if listed}
    return Source(
        name="chexpert",
        findings=findings,
        root=settings.root,
        images=images,
        labels=labels,
        boxes=boxes,
        lists=lists,
        problems=tuple(problems),
        soft=soft,
    )


def _folder(root: Path) -> Path:
    """The folder of the tables: the root, or the publisher's folder in it."""
    names = [f"{part}{end}.csv" for part in PARTS for end in ("", "_labels")]
    for folder in (root, *sorted(root.glob("CheXpert-v1.0*/"))):
        if locate(folder, *names):
            return folder
    return located(root, *names).parent


def _base(root: Path, prefix: str) -> str:
    """The prefix of `train/patient…` in a path from the root; the table's own word where no image is there."""
    folders = ("", f"{prefix}/", "CheXpert-v1.0/", "CheXpert-v1.0-small/")
    there = [base for base in folders if any((root / base / part).is_dir() for part in PARTS)]
    return (there or [""])[0]


def _part(path: Path, part: str, findings: Findings) -> tuple[Table, Codes]:
    """One table of the publisher, and its label cells.

    17 frontal images carry LL or RL as AP/PA: their view is unknown. The tables of labels by radiologists (`test_labels.csv`)
    have no columns but the path and the findings, and the path then marks laterals.
    """
    optional = {
        "side": ("Frontal/Lateral",),
        "view": ("AP/PA",),
        "age": ("Age",),
        "sex": ("Sex",),
        NO_FINDING: (NO_FINDING,),
    }
    table = read_csv(path, {"path": ("Path",)} | {name: (name,) for name in findings}, optional)
    image = pl.col("path").str.replace_all("\\", "/", literal=True).str.extract(IMAGE)
    table = table.with_columns(image_id=image, patient_id=image.str.extract(r"^\w+/(patient\d+)"))
    wrong = ~pl.col("image_id").str.starts_with(f"{part}/")
    table = table.set_aside(wrong, "image name", f'"{{path}}": expected {part}/patient.../study.../view....jpg')
    table = unique_rows(table, "image_id", findings.names)
    table, codes = cells(table, findings.names)
    columns = table.rows.columns
    lateral = pl.col("image_id").str.contains("_lateral")
    if "side" in columns:
        lateral = pl.col("side").str.to_lowercase() == "lateral"
    frontal = pl.col("view").str.to_uppercase() if "view" in columns else pl.lit("")
    odd = ~lateral & ~frontal.is_in(["AP", "PA", ""])
    if "view" in columns:
        table = table.reported("repaired", "view", odd, 'a frontal image with AP/PA "{view}"; its view is unknown')
    view = pl.when(lateral).then(pl.lit("LATERAL")).when(odd).then(pl.lit("")).otherwise(frontal)
    table = with_word(with_age(table), "sex", SEXES)
    no_finding = pl.col(NO_FINDING).str.starts_with("1") if NO_FINDING in columns else pl.lit(False)  # noqa: FBT003
    keys = ("path", "image_id", "patient_id", "age", "sex")
    return replace(table, rows=table.rows.select(*keys, view=view, normal=no_finding)), codes


def _labels(
    codes: Codes, findings: Findings, rows: pl.DataFrame, settings: ChexpertSettings
) -> tuple[Int8[np.ndarray, "image finding"], Float32[np.ndarray, "image finding"] | None, tuple[Problem, ...]]:
    normal = rows["normal"].to_numpy() if settings.blank == "unknown" else None
    policies: list[Policy] = [policy_of(name, settings.uncertain) for name in findings]
    unsure = codes == UNCERTAIN
    keys: list[list[str]] = [[] for _ in policies]
    for column, (name, policy) in enumerate(zip(findings, policies, strict=True)):
        if policy in SMOOTHED:
            keys[column] = [f"{settings.seed}|{image}|{name}" for image in rows["image_id"].filter(unsure[:, column])]
    return *resolved(filled(codes, findings, normal), unsure, policies, keys), label_problems(codes, findings, policies)


def _with_sizes(images: pl.DataFrame, settings: ChexpertSettings) -> tuple[pl.DataFrame, tuple[Problem, ...]]:
    """Width and height of the original images where `original_sizes` knows them; by the path from `train/` on."""
    if settings.original_sizes is None:
        return images, ()
    path = settings.root / settings.original_sizes
    columns = {"path": ("Path", "image", "image_id"), "width": ("width",), "height": ("height",)}
    table = numbers(read_csv(path, columns), "width", "height")
    table = table.set_aside((pl.col("width") < 1) | (pl.col("height") < 1), "size", "{width:g} x {height:g} is no size")
    table = unique_rows(table.with_columns(image_id=pl.col("path").str.extract(IMAGE)), "image_id", ("width", "height"))
    sizes = table.rows.select("image_id", pl.col("width", "height").cast(pl.Float32))
    return images.drop("width", "height").join(sizes, on="image_id", how="left", maintain_order="left"), table.problems


def _boxes(
    folder: Path, settings: ChexpertSettings, images: pl.DataFrame, prefix: str
) -> tuple[dict[str, tuple[Box, ...]], tuple[Problem, ...]]:
    """Boxes in pixels of the original images; set aside where only small ones of unknown original size are stored."""
    path = None if settings.boxes == "none" else locate(folder, settings.boxes)
    if path is None:
        if settings.boxes in {"none", BOX_FILE}:
            return {}, ()
        path = located(folder, settings.boxes)
    table = with_boxes_cleaned(_marks(path), CHEXPERT, images)
    boxed = images.filter(pl.col("image_id").is_in(table.rows["image"].implode()))["path"]
    small = settings.small if settings.small is not None else _looks_small(settings.root, boxed, prefix)
    way_out = "use the full-size images, name a CSV of Path, width, height as original_sizes, or set boxes=none"
    lost = f"a box in original pixels on a small image whose original size is unknown; {way_out}"
    table = table.set_aside(pl.col("width").is_infinite() & small, "box space", lost)
    return as_boxes(table.rows, vocabulary(CHEXPERT, settings.findings)), table.problems


def _looks_small(root: Path, paths: pl.Series, prefix: str) -> bool:
    """By the first image that is there, else by the name of the publisher's folder in the table."""
    for path in paths.head(100):
        try:
            with Image.open(root / path) as image:
                return min(image.size) <= SMALL_SIDE
        except (OSError, Image.DecompressionBombError):
            continue
    return prefix.endswith("-small")


def _marks(path: Path) -> Table:
    """The box file as rows; an entry of another shape is set aside."""
    tree = read_json(path, dict)
    rows, bad = [], []
    for key, marks in tree.items():
        for finding, boxes in marks.items() if isinstance(marks, dict) else [("", None)]:
            for box in boxes if isinstance(boxes, list) else [None]:
                if (corners := four_numbers(box)) is not None:
                    rows.append((key, finding, *corners))
                else:
                    bad.append(key)
    schema = {"entry": pl.String, "finding": pl.String, **dict.fromkeys(CORNERS, pl.Float64)}
    image = pl.coalesce(pl.col("entry").str.extract(IMAGE), "entry")
    of_valid, lateral = sum("valid/" in key for key in tree), sum("_lateral" in key for key in tree)
    told_of = f"{of_valid} keys of valid/, {lateral} of laterals, {sum(marks == {} for marks in tree.values())} empty"
    problems = [Problem("note", "box file", f"{path.name}: {len(rows):,} boxes on {len(tree):,} keys; {told_of}", len(rows))]
    if bad:
        shape = "expected {finding: [[x0, y0, x1, y1], ...]}"
        what = f"{path.name} entry {bad[0]}: {shape}; set aside ({len(bad)} in all)"
        problems.append(Problem("error", "box entry", what, len(bad)))
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_columns(image=image)
    return Table(file=path.name, rows=frame, place="entry", problems=tuple(problems))


LAYOUT = Layout(name="chexpert", title="CheXpert", settings=ChexpertSettings, read=read_chexpert, is_published=True)

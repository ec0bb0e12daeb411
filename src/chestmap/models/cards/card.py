"""Writes the README.md of a model folder: what the model is, what it saw, how good it is, what it is not for.

`chestmap model card` and `calibrate` call `write_card`. All figures come from model.json and figures.json; nothing is
measured here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chestmap.errors import BadModel
from chestmap.evaluation.measure import Measure
from chestmap.evaluation.side_by_side import Table
from chestmap.models.cards.card_tables import calibration_table, figure_table, group_tables, images_of
from chestmap.reports.number_format import number
from chestmap.reports.reliability import reliability_picture
from chestmap.storage.atomic import write_bytes
from chestmap.storage.json_file import json_of
from chestmap.storage.manifest import is_sealed, seal, verified_bytes

FORMAT = 1
FIGURES, PICTURE = "figures.json", "reliability.svg"
Figures = dict[str, Any]
"""What `performance_figures.py` measured."""


def write_card(folder: Path, about: Mapping[str, Any], figures: Figures | None = None) -> str:
    """README.md made anew, and returned; new figures are kept next to it; without new ones, the kept ones are printed."""
    if figures is not None:
        write_bytes(folder / FIGURES, (json.dumps(figures, indent=1, allow_nan=False) + "\n").encode())
        if figures["reliability"]:
            write_bytes(folder / PICTURE, _picture(figures).encode())
        else:
            (folder / PICTURE).unlink(missing_ok=True)
    text = card(about, figures or read_figures(folder))
    write_bytes(folder / "README.md", text.encode())
    if is_sealed(folder):
        seal(folder)
    return text


def read_figures(folder: Path) -> Figures | None:
    """None where nothing was measured yet."""
    path = folder / FIGURES
    if not path.exists():
        return None
    remedy = "delete it and measure again with `chestmap model card`"
    found = json_of(verified_bytes(folder, FIGURES, remedy), path, remedy)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BadModel(f"{path}: not of this version; delete it and measure again with `chestmap model card`")
    return found


def chosen_in(about: Mapping[str, Any]) -> dict[str, Any]:
    """What decides scores, presence and boxes besides the weights."""
    return {key: about.get(key) or {} for key in ("calibration", "operating_points", "thresholds")}


def _picture(figures: Mapping[str, Any]) -> str:
    rows = {row["finding"]: row for row in figures["scores"] if row["measure"] == Measure.ECE}
    told = {name: f"ECE {number(row.get('value'))}" for name, row in rows.items()}
    return reliability_picture(figures["reliability"], told)


def card(about: Mapping[str, Any], figures: Mapping[str, Any] | None = None) -> str:
    """From the contents of model.json and figures.json, as Markdown."""
    canvas, rule = about["canvas"], about["own_rule"]
    scaled = "scaled to 0 … 1 for each map" if rule["normalize"] else "as it is"
    around = f" Around it: {', '.join(about['around'])}." if about.get("around") else ""
    return f"""# {about["title"]}: {len(about["findings"])} chest X-ray findings and where they are

**Research use only. Not a medical device; not for diagnosis or treatment.**

- Method: {about["paper"]} (`{about["method"]}` of chestmap {about["chestmap"]}).{around}
- Findings: {", ".join(about["findings"])}
- Input: one frontal chest X-ray, gray in 0 … 1 with white as dense, {canvas["fit"]} onto {canvas["width"]} × {canvas["height"]} pixels
- Output: for each finding a score, a raw, non-negative map, and at most one box: around the largest region of the map
- From map to mask by the method's own rule: the map, {scaled}, at least {rule["threshold"]:.4g}
- For: research on finding and localizing these signs in images like those below, and second readings of such research data.
  Not for: any decision about a patient, images without a radiologist's reading, other projections than frontal

## Trained on

{_data_lines(about["data"])}

## Calibration, operating points and thresholds

{_chosen_lines(about)}

## Figures

{_figure_lines(about, figures)}

## Limits

{_limit_lines(figures)}

## Use

    chestmap predict THIS_FOLDER films/ --out results --write csv,overlays

## Make it again

{_made_lines(about)}
"""


def _markdown(table: Table) -> str:
    """Notes as paragraphs of their own."""
    body = Table(title=table.title, headers=table.headers, rows=table.rows, labels=table.labels).to_markdown()
    return "\n\n".join([body.rstrip("\n"), *table.notes])


def _data_lines(data: Mapping[str, Any]) -> str:
    parts = [part for part in ("train", "validation") if part in data]
    lines = [
        f"- source `{data['source']}` (fingerprint {data['fingerprint']}), split `{data['split']}`",
        *(f"- {part}: {data[part]['images']:,} images (fingerprint {data[part]['fingerprint']})" for part in parts),
    ]
    labels = data.get("train", {}).get("labels")
    if labels:
        counts = ", ".join(f"{name} {told['present']:,}" for name, told in labels.items())
        lines.append(f"- training images with each finding: {counts}")
        if never := [name for name, told in labels.items() if not sum(told.values())]:
            lines.append(f"- never labeled, so never predicted: {', '.join(never)}")
    return "\n".join(lines)


def _chosen_lines(about: Mapping[str, Any]) -> str:
    if "calibrated_on" not in about:
        return (
            "Not calibrated: a score is the network's own and no probability. Boxes are cut by the method's own rule. "
            "`chestmap model calibrate` chooses all three on validation images."
        )
    on = about["calibrated_on"]
    aim = "most sensitivity + specificity" if on["aim"] == "youden" else f"{on['aim']} of at least {on['target']:g}"
    return (
        f"A score is sigmoid(slope · logit + offset), fitted on validation images ({on['kind']}); a finding is called present "
        f"from its operating point on ({aim}); its scaled map is cut at a level that meets most boxes. Figures of this table are of "
        f"the images that chose them. With fewer than {on['least']} images a finding keeps the network's score, or the own rule.\n\n"
        f"{_markdown(calibration_table(about))}"
    )


def _figure_lines(about: Mapping[str, Any], figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return "Not measured yet: `chestmap model card THIS_FOLDER --predictions … --source … --root … --split …` does it."
    if figures["sha256"] != about["sha256"]:
        return "Those that are here are of other weights; measure again with `chestmap model card`."
    on = figures["on"]
    part = f", {on['part']} part" if on["part"] else ""
    where = f"On source `{on['source']}`, split `{on['split']}`{part}: {images_of(on)}. In brackets: 95 % intervals"
    lines = [f"{where}, in which the patient is the unit."]
    if figures["chosen"] != chosen_in(about):
        lines.append("**Measured before the calibration, operating points or thresholds above were chosen; measure again.**")
    lines += [f"**Note:** {note}." for note in figures["notes"]]
    lines.append(_markdown(figure_table(figures)))
    if figures["reliability"]:
        lines.append(f"![On the dotted line a score is a probability; the fuller a bin, the larger its dot]({PICTURE})")
    tables = group_tables(figures)
    if tables:
        lines.append("### By sex, age and view")
        lines.append(f"A dash: the group has fewer than {on['least']} images with the finding, or without it.")
    return "\n\n".join([*lines, *map(_markdown, tables)])


def _limit_lines(figures: Mapping[str, Any] | None) -> str:
    lines = [
        "Scores hold for images like those above, at their share of each finding; elsewhere calibrate anew.",
        "Labels of public datasets were read from reports by programs and are wrong in part; the model learned those errors, too.",
        "A box is where the network's evidence lies. It may be right about a finding and wrong about the place, and the reverse.",
        "Lateral views, other body parts, and devices, hospitals and diseases that the training images lack were not measured.",
    ]
    if not figures or not figures["groups"]:
        lines.append("Performance by sex, age and view was not measured.")
    else:
        there = {row["kind"] for row in figures["groups"]}
        lines += [
            f"Performance by {kind} was not measured: the source does not know it."
            for kind in ("sex", "age", "view")
            if kind not in there
        ]
    lines.append("The weights are safetensors; nothing in this folder is a pickle or a program.")
    return "\n".join(f"- {line}" for line in lines)


def _made_lines(about: Mapping[str, Any]) -> str:
    made, lines = about.get("made"), []
    if made:
        versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
        lines = [
            "    chestmap train THIS_FOLDER/config.toml --set data.source.root=DATASET --out runs/again\n",
            f"- seed {made['seed']}, precision {made['precision']}; {versions}",
        ]
        if made.get("git"):
            lines.append(f"- commit {made['git']['commit']}{', with changes' if made['git']['changed'] else ''}")
    lines.append(
        f"- data fingerprint {about['data']['fingerprint']}, split {about['data'].get('split_fingerprint', 'unknown')}"
    )
    lines.append(f"- sha256 of the weights {about['sha256']}; a folder whose weights differ is refused")
    return "\n".join(lines)

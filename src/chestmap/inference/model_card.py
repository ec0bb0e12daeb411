"""The README.md of a model folder: what the model is, what it saw, what it must not be used for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chestmap.training.checkpoint import write_beside


def card(about: Mapping[str, Any]) -> str:
    """From the contents of model.json."""
    canvas, rule, data = about["canvas"], about["own_rule"], about["data"]
    scaled = "scaled to 0 … 1 for each map" if rule["normalize"] else "as it is"
    around = f" Around it: {', '.join(about['around'])}." if about.get("around") else ""
    return f"""# {about["title"]}: {len(about["findings"])} chest X-ray findings and where they are

**Research use only. Not a medical device; not for diagnosis or treatment.**

- Method: {about["paper"]} (`{about["method"]}` of chestmap {about["chestmap"]}).{around}
- Findings: {", ".join(about["findings"])}
- Input: one frontal chest X-ray, gray in 0 … 1 with white as dense, {canvas["fit"]} onto {canvas["width"]} × {canvas["height"]} pixels
- Output: for each finding a logit (its sigmoid is the score) and a raw, non-negative map
- From map to mask by the method's own rule: the map, {scaled}, at least {rule["threshold"]:.4g}

## Trained on

{_data_lines(data)}

Scores are not calibrated unless `model.json` says so, and hold for images like those above. Labels of public datasets come from
reports and are wrong in part; performance on other hospitals, devices, ages and projections was not measured.

## Use

    chestmap predict THIS_FOLDER films/ --out results --write csv,overlays

The weights' sha256 is {about["sha256"]}; a folder whose weights differ is refused.
"""


def write_card(folder: Path, about: Mapping[str, Any]) -> str:
    """README.md of a model folder made anew; returns it."""
    text = card(about)
    write_beside(folder / "README.md", text.encode())
    return text


def _data_lines(data: Mapping[str, Any]) -> str:
    parts = [part for part in ("train", "validation") if part in data]
    return "\n".join(
        [
            f"- source `{data['source']}` (fingerprint {data['fingerprint']}), split `{data['split']}`",
            *(f"- {part}: {data[part]['images']:,} images (fingerprint {data[part]['fingerprint']})" for part in parts),
        ]
    )

"""Writes the card that a hub reads: YAML front matter with license, tags and figures above the model's own README."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chestmap.errors import BadModel
from chestmap.storage.json_file import read_json


def front_matter(model: Path, about: Mapping[str, Any], license_id: str) -> str:
    """README.md of the model with the header; figures are those that `chestmap model card` measured."""
    readme = model / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else f"# {about.get('title', about['method'])}\n"
    if text.startswith("---\n"):
        text = text.split("\n---\n", 1)[-1].lstrip("\n")
    tags = ["chest-x-ray", "weakly-supervised-localization", "medical-imaging", about["method"]]
    lines = [
        f"license: {json.dumps(license_id)}",
        "library_name: chestmap",
        "pipeline_tag: image-classification",
        f"tags: {json.dumps(tags)}",
        *_results(model, about),
    ]
    return "---\n" + "\n".join(lines) + "\n---\n\n" + text


def _results(model: Path, about: Mapping[str, Any]) -> list[str]:
    """The mean AUC as the hub's `model-index` has it, where it was measured."""
    value = _mean_auc(model / "figures.json")
    if value is None:
        return []
    data = json.dumps({"name": about["data"].get("source", "unknown"), "type": about["data"].get("source", "unknown")})
    metrics = json.dumps([{"type": "roc_auc", "value": round(value, 4), "name": "mean AUC"}])
    task = json.dumps({"type": "image-classification"})
    name = json.dumps(about.get("title", about["method"]))
    return [
        "model-index:",
        f"- name: {name}",
        "  results:",
        f"  - task: {task}",
        f"    dataset: {data}",
        f"    metrics: {metrics}",
    ]


def _mean_auc(path: Path) -> float | None:
    try:
        tree = read_json(path, "evaluate again")
        value = next(row["value"] for row in tree["scores"] if (row["measure"], row["finding"]) == ("AUC", "mean"))
        return float(value)
    except (OSError, BadModel, ValueError, KeyError, TypeError, StopIteration):
        return None

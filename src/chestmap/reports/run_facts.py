"""Reads the facts of a run folder: its data, settings and machine, and how its losses fell.

Reads what a run left: config, environment, log.csv, step records. A run of another version may lack files; its facts are
then left out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

from chestmap.errors import BadInput
from chestmap.reports.number_format import count, facts, number
from chestmap.reports.svg_plot import Chart, Line, linear, svg
from chestmap.storage.json_file import read_json

BESIDE = ("learning_rate", "images_per_second", "memory_gb")
LINE_STYLES = ("ours", "own", "oracle", "floor", "other")


@dataclass(frozen=True, eq=False, kw_only=True)
class Series:
    """One logged number of one step, by optimizer update."""

    step: str
    name: str
    epoch: Sequence[int]
    update: Sequence[int]
    seconds: Sequence[float]
    value: Sequence[float]


@dataclass(frozen=True, eq=False, kw_only=True)
class RunFacts:
    """`config` is the text of config.toml; `model` and `environment` are the files' contents, empty where there is none.

    `split` holds the caller's facts about it, as lines to print, such as the images of each part and the patients they share.
    """

    folder: str = ""
    config: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    series: tuple[Series, ...] = ()
    split: Mapping[str, str] = field(default_factory=dict)


def read_run(folder: Path, split: Mapping[str, str] | None = None) -> RunFacts:
    """A run folder that is still in training is read as far as it has come."""
    config = folder / "config.toml"
    if not config.is_file():
        raise BadInput(f"{folder}: no config.toml; expected a run folder of `chestmap train`")
    return RunFacts(
        folder=folder.name,
        config=config.read_text(encoding="utf-8"),
        model=_json(folder / "model" / "model.json"),
        environment=_json(folder / "environment.json"),
        series=read_log(folder / "log.csv"),
        split=split or {},
    )


def _json(path: Path) -> dict[str, Any]:
    """Empty where there is no such file: a run that is still in training has no model yet."""
    try:
        found = read_json(path, "copy the run folder again", BadInput)
    except FileNotFoundError:
        return {}
    return found if isinstance(found, dict) else {}


def read_log(path: Path) -> tuple[Series, ...]:
    """log.csv (step, epoch, update, seconds, name, value), steps and names in the order of their first row."""
    if not path.is_file():
        return ()
    found: dict[tuple[str, str], list[tuple[int, int, float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if None in row.values():  # the last row of a run that is being written
                continue
            numbers = int(row["epoch"]), int(row["update"]), float(row["seconds"]), float(row["value"])
            found.setdefault((row["step"], row["name"]), []).append(numbers)
    columns = ((key, *zip(*rows, strict=True)) for key, rows in found.items())
    return tuple(
        Series(step=step, name=name, epoch=epoch, update=update, seconds=seconds, value=value)
        for (step, name), epoch, update, seconds, value in columns
    )


def training_charts(series: Iterable[Series]) -> str:
    """For each step its losses, and its validation where there was one."""
    steps: dict[str, list[Series]] = {}
    for one in series:
        steps.setdefault(one.step, []).append(one)
    return "".join(_step(step, found) for step, found in steps.items())


def _step(step: str, series: Sequence[Series]) -> str:
    """Losses, validation AUC and validation losses are three charts, since their units differ."""
    shown = [one for one in series if one.name not in BESIDE]
    validation = [one for one in shown if one.name.startswith("validation_")]
    losses = [one for one in shown if one not in validation]
    auc = [one for one in validation if one.name.endswith("_auc")]
    rest = [one for one in validation if one not in auc]
    charts = (
        _chart(f"{step}: training loss", losses, "loss"),
        _chart(f"{step}: validation AUC", auc, "validation AUC"),
        _chart(f"{step}: validation loss", rest, "validation loss"),
    )
    return (
        f'<section class="step"><h3>{escape(step)}</h3>{_pace(series)}<div class="charts">{"".join(charts)}</div></section>'
    )


def _chart(title: str, series: Sequence[Series], label: str) -> str:
    """The total is emphasized; where it is the sum of one term only, that term is left out."""
    named = {one.name.removeprefix("validation_"): one for one in series}
    if len(named) == 2 and "loss" in named:
        named = {"loss": named["loss"]}
    if not named:
        return ""
    order = sorted(named, key=lambda name: name not in ("loss", "auc"))
    lines = []
    for place, name in enumerate(order):
        style = LINE_STYLES[min(place, len(LINE_STYLES) - 1)]
        words = name.replace("_", " ") if len(order) > 1 else ""
        updates, values = (means(numbers) for numbers in (named[name].update, named[name].value))
        lines.append(Line(x=updates, y=values, name=name.replace("_", " "), style=style, label=words))
    x = linear("update", [update for line in lines for update in line.x])
    y = linear(label, [value for line in lines for value in line.y])
    right = 14 + 7 * max(len(line.label) for line in lines)
    return f"<figure>{svg(Chart(title=title, x=x, y=y, lines=tuple(lines), size=(440, 260), right=max(right, 20)))}</figure>"


def means(numbers: Sequence[float], most: int = 160) -> list[float]:
    """Of equal pieces of a long log, so that noise does not fill the chart; a short one stays as it is."""
    pieces = min(most, len(numbers))
    ends = [round(index * len(numbers) / pieces) for index in range(pieces + 1)]
    return [fmean(numbers[start:end]) for start, end in pairwise(ends)]


def _pace(series: Sequence[Series]) -> str:
    """What the step cost: epochs, time, speed (the median, as the first look includes warming up), memory."""
    by_name = {one.name: one for one in series}
    told = {}
    if any_series := next(iter(series), None):
        told["Epochs"] = str(max(any_series.epoch))
        told["Updates"] = count(max(max(one.update) for one in series))
        told["Time"] = duration(max(max(one.seconds) for one in series))
    if "images_per_second" in by_name:
        told["Images per second"] = count(median(by_name["images_per_second"].value))
    if "memory_gb" in by_name:
        told["Peak memory"] = f"{max(by_name['memory_gb'].value):.1f} GB"
    if "validation_auc" in by_name:
        told["Best validation AUC"] = number(max(by_name["validation_auc"].value))
    return f"<dl>{facts(told)}</dl>"


def duration(seconds: float) -> str:
    """Seconds below two minutes, minutes below two hours."""
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes:.0f} min" if minutes < 120 else f"{hours:.1f} h"


def provenance(run: RunFacts, about: Mapping[str, Any]) -> str:
    """Three lists of facts (data, model, machine) and the config."""
    data = {"Source": about.get("source", ""), "Split": about.get("split", "") or "not named", **run.split}
    if about.get("part"):
        data["Part"] = str(about["part"])
    if "set" in about:
        data["Set"] = f"{about['set']['digest']}-{about['set']['box_digest']}"
    data |= {"Images scored": count(about.get("images", 0)), "Patients scored": count(about.get("patients", 0))}
    data |= {"Boxes scored": count(about.get("boxes", 0))}
    for key, what in (("training", "floors"), ("validation", "thresholds and calibration")):
        if about.get(f"{key}_images"):
            data[f"Images behind {what}"] = f"{count(about[f'{key}_images'])} of {key}"
    blocks = [("Scored on", data)]
    if trained := _trained(run.model):
        blocks.append(("Trained", trained))
    if machine := _machine(run.environment):
        blocks.append(("Made with", machine))
    lists = "".join(f"<article><h3>{escape(title)}</h3><dl>{facts(found)}</dl></article>" for title, found in blocks)
    config = f"<details><summary>config.toml</summary><pre>{escape(run.config)}</pre></details>" if run.config else ""
    return f'<div class="facts">{lists}</div>{config}'


def _trained(model: Mapping[str, Any]) -> dict[str, str]:
    """From model.json; nothing where the run has no model yet."""
    if not model:
        return {}
    data = model.get("data", {})
    told = {"Method": str(model.get("title", model.get("method", ""))), "Paper": str(model.get("paper", ""))}
    told |= {"Source": str(data.get("source", "")), "Split": str(data.get("split", ""))}
    for part in ("train", "validation"):
        if part in data:
            told[f"Images of {part}"] = f"{count(data[part]['images'])} (fingerprint {data[part]['fingerprint']})"
    told["Weights"] = f"sha256 {str(model.get('sha256', ''))[:16]}…"
    return {key: value for key, value in told.items() if value}


def _machine(environment: Mapping[str, Any]) -> dict[str, str]:
    """Of the last start: a run that was stopped may have gone on elsewhere."""
    starts = environment.get("starts") or []
    if not starts:
        return {}
    last = starts[-1]
    versions, machine, git = last.get("versions", {}), last.get("machine", {}), last.get("git") or {}
    told = {"Started": str(last.get("time", "")).replace("T", " "), "Starts": str(len(starts))}
    told["Machine"] = ", ".join(
        str(part) for part in (machine.get("gpu"), machine.get("processor"), f"{machine.get('cores', '?')} cores") if part
    )
    told["Versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    if git:
        told["Commit"] = f"{git.get('commit', '')[:12]}{' with changes' if git.get('changed') else ''}"
    return told

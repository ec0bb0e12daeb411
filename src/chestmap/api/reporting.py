"""Writes the report of a run or of a predictions folder.

`report` is public. It takes a run, a model or a predictions folder, and predicts first where nothing is predicted. The page
holds its pictures and styles, so that one file can be sent.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chestmap.api.scoring import score
from chestmap.api.subject import DatasetNames, Subject, subject_of

if TYPE_CHECKING:
    from chestmap.evaluation.case_list import Case
    from chestmap.evaluation.scores import Evaluation
    from chestmap.predictions.folder import Predictions


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """`part` of the split is scored and shown; `published` are tables printed next to ours; `out` is the file to write.

    `figures` is a folder for the charts as SVG files.
    """

    part: str = "test"
    pictures: int = 200
    published: Sequence[Any] = ()
    out: Path | None = None
    figures: Path | None = None


def report(
    folder: str | Path,
    *,
    part: str = "test",
    pictures: int = 200,
    published: Sequence[str] = (),
    out: str | Path | None = None,
    figures: str | Path | None = None,
) -> Path:
    """Writes one HTML file about a run or a predictions folder, which opens offline; returns its path.

    `figures` is a folder for its charts as SVG files.

    What is not predicted or scored yet is predicted and scored first.

    Examples:
        >>> import chestmap
        >>> chestmap.report("runs/own", part="validation", pictures=2).as_posix()
        'runs/own/report.html'
    """
    from chestmap.evaluation.published import find

    tables = [find(name) for name in published]
    place = Path(folder)
    page, charts = Path(out) if out else place / "report.html", Path(figures) if figures else None
    how = ReportSettings(part=part, pictures=pictures, published=tables, out=page, figures=charts)
    return report_of(subject_of(place, DatasetNames()), how)


def report_of(subject: Subject, how: ReportSettings) -> Path:
    """Predicts first where nothing is predicted yet."""
    from chestmap.predictions.folder import open_predictions

    return _write(subject, open_predictions(subject.predict(how.part)), how)


def _write(subject: Subject, predictions: Predictions, how: ReportSettings) -> Path:
    from chestmap.evaluation.scores import HEADLINE
    from chestmap.reports.example_images import PictureLimits, ScoredImages, gather
    from chestmap.reports.figure_files import write_figures
    from chestmap.reports.report import write_report
    from chestmap.reports.run_facts import RunFacts, read_run

    ids = subject.ids(how.part, predictions)
    presets = {table.rule.preset for table in how.published} - {""}
    metrics, cases = _scores(subject, predictions, how.part, presets)
    rule = metrics.rules[0] if metrics.rules else ""
    iou = {(case.image_id, case.finding): case.iou for case in cases if (case.geometry, case.rule) == (HEADLINE, rule)}
    scored = ScoredImages(ids, iou, metrics.thresholds(rule))
    shown = gather(predictions, subject.source, scored, PictureLimits(how.pictures)) if how.pictures else []
    facts = subject.facts()
    run = read_run(subject.run, facts) if subject.run else RunFacts(split=facts)
    if method := run.model.get("title"):
        metrics = replace(metrics, title=f"{method}: {run.folder}")
    if how.figures is not None:
        write_figures(how.figures, metrics)
    return write_report(how.out or predictions.folder / "report.html", metrics, shown, run, list(how.published))


def _scores(subject: Subject, predictions: Predictions, part: str, presets: set[str]) -> tuple[Evaluation, list[Case]]:
    """metrics.json and cases.csv of these images and presets, where they are not older than the predictions; else makes them anew."""
    from chestmap.evaluation.case_list import case_list, read_cases, write_cases
    from chestmap.evaluation.scores import read_evaluation
    from chestmap.evaluation.settings import EvaluationSettings
    from chestmap.settings import checked

    folder, images = predictions.folder, len(subject.ids(part, predictions))
    metrics, cases, header = (folder / name for name in ("metrics.json", "cases.csv", "predictions.json"))
    if metrics.is_file() and cases.is_file() and metrics.stat().st_mtime >= header.stat().st_mtime:
        kept = read_evaluation(metrics)
        split = (subject.split.fingerprint, part) if subject.split else ("", "")
        there = set(kept.about["settings"]["presets"])
        same = (kept.about["split_fingerprint"], kept.about.get("part"), kept.about["images"]) == (*split, images)
        if same and presets <= there:
            return kept, read_cases(cases)
        presets |= there
    how = checked(EvaluationSettings, {"presets": sorted(presets)}, name="report")
    sys.stderr.write(f"Scoring {images:,} images\n")
    evaluation, notes = score(predictions, subject.source, subject.split, part, how)
    for note in notes:
        sys.stderr.write(f"{folder}: {note}\n")
    evaluation.write(metrics)
    write_cases(cases, case_list(evaluation))
    return evaluation, case_list(evaluation)

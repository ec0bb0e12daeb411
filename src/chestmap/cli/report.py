"""`chestmap report`: one HTML file about a model, from a run folder or a predictions folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chestmap.cli.data import Set, source_of, split_of
from chestmap.cli.score import CacheOption, SplitOption, needs_out, scores_of

if TYPE_CHECKING:
    from chestmap.datasets.source import Source
    from chestmap.datasets.split import Split
    from chestmap.evaluation.case_list import Case
    from chestmap.evaluation.scores import Evaluation
    from chestmap.predictions.folder import Predictions


def add_to(app: typer.Typer) -> None:
    app.command()(report)


def report(
    folder: Annotated[
        str,
        typer.Argument(metavar="RUN|PREDICTIONS", help="A run folder, or a predictions folder, which may be an address."),
    ],
    kind: Annotated[
        str | None,
        typer.Option("--source", metavar="KIND", help="Who laid the dataset out; by default what the run was trained on."),
    ] = None,
    root: Annotated[Path | None, typer.Option("--root", metavar="ROOT", help="The dataset's folder.")] = None,
    split: SplitOption = None,
    part: Annotated[str, typer.Option(help="The part of the split that is scored and shown.")] = "test",
    published: Annotated[
        list[str] | None, typer.Option(help="A published table to print beside ours, such as ham/table-3; repeatable.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, help="How many pictures, at most.")] = 200,
    out: Annotated[Path | None, typer.Option(help="The file to write; by default report.html in the folder.")] = None,
    cache: CacheOption = Path("cache"),
    overrides: Set = None,
) -> None:
    """Write one file that opens offline: scores with intervals and floors, curves, hits and misses, what was trained on what.

    A run is predicted first, into its `predictions/`. What is not scored yet is scored, as `chestmap evaluate` does.

    Example: `chestmap report runs/image-labels --published ham/table-6`
    """
    from chestmap.evaluation.published import find
    from chestmap.predictions.folder import fetched_predictions

    tables = [find(name) for name in published or ()]
    if out is None:
        needs_out(folder)
    place = fetched_predictions(folder, cache)
    path = report_of(
        _subject(place, (kind, root), split, overrides or []), part, tables, (pictures, out or place / "report.html")
    )
    typer.echo(path)


def report_of_run(folder: Path, pictures: int = 200) -> Path:
    """The report of a run on its own test images, into the run."""
    return report_of(_subject(folder, (None, None), None, []), "test", [], (pictures, folder / "report.html"))


def report_of(subject: "Subject", part: str, published: list[Any], target: tuple[int, Path]) -> Path:
    """Predicts first where nothing is predicted yet; `target` is how many pictures, and the file."""
    from chestmap.predictions.folder import open_predictions

    subject.predict(part)
    return write(subject, open_predictions(subject.predictions), part, published, target)


@dataclass(frozen=True)
class Subject:
    """What a report is about; `run` is None where the predictions belong to no run folder."""

    predictions: Path
    run: Path | None
    source: "Source"
    split: "Split | None"
    cache: Path = Path("cache")

    def predict(self, part: str) -> None:
        """Where a run has no predictions yet: those of `part`, and of the validation images for thresholds."""
        header = self.predictions / "predictions.json"
        if self.run is None or (header.is_file() and json.loads(header.read_text(encoding="utf-8")).get("complete")):
            return
        parts = self.split.parts if self.split else {part: self.source.ids}
        ids = [image_id for name in dict.fromkeys(("validation", part)) for image_id in parts.get(name, ())]
        from chestmap.methods import METHODS
        from chestmap.models.folder import open_model
        from chestmap.prediction.from_pack import PredictSettings, predict_source

        model = open_model(self.run / "model", METHODS)
        predict_source(model, self.source, ids, self.predictions, PredictSettings(), self.cache)

    def ids(self, part: str, predictions: "Predictions") -> list[str]:
        """The images that are scored."""
        there = set(predictions.image_ids)
        wanted = self.split.parts[part] if self.split else self.source.ids
        return [image_id for image_id in wanted if image_id in there]

    def facts(self) -> dict[str, str]:
        """How many images each part of the split has, and the patients that it shares with training."""
        if self.split is None:
            return {}
        from chestmap.datasets.split import leaks

        found = {f"Images to {part}": f"{len(ids):,}" for part, ids in self.split.parts.items() if ids}
        for (one, other), shared in leaks(self.split, self.source).items():
            if shared.of:
                told = f"{shared.patients:,} of {shared.of:,}" if shared.patients else f"none of {shared.of:,}"
                found[f"Patients of {other} also in {one}"] = told
        return found


def _subject(folder: Path, data: tuple[str | None, Path | None], split: str | None, overrides: list[str]) -> Subject:
    """Data and split are those of the run, which may also be the folder around the predictions, unless they are named."""
    from chestmap.datasets import open_source, source_settings
    from chestmap.datasets.split import SplitSettings, make_split
    from chestmap.errors import BadInput
    from chestmap.settings import checked, read_toml, with_overrides

    run = next((place for place in (folder, folder.resolve().parent) if (place / "config.toml").is_file()), None)
    if not (folder / "predictions.json").is_file() and run != folder:
        raise BadInput(f"{folder}: neither config.toml nor predictions.json; expected a run folder or a predictions folder")
    kind, root = data
    if (kind is None or root is None) and run is None:
        raise BadInput(f"{folder}: belongs to no run folder; say what it was predicted on with --source KIND --root ROOT")
    config: Mapping[str, Any] = read_toml(run / "config.toml")["data"] if run else {}
    if kind is None or root is None:
        source = open_source(source_settings(with_overrides(config["source"], overrides), name=f"{run}/config.toml"))
    else:
        source = source_of(kind, root, overrides)
    named = split_of(source, split) if split else None
    if named is None and kind is None and run is not None:
        settings = checked(SplitSettings, dict(config.get("split", {})), name=f"{run}/config.toml")
        named = make_split(source, settings)
    predictions = folder if (folder / "predictions.json").is_file() else folder / "predictions"
    return Subject(predictions, run, source, named, Path(config.get("cache", "cache")))


def write(subject: Subject, predictions: "Predictions", part: str, published: list[Any], target: tuple[int, Path]) -> Path:
    """`target` is how many pictures, and the file."""
    from chestmap.evaluation.scores import HEADLINE
    from chestmap.reports.example_images import Amount, Scored, gather
    from chestmap.reports.report import write_report
    from chestmap.reports.run_facts import RunFacts, read_run

    ids = subject.ids(part, predictions)
    presets = {table.rule.preset for table in published} - {""}
    metrics, cases = _scores(subject, part, len(ids), presets)
    rule = metrics.rules[0] if metrics.rules else ""
    iou = {(case.image_id, case.finding): case.iou for case in cases if (case.geometry, case.rule) == (HEADLINE, rule)}
    pictures, path = target
    scored = Scored(ids, iou, metrics.thresholds(rule))
    shown = gather(predictions, subject.source, scored, Amount(pictures)) if pictures else []
    facts = subject.facts()
    run = read_run(subject.run, facts) if subject.run else RunFacts(split=facts)
    if method := run.model.get("title"):
        metrics = replace(metrics, title=f"{method}: {run.folder}")
    return write_report(path, metrics, shown, run, published)


def _scores(subject: Subject, part: str, images: int, presets: set[str]) -> tuple["Evaluation", list["Case"]]:
    """metrics.json and cases.csv beside the predictions where they are of these images and presets, and not older; else made anew."""
    from chestmap.evaluation.case_list import case_list, read_cases, write_cases
    from chestmap.evaluation.scores import read_evaluation

    folder = subject.predictions
    metrics, cases, header = (folder / name for name in ("metrics.json", "cases.csv", "predictions.json"))
    if metrics.is_file() and cases.is_file() and metrics.stat().st_mtime >= header.stat().st_mtime:
        kept = read_evaluation(metrics)
        split = (subject.split.fingerprint, part) if subject.split else ("", "")
        there = set(kept.about["settings"]["presets"])
        same = (kept.about["split_fingerprint"], kept.about.get("part"), kept.about["images"]) == (*split, images)
        if same and presets <= there:
            return kept, read_cases(cases)
        presets |= there
    typer.echo(f"Scoring {images:,} images", err=True)
    evaluation = scores_of(folder, subject.source, subject.split, part, [f"presets={json.dumps(sorted(presets))}"])
    evaluation.write(metrics)
    write_cases(cases, case_list(evaluation))
    return evaluation, case_list(evaluation)

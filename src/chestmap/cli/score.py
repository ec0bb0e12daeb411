"""`chestmap evaluate` and `compare`: score predictions, and compare two models.

Both verbs print tables to stdout and write the same figures with `--out`. `compare` takes two folders of the same images,
and tests with the patient as the unit.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chestmap.cli.options import (
    CacheOption,
    JsonOption,
    KindOption,
    RootOption,
    RunOption,
    Set,
    SplitOption,
    console,
    named,
    print_json,
)

if TYPE_CHECKING:
    from chestmap.api.subject import DatasetNames
    from chestmap.datasets.source import Source
    from chestmap.datasets.split import Split
    from chestmap.evaluation.scores import Evaluation
    from chestmap.evaluation.side_by_side import Table


def add_to(app: typer.Typer) -> None:
    app.command()(evaluate)
    app.command()(compare)


def evaluate(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|PREDICTIONS...", help="Run folders or predictions folders, or addresses of predictions."
        ),
    ],
    kind: KindOption = None,
    root: RootOption = None,
    split: SplitOption = None,
    run: RunOption = None,
    part: Annotated[str, typer.Option(help="The part of the split that is scored.")] = "test",
    preset: Annotated[
        list[str] | None,
        typer.Option(help="Also score as a reference does: ham, wang2017, wsol-v1, wsol-v2, pxap, …; repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where metrics.json and the tables go; by default into each folder.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--score-set", metavar="KEY=VALUE", help="A setting of the protocol, e.g. resamples=200."),
    ] = None,
    cache: CacheOption = Path("cache"),
    as_json: JsonOption = False,
    overrides: Set = None,
) -> None:
    """Score predictions under one protocol: AUC with intervals, localization at three thresholds, floors and ceilings.

    A run folder knows its dataset and split, and is predicted first where it has no predictions. Thresholds and calibration come
    from the split's validation part where it was predicted, too. A part with patients that were trained on is refused, unless the
    split's name allows sharing them; so is a split other than that which trained the model.

    Example: `chestmap evaluate runs/image-labels`

    Example: `chestmap evaluate predictions/ham predictions/cam --source nih --root /data/nih --split official --preset ham`
    """
    from chestmap.evaluation.side_by_side import brief_table, classification_table, summary_table

    if out is None:
        needs_out(*folders)
    chosen = [*([f"presets={json.dumps(preset)}"] if preset else []), *(settings or [])]
    places, scored = scored_of(folders, named(kind, root, split, overrides, run), part, chosen, cache)
    if as_json:
        print_json([one.as_dict() for one in scored])
    else:
        for table in (classification_table(scored), brief_table(scored), summary_table(scored)):
            show(table)
    _write(places, scored, out, preset or [])


def show(table: "Table") -> None:
    """A table in pieces that the terminal has room for; figures are never cut."""
    screen = console()
    for piece in table.fitted(screen.width):
        screen.print(piece.to_rich())


def scored_of(
    folders: list[str], given: "DatasetNames", part: str, overrides: list[str], cache: Path
) -> tuple[list[Path], list["Evaluation"]]:
    """The predictions folders and their scores; datasets that are the same are read once."""
    from chestmap.api.subject import subject_of
    from chestmap.predictions.folder import fetched_predictions

    places, subjects = [], []
    for folder in folders:
        place = fetched_predictions(folder, cache)
        same = subjects and given.kind is not None
        subjects.append(subjects[0].of(place) if same else subject_of(place, given))
        places.append(place if (place / "predictions.json").is_file() else subjects[-1].predict(part))
    only = ids_for_all(places)
    pairs = zip(places, subjects, strict=True)
    return places, [scores_of(place, one.source, one.split, part, overrides, only) for place, one in pairs]


def ids_for_all(folders: list[Path]) -> tuple[str, ...] | None:
    """Images that all folders hold, so that their numbers compare; None for one folder. Print which folder holds more."""
    from chestmap.errors import BadInput
    from chestmap.evaluation.evaluated_set import shared_ids
    from chestmap.predictions.folder import open_predictions

    if len(folders) < 2:
        return None
    each = [open_predictions(folder) for folder in folders]
    only = shared_ids(each)
    if not only:
        raise BadInput(f"{', '.join(map(str, folders))}: no image is in all of them; predict the same part with each model")
    for folder, one in zip(folders, each, strict=True):
        if more := len(one) - len(only):
            typer.echo(f"{folder}: {more:,} images that the others lack are left out; {len(only):,} are in all", err=True)
    return only


def _write(places: list[Path], scored: list["Evaluation"], out: Path | None, presets: list[str]) -> None:
    from chestmap.evaluation.case_list import case_list, write_cases
    from chestmap.evaluation.side_by_side import classification_table, localization_table, preset_table, summary_table
    from chestmap.storage.atomic import write_text

    tables = [summary_table(scored), classification_table(scored), localization_table(scored)]
    tables += [localization_table(scored, geometry="any"), *(preset_table(scored, one) for one in presets)]
    for folder, evaluation in zip(places, scored, strict=True):
        place = out / folder.name if out and len(places) > 1 else out or folder
        place.mkdir(parents=True, exist_ok=True)
        evaluation.write(place / "metrics.json")
        write_cases(place / "cases.csv", case_list(evaluation))
        typer.echo(f"Wrote {place / 'metrics.json'}", err=True)
    place = out or places[0]
    write_text(place / "tables.md", "\n\n".join(table.to_markdown() for table in tables))
    write_text(place / "tables.csv", "\n".join(table.to_csv() for table in tables))
    write_text(place / "tables.tex", "\n\n".join(table.to_latex() for table in tables))


def needs_out(*predictions: str) -> None:
    """Nothing is written to an address but by `predict`."""
    from chestmap.errors import BadInput
    from chestmap.storage.addresses import is_address, without_scheme

    if afar := [text for text in predictions if is_address(without_scheme(text))]:
        raise BadInput(f"{afar[0]}: is read only; say with --out where on this machine to write")


def scores_of(
    folder: Path,
    source: "Source",
    split: "Split | None",
    part: str,
    overrides: list[str],
    only: tuple[str, ...] | None = None,
) -> "Evaluation":
    """A predictions folder scored on the images of the part that it holds; without a split on all that it holds."""
    from chestmap.api.scoring import score
    from chestmap.evaluation.settings import EvaluationSettings
    from chestmap.predictions.folder import open_predictions
    from chestmap.settings import checked, with_overrides

    how = checked(EvaluationSettings, with_overrides({}, overrides), name="--score-set")
    evaluation, notes = score(open_predictions(folder), source, split, part, how, only)
    for note in notes:
        typer.echo(f"{folder}: {note}", err=True)
    return evaluation


def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", help="A run folder, a predictions folder, or the address of predictions.")
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one, of the same images.")],
    kind: KindOption = None,
    root: RootOption = None,
    split: SplitOption = None,
    run: RunOption = None,
    part: Annotated[str, typer.Option(help="The part of the split that is compared.")] = "test",
    as_json: JsonOption = False,
    cache: CacheOption = Path("cache"),
    overrides: Set = None,
) -> None:
    """Test whether A is better than B, with the patient as the unit: mean AUC and mean T(IoU) .3, then finding by finding.

    Example: `chestmap compare runs/ham runs/cam`

    Example: `chestmap compare predictions/ham predictions/cam --source nih --root /data/nih --split official`
    """
    from chestmap.evaluation.comparison import compare as test
    from chestmap.evaluation.side_by_side import comparison_tables

    given = named(kind, root, split, overrides, run)
    _, (one, other) = scored_of([first, second], given, part, ["resamples=1"], cache)
    differences = test(one.cases, other.cases)
    if as_json:
        print_json([difference.as_dict() for difference in differences])
    else:
        for table in comparison_tables(differences, _title(first), _title(second)):
            show(table)


def _title(text: str) -> str:
    return text.rstrip("/").rsplit("/", 1)[-1]

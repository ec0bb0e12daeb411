"""`chestmap evaluate` and `compare`: from predictions to scores, and to a verdict between two."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chestmap.cli.data import Set, source_of, split_of

if TYPE_CHECKING:
    from rich.console import Console

    from chestmap.datasets.source import Source
    from chestmap.datasets.split import Split
    from chestmap.evaluation.scores import Evaluation
    from chestmap.evaluation.side_by_side import Table

KindOption = Annotated[
    str, typer.Option("--source", metavar="KIND", help="Who laid the dataset out: nih, chexpert, vindr or folder.")
]
RootOption = Annotated[Path, typer.Option("--root", metavar="ROOT", help="The dataset's folder.")]
SplitOption = Annotated[
    str | None,
    typer.Option("--split", help="A split by name, or a folder that `chestmap data split` wrote; none: all images."),
]

CacheOption = Annotated[Path, typer.Option(help="Where predictions at an address are copied to.")]


def add_to(app: typer.Typer) -> None:
    app.command()(evaluate)
    app.command()(compare)


def evaluate(
    folders: Annotated[
        list[str], typer.Argument(metavar="PREDICTIONS...", help="One or more predictions folders, or addresses of them.")
    ],
    kind: KindOption,
    root: RootOption,
    split: SplitOption = None,
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
    overrides: Set = None,
) -> None:
    """Score predictions under one protocol: AUC with intervals, localization at three thresholds, floors and ceilings.

    Thresholds and calibration come from the split's validation part where it was predicted, too. A part whose patients were
    trained on is refused, unless the split's name says that it shares them; so is a split other than that which trained the model.

    Example: `chestmap evaluate predictions/ham predictions/cam --source nih --root /data/nih --split official --preset ham`
    """
    from rich.console import Console

    from chestmap.evaluation.case_list import case_list, write_cases
    from chestmap.evaluation.side_by_side import (
        brief_table,
        classification_table,
        localization_table,
        preset_table,
        summary_table,
    )
    from chestmap.predictions.folder import fetched_predictions

    if out is None:
        needs_out(*folders)
    source = source_of(kind, root, overrides)
    chosen = [f"presets={json.dumps(preset)}"] if preset else []
    named = split_of(source, split) if split else None
    places = [fetched_predictions(folder, cache) for folder in folders]
    only = ids_for_all(places)
    scored = [scores_of(folder, source, named, part, [*chosen, *(settings or [])], only) for folder in places]
    console = Console()
    for table in (classification_table(scored), brief_table(scored), summary_table(scored)):
        show(console, table)
    tables = [summary_table(scored), classification_table(scored), localization_table(scored)]
    tables += [localization_table(scored, geometry="any"), *(preset_table(scored, one) for one in preset or ())]
    for folder, evaluation in zip(places, scored, strict=True):
        place = out / folder.name if out and len(places) > 1 else out or folder
        place.mkdir(parents=True, exist_ok=True)
        evaluation.write(place / "metrics.json")
        write_cases(place / "cases.csv", case_list(evaluation))
        typer.echo(f"Wrote {place / 'metrics.json'}", err=True)
    place = out or places[0]
    (place / "tables.md").write_text("\n\n".join(table.to_markdown() for table in tables), encoding="utf-8")
    (place / "tables.csv").write_text("\n".join(table.to_csv() for table in tables), encoding="utf-8")
    (place / "tables.tex").write_text("\n\n".join(table.to_latex() for table in tables), encoding="utf-8")


def show(console: "Console", table: "Table") -> None:
    """A table in pieces that the terminal has room for; figures are never cut."""
    for piece in table.fitted(console.width):
        console.print(piece.to_rich())


def needs_out(*predictions: str) -> None:
    """Nothing is written to an address but by `predict`."""
    from chestmap.errors import BadInput
    from chestmap.storage.addresses import is_address, without_scheme

    if afar := [text for text in predictions if is_address(without_scheme(text))]:
        raise BadInput(f"{afar[0]}: is read only; say with --out where on this machine to write")


def ids_for_all(folders: list[Path]) -> tuple[str, ...] | None:
    """Images that all folders hold, so that their numbers compare; None for one folder. Says which folder holds more."""
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


def scores_of(
    folder: Path,
    source: "Source",
    split: "Split | None",
    part: str,
    overrides: list[str],
    only: tuple[str, ...] | None = None,
) -> "Evaluation":
    """A predictions folder scored on the images of the part that it holds; without a split on all that it holds."""
    from chestmap.evaluation.evaluate import EvaluationSettings
    from chestmap.evaluation.evaluated_set import ids_of_part
    from chestmap.models.leakage import check_predictions
    from chestmap.predictions.folder import open_predictions
    from chestmap.reproduction.score_run import Scored, score_split
    from chestmap.settings import checked, with_overrides

    how = checked(EvaluationSettings, with_overrides({}, overrides), name="--score-set")
    if split is not None:
        ids_of_part(split, part)
    predictions = open_predictions(folder)
    for note in check_predictions(predictions, source, split, part):
        typer.echo(f"{folder}: {note}", err=True)
    return score_split(predictions, source, split, how, Scored(part=part, title=folder.name, only=only))


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A predictions folder, or the address of one.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one, of the same images.")],
    kind: KindOption,
    root: RootOption,
    split: SplitOption = None,
    part: Annotated[str, typer.Option(help="The part of the split that is compared.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print the differences as JSON.")] = False,
    cache: CacheOption = Path("cache"),
    overrides: Set = None,
) -> None:
    """Test whether A is better than B, with the patient as the unit: mean AUC and mean T(IoU) .3, then finding by finding.

    Example: `chestmap compare predictions/ham predictions/cam --source nih --root /data/nih --split official`
    """
    from rich.console import Console

    from chestmap.evaluation.comparison import compare as test
    from chestmap.evaluation.side_by_side import comparison_tables
    from chestmap.predictions.folder import fetched_predictions

    source = source_of(kind, root, overrides)
    named = split_of(source, split) if split else None
    folders = [fetched_predictions(folder, cache) for folder in (first, second)]
    only = ids_for_all(folders)
    one, other = (scores_of(folder, source, named, part, ["resamples=1"], only) for folder in folders)
    differences = test(one.cases, other.cases)
    if as_json:
        typer.echo(json.dumps([difference.as_dict() for difference in differences], indent=2))
    else:
        for table in comparison_tables(differences, folders[0].name, folders[1].name):
            show(Console(), table)

"""`chestmap predict`, `evaluate` and `compare`: from a model folder to predictions, to scores, to a verdict between two."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chestmap.cli.data import Kind, Root, Set, source_of, split_of

if TYPE_CHECKING:
    from chestmap.data.predictions import Predictions
    from chestmap.data.source import Source
    from chestmap.data.split import Split
    from chestmap.evaluation.scores import Evaluation

KindOption = Annotated[
    str, typer.Option("--source", metavar="KIND", help="Who laid the dataset out: nih, chexpert, vindr or folder.")
]
RootOption = Annotated[Path, typer.Option("--root", metavar="ROOT", help="The dataset's folder.")]
SplitOption = Annotated[
    str | None,
    typer.Option("--split", help="A split by name, or a folder that `chestmap data split` wrote; none: all images."),
]


def add_to(app: typer.Typer) -> None:
    app.command()(predict)
    app.command()(evaluate)
    app.command()(compare)


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder, such as runs/NAME/model.")],
    kind: Kind,
    root: Root,
    out: Annotated[Path, typer.Option(help="The predictions folder; a half-made one there is finished.")],
    split: SplitOption = None,
    part: Annotated[
        list[str] | None, typer.Option(help="Parts of the split, by default validation and test; repeatable.")
    ] = None,
    cache: Annotated[Path, typer.Option(help="Where the images are packed for the model's canvas.")] = Path("cache"),
    settings: Annotated[
        list[str] | None,
        typer.Option("--predict-set", metavar="KEY=VALUE", help="batch_size, workers, device or precision."),
    ] = None,
    overrides: Set = None,
) -> None:
    """Scores and maps of every image of a dataset, in the predictions folder that evaluation and reports read.

    Example: `chestmap predict runs/image-labels/model nih /data/nih --split official --out predictions/ham`
    """
    source = source_of(kind, root, overrides)
    ids = _ids(source, split, part or ["validation", "test"])
    predictions = predicted(model, source, ids, out, cache, settings or [])
    typer.echo(f"{len(predictions):,} images, {len(ids) - len(predictions):,} could not be read", err=True)
    typer.echo(out)


def predicted(
    model: Path, source: "Source", ids: Sequence[str], out: Path, cache: Path, overrides: list[str]
) -> "Predictions":
    """What a model folder says of the images named; images that cannot be read are left out."""
    from chestmap.data.pack import PackSettings, make_pack
    from chestmap.data.part import Part
    from chestmap.inference.model_folder import open_model
    from chestmap.inference.predict import PredictSettings, predict_part
    from chestmap.methods import METHODS
    from chestmap.settings import checked, with_overrides

    how = checked(PredictSettings, with_overrides({}, overrides), name="--predict-set")
    opened = open_model(model, METHODS)
    canvas = PackSettings(**opened.canvas.model_dump())
    pack = make_pack(source, cache / f"{source.name}-{canvas.width}x{canvas.height}-{canvas.fit}", canvas)
    return predict_part(opened, Part.of(source, pack, ids, "images"), out, how)


def _ids(source: "Source", split: str | None, parts: list[str]) -> tuple[str, ...]:
    from chestmap.errors import BadInput, did_you_mean

    if split is None:
        return source.ids
    found = split_of(source, split)
    for name in parts:
        if name not in found.parts:
            raise BadInput(f"--part {name}: allowed: {', '.join(found.parts)}{did_you_mean(name, found.parts)}")
    return tuple(image_id for name in parts for image_id in found.parts[name])


def evaluate(
    folders: Annotated[list[Path], typer.Argument(metavar="PREDICTIONS...", help="One or more predictions folders.")],
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
    overrides: Set = None,
) -> None:
    """Score predictions under one protocol: AUC with intervals, localization at three thresholds, floors and ceilings.

    Thresholds and calibration come from the split's validation part where it was predicted, too. A part whose patients were
    trained on is refused, unless the split's name says that it shares them.

    Example: `chestmap evaluate predictions/ham predictions/cam --source nih --root /data/nih --split official --preset ham`
    """
    from rich.console import Console

    from chestmap.evaluation.case_list import case_list, write_cases
    from chestmap.evaluation.table import brief_table, classification_table, localization_table, preset_table, summary_table

    source = source_of(kind, root, overrides)
    chosen = [f"presets={json.dumps(preset)}"] if preset else []
    named = split_of(source, split) if split else None
    scored = [scores_of(folder, source, named, part, [*chosen, *(settings or [])]) for folder in folders]
    console = Console()
    for table in (classification_table(scored), brief_table(scored), summary_table(scored)):
        console.print(table.to_rich())
    tables = [summary_table(scored), classification_table(scored), localization_table(scored)]
    tables += [localization_table(scored, geometry="any"), *(preset_table(scored, one) for one in preset or ())]
    for folder, evaluation in zip(folders, scored, strict=True):
        place = out / folder.name if out and len(folders) > 1 else out or folder
        place.mkdir(parents=True, exist_ok=True)
        evaluation.write(place / "metrics.json")
        write_cases(place / "cases.csv", case_list(evaluation))
        typer.echo(f"Wrote {place / 'metrics.json'}", err=True)
    place = out or folders[0]
    (place / "tables.md").write_text("\n\n".join(table.to_markdown() for table in tables), encoding="utf-8")
    (place / "tables.csv").write_text("\n".join(table.to_csv() for table in tables), encoding="utf-8")
    (place / "tables.tex").write_text("\n\n".join(table.to_latex() for table in tables), encoding="utf-8")


def scores_of(folder: Path, source: "Source", split: "Split | None", part: str, overrides: list[str]) -> "Evaluation":
    """A predictions folder scored on the images of the part that it holds; without a split on all that it holds."""
    from chestmap.data.predictions import open_predictions
    from chestmap.evaluation.evaluate import EvaluationSettings, Held
    from chestmap.evaluation.evaluate import evaluate as score
    from chestmap.evaluation.truth import truth_of
    from chestmap.settings import checked, with_overrides

    how = checked(EvaluationSettings, with_overrides({}, overrides), name="--score-set")
    predictions = open_predictions(folder)
    predicted = set(predictions.image_ids)
    if split is None:
        return score(predictions, truth_of(source, [one for one in source.ids if one in predicted]), how, title=folder.name)
    ids = {
        name: [one for one in split.parts.get(name, ()) if name == "train" or one in predicted]
        for name in (part, "train", "validation")
    }
    training = truth_of(source, ids["train"]) if ids["train"] and part != "train" else None
    validation = (predictions, truth_of(source, ids["validation"])) if ids["validation"] and part != "validation" else None
    return score(predictions, truth_of(source, ids[part]), how, Held(validation, training, split), title=folder.name)


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A predictions folder.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one, of the same images.")],
    kind: KindOption,
    root: RootOption,
    split: SplitOption = None,
    part: Annotated[str, typer.Option(help="The part of the split that is compared.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print the differences as JSON.")] = False,
    overrides: Set = None,
) -> None:
    """Test finding by finding whether A is better than B: DeLong for AUC, permutation by patient for hits, corrected by Holm.

    Example: `chestmap compare predictions/ham predictions/cam --source nih --root /data/nih --split official`
    """
    from rich.console import Console

    from chestmap.evaluation.comparison import compare as test
    from chestmap.evaluation.table import comparison_table

    source = source_of(kind, root, overrides)
    named = split_of(source, split) if split else None
    one, other = (scores_of(folder, source, named, part, ["resamples=1"]) for folder in (first, second))
    differences = test(one.cases, other.cases)
    if as_json:
        typer.echo(json.dumps([difference.as_dict() for difference in differences], indent=2))
    else:
        Console().print(comparison_table(differences, first.name, second.name).to_rich())

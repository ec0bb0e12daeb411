"""`chestmap model`: calibrate a trained model, write its card, look whether a folder is whole."""

from pathlib import Path
from typing import Annotated

import typer

from chestmap.cli.data import Set, source_of, split_of
from chestmap.cli.score import KindOption, RootOption

app = typer.Typer(
    no_args_is_help=True,
    help="Calibrate a trained model, write its card, check its folder.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def add_to(above: typer.Typer) -> None:
    above.add_typer(app, name="model")


ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder, such as runs/NAME/model.")]


@app.command()
def calibrate(
    model: ModelArgument,
    predictions: Annotated[
        str,
        typer.Argument(metavar="PREDICTIONS", help="What it predicted of the validation images: a folder, or its address."),
    ],
    kind: KindOption,
    root: RootOption,
    split: Annotated[
        str, typer.Option("--split", help="The split that trained it, by name or as a folder of `chestmap data split`.")
    ],
    part: Annotated[str, typer.Option(help="validation; another part is refused.")] = "validation",
    scaling: Annotated[str, typer.Option(help="platt (slope and offset) or temperature (slope alone).")] = "platt",
    aim: Annotated[
        str, typer.Option(help="Of operating points: youden (most sensitivity + specificity), sensitivity or specificity.")
    ] = "youden",
    target: Annotated[float, typer.Option(help="The least sensitivity, or specificity, that is aimed at.")] = 0.95,
    least: Annotated[int, typer.Option(help="Images with, without, and with a box of a finding, for it to be chosen.")] = 10,
    overrides: Set = None,
) -> None:
    """Choose calibration, operating points and the level at which each map is cut on validation images, and keep them in the model.

    From then on `predict`, the service and exports give calibrated scores, and boxes by each finding's own level. Test images,
    images that trained the model, and another model's predictions are refused. The weights stay as they are.

    Example: `chestmap model calibrate runs/ham/model predictions/ham --source nih --root /data/nih --split official`
    """
    from rich.console import Console

    from chestmap.models.calibrate import CalibrateSettings, write_calibration
    from chestmap.models.calibrate import calibrate as choose
    from chestmap.models.card_tables import calibration_table
    from chestmap.predictions.folder import open_predictions
    from chestmap.settings import checked

    settings = checked(CalibrateSettings, {"kind": scaling, "aim": aim, "target": target, "least": least}, name="options")
    source = source_of(kind, root, overrides)
    chosen = choose(model, open_predictions(predictions), source, split_of(source, split), settings, part=part)
    write_calibration(model, chosen)
    Console().print(calibration_table(chosen.as_json()).to_rich())
    typer.echo(f"Wrote {model / 'model.json'}", err=True)


@app.command()
def card(
    model: ModelArgument,
    metrics: Annotated[
        Path | None, typer.Option(help="A metrics.json of `chestmap evaluate`, where the predictions are not at hand.")
    ] = None,
    predictions: Annotated[
        str | None, typer.Option(help="What it predicted of the test images; needs --source, --root and --split.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--source", metavar="KIND", help="Who laid the dataset out: nih, chexpert, vindr or folder."),
    ] = None,
    root: Annotated[Path | None, typer.Option("--root", metavar="ROOT", help="The dataset's folder.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="The split that trained it, by name or as a folder.")] = None,
    part: Annotated[str, typer.Option(help="The part that is measured; what trained or calibrated is refused.")] = "test",
    least: Annotated[int, typer.Option(help="Images of a group with a finding, and without, for it to be told.")] = 10,
    overrides: Set = None,
) -> None:
    """Write the model's README.md and print it: data, calibration, figures by finding, sex, age and view, limits, how to make it again.

    With --predictions the figures are measured anew, of the model as it is calibrated now; with --metrics they are taken over; with
    neither those that were measured last stay.

    Example: `chestmap model card runs/ham/model --predictions predictions/ham --source nih --root /data/nih --split official`
    """
    from chestmap.errors import BadInput
    from chestmap.evaluation.scores import read_evaluation
    from chestmap.models.card import write_card
    from chestmap.models.folder import read_about
    from chestmap.models.performance_figures import FigureSettings, measure, of_metrics
    from chestmap.predictions.folder import open_predictions
    from chestmap.settings import checked

    figures = None
    if predictions is not None and metrics is None and kind and root and split:
        source, settings = source_of(kind, root, overrides), checked(FigureSettings, {"least": least}, name="options")
        figures = measure(model, open_predictions(predictions), source, split_of(source, split), settings, part=part)
    elif predictions is not None or kind or root or split:
        raise BadInput("--predictions goes with --source, --root and --split, and without --metrics")
    elif metrics is not None:
        figures = of_metrics(model, read_evaluation(metrics))
    typer.echo(write_card(model, read_about(model), figures), nl=False)
    typer.echo(f"Wrote {model / 'README.md'}", err=True)


@app.command()
def check(model: ModelArgument) -> None:
    """Open a model folder, compare the hash of its weights, predict a black image, and print one line of facts.

    A folder that cannot be opened is one line that says why, and exit code 2; what is in it but does not belong there is a
    line each, and exit code 1.

    Example: `chestmap model check runs/ham/model`
    """
    from chestmap.methods import METHODS
    from chestmap.models.verify import look_over

    looked = look_over(model, METHODS)
    typer.echo(looked.facts)
    for problem in looked.problems:
        typer.echo(f"chestmap: {problem}", err=True)
    if looked.problems:
        raise typer.Exit(1)

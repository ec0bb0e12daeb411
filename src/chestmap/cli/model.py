"""`chestmap model`: calibrate a trained model, write its card, verify its folder.

Every verb takes a model folder, the run around it, or a known name. `calibrate` and `tune` write into the folder; `check`,
`card` and `faithfulness` measure and print.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from chestmap.cli.options import JsonOption, KindOption, RootOption, RunOption, Set, SplitOption, console, named, print_json

app = typer.Typer(
    no_args_is_help=True,
    help="Calibrate a trained model, write its card, check its folder.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def add_to(above: typer.Typer) -> None:
    above.add_typer(app, name="model")


ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A run folder, a model folder, or the name of a known model.")
]


@app.command()
def calibrate(
    model: ModelArgument,
    predictions: Annotated[
        str | None,
        typer.Argument(
            metavar="[PREDICTIONS]",
            help="What it predicted of the validation images: a folder, or its address; by default those of the run.",
        ),
    ] = None,
    kind: KindOption = None,
    root: RootOption = None,
    split: SplitOption = None,
    run: RunOption = None,
    part: Annotated[str, typer.Option(help="validation; another part is refused.")] = "validation",
    scaling: Annotated[
        Literal["platt", "temperature"], typer.Option(help="platt (slope and offset) or temperature (slope alone).")
    ] = "platt",
    aim: Annotated[
        Literal["youden", "sensitivity", "specificity"],
        typer.Option(help="Of operating points: youden (most sensitivity + specificity), sensitivity or specificity."),
    ] = "youden",
    target: Annotated[float, typer.Option(help="The least sensitivity, or specificity, that is aimed at.")] = 0.95,
    least: Annotated[int, typer.Option(help="Images with, without, and with a box of a finding, for it to be chosen.")] = 10,
    as_json: JsonOption = False,
    overrides: Set = None,
) -> None:
    """Choose calibration, operating points and the level at which each map is cut on validation images, and keep them in the model.

    From then on `predict`, the service and exports give calibrated scores, and boxes by each finding's own level. Test images,
    images that trained the model, and another model's predictions are refused. The weights stay as they are.

    Example: `chestmap model calibrate runs/ham`

    Example: `chestmap model calibrate runs/ham/model predictions/ham --source nih --root /data/nih --split official`
    """
    from chestmap.api.model_names import model_folder
    from chestmap.api.subject import subject_of
    from chestmap.errors import BadInput
    from chestmap.models.calibrate import CalibrateSettings, write_calibration
    from chestmap.models.calibrate import calibrate as choose
    from chestmap.models.cards.card_tables import calibration_table
    from chestmap.predictions.folder import open_predictions
    from chestmap.settings import checked

    settings = checked(CalibrateSettings, {"kind": scaling, "aim": aim, "target": target, "least": least}, name="options")
    folder = model_folder(model)
    subject = subject_of(folder, named(kind, root, split, overrides, run))
    if subject.split is None:
        raise BadInput("--split: name the split that trained the model; without it nobody knows what validation is")
    place = predictions or subject.predict("test")
    chosen = choose(folder, open_predictions(place), subject.source, subject.split, settings, part=part)
    write_calibration(folder, chosen)
    if as_json:
        print_json(chosen.as_json())
    else:
        console().print(calibration_table(chosen.as_json()).to_rich())
    typer.echo(f"Wrote {folder / 'model.json'}", err=True)


@app.command()
def card(
    model: ModelArgument,
    metrics: Annotated[
        Path | None, typer.Option(help="A metrics.json of `chestmap evaluate`, where the predictions are not at hand.")
    ] = None,
    predictions: Annotated[
        str | None, typer.Option(help="What it predicted of the test images; measures the model on them.")
    ] = None,
    kind: KindOption = None,
    root: RootOption = None,
    split: SplitOption = None,
    run: RunOption = None,
    part: Annotated[str, typer.Option(help="The part that is measured; what trained or calibrated is refused.")] = "test",
    least: Annotated[int, typer.Option(help="Images of a group with a finding, and without, for it to be listed.")] = 10,
    overrides: Set = None,
) -> None:
    """Write the model's README.md and print it: data, calibration, figures by finding, sex, age and view, limits, how to make it again.

    With --predictions the figures are measured anew, of the model as it is calibrated now; with --metrics they are taken over; with
    neither those that were measured last stay.

    Example: `chestmap model card runs/ham --predictions runs/ham/predictions`
    """
    from chestmap.api.model_names import model_folder
    from chestmap.api.subject import subject_of
    from chestmap.errors import BadInput
    from chestmap.evaluation.scores import read_evaluation
    from chestmap.models.cards.card import write_card
    from chestmap.models.folder import read_about
    from chestmap.models.performance_figures import FigureSettings, measure, of_metrics
    from chestmap.predictions.folder import open_predictions
    from chestmap.settings import checked

    folder, figures = model_folder(model), None
    if predictions is not None and metrics is not None:
        raise BadInput("--predictions goes without --metrics: give one of them")
    if predictions is not None:
        settings = checked(FigureSettings, {"least": least}, name="options")
        subject = subject_of(folder, named(kind, root, split, overrides, run))
        if subject.split is None:
            raise BadInput("--predictions needs the split that trained the model: give --split, or --run RUN")
        figures = measure(folder, open_predictions(predictions), subject.source, subject.split, settings, part=part)
    elif kind or root or split:
        raise BadInput("--source, --root and --split go with --predictions")
    elif metrics is not None:
        figures = of_metrics(folder, read_evaluation(metrics))
    typer.echo(write_card(folder, read_about(folder), figures), nl=False)
    typer.echo(f"Wrote {folder / 'README.md'}", err=True)


@app.command()
def faithfulness(
    model: ModelArgument,
    kind: KindOption = None,
    root: RootOption = None,
    split: SplitOption = None,
    run: RunOption = None,
    part: Annotated[str, typer.Option(help="The part of the split from which images are drawn.")] = "test",
    images: Annotated[int, typer.Option(min=1, help="Images with each finding, at most.")] = 20,
    steps: Annotated[int, typer.Option(min=1, help="Shares of the pixels that are taken away or brought back.")] = 16,
    as_json: JsonOption = False,
    overrides: Set = None,
) -> None:
    """Test whether maps show what scores depend on: delete pixels, or bring them back, in the order of the map.

    Each image takes 4 (steps + 1) forward passes. The floor is the order of a random map that is as coarse.

    Example: `chestmap model faithfulness runs/ham --images 20`
    """
    from chestmap.api.model_names import model_folder
    from chestmap.api.subject import subject_of
    from chestmap.evaluation.evaluated_set import ids_of_part
    from chestmap.models.faithfulness import faithfulness_of, faithfulness_table
    from chestmap.models.predictor import load

    folder = model_folder(model)
    subject = subject_of(folder, named(kind, root, split, overrides, run))
    ids = subject.source.ids if subject.split is None else ids_of_part(subject.split, part)
    found = list(faithfulness_of(load(folder), subject.source, ids, images=images, steps=steps))
    if as_json:
        print_json([one.as_dict() for one in found])
    else:
        screen = console()
        for piece in faithfulness_table(found).fitted(screen.width):
            screen.print(piece.to_rich())


@app.command()
def tune(
    model: ModelArgument,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE...", help="Images to measure with; drawn ones by default.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="For each way and size of batch.")] = 1.0,
    with_compile: Annotated[bool, typer.Option("--compile", help="Also torch.compile, which takes minutes.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure every way to run a model on this processor, and keep the fastest for `--engine auto`.

    Each way is compared with fp32: a score may differ by .005, and masks must overlap by .99. Predictions with `--precision 32`, the
    default, take the fastest one in fp32; those with `--precision auto` take the fastest of all.

    Example: `chestmap model tune runs/ham/model films/*.png`
    """
    from dataclasses import asdict

    from chestmap.api.model_names import model_folder
    from chestmap.imaging.read import read_radiograph
    from chestmap.models.folder import open_model
    from chestmap.models.tuned import drawn, table_of, tuned
    from chestmap.models.tuned import tune as measure

    opened = open_model(model_folder(model))
    radiographs = [read_radiograph(path) for path in images] if images else drawn(opened)
    found = measure(opened, radiographs, seconds, with_compile=with_compile, tell=lambda way: typer.echo(way, err=True))
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        console().print(table_of(found))
    typer.echo(f"In fp32: {tuned(opened, 32)}", err=True)
    typer.echo(f"With --precision auto: {tuned(opened, 'auto')}", err=True)


@app.command()
def check(model: ModelArgument) -> None:
    """Open a model folder, compare the hash of its weights, predict a black image, and print one line of facts.

    A folder that cannot be opened gives one line with the reason, and exit code 2; what is in it but does not belong there is a
    line each, and exit code 1.

    Example: `chestmap model check runs/ham/model`
    """
    from chestmap.extras import needs

    needs("train", what="chestmap model check")
    from chestmap.api.model_names import model_folder
    from chestmap.methods import METHODS
    from chestmap.models.verify import look_over

    looked = look_over(model_folder(model), METHODS)
    typer.echo(looked.facts)
    for problem in looked.problems:
        typer.echo(f"chestmap: {problem}", err=True)
    if looked.problems:
        raise typer.Exit(1)


@app.command()
def push(
    model: ModelArgument,
    address: Annotated[str, typer.Argument(metavar="hf://OWNER/NAME", help="Where it goes; the model there is replaced.")],
    license_id: Annotated[
        str, typer.Option("--license", help="The license that the hub shows, such as apache-2.0.")
    ] = "other",
) -> None:
    """Send a model to the hub: weights as safetensors, and a card with license, tags and figures that the hub reads.

    Example: `chestmap model push runs/own hf://me/my-model --license apache-2.0`
    """
    from chestmap.extras import needs

    if "CHESTMAP_HUB" not in os.environ:
        needs("hub", what="chestmap model push")
    from chestmap.api.model_names import model_folder
    from chestmap.models.hub import push as send

    typer.echo(send(model_folder(model), address, license_id))


@app.command()
def pull(
    address: Annotated[
        str, typer.Argument(metavar="hf://OWNER/NAME", help="With @REVISION and #sha256=HASH where it is pinned.")
    ],
    out: Annotated[Path, typer.Option(help="A new folder for the model.")],
) -> None:
    """Fetch a model from the hub into a folder; its weights are compared with the hash in model.json when it is opened.

    Example: `chestmap model pull hf://me/my-model --out models/mine`
    """
    from chestmap.extras import needs

    if "CHESTMAP_HUB" not in os.environ:
        needs("hub", what="chestmap model pull")
    from chestmap.models.hub import pull as fetch

    typer.echo(fetch(address, out))

"""`chestmap train` and `chestmap methods`."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    app.command()(train)
    app.command()(methods)


def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A TOML file with [run], [data] and [method]; see configs/.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a setting, such as `--set data.source.root=/data/nih`; repeatable."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; by default runs/ and the config's name.")] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Processes on each machine, one per GPU; the same as `--set run.devices=N`.")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Machines; start the same command on each, see docs/scale/training.md.")
    ] = None,
    rendezvous: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where several machines meet; under Slurm it is known.")
    ] = None,
    search: Annotated[
        bool, typer.Option(help="Search the settings of the config's [search] table instead of training once.")
    ] = False,
) -> None:
    """Train what a config says, into a run folder; run it again to go on where it stopped.

    Every mistake in the file and the overrides is reported at once. Ctrl-C writes a checkpoint first. What is finished is
    loaded, what was made with other settings, data or code is refused. The trained model is in `model/`.

    With `--devices` several processes train together; torchrun and srun start them too. One that dies ends the job.

    Example: `chestmap train configs/ham/image-labels.toml --set data.source.root=/data/nih --set run.precision=bf16`
    """
    from chestmap.methods import METHODS
    from chestmap.models.folder import write_model
    from chestmap.training.config import read_config
    from chestmap.training.launch import is_launcher, launch
    from chestmap.training.train import train as train_model

    together = {"devices": devices, "nodes": nodes, "rendezvous": rendezvous}
    asked = [f"run.{key}={value}" for key, value in together.items() if value is not None]
    read = read_config(config, [*(overrides or []), *asked], METHODS)
    folder = out or Path("runs") / config.stem
    if search:
        from chestmap.training.search import search as search_settings

        search_settings(read, folder, METHODS)
        typer.echo(folder)
        return
    if is_launcher(read.run):
        launch(read.run, ["-m", "chestmap", *sys.argv[1:]])
        return
    typer.echo(train_model(read, folder, write_model))


def methods() -> None:
    """List the methods that a config can name, with their papers."""
    from rich.console import Console
    from rich.table import Table

    from chestmap.methods import METHODS

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "title", "paper"):
        table.add_column(column)
    for method in METHODS.values():
        table.add_row(method.name, method.title, method.paper)
    Console().print(table)

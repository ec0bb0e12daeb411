"""`chestmap train` and `chestmap methods`."""

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
    search: Annotated[
        bool, typer.Option(help="Search the settings of the config's [search] table instead of training once.")
    ] = False,
) -> None:
    """Train what a config says, into a run folder; run it again to go on where it stopped.

    Every mistake in the file and the overrides is reported at once. Ctrl-C writes a checkpoint first. What is finished is
    loaded, what was made with other settings, data or code is refused. The trained model is in `model/`.

    Example: `chestmap train configs/ham/image-labels.toml --set data.source.root=/data/nih --set run.precision=bf16`
    """
    from chestmap.inference.model_folder import write_model
    from chestmap.methods import METHODS
    from chestmap.training.config import read_config
    from chestmap.training.train import train as train_model

    read = read_config(config, overrides or [], METHODS)
    folder = out or Path("runs") / config.stem
    if search:
        from chestmap.training.search import search as search_settings

        search_settings(read, folder, METHODS)
        typer.echo(folder)
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

"""`chestmap check`: whether what was kept is what was written."""

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    app.command()(check)


def check(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Predictions, a pack, a model, a run, an export or a service's store; or a folder of them.",
        ),
    ],
    seal: Annotated[
        bool,
        typer.Option(
            "--seal", help="First accept what has no sums yet as it is now, such as a model of an earlier version."
        ),
    ] = False,
) -> None:
    """Compare every kept file with the SHA-256 sum that was written with it, and every packed image with its hash.

    Exit code 0: all is as it was written. Exit code 1: what is missing or changed is listed, a line each.

    Example: `chestmap check runs/ham`
    """
    from chestmap.packs.verify_folder import seal_folders, verify_folder

    if seal:
        for made in seal_folders(folder):
            typer.echo(f"sealed {made}", err=True)
    checked = verify_folder(folder)
    for problem in checked.problems:
        typer.echo(problem)
    if checked.problems:
        typer.echo(
            f"{folder}: {len(checked.problems):,} of {checked.files:,} files and rows are not as they were written", err=True
        )
        raise typer.Exit(1)
    typer.echo(f"{folder}: {checked.files:,} files and rows are as they were written", err=True)

"""`chestmap check`: verify that kept files are what was written."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chestmap.packs.verify_folder import FolderCheck


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
    database: Annotated[
        str | None,
        typer.Option(help="Where FOLDER is a store with a database of its own: its URL, as for `chestmap serve`."),
    ] = None,
) -> None:
    """Compare every kept file with the SHA-256 sum that was written with it, and every packed image with its hash.

    Of a service's store, whether it runs or not, files and rows are compared with their hashes: images, maps, results, reviews.

    Exit code 0: all is as it was written. Exit code 1: what is missing or changed is listed, a line each.

    Example: `chestmap check runs/ham`
    """
    from chestmap.packs.verify_folder import seal_folders, verify_folder

    if seal:
        for made in seal_folders(folder):
            typer.echo(f"sealed {made}", err=True)
    stores = [folder] if database else sorted(path.parent for path in folder.rglob("store.sqlite"))
    found = [verify_folder(folder, required=not stores), *_of_stores(stores, database)]
    problems, count = [line for one in found for line in one.problems], sum(one.files for one in found)
    for problem in problems:
        typer.echo(problem)
    if problems:
        typer.echo(f"{folder}: {len(problems):,} of {count:,} files and rows are not as they were written", err=True)
        raise typer.Exit(1)
    typer.echo(f"{folder}: {count:,} files and rows are as they were written", err=True)


def _of_stores(stores: list[Path], database: str | None) -> "Iterator[FolderCheck]":
    if not stores:
        return
    from chestmap.extras import needs

    needs("serve", what="check of a store")
    from chestmap.serving.store.verify_store import verify_store

    for store in stores:
        yield verify_store(store, database)

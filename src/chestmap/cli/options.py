"""Defines options that several verbs share, and prints tables.

An option that means the same in two verbs is defined here once, with its help. Tables keep their full width where the
output is no terminal; `--json` prints the same rows as objects.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chestmap.datasets.registry import SOURCES

if TYPE_CHECKING:
    from rich.console import Console

    from chestmap.api.subject import DatasetNames

READERS = SOURCES.in_help

Kind = Annotated[str, typer.Argument(metavar="KIND", help=f"Who laid the dataset out: {READERS}.")]
Root = Annotated[Path, typer.Argument(metavar="ROOT", help="The dataset's folder, as its publisher lays it out.")]
KindOption = Annotated[
    str | None,
    typer.Option(
        "--source", metavar="KIND", help=f"Who laid the dataset out: {READERS}; by default what the run was trained on."
    ),
]
RootOption = Annotated[
    Path | None, typer.Option("--root", metavar="ROOT", help="The dataset's folder, or where it lies now.")
]
RunOption = Annotated[
    Path | None,
    typer.Option("--run", metavar="RUN", help="The run folder that knows dataset and split, where it is not around."),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split", help="A split by name, or a folder that `chestmap data split` wrote; by default that of the run."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the reader, such as `--set uncertain=ones`; repeatable."),
]
CacheOption = Annotated[Path, typer.Option(help="Where predictions at an address are copied to.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def named(
    kind: str | None, root: Path | None, split: str | None, overrides: list[str] | None, run: Path | None = None
) -> "DatasetNames":
    """What the options name of a dataset."""
    from chestmap.api.subject import DatasetNames
    from chestmap.errors import BadInput

    if kind is not None and root is None:
        raise BadInput(f"--source {kind}: needs --root ROOT, the dataset's folder")
    return DatasetNames(kind=kind, root=root, split=split, overrides=tuple(overrides or ()), run=run)


def console(*, stderr: bool = False) -> "Console":
    """A pipe or file gets tables in their full width, so that no figure is cut."""
    from rich.console import Console

    found = Console(stderr=stderr)
    return found if found.is_terminal else Console(stderr=stderr, width=10_000)


def print_json(value: Any) -> None:
    """Prints a value as JSON to stdout, for `--json`."""
    typer.echo(json.dumps(value, indent=2))


def print_rows(headers: tuple[str, ...], rows: list[tuple[str, ...]], *, as_json: bool) -> None:
    """A plain table, or a list of objects."""
    if as_json:
        print_json([dict(zip(headers, row, strict=True)) for row in rows])
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, header in enumerate(headers):
        table.add_column(header, overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*row)
    console().print(table, markup=False)

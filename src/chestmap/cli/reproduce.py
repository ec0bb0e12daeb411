"""`chestmap reproduce`: make a published table again, with ours next to the printed figures.

The verb prints what a table needs, then trains, predicts and scores row by row. `--quick` runs the same chain on a phantom
within minutes.
"""

from pathlib import Path
from typing import Annotated

import typer

from chestmap.cli.options import READERS, JsonOption, print_json, print_rows
from chestmap.cli.score import show


def add_to(app: typer.Typer) -> None:
    app.command()(reproduce)


def reproduce(
    table: Annotated[
        str | None, typer.Argument(metavar="[TABLE]", help="Such as ham/table-3; none lists all with what each needs.")
    ] = None,
    root: Annotated[Path | None, typer.Option("--root", metavar="ROOT", help="The dataset's folder.")] = None,
    kind: Annotated[
        str | None,
        typer.Option("--source", metavar="KIND", help=f"Who laid it out: {READERS}; by default the table's own dataset."),
    ] = None,
    row: Annotated[str | None, typer.Option(help="Only this row of the table.")] = None,
    fold: Annotated[int | None, typer.Option(help="Only this fold, where the table is a mean over five.")] = None,
    out: Annotated[Path, typer.Option(help="Where runs and tables go; what is finished there is used again.")] = Path(
        "runs/reproduce"
    ),
    configs: Annotated[Path | None, typer.Option(help="A folder of configs; by default those of the package.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="The same on drawn images with a tiny network: shows the chain, not the numbers.")
    ] = False,
    as_json: JsonOption = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of every config, as in `chestmap train`."),
    ] = None,
) -> None:
    """Train, predict and score what a published table needs, and print ours next to the published numbers.

    Five-fold tables give the mean and spread over the folds. Run again it goes on where it stopped.

    Example: `chestmap reproduce ham/table-3 --root /data/nih --set run.precision=bf16`
    """
    from chestmap.named_configs import configs_folder

    configs = configs or configs_folder()
    if table is None:
        _list(configs, as_json=as_json)
        return
    from chestmap.extras import needs

    needs("train", what="chestmap reproduce")
    from chestmap.methods import METHODS
    from chestmap.reproduction.reproduce import QuickSettings, ReproduceSettings
    from chestmap.reproduction.reproduce import reproduce as make

    order = ReproduceSettings(
        table=table,
        root=root,
        source=kind,
        row=row,
        fold=fold,
        out=out,
        configs=configs,
        overrides=tuple(overrides or ()),
        quick=QuickSettings() if quick else None,
    )
    made = make(order, METHODS, lambda line: typer.secho(line, bold=True, err=True))
    if as_json:
        print_json([dict(zip(made.table.headers, row, strict=True)) for row in made.table.rows])
    else:
        show(made.table)
    typer.echo(f"Wrote {made.path}", err=True)


def _list(configs: Path, *, as_json: bool) -> None:
    from chestmap.methods import METHODS
    from chestmap.reproduction.table_plan import entries

    rows = []
    for entry in entries(configs, METHODS):
        runs = f"{entry.runs} run{'' if entry.runs == 1 else 's'}"
        rows.append((entry.id, entry.title, entry.state or f"{entry.source}, split {entry.split}, {runs}"))
    print_rows(("table", "title", "what it needs"), rows, as_json=as_json)

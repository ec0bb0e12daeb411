"""`chestmap report`: write one HTML file about a model, from a run folder or a predictions folder."""

from pathlib import Path
from typing import Annotated

import typer

from chestmap.cli.options import CacheOption, KindOption, RootOption, RunOption, Set, SplitOption, named
from chestmap.cli.score import needs_out


def add_to(app: typer.Typer) -> None:
    app.command()(report)


def report(
    folder: Annotated[
        str,
        typer.Argument(metavar="RUN|PREDICTIONS", help="A run folder, or a predictions folder, which may be an address."),
    ],
    kind: KindOption = None,
    root: RootOption = None,
    split: SplitOption = None,
    run: RunOption = None,
    part: Annotated[str, typer.Option(help="The part of the split that is scored and shown.")] = "test",
    published: Annotated[
        list[str] | None, typer.Option(help="A published table to print next to ours, such as ham/table-3; repeatable.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, help="How many pictures, at most.")] = 200,
    out: Annotated[Path | None, typer.Option(help="The file to write; by default report.html in the folder.")] = None,
    figures: Annotated[Path | None, typer.Option(help="A folder for the charts as SVG files, for a paper.")] = None,
    cache: CacheOption = Path("cache"),
    overrides: Set = None,
) -> None:
    """Write one file that opens offline: scores with intervals and floors, curves, hits and misses, what was trained on what.

    A run is predicted first, into its `predictions/`. What is not scored yet is scored, as `chestmap evaluate` does.

    Example: `chestmap report runs/image-labels --published ham/table-6`
    """
    from chestmap.api.reporting import ReportSettings, report_of
    from chestmap.api.subject import subject_of
    from chestmap.evaluation.published import find
    from chestmap.predictions.folder import fetched_predictions

    tables = [find(name) for name in published or ()]
    if out is None:
        needs_out(folder)
    place = fetched_predictions(folder, cache)
    subject = subject_of(place, named(kind, root, split, overrides, run))
    typer.echo(
        report_of(
            subject,
            ReportSettings(
                part=part, pictures=pictures, published=tables, out=out or place / "report.html", figures=figures
            ),
        )
    )

"""The verbs of `chestmap`, one file for each group.

Data goes to stdout, messages and progress to stderr; `ending.py` has the exit codes. Nothing here imports torch before a verb
needs it.
"""

import os
import sys
from typing import Annotated

import typer

from chestmap import __version__
from chestmap.cli import check, data, demo, export, model, node, own, predict, report, reproduce, score, serve, train
from chestmap.cli.ending import ended

app = typer.Typer(
    name="chestmap",
    help="Which findings a chest X-ray shows, and where: train, score and use weakly supervised localization.",
    epilog="Begin with `chestmap demo`: it needs no dataset. Research use only; not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(__version__)
        raise typer.Exit
    return asked


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


app.add_typer(data.app, name="data")
own.add_to(app)
train.add_to(app)
predict.add_to(app)
score.add_to(app)
model.add_to(app)
export.add_to(app)
report.add_to(app)
reproduce.add_to(app)
demo.add_to(app)
serve.add_to(app)
node.add_to(app)
check.add_to(app)


def main() -> None:
    """Run a verb; whatever ends it is one line for each mistake, never a traceback."""
    _share_cores()
    sys.exit(ended(app))


def _share_cores() -> None:
    """On a busy machine, let a network's threads sleep while they wait for each other; torch reads this when it is loaded.

    By default they spin for milliseconds at the end of every loop and hold the core that the other one needs: with two threads on
    two cores that is 25 % faster alone, but .6 of the speed next to one other busy process, and a sixth next to several.
    """
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1) / 4:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")

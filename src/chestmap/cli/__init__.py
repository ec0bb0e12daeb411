"""The verbs of `chestmap`, one file for each group.

Data goes to stdout, messages and progress to stderr; `ending.py` has the exit codes. Nothing here imports torch before a verb
needs it.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chestmap.cli.ending import ended
from chestmap.version import __version__

if TYPE_CHECKING:
    app: typer.Typer

FILES = {
    "data": ("data",),
    "own": ("init", "all"),
    "train": ("train", "methods", "configs"),
    "predict": ("predict",),
    "score": ("evaluate", "compare"),
    "model": ("model",),
    "export": ("export",),
    "report": ("report",),
    "reproduce": ("reproduce",),
    "demo": ("demo",),
    "serve": ("serve",),
    "node": ("node",),
    "check": ("check",),
}
"""Verbs of each file, in the order of the help; a call imports the file of its own verb alone."""


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(__version__)
        raise typer.Exit
    return asked


def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,  # noqa: ARG001
) -> None:
    from chestmap.storage.freed_memory import require_address_space

    require_address_space()


def command(verb: str = "") -> typer.Typer:
    """The command line with this verb alone; with all where it is none of them."""
    made = typer.Typer(
        name="chestmap",
        help="Which findings a chest X-ray shows, and where: train, score and use weakly supervised localization.",
        epilog="Begin with `chestmap demo`: it needs no dataset. Research use only; not a medical device.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(_options)
    for file in [name for name, verbs in FILES.items() if verb in verbs] or FILES:
        import_module(f"chestmap.cli.{file}").add_to(made)
    return made


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["app"] = made = command()
    return made


def main() -> None:
    """Run a verb; whatever ends it is one line for each mistake, never a traceback."""
    _share_cores()
    sys.exit(call(sys.argv[1:]))


def call(words: list[str]) -> int:
    """The exit code of the verb that the words name; a mistake in its use is one line, as any other is."""
    made = command(next(iter(words), ""))
    return ended(lambda: made(words, prog_name="chestmap", standalone_mode=False))


def _share_cores() -> None:
    """On a busy machine, let a network's threads sleep while they wait for each other; torch reads this when it is loaded.

    By default they spin for milliseconds at the end of every loop and hold the core that the other one needs: with two threads on
    two cores that is 25 % faster alone, but .6 of the speed next to one other busy process, and a sixth next to several.
    """
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1) / 4:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")

"""`chestmap init` and `chestmap all`: go from a folder of one's own to a report.

`init` writes the config that `all` runs. `all` is train, predict, evaluate and report under one roof, and resumes as each
of them does.
"""

from pathlib import Path
from time import monotonic
from typing import Annotated

import typer

from chestmap.cli.options import console


def add_to(app: typer.Typer) -> None:
    app.command("init")(init)
    app.command("all")(everything)


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Images with a CSV of labels, boxes, or both.")],
    again: Annotated[bool, typer.Option("--again", help="Write the config anew over the one that is there.")] = False,
) -> None:
    """Look at a folder of images, check it, and write a config that trains on it: labels, boxes, split, backbone. Asks nothing.

    Boxes may be CSV, COCO, YOLO, Pascal VOC, CreateML, Label Studio or CVAT; shares and percent become pixels. Whatever was
    assumed is printed. What stops a training ends the call with one line.

    Example: `chestmap init films && chestmap all films/chestmap.toml`
    """
    from chestmap.api.own_config import SPLIT
    from chestmap.api.own_folder import write_config
    from chestmap.datasets.checks.check import check
    from chestmap.datasets.checks.check_tables import render
    from chestmap.datasets.split import make_split

    path, found, source = write_config(folder, again=again)
    split = make_split(source, SPLIT)
    render(check(source, [split]), console(stderr=True))
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(path)
    typer.echo(f"Next: chestmap all {path}", err=True)


def everything(
    config: Annotated[
        str,
        typer.Argument(metavar="CONFIG|FOLDER", help="A TOML file, a name of `chestmap configs`, or a folder of images."),
    ],
    out: Annotated[Path | None, typer.Option(help="The run folder; by default runs/ and the config's name.")] = None,
    root: Annotated[Path | None, typer.Option("--root", metavar="ROOT", help="The dataset's folder.")] = None,
    pictures: Annotated[int, typer.Option(min=0, help="How many pictures in the report, at most.")] = 100,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, as in `chestmap train`.")
    ] = None,
) -> None:
    """Train, predict, evaluate and report in one go; run it again to go on where it stopped.

    A folder is looked at first, as `chestmap init` does. Prints the report's path.

    Example: `chestmap all films/chestmap.toml`
    """
    from chestmap.extras import needs

    needs("train", what="chestmap all")
    from chestmap.api.own_folder import CONFIG, write_config
    from chestmap.api.reporting import report
    from chestmap.api.scoring import evaluate
    from chestmap.api.training import train
    from chestmap.evaluation.side_by_side import brief_table, summary_table

    begin, folder = monotonic(), Path(config)
    if folder.is_dir():
        config = str(folder / CONFIG)
        if not Path(config).exists():
            _, found, _ = write_config(folder)
            for note in found.notes:
                typer.echo(f"note: {note}", err=True)
    run = out or Path("runs") / (folder.resolve().name if folder.is_dir() else _name(config))
    changes = [*(overrides or []), *([f"data.source.root={root.absolute()}"] if root else [])]
    _step("1/3", f"Training into {run}")
    train(config, changes, run)
    _step("2/3", "Predicting and scoring the test images")
    scores = evaluate(run)
    scores.write(run / "predictions" / "metrics.json")
    for table in (brief_table([scores]), summary_table([scores])):
        console(stderr=True).print(table.to_rich())
    _step("3/3", "Writing the report")
    page = report(run, pictures=pictures)
    _step("", f"Done in {(monotonic() - begin) / 60:.1f} minutes; open in a browser:")
    typer.echo(page.resolve())


def _name(config: str) -> str:
    """Of the run: the config's, or its folder's where every such config has the same name."""
    from chestmap.api.own_folder import CONFIG

    path = Path(config)
    return path.resolve().parent.name if path.name == CONFIG else path.stem


def _step(number: str, what: str) -> None:
    typer.secho(f"{number}  {what}".strip(), bold=True, err=True)

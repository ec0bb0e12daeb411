"""`chestmap data`: check, pack and split a dataset, or draw one; `deidentify` and annotations have files of their own.

Verbs take the name of a layout and the root of its files. Exit code 1 means that the check found an error, 2 that the
options cannot be used.
"""

from pathlib import Path
from typing import Annotated

import typer

from chestmap.cli import annotations, deidentify
from chestmap.cli.options import JsonOption, Kind, Root, Set, console, print_json

app = typer.Typer(
    no_args_is_help=True,
    help="Check, split and pack a dataset, or draw a phantom one.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def add_to(above: typer.Typer) -> None:
    above.add_typer(app, name="data")


@app.command()
def check(
    kind: Kind,
    root: Root,
    overrides: Set = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Also look for leaks in this split, by name or folder; repeatable.")
    ] = None,
    files: Annotated[
        bool, typer.Option(help="Look whether every image is there; --no-files checks the tables alone.")
    ] = True,
    decode: Annotated[bool, typer.Option(help="Open every image, too: finds damaged files and identical pixels.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Count images, patients, labels and boxes; find missing files, repaired labels, duplicates and leaks.

    Ends with exit code 1 where something is wrong.

    Example: `chestmap data check nih /data/nih --split official --split fold-1`
    """
    from chestmap.api.subject import source_of, split_of
    from chestmap.datasets.checks.check import check as look
    from chestmap.datasets.checks.check_tables import render

    source = source_of(kind, root, overrides)
    splits = [split_of(source, name) for name in split or ()]
    report = look(source, splits, files=files, decode=decode)
    if as_json:
        print_json(report.as_dict())
    else:
        render(report, console())
    if report.failed:
        raise typer.Exit(1)


@app.command()
def split(
    kind: Kind,
    root: Root,
    out: Annotated[Path, typer.Option(help="The folder to write: split.json and one list of image ids for each part.")],
    name: Annotated[
        str | None,
        typer.Option(
            help="official, official-boxes, fold-1…5, clean-fold-1…5, ham-fold-1…5, ag-cnn, ag-cnn-patients, search or patients; "
            "by default official where the publisher has lists, else patients."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Where a split is drawn, the seed of the draw.")] = 0,
    as_json: JsonOption = False,
    overrides: Set = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--split-set", metavar="KEY=VALUE", help="A setting of the split, e.g. `annotated=0.8`."),
    ] = None,
) -> None:
    """Divide a dataset into training, validation and test, by patient unless the split's name allows otherwise."""
    from chestmap.api.subject import source_of
    from chestmap.datasets.split import SplitSettings, make_split
    from chestmap.settings import checked, with_overrides

    source = source_of(kind, root, overrides)
    rule = name or ("official" if source.lists else "patients")
    tree = with_overrides({"name": rule, "seed": seed}, settings or [])
    made = make_split(source, checked(SplitSettings, tree, name="--split-set"))
    made.write(out)
    counts = {part: len(ids) for part, ids in made.parts.items()}
    if as_json:
        print_json(counts)
    else:
        typer.echo("\n".join(f"{part}\t{count}" for part, count in counts.items()))
    typer.echo(f"Wrote {out}", err=True)


@app.command()
def pack(
    kind: Kind,
    root: Root,
    out: Annotated[
        Path, typer.Option(help="The pack's folder; a half-made or outdated pack there is finished, not begun anew.")
    ],
    width: Annotated[int, typer.Option(help="Canvas width in pixels.")] = 512,
    height: Annotated[int, typer.Option(help="Canvas height in pixels.")] = 512,
    fit: Annotated[str, typer.Option(help="letterbox keeps the aspect, squash fills the canvas.")] = "letterbox",
    workers: Annotated[int | None, typer.Option(help="Processes that decode; all cores by default.")] = None,
    shards: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Also publish the pack in shards, such as to `s3://bucket/nih-512`, for `[data.shards]`."
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every packed image with its hash first; what is damaged is made again.")
    ] = False,
    shard_mb: Annotated[float, typer.Option(min=0.001, help="Size of a shard in 10⁶ bytes.")] = 64,
    overrides: Set = None,
) -> None:
    """Decode a dataset once; training then reads images at memory speed.

    Files that cannot be read are set aside with their reason in set_aside.csv, and the command ends with exit code 1.
    """
    from chestmap.api.subject import source_of
    from chestmap.packs.build import PackSettings, make_pack
    from chestmap.settings import checked

    source = source_of(kind, root, overrides)
    settings = checked(PackSettings, {"width": width, "height": height, "fit": fit}, name="options")
    made = make_pack(source, out, settings, workers=workers, verify=verify)
    typer.echo(f"{len(made):,} images in {out}", err=True)
    if shards is not None:
        from chestmap.packs.shards import write_shards

        index = write_shards(made, shards, shard_mb)
        typer.echo(f"{len(index.shards):,} shards at {shards}", err=True)
    if made.set_aside:
        typer.echo(f"{len(made.set_aside):,} files were set aside; their reasons are in {out / 'set_aside.csv'}", err=True)
        raise typer.Exit(1)


@app.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="Where to write; the layout is ChestX-ray14's.")],
    images: Annotated[int, typer.Option(min=1, help="How many images.")] = 2000,
    side: Annotated[int, typer.Option(min=64, help="Width and height of the PNGs; boxes stay in the 1024 frame.")] = 512,
    seed: Annotated[int, typer.Option(help="The same seed draws the same images, however many processes draw.")] = 0,
    overrides: Set = None,
) -> None:
    """Draw chest radiographs with findings, boxes and, on request, true masks and DICOM copies.

    Example: `chestmap data phantom /tmp/phantom --images 500 --side 256 --set masks=true --set dicom=true`
    """
    from chestmap.extras import needs
    from chestmap.phantom import PhantomSettings, write_phantom
    from chestmap.settings import checked, with_overrides

    tree = with_overrides({"images": images, "side": side, "seed": seed}, overrides or [])
    settings = checked(PhantomSettings, tree, name="--set")
    if settings.dicom:
        needs("dicom", what="--set dicom=true")
    written = write_phantom(folder, settings)
    typer.echo(f"Wrote {written}", err=True)


deidentify.add_to(app)
annotations.add_to(app)

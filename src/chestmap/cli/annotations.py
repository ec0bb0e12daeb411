"""Makes datasets of reviews and annotations: `chestmap data from-reviews`, `chestmap data annotations`.

The verbs unpack their options, call the room that does the work, and print what was set aside and why.
"""

from pathlib import Path
from typing import Annotated

import typer

from chestmap.cli.options import Kind, Root

programs = typer.Typer(
    no_args_is_help=True,
    help="Take boxes to and from annotation programs.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def add_to(app: typer.Typer) -> None:
    """Add the verbs of annotations to `chestmap data`."""
    app.command("from-reviews")(from_reviews)
    programs.command("export")(export_annotations)
    programs.command("import")(import_annotations)
    app.add_typer(programs, name="annotations")


def from_reviews(
    store: Annotated[Path, typer.Option(help="The store of `chestmap serve`, which may be running; it is only read.")],
    out: Annotated[
        Path, typer.Option(help="A new folder: images, labels.csv, boxes.json, and who said it in reviews.jsonl.")
    ],
    database: Annotated[str | None, typer.Option(metavar="URL", help="Where the service has PostgreSQL.")] = None,
    only_done: Annotated[bool, typer.Option("--only-done", help="Leave out studies that are still in review.")] = False,
    all_verdicts: Annotated[
        bool, typer.Option("--all-verdicts", help="Also take verdicts agreed to in bulk, or of unknown origin.")
    ] = False,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images; by default they are hard links.")] = False,
) -> None:
    """Make a dataset of what reviewers accepted, rejected and corrected; what nobody looked at is unknown, not absent.

    Patients are pseudonyms, but DICOM images are the files that were uploaded, with their whole headers.

    Example: `chestmap data from-reviews --store /srv/chestmap --out reviewed`
    """
    from chestmap.extras import needs

    needs("serve", what="chestmap data from-reviews")
    from chestmap.annotations.annotated_image import BOXES, LABELS
    from chestmap.serving.store.export_reviews import read_reviews, write_reviewed

    findings, reviewed = read_reviews(store, database, only_done=only_done, all_verdicts=all_verdicts)
    written = [one.annotated for one in write_reviewed(out, findings, reviewed, copy=copy)]
    for name in findings:
        said = [one.labels[name] for one in written if name in one.labels]
        boxes = sum(box.finding == name for one in written for box in one.boxes)
        typer.echo(f"{name}\t{sum(said)} present\t{len(said) - sum(said)} absent\t{boxes} boxes")
    left = sum("left_out" in said for one in reviewed for said in one.origin["findings"].values())
    if left:
        typer.echo(f"{left:,} verdicts that nobody gave one by one were left out; --all-verdicts takes them", err=True)
    patients = len({one.patient for one in written})
    typer.echo(f"{len(written):,} images of {patients:,} patients in {out}; look at them with", err=True)
    typer.echo(f"chestmap data check folder {out} --set labels={LABELS} --set boxes={BOXES}", err=True)


def export_annotations(
    kind: Kind,
    root: Root,
    out: Annotated[Path, typer.Option(help="The file to write; Label Studio's configuration comes next to it.")],
    form: Annotated[str, typer.Option(help="coco, coco-results, label-studio or cvat.")] = "coco",
    predictions: Annotated[
        Path | None, typer.Option(help="A model's boxes to correct: coco.json of `chestmap predict --write coco`.")
    ] = None,
    model: Annotated[str, typer.Option(help="What the predictions are called, where the form names them.")] = "model",
    prefix: Annotated[str, typer.Option(help="Precedes image names in Label Studio.")] = "/data/local-files/?d=",
    only_boxed: Annotated[bool, typer.Option("--only-boxed", help="Leave out images without boxes.")] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the reader.")
    ] = None,
) -> None:
    """Write labels and boxes of a dataset, and a model's boxes, as an annotation program reads them.

    Example: `chestmap data annotations export folder films --form label-studio --predictions results/coco.json --out tasks.json`
    """
    from chestmap.annotations.interchange import Predicted, annotated_of, export
    from chestmap.api.subject import source_of
    from chestmap.datasets.coco import read_scored

    source = source_of(kind, root, overrides)
    images = annotated_of(source, only_boxed=only_boxed)
    given = Predicted(read_scored(predictions), model) if predictions else None
    export(out, form, source.findings, images, given, prefix)
    typer.echo(f"{len(images):,} images with {sum(len(one.boxes) for one in images):,} boxes in {out}", err=True)


def import_annotations(
    file: Annotated[
        Path,
        typer.Argument(
            help="COCO, Label Studio or CreateML JSON, CVAT for images 1.1 (XML), or a folder of YOLO or Pascal VOC files."
        ),
    ],
    images: Annotated[Path, typer.Option(help="The folder that holds the images, found by path, name or stem.")],
    out: Annotated[Path, typer.Option(help="A new folder: images, labels.csv, boxes.json.")],
    complete: Annotated[
        bool, typer.Option("--complete", help="People marked every finding of these images: the others are absent.")
    ] = False,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images; by default they are hard links.")] = False,
) -> None:
    """Make a dataset of what people marked; a box means present, what is not marked is unknown. A model's boxes are not read.

    Example: `chestmap data annotations import project.json --images films --out annotated`
    """
    from chestmap.annotations.annotated_image import BOXES, LABELS
    from chestmap.annotations.interchange import import_annotations as read

    aside = read(file, images, out, complete=complete, copy=copy)
    for line in aside.lines:
        typer.echo(line, err=True)
    typer.echo(f"chestmap data check folder {out} --set labels={LABELS} --set boxes={BOXES}", err=True)
    if aside.lines:
        raise typer.Exit(1)

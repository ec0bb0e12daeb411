"""`chestmap data from-reviews`: what people said, as a dataset to train on."""

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    app.command("from-reviews")(from_reviews)


def from_reviews(
    store: Annotated[Path, typer.Option(help="The store of `chestmap serve`, which may be running; it is only read.")],
    out: Annotated[
        Path, typer.Option(help="A new folder: images, labels.csv, boxes.json, and who said it in reviews.jsonl.")
    ],
    database: Annotated[str | None, typer.Option(metavar="URL", help="Where the service has PostgreSQL.")] = None,
    only_done: Annotated[bool, typer.Option("--only-done", help="Leave out studies that are still in review.")] = False,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images; by default they are hard links.")] = False,
) -> None:
    """Make a dataset of what reviewers accepted, rejected and corrected; what nobody looked at is unknown, not absent.

    Patients are pseudonyms, but DICOM images are the files that were uploaded, with all that stands in their headers.

    Example: `chestmap data from-reviews --store /srv/chestmap --out reviewed`
    """
    from chestmap.data.annotated import BOXES, LABELS
    from chestmap.serving.reviewed import read_reviews, write_reviewed

    findings, reviewed = read_reviews(store, database, only_done=only_done)
    written = [one.annotated for one in write_reviewed(out, findings, reviewed, copy=copy)]
    for name in findings:
        said = [one.labels[name] for one in written if name in one.labels]
        boxes = sum(box.finding == name for one in written for box in one.boxes)
        typer.echo(f"{name}\t{sum(said)} present\t{len(said) - sum(said)} absent\t{boxes} boxes")
    patients = len({one.patient for one in written})
    typer.echo(f"{len(written):,} images of {patients:,} patients in {out}; look at them with", err=True)
    typer.echo(f"chestmap data check folder {out} --set labels={LABELS} --set boxes={BOXES}", err=True)

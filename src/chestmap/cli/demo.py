"""`chestmap demo`: train and show a small model without any dataset.

The verb draws into a folder of its own, trains from the starter, and ends with the page to open. A second call goes on
where the first stopped.
"""

from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from chestmap.datasets.source import Source
    from chestmap.packs.build import Pack
    from chestmap.types import Box


def add_to(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    out: Annotated[Path, typer.Option(help="The folder to write; what is finished there is used again.")] = Path("demo"),
    images: Annotated[int, typer.Option(min=16, help="How many phantom images to draw.")] = 1200,
    side: Annotated[int, typer.Option(min=64, help="Their width and height; the model sees at most 128.")] = 128,
    seed: Annotated[int, typer.Option(help="Another seed draws other patients.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Of the model.")] = 8,
    training: Annotated[bool, typer.Option("--train/--no-train", help="--no-train stops after the page of images.")] = True,
) -> None:
    """Draw phantom chest radiographs, train a small model on them from the starter, and open a report. Needs no dataset."""
    from chestmap.extras import needs

    needs(*(["train"] if training else []), what="chestmap demo")
    begin = monotonic()
    steps = 6 if training else 4
    _step(f"1/{steps}", f"Drawing {images} phantom radiographs, {side} px, in the layout of ChestX-ray14")
    root = _draw(out / "phantom", images, side, seed)
    _step(f"2/{steps}", "Reading and checking them as a dataset")
    source = _look(root)
    _step(f"3/{steps}", "Packing: every image is decoded once")
    pack = _packed(source, out / "pack", side)
    _step(
        f"4/{steps}",
        f"Making a page of the images{', with the boxes of the starter, which learned on films' if training else ''}",
    )
    pages = [_contact_page(out / "contact.html", source, pack, limit=120, starter=training)]
    if training:
        pages = [_trained(out, root, min(side, 128), epochs), *pages]
    typer.secho(f"Done in {monotonic() - begin:.0f} s. Open in a browser:", bold=True, err=True)
    for page in pages:
        typer.echo(page.resolve())


def _draw(folder: Path, images: int, side: int, seed: int) -> Path:
    """Draw more findings than a hospital has, with right labels and a box for each, so that 1,200 images can teach."""
    from chestmap.phantom import PhantomSettings, write_phantom

    how = PhantomSettings(images=images, side=side, seed=seed, enrich=0.8, boxed=1.0, boxed_train=1.0, label_noise=0.0)
    return write_phantom(folder, how)


def _look(root: Path) -> "Source":
    from rich.console import Console

    from chestmap.datasets.checks.check import check
    from chestmap.datasets.checks.check_tables import render
    from chestmap.datasets.nih import NihSettings, read_nih
    from chestmap.datasets.split import SplitSettings, make_split

    source = read_nih(NihSettings(root=root))
    render(check(source, [make_split(source, SplitSettings(name="official"))]), Console(stderr=True))
    return source


def _packed(source: "Source", folder: Path, side: int) -> "Pack":
    from chestmap.packs.build import PackSettings, make_pack

    return make_pack(source, folder, PackSettings(width=side, height=side))


def _trained(out: Path, root: Path, side: int, epochs: int) -> Path:
    """Train and score the model; return the path of its report."""
    from chestmap.api.reporting import report
    from chestmap.methods import METHODS
    from chestmap.reproduction.demo import Size, demo_model, in_words

    _step("5/6", "Training a model on them, from the starter's backbone, and scoring it")
    typer.echo(in_words(demo_model(out, root, METHODS, Size(side, epochs))), err=True)
    typer.echo("A small network after minutes on drawn images: these numbers say nothing about real films.", err=True)
    _step("6/6", "Writing the report")
    return report(out / "runs" / "combined")


def _step(number: str, what: str) -> None:
    typer.secho(f"{number}  {what}", bold=True, err=True)


def _contact_page(path: Path, source: "Source", pack: "Pack", limit: int, *, starter: bool) -> Path:
    import numpy as np

    from chestmap.reports.contact_page import Card, write_contact_page

    rows = _varied(source, [source.row_of[image_id] for image_id in pack.ids], limit)
    places = [int(pack.rows([source.ids[row]])[0]) for row in rows]
    found = _boxes_of_starter(pack, places) if starter else [()] * len(rows)
    cards = []
    for row, place, boxes in zip(rows, places, found, strict=True):
        present = tuple(name for name, label in zip(source.findings, source.labels[row], strict=True) if label == 1)
        drawn = pack.frame(place).to_canvas(source.boxes.get(source.ids[row], ()))
        said = tuple(box for box in boxes if box.finding in {one.finding for one in drawn})
        cards.append(
            Card(
                image=pack.pixels(np.array([place]))[0],
                title=source.ids[row],
                findings=present,
                boxes=(*drawn, *said),
                notes=source.images["view"][row],
            )
        )
    facts = {
        "Images": f"{len(source):,}",
        "Patients": f"{source.images['patient_id'].n_unique():,}",
        "With a finding": f"{int((source.labels == 1).any(1).sum()):,}",
        "Boxes": f"{sum(map(len, source.boxes.values())):,}",
    } | ({"Dashed": "where the starter, which saw films alone, has the finding"} if starter else {})
    return write_contact_page(path, "chestmap demo: phantom chest radiographs", facts, cards)


def _boxes_of_starter(pack: "Pack", places: Sequence[int]) -> list[tuple["Box", ...]]:
    """On the pack's canvas, of each image the starter's box for every finding."""
    import numpy as np

    from chestmap.models.hub import known_model
    from chestmap.models.predictor import load

    folder = known_model("starter")
    if folder is None:
        return [()] * len(places)
    predictor = load(folder)
    return [predictor.predict(pack.pixels(np.array([place]))[0]).boxes for place in places]


def _varied(source: "Source", rows: Sequence[int], limit: int) -> list[int]:
    """Boxed images first, then the rest in their order, so that every finding is likely to be seen."""
    return sorted(rows, key=lambda row: (source.ids[row] not in source.boxes, row))[:limit]

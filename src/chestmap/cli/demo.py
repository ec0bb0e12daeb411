"""`chestmap demo`: from nothing to something to look at, without any dataset."""

from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from chestmap.datasets.source import Source
    from chestmap.packs.build import Pack


def add_to(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    out: Annotated[Path, typer.Option(help="The folder to write; what is finished there is used again.")] = Path("demo"),
    images: Annotated[int, typer.Option(min=16, help="How many phantom images to draw.")] = 400,
    side: Annotated[int, typer.Option(min=64, help="Their width and height; the models see at most 128.")] = 256,
    seed: Annotated[int, typer.Option(help="Another seed draws other patients.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Of each of the two models.")] = 16,
    training: Annotated[bool, typer.Option("--train/--no-train", help="--no-train stops after the page of images.")] = True,
) -> None:
    """Draw phantom chest radiographs, look at them, train two small models, score them, and open a report. Needs no dataset."""
    from chestmap.extras import needs

    needs(*(["train"] if training else []), what="chestmap demo")
    begin = monotonic()
    steps = 7 if training else 4
    _step(f"1/{steps}", f"Drawing {images} phantom radiographs, {side} px, in the layout of ChestX-ray14")
    root = _draw(out / "phantom", images, side, seed)
    _step(f"2/{steps}", "Reading and checking them as a dataset")
    source = _look(root)
    _step(f"3/{steps}", "Packing: every image is decoded once")
    pack = _packed(source, out / "pack", side)
    _step(f"4/{steps}", "Making a page of the images")
    pages = [_contact_page(out / "contact.html", source, pack, limit=180)]
    if training:
        pages = [*_models(out, root, min(side, 128), epochs), *pages]
    typer.secho(f"Done in {monotonic() - begin:.0f} s. Open in a browser:", bold=True, err=True)
    for page in pages:
        typer.echo(page.resolve())


def _draw(folder: Path, images: int, side: int, seed: int) -> Path:
    """Findings are more frequent than in a hospital and half of the training boxes are kept, so that 400 images can teach."""
    from chestmap.phantom import PhantomSettings, write_phantom

    return write_phantom(
        folder, PhantomSettings(images=images, side=side, seed=seed, enrich=0.8, boxed=1.0, boxed_train=0.5)
    )


def _look(root: Path) -> "Source":
    from rich.console import Console

    from chestmap.datasets.checks.check import check
    from chestmap.datasets.nih import NihSettings, read_nih
    from chestmap.datasets.split import SplitSettings, make_split

    source = read_nih(NihSettings(root=root))
    check(source, [make_split(source, SplitSettings(name="official"))]).render(Console(stderr=True))
    return source


def _packed(source: "Source", folder: Path, side: int) -> "Pack":
    from chestmap.packs.build import PackSettings, make_pack

    return make_pack(source, folder, PackSettings(width=side, height=side))


def _models(out: Path, root: Path, side: int, epochs: int) -> list[Path]:
    """Both models side by side, and a report of each; the paths of the reports."""
    from rich.console import Console

    from chestmap.api.reporting import report
    from chestmap.evaluation.side_by_side import brief_table, summary_table
    from chestmap.methods import METHODS
    from chestmap.reproduction.demo import Size, demo_model

    scored = []
    for number, (name, what) in enumerate((("cam", "a plain classifier (CAM)"), ("ham", "HAM, with attention")), start=5):
        _step(f"{number}/7", f"Training and scoring {what}")
        scored.append(demo_model(name, out, root, METHODS, Size(side, epochs)))
    console = Console(stderr=True)
    for table in (brief_table(scored), summary_table(scored)):
        console.print(table.to_rich())
    typer.echo("A small network after minutes on drawn images: these numbers say nothing about real films.", err=True)
    _step("7/7", "Writing the reports")
    return [report(out / "runs" / name) for name in ("ham", "cam")]


def _step(number: str, what: str) -> None:
    typer.secho(f"{number}  {what}", bold=True, err=True)


def _contact_page(path: Path, source: "Source", pack: "Pack", limit: int) -> Path:
    from chestmap.reports.contact_page import Card, write_contact_page

    rows = _varied(source, [source.row_of[image_id] for image_id in pack.ids], limit)
    cards = []
    for row in rows:
        image_id = source.ids[row]
        place = int(pack.rows([image_id])[0])
        present = tuple(name for name, label in zip(source.findings, source.labels[row], strict=True) if label == 1)
        boxes = pack.frame(place).to_canvas(source.boxes.get(image_id, ()))
        cards.append(
            Card(
                image=pack.pixels(pack.rows([image_id]))[0],
                title=image_id,
                findings=present,
                boxes=boxes,
                notes=source.images["view"][row],
            )
        )
    facts = {
        "Images": f"{len(source):,}",
        "Patients": f"{source.images['patient_id'].n_unique():,}",
        "With a finding": f"{int((source.labels == 1).any(1).sum()):,}",
        "Boxes": f"{sum(map(len, source.boxes.values())):,}",
    }
    return write_contact_page(path, "chestmap demo: phantom chest radiographs", facts, cards)


def _varied(source: "Source", rows: Sequence[int], limit: int) -> list[int]:
    """Boxed images first, then the rest in their order, so that every finding is likely to be seen."""
    return sorted(rows, key=lambda row: (source.ids[row] not in source.boxes, row))[:limit]

"""`chestmap demo`: from nothing to something to look at, without any dataset."""

from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from chestmap.data.pack import Pack
    from chestmap.data.source import Source


def add_to(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    out: Annotated[Path, typer.Option(help="The folder to write; what is finished there is used again.")] = Path("demo"),
    images: Annotated[int, typer.Option(min=16, help="How many phantom images to draw.")] = 400,
    side: Annotated[int, typer.Option(min=64, help="Their width and height.")] = 256,
    seed: Annotated[int, typer.Option(help="Another seed draws other patients.")] = 0,
) -> None:
    """Draw phantom chest radiographs, check and pack them, and make a page to look at. Needs no dataset."""
    from rich.console import Console

    from chestmap.data.check import check
    from chestmap.data.nih import NihSettings, read_nih
    from chestmap.data.pack import PackSettings, make_pack
    from chestmap.data.phantom import PhantomSettings, write_phantom
    from chestmap.data.split import SplitSettings, make_split

    begin = monotonic()
    _step("1/4", f"Drawing {images} phantom radiographs, {side} px, in the layout of ChestX-ray14")
    settings = PhantomSettings(images=images, side=side, seed=seed)
    folder = write_phantom(out / "phantom", settings)
    _step("2/4", "Reading and checking them as a dataset")
    source = read_nih(NihSettings(root=folder))
    split = make_split(source, SplitSettings(name="official"))
    check(source, [split]).render(Console(stderr=True))
    _step("3/4", "Packing: every image is decoded once")
    pack = make_pack(source, out / "pack", PackSettings(width=side, height=side))
    _step("4/4", "Making a page")
    page = _contact_page(out / "contact.html", source, pack, limit=180)
    typer.secho(f"Done in {monotonic() - begin:.0f} s. Open this file in a browser:", bold=True, err=True)
    typer.echo(page.resolve())


def _step(number: str, what: str) -> None:
    typer.secho(f"{number}  {what}", bold=True, err=True)


def _contact_page(path: Path, source: "Source", pack: "Pack", limit: int) -> Path:
    from chestmap.reports.contact import Card, write_contact_page

    rows = _varied(source, [source.row_of[image_id] for image_id in pack.ids], limit)
    cards = []
    for row in rows:
        image_id = source.ids[row]
        place = int(pack.rows([image_id])[0])
        present = tuple(name for name, label in zip(source.findings, source.labels[row], strict=True) if label == 1)
        boxes = pack.frame(place).to_canvas(source.boxes.get(image_id, ()))
        cards.append(Card(pack.images[place], image_id, present, boxes, source.images["view"][row]))
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

"""The parts that a recipe trains and validates on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from chestmap.data import SourceSettings, open_source
from chestmap.data.augment import AugmentSettings
from chestmap.data.loader import Part
from chestmap.data.pack import PackSettings, make_pack
from chestmap.data.split import SplitSettings, make_split
from chestmap.errors import BadInput
from chestmap.settings import Settings
from chestmap.types import Findings


class DataSettings(Settings):
    """`cache` holds the packs, one folder for each source and canvas; images that cannot be read are left out."""

    source: SourceSettings
    split: SplitSettings = SplitSettings()
    pack: PackSettings = PackSettings()
    cache: Path = Path("cache")
    augment: AugmentSettings = AugmentSettings()


@dataclass(frozen=True, eq=False)
class Data:
    """Validation and test are None where the split leaves them empty."""

    findings: Findings
    pack: PackSettings
    train: Part
    validation: Part | None = None
    test: Part | None = None
    split: str = ""

    @property
    def canvas(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pack.canvas


def open_data(settings: DataSettings, *, progress: bool = True) -> Data:
    """Reads the tables, packs what is not packed yet, and splits."""
    source = open_source(settings.source)
    split = make_split(source, settings.split)
    folder = settings.cache / f"{source.name}-{settings.pack.width}x{settings.pack.height}-{settings.pack.fit}"
    pack = make_pack(source, folder, settings.pack, progress=progress)
    parts = {name: Part.of(source, pack, ids, name) for name, ids in split.parts.items()}
    if not len(parts["train"]):
        raise BadInput(f"{source.name}: none of the {len(split.parts['train'])} training images can be read; see {folder}")
    validation, test = (parts[name] if len(parts[name]) else None for name in ("validation", "test"))
    return Data(source.findings, settings.pack, parts["train"], validation, test, split.name)

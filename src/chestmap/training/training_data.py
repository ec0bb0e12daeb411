"""Opens the parts that a recipe trains and validates on.

Packs are made here when they are missing, so that a training starts from a dataset's folder alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chestmap.datasets import SourceSettings, open_source
from chestmap.datasets.source import Source
from chestmap.datasets.split import Split, SplitSettings, make_split
from chestmap.errors import BadInput
from chestmap.packs.augment import AugmentSettings
from chestmap.packs.build import Pack, PackSettings, make_pack, pack_place
from chestmap.packs.loader import Part
from chestmap.packs.shards import ShardSettings, open_shards
from chestmap.packs.views import ViewSettings
from chestmap.settings import Settings
from chestmap.types import Findings

PartName = Literal["train", "validation", "test", "all"]


class DataSettings(Settings):
    """`cache` holds the packs, one folder for each source and canvas; images that cannot be read are left out.

    With `views` the frozen stages of the backbone are computed once for so many augmentations of each image.
    With `shards` pixels come from a published pack through `cache`, and the source needs its tables alone.
    """

    source: SourceSettings
    split: SplitSettings = SplitSettings()
    pack: PackSettings = PackSettings()
    cache: Path = Path("cache")
    shards: ShardSettings | None = None
    augment: AugmentSettings = AugmentSettings()
    views: ViewSettings | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Data:
    """Validation and test are None where the split leaves them empty."""

    findings: Findings
    pack: PackSettings
    train: Part
    validation: Part | None = None
    test: Part | None = None
    split: str = ""
    split_fingerprint: str = ""

    @property
    def canvas(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pack.canvas


def open_data(settings: DataSettings, *, progress: bool = True) -> Data:
    """Reads the tables, packs what is not packed yet, and splits."""
    parts, split = _open(settings, progress=progress)
    train = parts["train"]
    if not len(train):
        raise BadInput(f"{train.source.name}: none of the training images can be read; see {train.pack.folder}")
    validation, test = (parts[name] if len(parts[name]) else None for name in ("validation", "test"))
    return Data(
        findings=train.findings,
        pack=settings.pack,
        train=train,
        validation=validation,
        test=test,
        split=split.name,
        split_fingerprint=split.fingerprint,
    )


def open_part(settings: DataSettings, name: PartName, *, progress: bool = True) -> Part:
    """One part of the split, or all readable images of the source."""
    if name != "all":
        return _open(settings, progress=progress)[0][name]
    source, pack = _packed(settings, progress=progress)
    return Part.of(source, pack, source.ids, name)


def _open(settings: DataSettings, *, progress: bool) -> tuple[dict[str, Part], Split]:
    source, pack = _packed(settings, progress=progress)
    split = make_split(source, settings.split)
    return {name: Part.of(source, pack, ids, name) for name, ids in split.parts.items()}, split


def _packed(settings: DataSettings, *, progress: bool) -> tuple[Source, Pack]:
    source = open_source(settings.source)
    if settings.shards is not None:
        return source, open_shards(settings.shards, settings.cache, source, settings.pack)
    folder = pack_place(settings.cache, source, settings.pack)
    return source, make_pack(source, folder, settings.pack, progress=progress)

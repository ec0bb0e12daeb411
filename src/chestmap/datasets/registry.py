"""The sources there are: who laid a folder out, and how it becomes a `Source`.

A further dataset costs its reader, its settings with a `name`, and one line in each of the two tables here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from chestmap.datasets.chexpert import ChexpertSettings, read_chexpert
from chestmap.datasets.folder import FolderSettings, read_folder
from chestmap.datasets.nih import NihSettings, read_nih
from chestmap.datasets.vindr import VindrSettings, read_vindr
from chestmap.errors import BadSettings, did_you_mean
from chestmap.settings import checked

if TYPE_CHECKING:
    from chestmap.datasets.source import Source

SourceSettings = Annotated[NihSettings | ChexpertSettings | VindrSettings | FolderSettings, Field(discriminator="name")]

SOURCES: dict[str, tuple[type[Any], Callable[[Any], Source]]] = {
    "nih": (NihSettings, read_nih),
    "chexpert": (ChexpertSettings, read_chexpert),
    "vindr": (VindrSettings, read_vindr),
    "folder": (FolderSettings, read_folder),
}


def source_settings(tree: Mapping[str, Any], *, name: str = "source") -> SourceSettings:
    """Settings of the source that `tree["name"]` names, with every mistake in one message, each prefixed with `name`."""
    kind = tree.get("name")
    if kind not in SOURCES:
        raise BadSettings(f"{name}: allowed names: {', '.join(SOURCES)} (got {kind!r}){did_you_mean(str(kind), SOURCES)}")
    return checked(SOURCES[kind][0], dict(tree), name=name)


def open_source(settings: SourceSettings) -> Source:
    """Reads the tables; no image is opened. What was noticed on the way is in the source's `problems`."""
    return SOURCES[settings.name][1](settings)

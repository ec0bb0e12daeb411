"""Lists the layouts of datasets: one file and one line for each. Other packages add theirs by the entry point `chestmap.sources`."""

from chestmap.datasets.layout import Layout
from chestmap.plugins import Registry

SOURCES: Registry[Layout] = Registry(
    "chestmap.sources",
    {
        "nih": "chestmap.datasets.nih:LAYOUT",
        "chexpert": "chestmap.datasets.chexpert:LAYOUT",
        "vindr": "chestmap.datasets.vindr:LAYOUT",
        "folder": "chestmap.datasets.folder:LAYOUT",
    },
)


def is_published(source: object) -> bool:
    """Whether there is one such dataset in the world, however the tables of two copies differ."""
    return isinstance(source, str) and source in SOURCES and SOURCES[source].is_published

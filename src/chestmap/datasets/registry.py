"""The readers: one file and one line for each dataset. Other packages add theirs by the entry point `chestmap.sources`."""

from chestmap.datasets.reader import Reader
from chestmap.plugins import Registry

SOURCES: Registry[Reader] = Registry(
    "chestmap.sources",
    {
        "nih": "chestmap.datasets.nih:READER",
        "chexpert": "chestmap.datasets.chexpert:READER",
        "vindr": "chestmap.datasets.vindr:READER",
        "folder": "chestmap.datasets.folder:READER",
    },
)

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

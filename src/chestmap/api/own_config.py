"""Writes the config that trains on a folder of one's own, with a network that this machine can train.

`chestmap init` calls `config_text` with what `own_folder.look` found. The choices (canvas, backbone, epochs, augmentations)
depend on the number of images and on whether there is a GPU. The user may change every line afterwards.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

from chestmap.datasets.box_units import Unit
from chestmap.datasets.folder import FolderSettings
from chestmap.datasets.split import SplitSettings, make_split

if TYPE_CHECKING:
    from chestmap.datasets.source import Source

CONFIG = "chestmap.toml"
SPLIT = SplitSettings(name="patients", validation=0.15, test=0.25)


@dataclass(frozen=True, kw_only=True)
class OwnFolder:
    """What was found. `root` is the folder or, where labels were made from boxes, a folder inside it; `notes` are for the user."""

    folder: Path
    root: Path
    labels: str | None = None
    boxes: str | None = None
    unit: Unit = "pixels"
    notes: list[str] = field(default_factory=list)

    @property
    def settings(self) -> FolderSettings:
        """The settings by which the folder is read, as the config writes them."""
        return FolderSettings(
            root=self.root, labels=self.labels, boxes=self.boxes, box_unit=None if self.unit == "pixels" else self.unit
        )


def machine() -> str:
    """cuda, mps or cpu, without importing torch."""
    if which("nvidia-smi"):
        return "cuda"
    return "mps" if sys.platform == "darwin" else "cpu"


def config_text(found: OwnFolder, source: Source, device: str) -> str:
    """The TOML with its comments; sizes are such that this machine trains in minutes on a CPU, in an hour on a GPU."""
    named = source.images["patient_id"].n_unique()
    patients = f"{named:,} patients" if named < len(source) else "no patients named, so every image counts as one"
    root = found.root.relative_to(found.folder).as_posix()
    tables = "".join(
        f", {key} = {json.dumps(value)}" for key, value in (("labels", found.labels), ("boxes", found.boxes)) if value
    )
    if found.unit != "pixels":
        tables += f', box_unit = "{found.unit}"'
    boxes = sum(map(len, source.boxes.values()))
    return f"""\
# Written by `chestmap init`. Everything in one go: chestmap all {found.folder / CONFIG}
# {len(source):,} images, {patients}; {boxes:,} boxes, in {found.unit}.
# Findings: {", ".join(source.findings)}

[data]
source = {{ name = "folder", root = {json.dumps(root)}{tables} }}
split = {{ name = "{SPLIT.name}", validation = {SPLIT.validation}, test = {SPLIT.test} }}  # by patient: nobody is in two parts
cache = "chestmap-cache"
{_network(device, len(source), boxed=boxes > 0)}{"" if ranks(source) else LAST}"""


def ranks(source: Source) -> bool:
    """Tells whether the validation images of `SPLIT` show a finding both present and absent, so that an epoch can be chosen."""
    kept = set(make_split(source, SPLIT).parts["validation"])
    labels = source.labels[[row for row, one in enumerate(source.ids) if one in kept]]
    return bool(((labels == 1).any(axis=0) & (labels == 0).any(axis=0)).any())


def _network(device: str, images: int, *, boxed: bool) -> str:
    """The part of the config that depends on the machine; `chestmap methods` lists other methods."""
    share = 0.5 if boxed else 0.0
    if device != "cpu":
        precision = 'precision = "bf16"' if device == "cuda" else "precision = 32"
        return ON_GPU.format(precision=precision, device=device, share=share)
    return ON_CPU.format(share=share, batches=min(40, max(4, images * 6 // 10 // 8)))


METHOD = """\
[method]
name = "combined"  # labels and boxes together; `chestmap methods` lists the others
width = 64

[method.backbone]
name = "tf_efficientnet_lite0"
weights = "starter"  # of this package; it saw films of ChestX-ray14, so for these take "package:efficientnet-lite0"
stages = [2, 3, 4]
pyramid = 64
"""

LEARN = """\
optimizer = "adamw"
learning_rate = 6e-4
weight_decay = 0.05
warmup = 0.5
decay = "cosine"
clip = 5.0
boxed_share = {share}
"""

LAST = """\
select = "last"  # no finding is both present and absent in the few validation images, which choose the epoch otherwise
"""

ON_GPU = (
    """\
pack = {{ width = 512, height = 512 }}  # what the network sees; larger finds smaller findings and takes longer
augment = {{ translate = 0.06, scale = [0.92, 1.15], rotate_degrees = 7, brightness = 0.12, contrast = 0.2 }}

[run]
device = "auto"  # for this machine: {device}
{precision}

"""
    + METHOD
    + """
[method.learn]
epochs = 20
batch_size = 16
"""
    + LEARN
)

ON_CPU = (
    """\
pack = {{ width = 256, height = 256 }}  # what the network sees
views = {{ count = 4 }}  # augmentations of each image; their first features are computed once
augment = {{ translate = 0.06, scale = [0.92, 1.15], rotate_degrees = 7, brightness = 0.12, contrast = 0.2 }}

[run]
workers = 0
tensorboard = false

"""
    + METHOD
    + """\
frozen = 3  # for this machine, a CPU: the first stages stay as they are

[method.learn]
epochs = 8
batches = {batches}
batch_size = 16
"""
    + LEARN
)

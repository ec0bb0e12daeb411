"""CIA-Net: Liu et al., "Align, Attend and Locate: Chest X-ray Diagnosis via Contrast Induced Attention Network with Limited
Supervision", ICCV 2019.

Every image is compared with a partner, a normal image that resembles it: where their attention maps differ, features count for
more. Cells of a grid say where a finding is; box labels teach cells, image labels teach the whole grid.

| paper | here |
|---|---|
| 3.1, eq. 1 and 2, alignment to the canonical chest | `nn.alignment`, `training.alignment_steps` |
| 3.2, M from C4 | `CiaNet.attention` |
| 3.2, ΔM and its scale | `contrast` |
| eq. 3 and the last convolution | `CiaNet.forward` |
| eq. 4, box loss | `cell_targets`, `box_loss` of `nn.instances` |
| eq. 5, MIL loss "used in" Li 2018, cells squeezed as there | `mil_loss`, `log_any`, `InstanceSettings` of `nn.instances` |
| eq. 6, total loss | `nn.instances.limited_loss`, `Contrast` |
| 3.3, 128 x 128 cells at 0.5 | `finer`, `OWN_RULE` |
| 4.3.2, partners | `nn.similar_images`, `Partners`, `write_gallery` |

What the text leaves open, and how it is settled: the one ResNet encodes image and partner, and M has one channel for all
findings. Eq. 3 prints a sum, the text multiplies element by element, which is done. Upsampling "before the last two convolutions"
comes after them here: both are 1 x 1, so the order changes nothing. The image's score is that of eq. 5 on the training grid
(on 64 times the cells every probability would be near 1). A ΔM of zeros becomes ones. β_B is not given: 1; at 0
boxes are not read at all, and boxed images count by their labels. Thumbnails
are of the images as they are; an image is never its own partner. The base model is the same without ΔM. The judge of eq. 2 is a
ResNet-50 with ImageNet weights at its second stage, and the canonical chest is cropped to fixed shares of the mean.

Differs from the paper:
- one-channel input, its stem summed from the three of ImageNet: the same function of a grey image;
- the last bias starts where an image has each finding by one in twenty, not where each of 256 cells has it by one in two;
- `instances.form = "plain"` is eq. 5 as printed, without the squeezing of Li 2018;
- pixels are normalized by 0.5 and 0.5 also under ImageNet weights (`backbone.mean`, `backbone.std`);
- the aligner trains 5 epochs at a constant rate, for which the paper gives nothing of its own;
- eq. 6 is divided by the images in the batch, and the learning rate and weight decay are given for that: the same steps;
- eq. 2 squares the norm, as its source does, and the consistency loss is a mean (`alignment.form = "printed"`);
- the five parameters are bounded (`nn.alignment.AlignerSettings`);
- at test time partners come from a gallery inside the model: thumbnails and finished attention maps of up to `gallery` normal
  training images, those first that most training images have as partners. The configs' 65,536 hold all of ChestX-ray14;
- the best epoch is chosen on validation; the paper has a fixed number and does not say.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from chestmap.errors import BadModel, BadSettings
from chestmap.nn.alignment import Aligner, aligned, aligned_frames, map_size, maps_back
from chestmap.nn.backbone import Backbone, BackboneSettings
from chestmap.nn.boxes import between, resized
from chestmap.nn.cam import class_maps
from chestmap.nn.instances import InstanceSettings, box_loss, cell_targets, limited_loss, log_any, mil_loss
from chestmap.nn.similar_images import CODE, nearest, thumbnails
from chestmap.packs.augment import warped
from chestmap.packs.loader import Part
from chestmap.predictions.folder import OwnRule
from chestmap.progress import progress_of
from chestmap.settings import Settings
from chestmap.tensors import Batch, Output
from chestmap.training import Data, Method, Run, Schedule, Task
from chestmap.training.alignment_steps import AlignmentSettings, align, make_anchor, normal
from chestmap.types import Findings

__all__ = ["METHOD", "CiaNet", "CiaNetSettings", "Partners", "box_loss", "cell_targets", "contrast", "log_any", "mil_loss"]

OWN_RULE = OwnRule(0.5, normalize=False)
_TINY = 1e-8

One = Float[Tensor, "batch 1 h w"]
Images = Float[Tensor, "batch _channels _height _width"]  # of one channel, or the kept features of a frozen trunk
Partner = Literal["similar", "random", "canonical"]
SGD = {"optimizer": "sgd", "momentum": 0.9, "augment": False}
PAPER = Schedule.model_validate(
    SGD
    | {
        "epochs": 15,
        "batch_size": 6,
        "learning_rate": 6e-3,
        "weight_decay": 1e-4 / 6,
        "decay": "step",
        "every": 5,
        "factor": 0.1,
    }
)  # 0.001 and 0.0001 of a loss that is the sum of six images


class CanonicalSettings(AlignmentSettings):
    """The mean of 500 images, cropped to the lungs."""

    judge: BackboneSettings = BackboneSettings(name="resnet50.tv_in1k", stages=(2,))
    anchor_images: Annotated[int, Field(ge=1)] = 500
    crop: tuple[float, float, float, float] = (0.12, 0.08, 0.88, 0.84)
    pool: Annotated[int, Field(ge=1)] = 1


class CiaNetSettings(Settings):
    """`finer` and `gallery` count when a model predicts: cells per side of a training cell, and the partners it can choose from."""

    name: Literal["cia_net"] = "cia_net"
    backbone: BackboneSettings = BackboneSettings(name="resnet50.tv_in1k")
    contrast: bool = True  # False: the base model
    partner: Partner = "similar"
    box_weight: Annotated[float, Field(ge=0)] = 1.0  # β_B; 0 leaves boxes out, and boxed images count by their labels
    instances: InstanceSettings = InstanceSettings()
    finer: Annotated[int, Field(ge=1)] = 8
    gallery: Annotated[int, Field(ge=1)] = 8192
    aligned: bool = True
    alignment: CanonicalSettings = CanonicalSettings()
    align: Schedule = Schedule.model_validate(SGD | {"epochs": 5, "batch_size": 16, "learning_rate": 1e-3, "select": "loss"})
    attend: Schedule = PAPER


@dataclass(frozen=True, eq=False)
class Grid(Output):
    """`cells` are the logits of the training grid, on the aligned canvas to which `theta` leads."""

    cells: Float[Tensor, "batch finding rows columns"]
    theta: Float[Tensor, "batch 2 3"] | None


class CiaNet(nn.Module):
    """Without `partners` an image is compared with the gallery's nearest; before there is one, with nothing (M = 0)."""

    def __init__(self, settings: CiaNetSettings, findings: int, canvas: tuple[int, int]) -> None:
        super().__init__()
        self.finer, self.partner, self.contrast = settings.finer, settings.partner, settings.contrast
        self.aligner = Aligner(settings.alignment.aligner) if settings.aligned else None
        self.backbone = Backbone(settings.backbone.model_copy(update={"stages": (3, 4)}))
        stride = self.backbone.stride
        rows, columns = -(-canvas[1] // stride), -(-canvas[0] // stride)
        self.head = nn.Linear(self.backbone.channels, findings)  # of every cell: a 1 x 1 convolution
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.constant_(self.head.bias, settings.instances.start(rows * columns))
        self.floor = settings.instances.floor
        if self.contrast:
            self.attention_head = nn.Linear(self.backbone.channels_of[3], 1, bias=False)  # a bias would cancel in ΔM
            self.register_buffer("thumbs", torch.zeros(settings.gallery, CODE, dtype=torch.uint8))
            self.register_buffer("attentions", torch.zeros(settings.gallery, rows, columns, dtype=torch.float16))

    def forward(self, images: Images, partners: Images | None = None) -> Grid:
        """Logits and cells of the images.

        With `partners`, attention is contrasted with theirs; without, with the gallery's.
        """
        theta = None if self.aligner is None else self.aligner(images)
        seen = self._aligned(images, theta)
        if self.contrast and partners is not None:
            others = self._aligned(partners, None if self.aligner is None else self.aligner(partners))
            others = others if seen.shape[1] == 1 else self.backbone.kept(others)  # as those of the images, with data.views
            middle, last = self.maps(torch.cat([seen, others]))
            attention, other = self.attention(middle, last).chunk(2)
            last = last[: len(images)]
        else:
            middle, last = self.maps(seen)
            attention = self.attention(middle, last) if self.contrast else None
            other = self._from_gallery(images, attention) if attention is not None else None
        return self._judged(images, last, attention, other, theta)

    def maps(self, images: Images) -> tuple[Float[Tensor, "batch c4 _h4 _w4"], Float[Tensor, "batch c5 h w"]]:
        """C4, and what cells are read from: C5, or with `backbone.pyramid` both joined on the grid of C4."""
        middle, last = self.backbone.stages(images)
        return middle, self.backbone.joined([middle, last])

    def _judged(
        self, images: Images, last: Tensor, attention: Tensor | None, other: Tensor | None, theta: Tensor | None
    ) -> Grid:
        evidence, bias = class_maps(last, self.head.weight, relu=False), self.head.bias[:, None, None]
        width, height = self.finer * evidence.shape[-1], self.finer * evidence.shape[-2]
        cells, fine = evidence, resized(evidence, width, height)
        if attention is not None and other is not None:
            cells = contrast(attention, other) * cells  # eq. 3
            fine = contrast(resized(attention, width, height), resized(other, width, height)) * fine
        cells, maps = cells + bias, torch.sigmoid(fine + bias)
        if theta is not None:
            maps = maps_back(maps, theta, map_size(maps, images))
        present, absent = log_any(cells, self.floor)
        return Grid(present - absent, maps, cells, theta)

    def attention(self, middle: Float[Tensor, "batch c4 _h4 _w4"], last: Float[Tensor, "batch c5 h w"]) -> One:
        """M: the attention blob pooled to the grid of the last features by maxima, 2 x 2 where that is half as fine."""
        rows, columns = last.shape[-2:]
        halved = middle.shape[-2:] == (2 * rows, 2 * columns)
        pooled = functional.max_pool2d(middle, 2) if halved else functional.adaptive_max_pool2d(middle, (rows, columns))
        return class_maps(pooled, self.attention_head.weight, relu=False)

    def attention_of(self, images: Images) -> Float[Tensor, "batch h w"]:
        """M of images as partners."""
        seen = self._aligned(images, None if self.aligner is None else self.aligner(images))
        return self.attention(*self.maps(seen))[:, 0]

    def _aligned(self, images: Images, theta: Tensor | None) -> Images:
        return images if theta is None else aligned(images, theta)

    def _from_gallery(self, images: Images, like: Tensor) -> Tensor:
        rows = torch.zeros(images.shape[0], dtype=torch.int64, device=images.device)
        if self.partner != "canonical":
            thumbs = thumbnails(images)
            if self.partner == "similar":
                rows = nearest(thumbs, self.get_buffer("thumbs"))
            else:  # any row, but always the same one for the same image
                filled = self.get_buffer("thumbs").any(1).sum().clamp_min(1)
                rows = (thumbs.long() * torch.arange(1, CODE + 1, device=images.device)).sum(1) % filled
        return resized(self.get_buffer("attentions")[rows][:, None].to(like.dtype), like.shape[-1], like.shape[-2])


def contrast(attention: One, other: One) -> One:
    """ΔM = |M+ - M-| scaled to a mean of 1; ones where the two are the same."""
    difference = (attention - other).abs()
    mean = difference.mean((-2, -1), keepdim=True)
    return torch.where(mean > _TINY, difference, 1.0) / torch.where(mean > _TINY, mean, 1.0)


class Partners:
    """The normal images of the training part, and which of them each training image is compared with.

    A partner comes from the pack and moves as its image did, by the same augmentation. Images that are not of the training part
    (validation) are searched for as they come. `folder` is what `write_partners` made; the canonical chest needs none.
    """

    def __init__(
        self, part: Part, kind: Partner, folder: Path | None, canonical: Float32[np.ndarray, "height width"] | None = None
    ) -> None:
        self.part, self.kind, self.canonical = part, kind, canonical
        self.rows = np.flatnonzero(normal(part))  # positions in the part
        self.thumbs = np.zeros((1, CODE), np.uint8) if folder is None else _load(folder, "thumbs.npy")
        self.table = np.zeros(0, np.int64) if folder is None else _load(folder, "partners.npy")
        self.row_of = dict(zip(part.ids, self.table.tolist(), strict=False))

    def images(self, batch: Batch, *, training: bool) -> Images:
        """Random partners change from step to step in training; elsewhere they hang on the image's id alone."""
        if self.kind == "random" and training:
            rows = torch.randint(len(self.rows), (len(batch),)).numpy()
        elif self.kind == "random":
            rows = np.array([crc32(one.encode()) % len(self.rows) for one in batch.ids])
        elif self.kind == "similar" and all(one in self.row_of for one in batch.ids):
            rows = np.array([self.row_of[one] for one in batch.ids])
        elif self.kind == "similar":
            rows = nearest(thumbnails(self._seen(batch)), torch.from_numpy(self.thumbs)).numpy()
        else:
            rows = np.zeros(len(batch), np.int64)
        return self._moved(self.pixels(rows), batch).to(batch.images.device)

    def _seen(self, batch: Batch) -> Images:
        """The batch's pixels; those of the pack where it holds kept features of them."""
        if batch.images.shape[1] == 1:
            return batch.images.cpu()
        return _as_images(self.part.pack.pixels(np.array([self.part.pack.row_of[one] for one in batch.ids])))

    def pixels(self, rows: Int64[np.ndarray, "some"]) -> Images:
        """Of the normal images in these rows, on the canvas as packed."""
        if self.canonical is not None:
            return torch.from_numpy(self.canonical).expand(len(rows), 1, -1, -1)
        return _pixels(self.part, self.rows[rows])

    def _moved(self, partners: Images, batch: Batch) -> Images:
        bases = [self.part.base_frame(image_id) for image_id in batch.ids]
        moves = [between(base, frame) for base, frame in zip(bases, batch.frames, strict=True)]
        still = all(np.allclose(move, (1, 0, 0, 0, 1, 0), atol=1e-6) for move in moves)
        return partners if still else warped(partners, moves)

    def favorites(self, most: int) -> Int64[np.ndarray, "some"]:
        """At most so many rows, those first that most training images are compared with."""
        if self.canonical is not None:
            return np.zeros(1, np.int64)
        chosen = np.bincount(self.table, minlength=len(self.rows))
        return np.argsort(-chosen, kind="stable")[:most]


def _pixels(part: Part, positions: Int64[np.ndarray, "some"]) -> Images:
    return _as_images(part.pack.pixels(part.pack_rows[positions]))


def _as_images(pixels: np.ndarray) -> Images:
    return torch.from_numpy(pixels)[:, None].float() / 255


def _load(folder: Path, name: str) -> np.ndarray:
    try:
        return np.load(folder / name, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadModel(f"{folder / name}: not readable ({error}); delete the step's folder to make it anew") from None


def write_partners(part: Part, folder: Path, *, progress: bool = False) -> None:
    """`thumbs.npy` of the normal images, and in `partners.npy` for each image of the part the row of its partner in them."""
    healthy, thumbs = np.flatnonzero(normal(part)), np.empty((len(part), CODE), dtype=np.uint8)
    with progress_of("partners", len(part), show=progress) as advance:
        for some in np.split(np.arange(len(part)), range(64, len(part), 64)):
            thumbs[some] = thumbnails(_pixels(part, some)).numpy()
            advance(len(some))
    own = torch.full((len(part),), -1, dtype=torch.int64)
    own[healthy] = torch.arange(len(healthy))
    np.save(folder / "thumbs.npy", thumbs[healthy])
    np.save(folder / "partners.npy", nearest(torch.from_numpy(thumbs), torch.from_numpy(thumbs[healthy]), own).numpy())


class Contrast(Task):
    """The terms of eq. 6: boxed pairs of image and finding by cells (eq. 4), the other known ones by images (eq. 5)."""

    network: CiaNet

    def __init__(self, network: CiaNet, box_weight: float, partners: Partners | None) -> None:
        super().__init__(network)
        self.box_weight, self.partners, self.weights = box_weight, partners, {"boxes": box_weight}
        self.maps_are_normalized = OWN_RULE.normalize
        if network.aligner is not None:
            self.freeze(network.aligner)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Eq. 5 and 6: boxed images label their cells, the others their noisy OR."""
        grid = self._seen(batch)
        frames = batch.frames if grid.theta is None else aligned_frames(batch.frames, grid.theta)
        boxes = batch.boxes if self.box_weight else [()] * len(batch)
        targets = cell_targets(boxes, frames, batch.findings, (grid.cells.shape[-1], grid.cells.shape[-2]))
        images, boxed = limited_loss(grid.cells, targets.to(grid.cells.device), batch.labels, self.network.floor)
        return self.weighted({"images": images, "boxes": boxed})

    def predict(self, batch: Batch) -> Output:
        """Contrasts validation images with partners of the training images, as in training."""
        return self._seen(batch)

    def _seen(self, batch: Batch) -> Grid:
        return self.network(batch.images, self.partners and self.partners.images(batch, training=self.training))


def write_gallery(network: CiaNet, partners: Partners, folder: Path, *, progress: bool = False) -> None:
    """`thumbs.npy` and `attentions.npy` (M-) of the normal images that the network will be compared with elsewhere."""
    network.eval()
    rows, found = partners.favorites(len(network.get_buffer("thumbs"))), []
    with progress_of("gallery", len(rows), show=progress) as advance, torch.inference_mode():
        for some in np.split(rows, range(16, len(rows), 16)):
            found.append(network.attention_of(partners.pixels(some).to(network.head.weight.device)).half().cpu().numpy())
            advance(len(some))
    np.save(folder / "attentions.npy", np.concatenate(found))
    np.save(folder / "thumbs.npy", partners.thumbs[rows])


def read_gallery(network: CiaNet, folder: Path) -> None:
    """Fills the network's gallery; rows that remain are black images, which resemble nothing."""
    for name in ("thumbs", "attentions"):
        found = torch.from_numpy(_load(folder, f"{name}.npy"))
        network.get_buffer(name).zero_()[: len(found)] = found


def build(settings: CiaNetSettings, findings: Findings, canvas: tuple[int, int]) -> CiaNet:
    """Makes the network without gallery; the canvas fixes the grid."""
    return CiaNet(settings, len(findings), canvas)


def recipe(run: Run, data: Data, settings: CiaNetSettings) -> nn.Module:
    """Trains the aligner where one is asked for, then searches partners, trains on them, and keeps the gallery."""
    if settings.aligned and data.train.views is not None:
        raise BadSettings("data.views: an aligner reads pixels, not kept features; set method.aligned = false")
    network, canonical = build(settings, data.findings, data.canvas), None
    if settings.aligned:
        network.aligner, canonical = align(run, data, settings.alignment, settings.align)
    partners = _partners(run, data, settings, canonical) if settings.contrast else None
    task = Contrast(network, settings.box_weight, partners)
    run.fit("attend", task, data.train, settings.attend, data.validation)
    if partners:
        write = partial(write_gallery, network, partners, progress=not run.screen.console.quiet)
        read_gallery(network, run.write("gallery", write, of=data.train))
    return network


def _partners(run: Run, data: Data, settings: CiaNetSettings, canonical: Float32[np.ndarray, "h w"] | None) -> Partners:
    if settings.partner == "canonical":
        canonical = make_anchor(run, data.train, settings.alignment) if canonical is None else canonical
        return Partners(data.train, "canonical", None, canonical)
    write = partial(write_partners, data.train, progress=not run.screen.console.quiet)
    return Partners(data.train, settings.partner, run.write("partners", write, of=data.train))


METHOD = Method(
    name="cia_net",
    title="CIA-Net",
    paper="Liu et al., ICCV 2019",
    settings=CiaNetSettings,
    build=build,
    recipe=recipe,
    own_rule=lambda _: OWN_RULE,
    earlier={"instances": {"form": "plain"}},
    refuses={"alignment": "it aligns itself and its partners (method.aligned)"},
    tiny={
        "backbone": {"name": "test_resnet"},
        "instances": {"squeezed_to": 0.5},
        "finer": 2,
        "gallery": 8,
        "alignment": {
            "aligner": {"backbone": {"name": "test_resnet"}},
            "judge": {"name": "test_resnet", "stages": (1, 2)},
            "anchor_images": 16,
            "pool": 1,
        },
        "align": {"epochs": 1, "batch_size": 4, "batches": 2, "optimizer": "sgd", "augment": False, "select": "last"},
        "attend": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-4},
    },
)

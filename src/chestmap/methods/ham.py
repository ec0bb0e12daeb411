"""HAM: Ouyang et al., "Learning Hierarchical Attention for Weakly-supervised Chest X-Ray Abnormality Localization and
Diagnosis", IEEE TMI 40(10), 2021 (arXiv 2112.12349).

Three levels of attention: a foreground map added to the features, a positive map (is there anything?) and a map for each
finding. Two ordinal losses keep each finding inside the positive region and the positive region inside the findings' union.

| paper | here |
|---|---|
| Fig. 2, Conv1 to Conv3 | `Encoder` |
| III.A, Fig. 3, foreground attention block | `nn.attention.ForegroundAttention` |
| LSE pooling, r = 6 | `nn.pooling.log_sum_exp` |
| eq. 1, M | `nn.cam.class_maps`, in `Ham.forward` |
| eq. 2, T(M) | `nn.cam.soft_mask` |
| eq. 3, L_bound | `bound_loss` |
| eq. 4, M^u, and eq. 5, L_union | `union_loss` |
| eq. 6, L_amse | `amse_loss`; its plain rival of Table VII is `mse_loss` |
| III.C, self-refinement (SR) | `write_refined_masks`, `RefinedMasks`, `recipe` |
| eq. 7, L_total | `Attend`: findings + positive + bound + union + boxes |
| IV.B.2, threshold 0.999 | `OWN_LEVEL` |

What the text leaves open, and how it is settled: in eq. 3 to 5, M outside of T is the raw map of eq. 1, T sees it normalized;
a sum of M that is zero makes the ratio 0 (the term 1, without gradient). A finding that is unknown takes part in no term, and
the positive label is known where a finding is present or all are absent. "No Finding" and "Support Devices" are no
abnormality. Without a foreground block the heads use the backbone's own features. The channel-only block returns the
weighed features. Masks cut the upsampled raw map where T is 0.999; self-refinement cuts there too, and compares with the union
of a finding's boxes. From the authors' code: dropout, no biases in the heads, weights with a stopped gradient on the way to
the maps (`stop_map_weights`), epochs, the 1x1 convolution before the channel weights, the zoom before cropping.

Differs from the paper:
- one-channel input, its stem summed from the three of ImageNet: the same function of a grey image;
- the best epoch is chosen on validation, never on test;
- `reading = "authors"` turns the losses into those of the authors' code, and each part can be had alone: `reading.inside` (T of bound
  and union has beta 0.75 on the raw map), `reading.mean` (by finding; AMSE divides sums over the batch), `reading.order` (AMSE
  upsamples before T, `align_corners=True`); `reading.inside = "normalized"` takes M of eq. 3 to 5 normalized outside of T, too;
- the first convolution after a removed stride keeps the smaller dilation (`nn.backbone`).
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional

from chestmap.errors import BadInput, BadModel
from chestmap.nn.attention import ForegroundAttention
from chestmap.nn.backbone import Backbone, BackboneSettings
from chestmap.nn.boxes import between, masks_at, resized, warp_maps
from chestmap.nn.cam import ALPHA, class_maps, full_precision, level_where, normalized, soft_mask, without_autocast
from chestmap.nn.losses import known_bce
from chestmap.nn.pooling import Pooling, pooled
from chestmap.nn.process_sums import shared_count, shared_sum
from chestmap.packs.loader import Loader, LoaderSettings, Part
from chestmap.predictions.folder import OwnRule
from chestmap.settings import Settings
from chestmap.storage.json_file import read_json
from chestmap.tensors import Batch, Output
from chestmap.training import Data, Method, Run, Schedule, Task
from chestmap.types import Findings, Frame
from chestmap.vocabulary import NO_FINDING, SUPPORT_DEVICES

OWN_LEVEL = level_where(0.999)  # 0.46907 of the normalized map
AUTHORS_BETA = 0.75  # of T inside bound and union in the authors' code
_TINY = 1e-8  # a sum below this is a map of zeros

Maps = Float[Tensor, "batch finding h w"]
Masks = Shaped[Tensor, "batch finding height width"]
Positive = Float[Tensor, "batch 1 h w"]
Loss = Float[Tensor, ""]
Labels = Shaped[Tensor, "batch finding"]  # 0, 1 or NaN; whole numbers and booleans will do
Among = Shaped[Tensor, "_ _finding"] | None  # labels of the whole batch, of which a piece is given
Pairs = Float[Tensor, "pair h w"]
Weight = Annotated[float, Field(ge=0)]
STEPS = {"decay": "step", "every": 10, "factor": 0.1}  # of Adam with momentum 0.9
PAPER = Schedule.model_validate({"epochs": 20, "batch_size": 24, "learning_rate": 2e-5, "weight_decay": 1e-4, **STEPS})


class Reading(Settings):
    """How the losses are read, part by part; the defaults are the paper's text."""

    inside: Literal["paper", "authors", "normalized"] = "paper"  # eq. 3 and 5
    mean: Literal["images", "findings"] = "images"  # eq. 3 and 6
    order: Literal["mask-first", "resize-first"] = "mask-first"  # eq. 6


TEXT, AUTHORS = Reading(), Reading(inside="authors", mean="findings", order="resize-first")


class HamSettings(Settings):
    """A weight of 0 leaves a term out; without `positive_weight` there is no positive attention, so no bound and union."""

    name: Literal["ham"] = "ham"
    backbone: BackboneSettings = BackboneSettings(name="resnet50.tv_in1k", output_stride=8)
    foreground: Literal["none", "channel", "position", "both"] = "both"
    width: Annotated[int, Field(ge=8)] = 512  # channels of the encoded features
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    pooling: Literal["mean", "max", "lse"] = "lse"
    r: Annotated[float, Field(gt=0)] = 6.0
    stop_map_weights: bool = True
    box_weight: Weight = 0.5  # z
    positive_weight: Weight = 0.01  # λ1
    bound_weight: Weight = 0.001  # λ2
    union_weight: Weight = 0.001  # λ3
    box_loss: Literal["amse", "mse"] = "amse"
    reading: Reading = TEXT  # or "paper" or "authors" for all of its parts
    self_refinement: bool = False
    least_overlap: Annotated[float, Field(ge=0, le=1)] = 0.3  # IoU below which self-refinement keeps the box
    refine: Schedule = PAPER  # of the additional network
    attend: Schedule = PAPER

    @field_validator("reading", mode="before")
    @classmethod
    def _by_name(cls, given: object) -> object:
        return {"paper": TEXT, "authors": AUTHORS}.get(given, given) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _fits(self) -> "HamSettings":
        if not self.positive_weight and (self.bound_weight or self.union_weight):
            raise ValueError(
                "bound_weight and union_weight need positive attention: set them to 0 or positive_weight above 0"
            )
        if self.self_refinement and not self.box_weight:
            raise ValueError("self_refinement refines boxes: it needs a box_weight above 0")
        return self


@dataclass(frozen=True, eq=False)
class Attention(Output):
    """What one pass gives: raw maps of eq. 1, and the positive parts, None without positive attention."""

    positive_logit: Float[Tensor, "batch 1"] | None
    positive_map: Float[Tensor, "batch 1 h w"] | None


class Encoder(nn.Module):
    """Fig. 2: Conv1 narrows, the foreground block attends, Conv2 follows, Conv3 joins it with the backbone's features."""

    def __init__(self, channels: int, settings: HamSettings) -> None:
        super().__init__()
        narrow = channels // 4
        self.conv1 = nn.Sequential(_conv3x3(channels, narrow), nn.BatchNorm2d(narrow))
        self.foreground = ForegroundAttention(narrow, settings.foreground)  # pyright: ignore[reportArgumentType]
        self.conv2 = nn.Sequential(_conv3x3(narrow, narrow), nn.BatchNorm2d(narrow))
        self.conv3 = nn.Sequential(
            _conv3x3(channels + narrow, settings.width),
            nn.BatchNorm2d(settings.width),
            nn.ReLU(),
            nn.Dropout2d(settings.dropout),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Float[Tensor, "batch channel h w"]) -> Float[Tensor, "batch width h w"]:
        attended = self.conv2(self.foreground(self.conv1(features)))
        return self.conv3(torch.cat([features, attended], dim=1))


def _conv3x3(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1, bias=False)


class Ham(nn.Module):
    """Backbone, encoder, and one or two linear heads; their weights also make the maps."""

    def __init__(self, settings: HamSettings, findings: int) -> None:
        super().__init__()
        self.pooling: Pooling = settings.pooling
        self.r, self.stop_map_weights = settings.r, settings.stop_map_weights
        self.backbone = Backbone(settings.backbone)
        plain = settings.foreground == "none"
        self.encoder = nn.Identity() if plain else Encoder(self.backbone.channels, settings)
        width = self.backbone.channels if plain else settings.width
        self.finding_head = nn.Linear(width, findings, bias=False)
        self.positive_head = nn.Linear(width, 1, bias=False) if settings.positive_weight else None

    def forward(self, images: Float[Tensor, "batch 1 height width"]) -> Attention:
        return self.read(self.features(images))

    def features(self, images: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch channel h w"]:
        return self.encoder(self.backbone(images))

    def read(self, features: Float[Tensor, "batch channel h w"]) -> Attention:
        """Logits and maps of each finding, and of "any finding" where the positive head exists."""
        vector = pooled(features, self.pooling, self.r)
        logits, maps = self._judged(features, vector, self.finding_head)
        if self.positive_head is None:
            return Attention(logits, maps, None, None)
        return Attention(logits, maps, *self._judged(features, vector, self.positive_head))

    def _judged(self, features: Tensor, vector: Tensor, head: nn.Linear) -> tuple[Tensor, Tensor]:
        weight = head.weight.detach() if self.stop_map_weights else head.weight
        with without_autocast(vector):
            return head(vector), class_maps(features, weight)  # eq. 1


def bound_loss(positive: Positive, abnormal: Maps, labels: Labels, reading: Reading = TEXT, among: Among = None) -> Loss:
    """L_bound, eq. 3: how much of each present finding's map lies outside the positive map; maps raw, labels 0, 1 or NaN.

    The mean over images with a present finding; 0 with a zero gradient where there is none. As printed, the minimum is of raw
    values, so a positive map that is everywhere larger leaves only what T masks out. Of a piece of a batch, here and below,
    `among` are the whole batch's labels.
    """
    present = labels == 1
    if reading.inside == "normalized":
        positive, abnormal = normalized(positive), normalized(abnormal)
    inner, outer = abnormal[present], positive.expand_as(abnormal)[present]
    return _averaged(1 - _share_inside(inner, outer, reading), present, reading, among)


def union_loss(positive: Positive, abnormal: Maps, labels: Labels, reading: Reading = TEXT, among: Among = None) -> Loss:
    """L_union, eq. 5: how much of the positive map lies outside the union of the present findings' maps (eq. 4).

    The mean over images with a present finding; absent and unknown findings are no part of the union.
    """
    present = labels == 1
    if reading.inside == "normalized":
        positive, abnormal = normalized(positive), normalized(abnormal)
    rows = present.any(1)
    union = torch.where(present[rows][:, :, None, None], abnormal[rows], 0.0).amax(1)  # eq. 4
    counted = rows if among is None else (among == 1).any(1)
    return (1 - _share_inside(positive[rows, 0], union, reading)).sum() / shared_count(counted.sum())


def _share_inside(inner: Pairs, outer: Pairs, reading: Reading) -> Float[Tensor, "pair"]:
    """The share of `inner`, softly masked, that lies under `outer`: the fraction in eq. 3 and 5."""
    inner, outer = full_precision(inner), full_precision(outer)
    masked = torch.sigmoid(ALPHA * (inner - AUTHORS_BETA)) if reading.inside == "authors" else soft_mask(inner)
    return _ratio((torch.minimum(inner, outer) * masked).sum((-2, -1)), inner.sum((-2, -1)))


def amse_loss(abnormal: Maps, masks: Masks, boxed: Labels, reading: Reading = TEXT, among: Among = None) -> Loss:
    """L_amse, eq. 6: squared error of T(M) against the box masks, relative to the area of both.

    `masks` are of the maps' size or larger (then T(M) is brought to it bilinearly, after soft masking as printed); `boxed` is 1
    where the finding has a box. The mean over images with a box; 0 with a zero gradient where there is none. The authors'
    quotient of sums over the batch cannot be had in pieces.
    """
    marked = boxed == 1
    truth = full_precision(masks[marked])
    soft = _soft_at(abnormal[marked], truth, reading)
    error, area = (soft - truth).square().sum((-2, -1)), soft.sum((-2, -1)) + truth.sum((-2, -1))
    if reading.mean == "images":
        return _averaged(_ratio(error, area), marked, reading, among)
    finding = marked.nonzero()[:, 1]
    sums = error.new_zeros(3, marked.shape[1]).index_add(1, finding, torch.stack([error, area, torch.ones_like(error)]))
    error, area, count = shared_sum(sums)
    return _ratio(error, area).sum() / (count > 0).sum().clamp_min(1)


def mse_loss(abnormal: Maps, masks: Masks, boxed: Labels, among: Among = None) -> Loss:
    """Table VII's rival of eq. 6: the plain mean squared error over positions, averaged as there."""
    marked = boxed == 1
    truth = full_precision(masks[marked])
    return _averaged((_soft_at(abnormal[marked], truth, TEXT) - truth).square().mean((-2, -1)), marked, TEXT, among)


def _soft_at(maps: Pairs, truth: Float[Tensor, "pair height width"], reading: Reading) -> Tensor:
    size = (truth.shape[-1], truth.shape[-2])
    if reading.order == "mask-first" or not len(maps):
        return resized(soft_mask(maps), *size)
    return soft_mask(functional.interpolate(full_precision(maps)[None], size[::-1], mode="bilinear", align_corners=True)[0])


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """The quotient, and 0 with a zero gradient where the whole is nothing."""
    live = whole > _TINY
    return torch.where(live, part, 0.0) / torch.where(live, whole, 1.0)


def _averaged(terms: Float[Tensor, "pair"], chosen: Labels, reading: Reading, among: Among) -> Loss:
    """Mean of the chosen (image, finding) pairs: by image, then over images; or, in the authors' code, by finding."""
    counted = chosen if among is None else among == 1
    if reading.mean == "images":
        share = chosen.to(terms.dtype) / chosen.sum(1, keepdim=True).clamp_min(1)
        return (terms * share[chosen]).sum() / shared_count(counted.any(1).sum())
    pairs = shared_count(counted.sum(0), 0)
    share = chosen.to(terms.dtype) / torch.where(pairs > 0, pairs, 1)
    return (terms * share[chosen]).sum() / (pairs > 0).sum().clamp_min(1)


def positive_labels(labels: Labels) -> Float[Tensor, "batch 1"]:
    """1 where any finding is present, 0 where all are known to be absent, else NaN."""
    known = torch.where((labels == 0).all(1), 0.0, torch.nan)
    return torch.where((labels == 1).any(1), 1.0, known)[:, None].to(labels.dtype)


class RefinedMasks:
    """A folder that `write_refined_masks` made: the masks that replace boxes, moved along with augmentation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        table = read_json(folder / "masks.json", "delete the folder and train again")
        self.frames = {image_id: Frame.from_list(numbers) for image_id, numbers in table["frames"].items()}
        self.files: dict[str, list[tuple[str, str]]] = {}
        for row in table["masks"]:
            if row["refined"]:
                self.files.setdefault(row["image_id"], []).append((row["finding"], row["file"]))

    def over(self, batch: Batch, masks: Masks) -> Masks:
        """The batch's box masks with the refined ones in their places."""
        height, width = masks.shape[-2:]
        for row, (image_id, frame) in enumerate(zip(batch.ids, batch.frames, strict=True)):
            for finding, file in self.files.get(image_id, ()):
                stored = cv2.imread(str(self.folder / file), cv2.IMREAD_GRAYSCALE)
                if stored is None:
                    raise BadModel(f"{self.folder / file}: is missing or damaged; delete the step's folder to make it anew")
                mask = torch.from_numpy(stored).to(masks)[None, None] / 255
                moved = warp_maps(mask, [between(self.frames[image_id], frame.resized((width, height)))], (width, height))
                masks[row, batch.findings.index(finding)] = (moved[0, 0] >= 0.5).to(masks)
        return masks


class Attend(Task):
    """eq. 7 with whichever terms the settings leave in."""

    network: Ham

    def __init__(self, network: Ham, settings: HamSettings, findings: Findings, refined: RefinedMasks | None = None) -> None:
        super().__init__(network)
        self.settings, self.refined = settings, refined
        weights = (
            settings.positive_weight,
            settings.bound_weight,
            settings.union_weight,
            settings.box_weight,
        )  # λ1, λ2, λ3, z
        self.weights = dict(zip(("positive", "bound", "union", "boxes"), weights, strict=True))
        self.counted: tuple[Batch, Float[Tensor, "batch finding"]] | None = None
        if settings.reading.mean == "findings" and settings.box_weight and settings.box_loss == "amse":
            self.needs_whole = 'method.reading.mean = "findings" divides sums over the whole batch by each other'
        abnormal = [row for row, name in enumerate(findings) if name not in (NO_FINDING, SUPPORT_DEVICES)]
        self.abnormal = slice(None) if len(abnormal) == len(findings) else abnormal

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The named losses of the paper, each where its settings ask for it."""
        seen, settings, reading = self.network(batch.images), self.settings, self.settings.reading
        among = batch.whole.labels
        terms = {"findings": known_bce(seen.logits, batch.labels, among)}  # L_ab
        if seen.positive_logit is not None and seen.positive_map is not None:
            labels, maps, among = batch.labels[:, self.abnormal], seen.maps[:, self.abnormal], among[:, self.abnormal]
            terms["positive"] = known_bce(seen.positive_logit, positive_labels(labels), positive_labels(among))  # L_pn
            if settings.bound_weight:
                terms["bound"] = bound_loss(seen.positive_map, maps, labels, reading, among)
            if settings.union_weight:
                terms["union"] = union_loss(seen.positive_map, maps, labels, reading, among)
        if settings.box_weight:
            terms["boxes"] = self._box_loss(batch, seen.maps)  # L_amse
        return self.weighted(terms)

    def _box_loss(self, batch: Batch, maps: Maps) -> Float[Tensor, ""]:
        """Over the batch's boxed images alone, at input size; a box that augmentation pushed off the canvas has no part."""
        rows = [row for row, boxes in enumerate(batch.boxes) if boxes]
        masks, boxed = self._masks(batch.rows(rows))
        among = None if batch.of is None else self._boxed(batch.of, len(batch))
        if self.settings.box_loss == "mse":
            return mse_loss(maps[rows], masks, boxed, among)
        return amse_loss(maps[rows], masks, boxed, self.settings.reading, among)

    def _masks(self, some: Batch) -> tuple[Float[Tensor, "batch finding height width"], Float[Tensor, "batch finding"]]:
        """Masks of boxes, or what refinement made of them, and 1 where there is anything of one on the canvas."""
        masks = some.masks(*some.images.shape[-2:])
        if self.refined is not None:
            masks = self.refined.over(some, masks)
        return masks, some.boxed * masks.amax((-2, -1))

    def _boxed(self, whole: Batch, at_once: int) -> Float[Tensor, "batch finding"]:
        """The second part of `_masks` for a batch in pieces, found once for all of them."""
        if self.counted is None or self.counted[0] is not whole:
            found = [self._masks(piece)[1] for piece in whole.pieces(at_once)]
            self.counted = whole, torch.cat(found)
        return self.counted[1]


def write_refined_masks(
    network: nn.Module, part: Part, folder: Path, least_overlap: float = 0.3, batch_size: int = 8
) -> None:
    """Section III.C: for each boxed finding of a part, the attention within the box, or the box where they hardly overlap.

    `masks.json` lists for every boxed finding its IoU with the attention and whether it was refined; each refined mask is a PNG
    of the canvas (0 and 255), next to a picture with the box in yellow, the attention in red, the mask in green.
    """
    boxed = part.select(np.flatnonzero(part.boxed.any(axis=1)))
    if not len(boxed):
        raise BadInput(f"{part.name}: self-refinement refines boxes, and no image here has one; leave self_refinement out")
    network.eval()
    device = next(network.parameters()).device
    frames, rows = {}, []
    for batch in Loader(part=boxed, settings=LoaderSettings(batch_size=batch_size), seed=0, shuffle=False).epoch(0):
        masks = batch.masks(*batch.images.shape[-2:]).bool().numpy()
        with torch.inference_mode():
            maps = network(batch.images.to(device)).maps.float().cpu()
        attended = masks_at(resized(maps, masks.shape[-1], masks.shape[-2]), OWN_LEVEL).numpy()
        for row, column in batch.boxed.nonzero().tolist():
            image_id, finding = batch.ids[row], batch.findings.names[column]
            box, seen = masks[row, column], attended[row, column]
            overlap = float((box & seen).sum() / max((box | seen).sum(), 1))
            entry = {"image_id": image_id, "finding": finding, "iou": round(overlap, 4), "refined": overlap >= least_overlap}
            if entry["refined"]:
                entry["file"] = f"{len(rows):05d}.png"
                cv2.imwrite(str(folder / entry["file"]), (box & seen).astype(np.uint8) * 255)
            frames[image_id] = batch.frames[row].as_list()
            cv2.imwrite(str(folder / f"{len(rows):05d}-overlay.png"), _picture(batch.images[row, 0].numpy(), box, seen))
            rows.append(entry)
    (folder / "masks.json").write_text(json.dumps({"frames": frames, "masks": rows}, indent=1), encoding="utf-8")


def _picture(image: Float[np.ndarray, "h w"], box: Bool[np.ndarray, "h w"], seen: Bool[np.ndarray, "h w"]) -> np.ndarray:
    """Blue, green, red as OpenCV writes it."""
    picture = np.repeat((image * 255).clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    for mask, color in ((seen, (0, 0, 255)), (box, (0, 255, 255)), (box & seen, (0, 255, 0))):
        outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outline, -1, color, 1)
    return picture


def build(settings: HamSettings, findings: Findings, canvas: tuple[int, int]) -> Ham:  # noqa: ARG001 -- convolutional
    return Ham(settings, len(findings))


def recipe(run: Run, data: Data, settings: HamSettings) -> nn.Module:
    findings, canvas = data.findings, data.canvas
    refined = None
    if settings.self_refinement:  # an additional network, distinct from the main one
        first = Attend(build(settings, findings, canvas), settings, findings)
        teacher = run.fit("refine", first, data.train, settings.refine, data.validation).network
        write = partial(write_refined_masks, teacher, data.train, least_overlap=settings.least_overlap)
        refined = RefinedMasks(run.write("masks", write, of=data.train))
    task = Attend(build(settings, findings, canvas), settings, findings, refined)
    return run.fit("attend", task, data.train, settings.attend, data.validation).network


METHOD = Method(
    name="ham",
    title="HAM",
    paper="Ouyang et al., IEEE TMI 40(10) 2021, arXiv 2112.12349",
    settings=HamSettings,
    build=build,
    recipe=recipe,
    own_rule=lambda _: OwnRule(OWN_LEVEL),
    tiny={"width": 16, "attend": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-4},
          "backbone": {"name": "test_resnet", "output_stride": 8}},
)  # fmt: skip

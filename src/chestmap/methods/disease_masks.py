"""Disease masks: Kim, Jung and Lee, "Weakly Supervised Thoracic Disease Localization via Disease Masks", arXiv 2101.09915, 2021
(revised in Neurocomputing 517, 2023).

A classifier on aligned images shows where each finding usually lies; its confident class maps, averaged, become one mask for
each finding, and the classifier is trained on with features that the mask strengthens.

| paper | here |
|---|---|
| eq. 1, S_c | `Classifier.evidence` |
| eq. 2, P_c | `Classifier.forward`, logits while the masks are zero |
| eq. 3, the disease mask | `symmetric`, `MaskMean` of `nn.masks`, `write_masks` |
| eq. 4, f', and eq. 5, the attended map | `attended`, in `Classifier.forward` |
| 3.2 and eq. 6 to 9, alignment | `nn.alignment`, `training.alignment_steps` |
| eq. 10, weighted cross entropy | `nn.losses.balanced_bce` |
| 4.3, threshold of [18] | `OWN_LEVEL` |
| 4.4, pseudo masks | `areas`, `drawn`, `drawn_masks` |

What the text leaves open, and how it is settled: the mask differs by finding, so f' does, and since both eq. 1 and 4 are linear
the attended map is (1 + ψ) S: f' itself is never made. The score is the mean of S' plus a bias ("global average pooling"; eq. 2
prints a sum). Every training image with a score of 0.8 counts, whatever its label; a finding without one gets no mask,
which is said, and `least_share` counts the highest scores instead. `masks.json` holds how much each mask covers and how it agrees
with the places of training boxes, which only judge it. T keeps
the values in the upper half of the averaged map's range and clears the rest (`mask_level`; neither the level nor whether values
survive is said). Retraining goes on from the classifier. The judge of the perceptual loss is a classifier trained on the
images as they are, which is the row "ResNet-50". The threshold is the lower one of Wang 2017; [37] does not mention another.

Differs from the paper:
- one-channel input, its stem summed from the three of ImageNet: the same function of a grey image;
- pixels reach the network as (x - 0.5) / 0.5, the paper's [-1, 1];
- eq. 10 is divided by its number of labels, which Adam does not see;
- eq. 7 squares the norm, as its source does, and eq. 8 is a mean over pixels (`alignment.form = "printed"` has both as printed);
- the five parameters are bounded (`nn.alignment.AlignerSettings`), so that no image leaves the canvas;
- maps are brought back through the inverse transform inside the network, so boxes lie on the original image;
- the best epoch is chosen on validation; the paper has a fixed number and does not say.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import Field, model_validator
from torch import Tensor, nn

from chestmap.errors import BadModel, did_you_mean
from chestmap.nn.alignment import Aligned, Aligner, aligned, aligned_frames
from chestmap.nn.backbone import Backbone, BackboneSettings
from chestmap.nn.boxes import resized
from chestmap.nn.cam import class_maps
from chestmap.nn.losses import balanced_bce
from chestmap.nn.masks import MaskMean, Masks, least_scores, mask_facts, mask_warnings, symmetric
from chestmap.packs.loader import Loader, LoaderSettings, Part
from chestmap.predictions.folder import OwnRule
from chestmap.progress import progress_of
from chestmap.settings import Settings
from chestmap.tensors import Batch, Output
from chestmap.training import Data, Method, Run, Schedule, Task
from chestmap.training.alignment_steps import Alignment, AlignmentSettings, align, make_anchor, tell_warnings
from chestmap.types import Findings

__all__ = ["METHOD", "Classifier", "DiseaseMasksSettings", "MaskMean", "attended", "drawn_masks", "symmetric", "write_masks"]

OWN_LEVEL = 60 / 255  # of Wang 2017; its second level, 180, lies within
ALL_STAGES = (1, 2, 3, 4)  # conv2_x to conv5_x, which the perceptual loss compares

Maps = Float[Tensor, "batch finding h w"]
Share = Annotated[float, Field(ge=0, le=1)]
Area = Annotated[tuple[tuple[Share, Share], ...], Field(min_length=3)]
ADAM = Schedule(epochs=5, batch_size=32, learning_rate=1e-4, augment=False)


class DiseaseMasksSettings(Settings):
    """Pseudo masks: `areas` are polygons, corners as (x, y) shares of the aligned canvas; `drawn` lists which of them a finding has."""

    name: Literal["disease_masks"] = "disease_masks"
    backbone: BackboneSettings = BackboneSettings(name="resnet50.tv_in1k")
    aligned: bool = True
    alignment: AlignmentSettings = AlignmentSettings()
    masks: Literal["none", "data", "pseudo"] = "data"
    least_score: Share = 0.8  # of an image to enter a mask
    least_share: Annotated[float, Field(gt=0, le=1)] | None = None  # of images, those with the highest scores, in its place
    mask_level: Share = 0.5  # T of eq. 3, of the mask's range
    asymmetric: tuple[str, ...] = ("Cardiomegaly",)  # findings with maps that are not mirrored
    areas: Mapping[str, Area] = {}
    drawn: Mapping[str, tuple[str, ...]] = {}
    pretrain: Schedule = ADAM  # the judge of the perceptual loss
    align: Schedule = Schedule(epochs=5, batch_size=16, optimizer="sgd", learning_rate=1e-3, augment=False, select="loss")
    classify: Schedule = ADAM
    attend: Schedule = ADAM

    @model_validator(mode="after")
    def _fits(self) -> "DiseaseMasksSettings":
        if self.masks == "pseudo" and not self.drawn:
            raise ValueError(
                'masks = "pseudo" draws polygons: give [method.areas], and [method.drawn] with those of each finding'
            )
        for finding, names in self.drawn.items():
            for name in set(names) - set(self.areas):
                raise ValueError(f'drawn.{finding}: no area is called "{name}"{did_you_mean(name, self.areas)}')
        return self


class Classifier(nn.Module):
    """Backbone, mean pooling and a linear head; `masks` (ψ) are zero until there are any, which leaves features as they are."""

    def __init__(self, settings: BackboneSettings, findings: int, canvas: tuple[int, int]) -> None:
        super().__init__()
        self.backbone = Backbone(settings)
        self.head = nn.Linear(self.backbone.channels, findings)
        self.register_buffer("masks", torch.zeros(findings, *map_shape(canvas, self.backbone.stride)))

    def evidence(self, images: Float[Tensor, "batch 1 height width"]) -> Maps:
        """S of eq. 1, signed."""
        return class_maps(self.backbone(images), self.head.weight, relu=False)

    def forward(self, images: Float[Tensor, "batch 1 height width"]) -> Output:
        """Logits and maps of evidence that the masks strengthen: f' = ψ f + f."""
        evidence = self.evidence(images)
        maps = attended(evidence, resized(self.get_buffer("masks"), evidence.shape[-1], evidence.shape[-2]))
        return Output(maps.mean((-2, -1)) + self.head.bias, maps.relu())


def map_shape(canvas: tuple[int, int], stride: int) -> tuple[int, int]:
    """(rows, columns) of the last features of a (width, height) canvas; every halving rounds up."""
    return -(-canvas[1] // stride), -(-canvas[0] // stride)


def attended(evidence: Maps, masks: Masks) -> Maps:
    """What eq. 4 and 5 come to: sum_k w_k (ψ f_k + f_k) = (1 + ψ) sum_k w_k f_k."""
    return (1 + masks) * evidence


def drawn_masks(
    settings: DiseaseMasksSettings, findings: Findings, shape: tuple[int, int]
) -> Float32[np.ndarray, "finding h w"]:
    """Pseudo masks on a grid of (rows, columns): 1 in cells of which at least half is inside, 0 for findings without areas."""
    fine = 32
    masks = np.zeros((len(findings), *shape), dtype=np.float32)
    for finding, names in settings.drawn.items():
        inside = np.zeros((shape[0] * fine, shape[1] * fine), dtype=np.uint8)
        for name in names:
            corners = np.array(settings.areas[name]) * (inside.shape[1], inside.shape[0]) - 0.5
            cv2.fillPoly(inside, [np.rint(corners).astype(np.int32)], 1)
        covered = inside.reshape(shape[0], fine, shape[1], fine).mean((1, 3))
        masks[findings.index(finding)] = covered >= 0.5
    return masks


class Classify(Task):
    """eq. 10, with or without masks; an aligner is frozen."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        if isinstance(network, Aligned):
            self.freeze(network.aligner)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The classification loss, balanced between present and absent."""
        return {"findings": balanced_bce(self.network(batch.images).logits, batch.labels, batch.whole.labels)}


def write_masks(
    network: nn.Module,
    part: Part,
    settings: DiseaseMasksSettings,
    anchor: Float32[np.ndarray, "height width"],
    folder: Path,
    *,
    progress: bool = False,
) -> None:
    """`masks.npy` (float32, finding by row and column), `masks.json` (facts and warnings), a picture of each."""
    findings, told, warnings = part.findings, {}, []
    classifier, aligner = _pieces(network)
    rows, columns = classifier.get_buffer("masks").shape[1:]
    if settings.masks == "pseudo":
        masks = drawn_masks(settings, findings, (rows, columns))
    else:
        with progress_of("masks", len(part), show=progress) as advance:
            mean, places = _confident_mean(classifier, aligner, part, settings, advance)
        found = mean.masks(settings.mask_level)
        facts = mask_facts(findings.names, mean, found, places)
        masks, told = found.numpy(), {"masks": facts}
        asked = f"the highest {settings.least_share:g}" if settings.least_share else f"a score of {settings.least_score:g}"
        warnings = mask_warnings(facts, asked)
    np.save(folder / "masks.npy", masks)
    about = {"findings": findings.names, "from": settings.masks, "warnings": warnings} | told
    (folder / "masks.json").write_text(json.dumps(about, indent=1))
    for name, mask in zip(findings, masks, strict=True):
        cv2.imwrite(str(folder / f"{name.replace(' ', '_').replace('/', '_')}.png"), _picture(anchor, mask))


def _confident_mean(
    classifier: Classifier,
    aligner: Aligner | None,
    part: Part,
    settings: DiseaseMasksSettings,
    advance: Callable[[int], None],
) -> tuple[MaskMean, Masks]:
    """And by finding and cell, how many boxes lie there, on the aligned canvas."""
    asymmetric = {part.findings.resolve(name) for name in settings.asymmetric if name in part.findings}
    least: float | Tensor = settings.least_score
    if settings.least_share:
        seen = [torch.sigmoid(logits.double()) for _, logits, _ in _confidence(classifier, aligner, part)]
        least = least_scores(torch.cat(seen), settings.least_share)
    mean = MaskMean(torch.tensor([name not in asymmetric for name in part.findings]), least)
    places = torch.zeros(0)
    for evidence, logits, batch in _confidence(classifier, aligner, part):
        mean.add(evidence, logits)
        marked = batch.masks(evidence.shape[-2], evidence.shape[-1]).sum(0)
        places = places + marked if len(places) else marked
        advance(len(batch))
    return mean, places


def _confidence(
    classifier: Classifier, aligner: Aligner | None, part: Part
) -> Iterator[tuple[Maps, Float[Tensor, "batch finding"], Batch]]:
    """Evidence and logits of every image, and its batch with frames that end on the aligned canvas."""
    device = classifier.head.weight.device
    for batch in Loader(part=part, settings=LoaderSettings(batch_size=16), shuffle=False).epoch(0):
        images = batch.images.to(device)
        with torch.inference_mode():
            theta = None if aligner is None else aligner(images)
            evidence = classifier.evidence(images if theta is None else aligned(images, theta)).cpu()
        frames = batch.frames if theta is None else aligned_frames(batch.frames, theta.cpu())
        yield evidence, evidence.mean((-2, -1)) + classifier.head.bias.detach().cpu(), replace(batch, frames=frames)


def _pieces(network: nn.Module) -> tuple[Classifier, Aligner | None]:
    inner, aligner = (network.network, network.aligner) if isinstance(network, Aligned) else (network, None)
    assert isinstance(inner, Classifier)
    return inner.eval(), aligner


def _picture(anchor: Float32[np.ndarray, "height width"], mask: Float32[np.ndarray, "h w"]) -> np.ndarray:
    """The mask in red over the anchor, in the blue, green, red that OpenCV writes."""
    height, width = anchor.shape
    shown = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)[:, :, None]
    gray = np.repeat(anchor[:, :, None], 3, axis=2) * 0.8
    return np.rint(255 * (gray * (1 - 0.6 * shown) + 0.6 * shown * np.array([0.0, 0.0, 1.0]))).clip(0, 255).astype(np.uint8)


def read_masks(folder: Path, shape: torch.Size) -> Tensor:
    """Reads ψ of a finished step, [finding, height, width]; another shape than the network's is refused."""
    try:
        masks = np.load(folder / "masks.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadModel(f"{folder}: no readable masks ({error}); delete the step's folder to make it anew") from None
    if masks.shape != tuple(shape):
        raise BadModel(f"{folder}: masks of shape {masks.shape}, the network has {tuple(shape)}; delete the folder")
    return torch.from_numpy(masks)


def build(settings: DiseaseMasksSettings, findings: Findings, canvas: tuple[int, int]) -> nn.Module:
    """Makes the classifier, behind an aligner where the settings ask for one; masks begin as zeros."""
    classifier = Classifier(settings.backbone, len(findings), canvas)
    return Aligned(classifier, Aligner(settings.alignment.aligner)) if settings.aligned else classifier


def recipe(run: Run, data: Data, settings: DiseaseMasksSettings) -> nn.Module:
    """Trains a classifier, takes the masks from its confident maps, then trains it on under them."""
    found = _alignment(run, data, settings) if settings.aligned else None
    network = build(settings, data.findings, data.canvas)
    if found:
        network.aligner = found.aligner
    network = run.fit("classify", Classify(network), data.train, settings.classify, data.validation).network
    if settings.masks == "none":
        return network
    anchor = found.anchor if found else make_anchor(run, data.train, settings.alignment)
    write = partial(write_masks, network, data.train, settings, anchor, progress=not run.screen.console.quiet)
    masks = _pieces(network)[0].get_buffer("masks")
    folder = run.write("masks", write, of=data.train)
    masks.copy_(read_masks(folder, masks.shape))
    tell_warnings(run, folder)
    return run.fit("attend", Classify(network), data.train, settings.attend, data.validation).network


def _alignment(run: Run, data: Data, settings: DiseaseMasksSettings) -> Alignment:
    staged = settings.backbone.model_copy(update={"stages": ALL_STAGES})
    judge = Classifier(staged, len(data.findings), data.canvas)
    run.fit("pretrain", Classify(judge), data.train, settings.pretrain, data.validation)
    return align(run, data, settings.alignment, settings.align, judge.backbone)


METHOD = Method(
    name="disease_masks",
    title="Disease masks",
    paper="Kim et al., arXiv 2101.09915, Neurocomputing 517 2023",
    settings=DiseaseMasksSettings,
    build=build,
    recipe=recipe,
    own_rule=lambda _: OwnRule(OWN_LEVEL),
    refuses={
        "alignment": "it aligns itself (method.aligned)",
        "masks": "it has masks of its own (method.masks)",
    },
    tiny={
        "backbone": {"name": "test_resnet"},
        "alignment": {"aligner": {"backbone": {"name": "test_resnet"}}, "pool": 32, "anchor_images": 16},
        "least_score": 0.5,
        "pretrain": {"epochs": 1, "batch_size": 4, "batches": 2, "augment": False},
        "align": {"epochs": 1, "batch_size": 4, "batches": 2, "augment": False, "select": "last"},
        "classify": {"epochs": 1, "batch_size": 4, "augment": False},
        "attend": {"epochs": 1, "batch_size": 4, "augment": False},
    },
)

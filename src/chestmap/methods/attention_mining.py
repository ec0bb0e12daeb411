"""Attention mining: Cai et al., "Iterative Attention Mining for Weakly Supervised Thoracic Disease Pattern Localization in Chest
X-Rays", MICCAI 2018.

A classifier is trained; the region that it attends to most is erased from its feature map, for each finding by itself, and it is
trained on to recognize the finding from what is left, while it must keep its earlier answers on other images. After T such
steps the maps of all steps are laid together.

| paper | here |
|---|---|
| eq. 1 and w g(X) of eq. 2, one branch for each finding | `Branches.logits` |
| eq. 2 and 3, L_cls | `branch_loss` |
| eq. 4 and 5, L_KP | `preservation_loss` |
| 2.2, the first n of N images; eq. 6 | `Mine` |
| 2.3, multi-scale aggregation (MSA) | `MultiScale` |
| 3.1, training in stages | `recipe` |
| eq. 7 and M_t | `erase` (of `nn.erasing`) |
| eq. 8, H_f | `aggregate` (of `nn.erasing`), in `AttentionMining` |
| 3.2, three ranked boxes within an AFP budget | preset `cai2018` of the evaluation; as one mask `OWN_RULE` |

What the text leaves open, and how it is settled: with one network eq. 8 gives H_1 back whatever was erased (`aggregate` explains
why), so H_t is that of the network as step t left it. Step t trains with M_{t-1}, which the finished networks of the steps before
give for the image as it is augmented; its network goes on from theirs, and all are kept in the model. L_cls counts all N
images, with a mask of ones for those that are not mined. Eq. 2 prints no sum over images: it is a mean. Eq. 4 prints one norm of all
images' outputs over their number; here each image's norm is taken; its mean does not depend on the batch
(`preservation_form = "printed"` is eq. 4 as printed, smaller by about the root of N - n). N_A and N_B are
"identical" at first, so the statistics of batch norm are frozen while mining (`still_norms`). The score is the last network's
with nothing erased. Eq. 2 prints no bias; there is one, outside of maps and erasing. Batch norm and ReLU follow the 1x1
convolutions of MSA, as elsewhere in ResNet. Where all that is left is negative, the zeros of what was erased are the maximum,
and the region grows from there (`evidence = "positive"` stops instead). A finding that is unknown takes no part in eq. 2, one
unknown in the whole batch none in eq. 3. Neither learning rate nor length of mining is given: 0.01, 5 epochs.

Differs from the paper:
- one-channel input, its stem summed from the three of ImageNet: the same function of a grey image;
- final maps are lifted so that their least value is 0: the same map once normalized;
- the base models keep the best epoch by validation, mining the last one;
- `mined = "all"` mines the first n images of every batch, whatever they are; the paper's 880 images are `mined = "boxed"`, of which
  only this is read: that they have a box. Base models then train without them.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from chestmap.errors import BadInput
from chestmap.nn.backbone import Backbone, BackboneSettings
from chestmap.nn.boxes import resized
from chestmap.nn.cam import class_maps, full_precision, normalized
from chestmap.nn.erasing import LEVEL, aggregate, erase
from chestmap.nn.process_sums import counts_before, shared_count, shared_sum
from chestmap.packs.loader import Part
from chestmap.predictions.folder import OwnRule
from chestmap.settings import Settings
from chestmap.tensors import Batch, Output
from chestmap.training import Data, Method, Run, Schedule, Task
from chestmap.types import Findings

__all__ = ["METHOD", "aggregate", "branch_loss", "erase", "preservation_loss"]

OWN_RULE = OwnRule(LEVEL)  # the one level that the paper gives; the preset's three lie around it

Images = Float[Tensor, "batch 1 height width"]
Maps = Float[Tensor, "batch finding h w"]
Layer = Literal["stage1", "stage2", "stage3", "stage4", "aggregated", "logits"]
Form = Literal["images", "printed"]
Share = Annotated[float, Field(gt=0, le=1)]
SGD = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "batch_size": 64}
CLASSIFY = Schedule.model_validate(SGD | {"epochs": 50, "learning_rate": 0.1})
AGGREGATE = Schedule.model_validate(SGD | {"epochs": 10, "learning_rate": 0.1})
TUNE = Schedule.model_validate(SGD | {"epochs": 50, "learning_rate": 0.01, "select": "loss", "patience": 5})
MINE = Schedule.model_validate(SGD | {"epochs": 5, "learning_rate": 0.01, "select": "last"})


BASE = ("name", "backbone", "upsample", "width")
MINING = (
    *BASE, "mined", "share", "preservation", "preserved", "preservation_weight", "preservation_form", "still_norms", "level", "evidence",
)  # fmt: skip
"""The settings that base models depend on, and those of mining; runs that differ in others share these steps."""


class AttentionMiningSettings(Settings):
    """`steps = 0` is the base model; `shown` counts when a model predicts: the steps that its maps are made of, all where None."""

    name: Literal["attention_mining"] = "attention_mining"
    backbone: BackboneSettings = BackboneSettings(name="resnet50.tv_in1k")
    upsample: Literal["none", "bilinear", "deconvolution"] = "bilinear"  # of MSA; none: the backbone's own last features
    width: Annotated[int, Field(ge=2)] = 512  # channels from the last stage, half as many from the one before
    steps: Annotated[int, Field(ge=0)] = 3  # T
    shown: Annotated[int, Field(ge=1)] | None = None
    mined: Literal["all", "boxed"] = "all"
    share: Share = 0.125  # n / N
    preservation: Literal["none", "vanilla", "full"] = "full"
    preserved: Annotated[tuple[Layer, ...], Field(min_length=1)] = ("stage3", "stage4", "aggregated", "logits")
    preservation_weight: Annotated[float, Field(ge=0)] = 0.5  # λ
    preservation_form: Form = "images"  # of eq. 4
    still_norms: bool = True  # whether batch norm keeps the statistics of N_A while mining, so that N_B begins as N_A
    level: Share = LEVEL  # of a normalized map; the peak's region above it is erased
    evidence: Literal["signed", "positive"] = "signed"  # whether negative evidence is mined and shown
    scaled: bool = False  # whether H_t is normalized before eq. 8, as it is before the cut
    classify: Schedule = CLASSIFY
    aggregate: Schedule = AGGREGATE  # what is above the backbone
    tune: Schedule = TUNE
    mine: Schedule = MINE  # each step of mining


class MultiScale(nn.Module):
    """2.3: the last stage narrowed and brought to the size of the one before, which is narrowed too, and both side by side."""

    def __init__(self, backbone: Backbone, settings: AttentionMiningSettings) -> None:
        super().__init__()
        self.channels = settings.width + settings.width // 2
        self.deep = _narrowing(backbone.channels_of[4], settings.width)
        self.fine = _narrowing(backbone.channels_of[3], settings.width // 2)
        stride = backbone.stride_of[4] // backbone.stride_of[3]
        self.deconvolution = (
            nn.ConvTranspose2d(settings.width, settings.width, 3, stride, padding=1)
            if settings.upsample == "deconvolution"
            else None
        )

    def forward(
        self, fine: Float[Tensor, "batch c3 h w"], deep: Float[Tensor, "batch c4 _h _w"]
    ) -> Float[Tensor, "batch channel h w"]:
        """Joins the last two stages on the finer grid."""
        (height, width), deep = fine.shape[-2:], self.deep(deep)
        upsample = self.deconvolution
        deep = resized(deep, width, height) if upsample is None else upsample(deep, output_size=(height, width))
        return torch.cat([deep, self.fine(fine)], dim=1)


def read_stages(settings: AttentionMiningSettings) -> tuple[int, ...]:
    """From the first stage that MSA or preservation reads to the last: earlier ones need not be kept of a frozen trunk."""
    preserved = [int(name.removeprefix("stage")) for name in settings.preserved if name.startswith("stage")]
    return tuple(range(min([4 if settings.upsample == "none" else 3, *preserved]), 5))


def _narrowing(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class Branches(nn.Module):
    """The network of one step; row c of the head is w^c, the branch of a finding."""

    def __init__(self, settings: AttentionMiningSettings, findings: int) -> None:
        super().__init__()
        self.relu = settings.evidence == "positive"
        self.stages = read_stages(settings)
        self.backbone = Backbone(settings.backbone.model_copy(update={"stages": self.stages}))
        self.multi_scale = None if settings.upsample == "none" else MultiScale(self.backbone, settings)
        channels = self.backbone.channels if self.multi_scale is None else self.multi_scale.channels
        self.head = nn.Linear(channels, findings)

    def layers(self, images: Images) -> dict[str, Tensor]:
        """The stages that are read, such as `stage4`, with MSA `aggregated`, and `logits` with nothing erased."""
        found = {f"stage{number}": one for number, one in zip(self.stages, self.backbone.stages(images), strict=True)}
        if self.multi_scale is not None:
            found["aggregated"] = self.multi_scale(found["stage3"], found["stage4"])
        found["logits"] = self.logits(self.last(found))
        return found

    def last(self, layers: Mapping[str, Tensor]) -> Float[Tensor, "batch channel h w"]:
        """X of eq. 1, among what `layers` gave."""
        return layers["stage4"] if self.multi_scale is None else layers["aggregated"]

    def logits(
        self, features: Float[Tensor, "batch channel h w"], mask: Shaped[Tensor, "batch finding h w"] | None = None
    ) -> Float[Tensor, "batch finding"]:
        """Eq. 1 and w g(X ⊙ M) of eq. 2 for every branch, as the mean of M (X w): pooling and branch are both linear."""
        evidence = class_maps(features, self.head.weight, relu=False)
        kept = evidence if mask is None else evidence * mask  # eq. 1
        return kept.mean((-2, -1)) + full_precision(self.head.bias)

    def forward(self, images: Images) -> Output:
        """Logits [batch, finding] and signed class maps of one network, before any mining."""
        layers = self.layers(images)
        return Output(layers["logits"], class_maps(self.last(layers), self.head.weight))


class AttentionMining(nn.Module):
    """The networks as each step of mining left them, first to last."""

    def __init__(self, networks: Sequence[Branches], settings: AttentionMiningSettings) -> None:
        super().__init__()
        self.networks, self.settings = nn.ModuleList(networks), settings

    def forward(self, images: Images) -> Output:
        """Searches each image again under the masks of the networks before, and joins the maps by eq. 8."""
        maps, masks, logits = searched(self.networks[: self.settings.shown], images, self.settings)
        if self.settings.scaled:
            before = [torch.ones_like(masks[0]), *masks]
            maps = [normalized(one) * mask for one, mask in zip(maps, before, strict=False)]
        final = aggregate(maps, masks)  # eq. 8
        return Output(logits, final - final.amin((-2, -1), keepdim=True))


def searched(
    networks: nn.ModuleList | Sequence[Branches], images: Images, settings: AttentionMiningSettings
) -> tuple[list[Maps], list[Bool[Tensor, "batch finding h w"]], Float[Tensor, "batch finding"]]:
    """H_1 … H_T and M_1 … M_T of eq. 7, one step by each network, and the last network's logits with nothing erased."""
    maps, masks, logits = [], [], torch.empty(0)
    for network in networks:
        assert isinstance(network, Branches)
        layers = network.layers(images)
        features, logits = network.last(layers), layers["logits"]
        mask = masks[-1] if masks else _ones(features, len(network.head.bias))
        seen, mask = erase(features, network.head.weight, mask, settings.level, relu=network.relu)
        maps, masks = [*maps, seen], [*masks, mask]
    return maps, masks, logits


def _ones(features: Tensor, findings: int) -> Bool[Tensor, "batch finding h w"]:
    """M_0."""
    return torch.ones(features.shape[0], findings, *features.shape[-2:], dtype=torch.bool, device=features.device)


def branch_loss(
    logits: Float[Tensor, "batch finding"],
    labels: Shaped[Tensor, "batch finding"],
    among: Shaped[Tensor, "_ finding"] | None = None,
) -> Float[Tensor, ""]:
    """L_cls, eq. 2 and 3: cross entropy, the mean over images for each finding, then the mean over findings.

    Labels are 0, 1 or NaN (unknown, left out of both means); 0 with a zero gradient where all are unknown. `among` are the
    whole batch's, where these are of a piece.
    """
    logits, known = full_precision(logits), ~torch.isnan(labels)
    truth = torch.where(known, labels, 0).to(logits.dtype)
    errors = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none") * known
    images = shared_count((known if among is None else ~torch.isnan(among)).sum(0), 0)
    return (errors.sum(0) / torch.where(images > 0, images, 1)).sum() / (images > 0).sum().clamp_min(1)


def preservation_loss(
    before: Sequence[Shaped[Tensor, "image ..."]],
    after: Sequence[Shaped[Tensor, "image ..."]],
    images: Shaped[Tensor, ""] | None = None,
    form: Form = "images",
) -> Float[Tensor, ""]:
    """L_KP, eq. 4 and 5: for each layer the distance between pooled outputs of N_A and N_B, its mean over images, then the mean
    over layers. A layer is [image channel h w], or [image channel] where it is pooled or has no positions; 0 without images.
    Where N_B is still N_A the gradient is zero. `images` are N - n, by default as many as are given.

    `printed` takes one norm of the images' outputs together, as eq. 4 is printed: with N - n alike distances a root of N - n less.
    """
    pairs = [(_pooled(one), _pooled(other)) for one, other in zip(before, after, strict=True)]
    divisor = max(len(before[0]), 1) if images is None else images
    if form == "images":
        apart = [torch.linalg.vector_norm(one - other, dim=1).sum() / divisor for one, other in pairs]
    else:
        apart = [_length((one - other).square().sum()) / divisor for one, other in pairs]  # eq. 4
    return torch.stack(apart).mean()  # eq. 5


def _length(square: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The root of a sum of squares over all processes; 0 with a zero gradient where there is nothing."""
    square = shared_sum(square)
    return torch.where(square > 0, square, 1.0).sqrt() * (square > 0)


def _pooled(layer: Shaped[Tensor, "image ..."]) -> Float[Tensor, "image channel"]:
    """What g of eq. 4 leaves: means over positions."""
    return full_precision(layer).mean((-2, -1)) if layer.ndim == 4 else full_precision(layer)


class Classify(Task):
    """The base models: eq. 3 with nothing erased."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Eq. 2 and 3: the loss of each finding's branch."""
        return {"findings": branch_loss(self.network(batch.images).logits, batch.labels, batch.whole.labels)}


class Mine(Task):
    """eq. 6 in step t: N_B learns, `original` is N_A, `earlier` are the networks of the steps before.

    These two are frozen and not saved with the task: the recipe holds them.
    """

    network: Branches

    def __init__(
        self,
        network: Branches,
        settings: AttentionMiningSettings,
        original: Branches,
        earlier: Sequence[Branches] = (),
    ) -> None:
        super().__init__(network)
        self.settings, self.others = settings, (original, *earlier)
        self.weights = {"preservation": settings.preservation_weight}  # λ
        if settings.preservation == "full" and settings.preservation_form == "printed":
            self.needs_whole = 'method.preservation_form = "printed" is a norm over the whole batch'
        self.freeze(*self.others)

    def train(self, mode: bool = True) -> "Mine":  # noqa: FBT001, FBT002 -- torch's own signature
        """Keeps batch norms as they are while the rest trains, where `still_norms` asks for it."""
        super().train(mode)
        for part in self.network.modules():
            if self.settings.still_norms and isinstance(part, nn.BatchNorm2d):
                part.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Eq. 6: the classification loss under the masks, and the loss that keeps old knowledge."""
        mined = self.rows(batch.whole)
        rows = [row - batch.first for row in mined if batch.first <= row < batch.first + len(batch)]
        layers = self.network.layers(batch.images)
        features = self.network.last(layers)
        logits = self.network.logits(features, self.masks(batch.images, rows, features))
        terms = {"findings": branch_loss(logits, batch.labels, batch.whole.labels)}
        if self.settings.preservation == "full":
            images = torch.tensor(len(batch.whole) - len(mined), device=batch.images.device)
            printed = self.settings.preservation_form == "printed"
            images = shared_sum(images.float()).clamp_min(1) if printed else shared_count(images)
            terms["preservation"] = self._preservation(batch.images, rows, layers, images)
        return self.weighted(terms)

    def rows(self, batch: Batch) -> list[int]:
        """Of the n images that are mined, this process's: the first ones that can be; all of them without preservation."""
        settings, device = self.settings, batch.images.device
        rows = [row for row, boxes in enumerate(batch.boxes) if boxes or settings.mined == "all"]
        if settings.preservation == "none":
            return rows
        images = counts_before(len(batch), device)[1]
        before = counts_before(len(rows), device)[0]
        return rows[: max(0, max(1, round(settings.share * images)) - before)]

    @torch.no_grad()
    def masks(
        self, images: Images, rows: list[int], features: Float[Tensor, "batch channel h w"]
    ) -> Bool[Tensor, "batch finding h w"]:
        """M_{t-1} of the mined rows, ones elsewhere."""
        masks, earlier = _ones(features, len(self.network.head.bias)), self.others[1:]
        if earlier and rows:
            masks[rows] = searched(earlier, images[rows], self.settings)[1][-1]
        return masks

    def _preservation(
        self, images: Images, rows: list[int], layers: Mapping[str, Tensor], divisor: Tensor
    ) -> Float[Tensor, ""]:
        """Over the images that are not mined."""
        left = [row for row in range(len(images)) if row not in rows]
        chosen = [name for name in self.settings.preserved if name in layers]
        if not left or not chosen:
            return images.new_zeros(())
        with torch.no_grad():
            before = self.others[0].layers(images[left])
        after = [_pooled(layers[name])[left] for name in chosen]
        return preservation_loss([before[name] for name in chosen], after, divisor, self.settings.preservation_form)


def build(settings: AttentionMiningSettings, findings: Findings, canvas: tuple[int, int]) -> AttentionMining:  # noqa: ARG001 -- convolutional
    """Makes one network for each mining step, as a finished model holds them."""
    return AttentionMining([Branches(settings, len(findings)) for _ in range(max(settings.steps, 1))], settings)


def recipe(run: Run, data: Data, settings: AttentionMiningSettings) -> nn.Module:
    """Trains the base model, then one network for each mining step; each begins as the one before."""
    plain, mined = parts(data.train, settings)
    chain = [_base(run, data, plain, settings)]  # N_A, then N_B as each step leaves it
    schedule = settings.mine
    if settings.mined == "boxed" and settings.preservation != "none":
        schedule = schedule.model_copy(update={"boxed_share": settings.share})
    for step in range(1, settings.steps + 1):
        task = Mine(deepcopy(chain[-1]).requires_grad_(), settings, chain[0], chain[1:])
        chain.append(run.fit(f"mine{step}", task, mined, schedule, data.validation, reads=MINING).network)
    return AttentionMining(chain[1:] or chain, settings)


def parts(train: Part, settings: AttentionMiningSettings) -> tuple[Part, Part]:
    """What the base models learn from and what mining does. Boxed images that are to be mined are new to mining; without
    preservation it sees nothing else.
    """
    if settings.mined == "all" or not settings.steps:
        return train, train
    boxed = np.asarray(train.boxed.any(axis=1))
    if boxed.all() or not boxed.any():
        raise BadInput(
            f'{train.name}: {int(boxed.sum())} of {len(train)} images have boxes; mined = "boxed" needs some with and some '
            'without, as split "official-plus-boxes" has them; or set mined = "all"'
        )
    return train.select(~boxed), train.select(boxed) if settings.preservation == "none" else train


def _base(run: Run, data: Data, part: Part, settings: AttentionMiningSettings) -> Branches:
    """3.1: the backbone, then MSA above it while it is frozen, then all."""
    plain = Branches(settings.model_copy(update={"upsample": "none"}), len(data.findings))
    plain = run.fit("classify", Classify(plain), part, settings.classify, data.validation, reads=BASE[:2]).network
    assert isinstance(plain, Branches)
    if settings.upsample == "none":
        return plain
    stride = plain.backbone.stride_of
    if stride[3] == stride[4]:
        run.screen.tell(
            f"multi-scale aggregation joins stages of the same stride ({stride[4]}), so nothing is upsampled; with "
            "backbone.output_stride = 32 the last stage is brought to twice its size, as in the paper"
        )
    network = Branches(_without_weights(settings), len(data.findings))
    network.backbone = plain.backbone
    task = Classify(network)
    task.freeze(network.backbone)
    run.fit("aggregate", task, part, settings.aggregate, data.validation, reads=BASE)
    run.fit("tune", Classify(network.requires_grad_()), part, settings.tune, data.validation, reads=BASE)
    return network


def _without_weights(settings: AttentionMiningSettings) -> AttentionMiningSettings:
    return settings.model_copy(update={"backbone": settings.backbone.model_copy(update={"weights": "none"})})


METHOD = Method(
    name="attention_mining",
    title="Attention mining",
    paper="Cai et al., MICCAI 2018",
    settings=AttentionMiningSettings,
    build=build,
    recipe=recipe,
    own_rule=lambda _: OWN_RULE,
    refuses={"erasing": "it erases itself (method.steps)"},
    tiny={
        "backbone": {"name": "test_resnet"},
        "width": 16,
        "classify": {"epochs": 1, "batch_size": 4, "batches": 2, "learning_rate": 1e-3},
        "aggregate": {"epochs": 1, "batch_size": 4, "batches": 1, "learning_rate": 1e-3},
        "tune": {"epochs": 1, "batch_size": 4, "batches": 1, "learning_rate": 1e-3},
        "mine": {"epochs": 1, "batch_size": 4, "batches": 2, "learning_rate": 1e-3, "select": "last"},
    },
)

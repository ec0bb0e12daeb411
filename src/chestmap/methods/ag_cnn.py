"""AG-CNN: Guan et al., "Diagnose like a Radiologist: Attention Guided Convolutional Neural Network for Thorax Disease
Classification", arXiv 1801.09927, 2018.

A global branch looks at the image; where its features are strongest a region is cut out and enlarged for a local branch; a
fusion branch judges by the pooled features of both.

| paper | here |
|---|---|
| III.A, Fig. 2, one branch: blocks, max pooling (Pool5), FC | `Branch` |
| III.A, fusion of both Pool5 | `AgCnn.fusion_branch` |
| III.A, label "No Finding" | `no_finding_labels` |
| eq. 1 | logits; the sigmoid is in the loss, and in prediction |
| eq. 2 | `nn.losses.known_bce`, in `Stage` |
| eq. 3, H_g by max, L1 or L2 | `attention_map` |
| eq. 4, M, and its maximum connected region | `largest_region` |
| III.B, [x_min, y_min, x_max, y_max] and I_c | `box_around`, `crops` |
| III.C, Algorithm 1, and IV.C, Table II: five orders | `ORDERS`, `Stage`, `recipe` |
| IV.C, the global image twice | `cropped = false` |
| IV.D, τ chosen on validation | `taus`, `write_crops` |

What the text leaves open, and how it is settled: H_g is brought to [0, 1] by its minimum and maximum before it meets τ. M lies on
the grid of the features; `finer` cuts an enlarged H_g instead. Cells that touch at a corner are connected; of regions of equal
size the one with the higher peak counts. A constant H_g gives the whole image. Branches that learn in one stage add up their
losses, in the last one of G_L_F* all three. A stage is judged by its last branch's AUC, the stage of GL_F with two branches by
the mean of their logits, and keeps the schedule of its last branch. "Divided by 10 after 20 epochs": after every 20. The crop has
no gradient. The ImageNet mean is 0.449, the grey of its three; the deviation is 0.226.

No Finding is one output more than the source has findings: it learns from "all are known to be absent" and is dropped from what
the network returns, so that means are those of the 14 findings, as the paper's. Where the source has No Finding among its
findings, that is the fifteenth output and is kept; `no_finding = false` leaves it out elsewhere.

Maps are ours, as the paper shows where it crops and scores no boxes: class maps of the global branch, and those of the local
branch on top, brought back from the crop to its place on the canvas. They follow `answer`: the branch that speaks gives the
weights.

Differs from the paper:
- `taus` names values of τ to choose from: the one at which the trained global branch, shown the crops of validation images, has the
  best AUC. The paper trains the other branches for every τ, which no single run can;
- one-channel input, its stem summed from the three of ImageNet: the same function of a grey image;
- the whole image at 224 pixels, in training random crops of it; the paper cuts from 256, and when testing leaves the border out;
- SGD with Nesterov's momentum (`training.schedule`);
- batches of 128 for the global branch, as in Table II; section IV.B prints 126.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Shaped
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from chestmap.errors import BadInput
from chestmap.nn.alignment import map_size, maps_back
from chestmap.nn.backbone import Backbone, BackboneSettings
from chestmap.nn.boxes import resized
from chestmap.nn.cam import class_maps, full_precision, normalized, without_autocast
from chestmap.nn.losses import known_bce
from chestmap.nn.pooling import maximum
from chestmap.packs.loader import Loader, LoaderSettings, Part
from chestmap.predictions.folder import OwnRule
from chestmap.settings import Settings
from chestmap.storage.json_file import read_json
from chestmap.tensors import Batch, Output
from chestmap.training import Data, Method, Run, Schedule, Task
from chestmap.types import Findings
from chestmap.vocabulary import NO_FINDING, SUPPORT_DEVICES

Name = Literal["global", "local", "fusion"]
Statistic = Literal["max", "L1", "L2"]
Order = Literal["G_L_F", "G_L_F*", "G_LF", "GL_F", "GLF"]
ALL: tuple[Name, ...] = ("global", "local", "fusion")
ORDERS: dict[Order, tuple[tuple[Name, ...], ...]] = {
    "G_L_F": (("global",), ("local",), ("fusion",)),
    "G_L_F*": (("global",), ("local",), ALL),
    "G_LF": (("global",), ("local", "fusion")),
    "GL_F": (("global", "local"), ("fusion",)),
    "GLF": (ALL,),
}  # of each stage the branches that learn; all others are frozen

Images = Float[Tensor, "batch 1 height width"]
Features = Float[Tensor, "batch channel h w"]
Attention = Float[Tensor, "batch h w"]
Shares = Float[Tensor, "batch 4"]  # x0, y0, x1, y1 as shares of the canvas
Logits = Float[Tensor, "batch output"]
PAPER = Schedule.model_validate(
    {
        "epochs": 50,
        "batch_size": 64,
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "decay": "step",
        "every": 20,
        "factor": 0.1,
    }
)


BRANCH = ("name", "backbone", "no_finding")
"""The settings that the global branch depends on where it learns alone."""
Tau = Annotated[float, Field(gt=0, lt=1)]


class AgCnnSettings(Settings):
    """`answer` names the branch that gives the network's logits; it changes no training, so one training can be scored thrice."""

    name: Literal["ag_cnn"] = "ag_cnn"
    backbone: BackboneSettings = BackboneSettings(name="resnet50.tv_in1k", mean=0.449, std=0.226)  # of either branch
    order: Order = "G_L_F"
    statistic: Statistic = "max"
    tau: Tau = 0.7
    taus: tuple[Tau, ...] = ()  # to choose from on validation once the global branch is trained; () keeps `tau`
    finer: Annotated[int, Field(ge=1)] = 1  # cells per side of a feature's cell where H_g is cut
    cropped: bool = True  # False: the local branch sees the whole image too
    no_finding: bool = True
    answer: Name = "fusion"
    global_branch: Schedule = PAPER.model_copy(update={"batch_size": 128})
    local_branch: Schedule = PAPER
    fusion_branch: Schedule = PAPER

    @model_validator(mode="after")
    def _fits(self) -> "AgCnnSettings":
        if self.taus and (ORDERS[self.order][0] != ("global",) or not self.cropped):
            raise ValueError(
                f'taus are chosen between the global branch and the crops: they need order "G_L_F", "G_L_F*" or "G_LF" (got '
                f'"{self.order}") and cropped = true'
            )
        return self


class Branch(nn.Module):
    """Backbone, global max pooling and a linear layer."""

    def __init__(self, settings: BackboneSettings, outputs: int) -> None:
        super().__init__()
        self.backbone = Backbone(settings)
        self.head = nn.Linear(self.backbone.channels, outputs)

    def forward(self, images: Images) -> tuple[Features, Float[Tensor, "batch channel"], Logits]:
        """Features, Pool5 and logits."""
        features = self.backbone(images)
        pool = maximum(features)
        return features, pool, _judged(self.head, pool)


def _judged(head: nn.Linear, vector: Float[Tensor, "batch channel"]) -> Logits:
    with without_autocast(vector):
        return head(vector)


@dataclass(frozen=True, eq=False, kw_only=True)
class BranchOutputs:
    """What the branches saw; without `box` the local branch was not asked."""

    images: Images
    logits: dict[Name, Logits]
    seen: Features
    box: Shares | None = None
    closer: Features | None = None


class AgCnn(nn.Module):
    """Three branches; `findings` of their outputs are returned, in the order of the source."""

    def __init__(self, settings: AgCnnSettings, findings: Findings) -> None:
        super().__init__()
        self.settings, self.findings = settings, len(findings)
        if settings.taus:
            self.register_buffer("chosen_tau", torch.tensor(settings.tau))
        self.answer: Name = settings.answer
        self.adds_no_finding = settings.no_finding and NO_FINDING not in findings
        outputs = self.findings + self.adds_no_finding
        self.global_branch = Branch(settings.backbone, outputs)
        self.local_branch = Branch(settings.backbone, outputs)
        self.fusion_branch = nn.Linear(2 * self.global_branch.backbone.channels, outputs)

    def forward(self, images: Images) -> Output:
        """Gives the branch that `settings.answer` names: logits [batch, finding] and its class maps."""
        return self.averaged(images, (self.answer,))

    def averaged(self, images: Images, by: Sequence[Name]) -> Output:
        """The mean of what these branches say and show."""
        look = self.look(images, by)
        logits = torch.stack([look.logits[name] for name in by]).mean(0)
        return Output(logits[:, : self.findings], torch.stack([self._maps(look, name) for name in by]).mean(0))

    @property
    def tau(self) -> float | Float[Tensor, ""]:
        """The threshold of the crop: the one that was chosen on validation images, or the given one."""
        return self.get_buffer("chosen_tau") if self.settings.taus else self.settings.tau

    def look(self, images: Images, wanted: Collection[Name]) -> BranchOutputs:
        """Only what the wanted branches need is computed."""
        features, pool, logits = self.global_branch(images)
        if not {"local", "fusion"} & set(wanted):
            return BranchOutputs(images=images, logits={"global": logits}, seen=features)
        box = self.box(features)
        closer, close_pool, close_logits = self.local_branch(crops(images, box) if self.settings.cropped else images)
        found: dict[Name, Logits] = {"global": logits, "local": close_logits}
        if "fusion" in wanted:
            found["fusion"] = _judged(self.fusion_branch, torch.cat([pool, close_pool], dim=1))
        return BranchOutputs(images=images, logits=found, seen=features, box=box, closer=closer)

    def box(self, features: Features, tau: float | None = None) -> Shares:
        """Where the local branch looks; at another τ than its own where one is given."""
        if not self.settings.cropped:
            return full_precision(features).new_tensor([0.0, 0.0, 1.0, 1.0]).expand(features.shape[0], 4)
        attention = attention_map(features.detach(), self.settings.statistic)
        finer = self.settings.finer
        attention = resized(attention, finer * attention.shape[-1], finer * attention.shape[-2])
        return box_around(largest_region(attention, self.tau if tau is None else tau))

    def _maps(self, look: BranchOutputs, name: Name) -> Float[Tensor, "batch finding _rows _columns"]:
        """Positive evidence of a branch on the canvas; of the fusion branch, what both halves of its weights find, added."""
        heads = {"global": self.global_branch.head, "local": self.local_branch.head, "fusion": self.fusion_branch}
        weight = heads[name].weight[: self.findings]
        if look.box is None or look.closer is None:
            return class_maps(look.seen, weight)
        width, height = size = map_size(look.seen, look.images)
        here, there = weight.chunk(2, dim=1) if name == "fusion" else (weight, weight)
        maps = full_precision(look.seen).new_zeros(())
        if name != "local":
            maps = maps + resized(class_maps(look.seen, here), width, height)
        if name != "global":
            maps = maps + maps_back(class_maps(look.closer, there), sampling_matrices(look.box), size)
        return maps


def attention_map(features: Features, statistic: Statistic = "max") -> Attention:
    """H_g: eq. 3, or the L1 or L2 distance in its place."""
    features = full_precision(features)
    if statistic == "L2":
        return torch.linalg.vector_norm(features, dim=1) / features.shape[1]
    size = features.abs()
    return size.amax(1) if statistic == "max" else size.mean(1)


def largest_region(attention: Attention, tau: float | Float[Tensor, ""]) -> Bool[Tensor, "batch h w"]:
    """The largest connected piece of M (8 neighbors); where M is empty, which takes a flat map, everything.

    A cell's name is the rank of its attention. Names spread within M until each piece bears that of its peak, which also gives
    pieces of equal size apart. An induced path has at most two cells in any 2 x 2, so the number of rounds is bounded and no
    device has to be waited for; on the CPU it ends as soon as nothing changes.
    """
    count, rows, columns = attention.shape  # unlike len(), it stays open while a graph is traced
    cells = rows * columns
    mask = normalized(attention) > tau  # eq. 4
    mask = mask | ~mask.flatten(1).any(1)[:, None, None]
    ranks = attention.flatten(1).argsort(1).argsort(1).reshape(mask.shape) + 1
    names = (ranks * mask).float()[:, None]
    for _ in range(2 * -(-rows // 2) * -(-columns // 2) - 1):
        before, names = names, functional.max_pool2d(names, 3, stride=1, padding=1) * mask[:, None]
        if names.device.type == "cpu" and not torch.compiler.is_compiling() and torch.equal(before, names):
            break
    named = names[:, 0].long()
    first = torch.arange(count, device=named.device)[:, None] * (cells + 1)
    places = (named.flatten(1) + first).flatten()  # one axis, in which adding is deterministic on CUDA
    areas = places.new_zeros(count * (cells + 1)).scatter_add(0, places, torch.ones_like(places)).view(count, -1)
    order = areas[:, 1:] * (cells + 1) + torch.arange(1, cells + 1, device=named.device)  # by area, then by peak
    return named == order.argmax(1)[:, None, None] + 1


def box_around(region: Bool[Tensor, "batch h w"]) -> Shares:
    """Of the cells of a grid over the canvas: from the near edge of the first to the far edge of the last."""
    left, right = _ends(region.any(1))
    top, bottom = _ends(region.any(2))
    return torch.stack([left, top, right, bottom], dim=1)


def _ends(line: Bool[Tensor, "batch cell"]) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    count = line.shape[1]
    edges = torch.arange(count + 1, device=line.device)
    first, last = torch.where(line, edges[:-1], count).amin(1), torch.where(line, edges[1:], 0).amax(1)
    return first / count, last / count


def crops(images: Images, boxes: Shares) -> Images:
    """I_c: each image's box enlarged to the whole canvas, bilinear; nothing beyond the box is looked at."""
    height, width = images.shape[-2:]
    boxes = boxes.to(images)
    x, y = _sample_points(boxes[:, 0], boxes[:, 2], width), _sample_points(boxes[:, 1], boxes[:, 3], height)
    grid = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _sample_points(start: Float[Tensor, "batch"], end: Float[Tensor, "batch"], pixels: int) -> Float[Tensor, "batch pixel"]:
    """Where the crop's pixels look, from -1 to 1: no further out than the centers of the box's outermost pixels."""
    start, end = start[:, None], end[:, None]
    centers = (torch.arange(pixels, device=start.device, dtype=start.dtype) + 0.5) / pixels
    half = 0.5 / pixels
    return 2 * torch.clamp(start + (end - start) * centers, start + half, end - half) - 1


def sampling_matrices(boxes: Shares) -> Float[Tensor, "batch 2 3"]:
    """From a place in the crop to the place on the canvas, both reaching from -1 to 1: the `theta` of `nn.alignment`."""
    x0, y0, x1, y1 = boxes.unbind(1)
    nothing = torch.zeros_like(x0)
    across, down = torch.stack([x1 - x0, nothing, x0 + x1 - 1], dim=1), torch.stack([nothing, y1 - y0, y0 + y1 - 1], dim=1)
    return torch.stack([across, down], dim=1)


def no_finding_labels(labels: Shaped[Tensor, "batch finding"]) -> Float[Tensor, "batch 1"]:
    """1 where all findings are known to be absent, 0 where any is present, else NaN."""
    known = torch.where((labels == 0).all(1), 1.0, torch.nan)
    return torch.where((labels == 1).any(1), 0.0, known)[:, None].to(labels.dtype)


class Stage(Task):
    """One stage of an order: `trained` learn by eq. 2, each by a term of its own; the other branches are frozen."""

    network: AgCnn

    def __init__(self, network: AgCnn, trained: tuple[Name, ...]) -> None:
        super().__init__(network)
        self.trained = trained
        network.requires_grad_(requires_grad=True)  # an earlier stage may have frozen what learns now
        self.freeze(*(network.get_submodule(f"{name}_branch") for name in ALL if name not in trained))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of each branch that this stage trains, on image labels alone; eq. 4 for each."""
        logits, labels = self.network.look(batch.images, self.trained).logits, self._labels(batch)
        among = self._labels(batch.whole)
        return {name: known_bce(logits[name], labels, among) for name in self.trained}

    def _labels(self, batch: Batch) -> Float[Tensor, "batch output"]:
        if not self.network.adds_no_finding:
            return batch.labels
        abnormal = [row for row, name in enumerate(batch.findings) if name != SUPPORT_DEVICES]
        return torch.cat([batch.labels, no_finding_labels(batch.labels[:, abnormal])], dim=1)

    def predict(self, batch: Batch) -> Output:
        """Of the branch that the stage is judged by; fusion comes last wherever it learns."""
        return self.network.averaged(batch.images, self.trained[-1:] if "fusion" in self.trained else self.trained)


def write_crops(network: AgCnn, part: Part, taus: Sequence[float], folder: Path, *, batch_size: int = 16) -> None:
    """`crops.json`: for each τ how large the crops are, how often they hold a box, and the AUC of the global branch on them.

    A crop holds a box where the box's center lies in it. Chosen is the τ with the best AUC, or the first where there is no other.
    """
    from chestmap.training.optimization.validation import mean_auc  # with Fabric, which takes seconds to import

    network.eval()
    device, logits, boxes, hits = network.fusion_branch.weight.device, {}, {}, {}
    labels = []
    for batch in Loader(part=part, settings=LoaderSettings(batch_size=batch_size), shuffle=False).epoch(0):
        images = batch.images.to(device)
        labels.append(batch.labels)
        with torch.inference_mode():
            features = network.global_branch(images)[0]
            for tau in taus:
                found = network.box(features, tau)
                seen = (
                    network.global_branch(crops(images, found))[2] if len(taus) > 1 else features.new_zeros((len(batch), 0))
                )
                logits.setdefault(tau, []).append(seen[:, : network.findings].float().cpu())
                boxes.setdefault(tau, []).append(found.float().cpu())
                hits.setdefault(tau, []).extend(_inside_crop(batch, found.float().cpu()))
    rows = []
    for tau in taus:
        sides = torch.cat(boxes[tau])
        area = ((sides[:, 2] - sides[:, 0]) * (sides[:, 3] - sides[:, 1])).median().item()
        row: dict[str, float | None] = {"tau": tau, "median_area": round(area, 4)}
        row["boxes_held"] = round(sum(hits[tau]) / len(hits[tau]), 4) if hits[tau] else None
        if len(taus) > 1:
            row["auc"] = round(mean_auc(torch.cat(logits[tau]).numpy(), torch.cat(labels).numpy()), 4)
        rows.append(row)
    best = max(range(len(rows)), key=lambda place: rows[place].get("auc") or 0.0)
    about = {"chosen": rows[best]["tau"], "images": len(part), "boxes": len(hits[taus[0]]), "crops": rows}
    (folder / "crops.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _inside_crop(batch: Batch, crop: Float[Tensor, "batch 4"]) -> list[bool]:
    """For each box on the canvas whether its center lies in the image's crop."""
    held = []
    for frame, boxes, (x0, y0, x1, y1) in zip(batch.frames, batch.boxes, crop.tolist(), strict=True):
        for box in frame.resized((1, 1)).to_canvas(boxes):
            left, top, right, bottom = box.corners
            held.append(x0 <= (left + right) / 2 <= x1 and y0 <= (top + bottom) / 2 <= y1)
    return held


def _crops(run: Run, network: AgCnn, data: Data, settings: AgCnnSettings) -> None:
    """Writes and prints how crops are, and sets the chosen τ."""
    if settings.taus and data.validation is None:
        raise BadInput("method.taus: no validation part to choose on; give the split one, or set tau alone")
    part, taus = data.validation or data.train, settings.taus or (settings.tau,)
    folder = run.write("crops", partial(write_crops, network, part, taus), of=part)
    about = read_json(folder / "crops.json", "delete the folder and train again")
    if settings.taus:
        network.get_buffer("chosen_tau").fill_(about["chosen"])
    row = next(row for row in about["crops"] if row["tau"] == about["chosen"])
    held = "" if row["boxes_held"] is None else f" and hold {row['boxes_held']:.0%} of {about['boxes']} boxes"
    run.screen.tell(
        f"{folder.name}: at tau {row['tau']:g} crops cover {row['median_area']:.1%} of the canvas (median){held}"
    )


def build(settings: AgCnnSettings, findings: Findings, canvas: tuple[int, int]) -> AgCnn:  # noqa: ARG001 -- convolutional
    """Makes the three branches with fresh or downloaded weights; the canvas may be of any size."""
    return AgCnn(settings, findings)


def recipe(run: Run, data: Data, settings: AgCnnSettings) -> nn.Module:
    """Trains the branches in the order of `settings.order`; each stage keeps the weights of those before."""
    network = build(settings, data.findings, data.canvas)
    schedules = {"global": settings.global_branch, "local": settings.local_branch, "fusion": settings.fusion_branch}
    stages = ORDERS[settings.order]
    for trained in stages:
        reads = BRANCH if trained == ("global",) else None
        run.fit("_".join(trained), Stage(network, trained), data.train, schedules[trained[-1]], data.validation, reads=reads)
        if settings.cropped and trained == stages[0 if settings.taus else -1]:
            _crops(run, network, data, settings)
    return network


METHOD = Method(
    name="ag_cnn",
    title="AG-CNN",
    paper="Guan et al., arXiv 1801.09927, 2018",
    settings=AgCnnSettings,
    build=build,
    recipe=recipe,
    own_rule=lambda settings: OwnRule(settings.tau),
    tiny={
        "backbone": {"name": "test_resnet"},
        "global_branch": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3},
        "local_branch": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3},
        "fusion_branch": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3},
    },
)

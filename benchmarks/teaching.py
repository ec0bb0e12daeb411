"""Does the order that teaches most save boxes? A simulated reviewer boxes phantom studies in that order, and in random order.

    nice -n 10 python benchmarks/teaching.py FOLDER      # draws 800 phantoms; about seven minutes of one core

`patch_mil` learns from image labels alone and predicts studies that it never saw. A reviewer takes them by the order of the worklist
(`serving.store.active_learning`), says which findings are there and boxes them, until a number of boxes is reached. The last layer, which tells findings
in patches, is trained anew from the first network's on a part of its images and the reviewed ones; it predicts what is left, the order is
made anew, and so on. All else (network, rounds, steps, test) is the same for both orders; features are computed once, which makes it cheap.
"""

import argparse
import copy
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from chestmap.datasets.nih import NihSettings, read_nih
from chestmap.datasets.source import Source
from chestmap.methods import METHODS
from chestmap.methods.patch_mil import Patches
from chestmap.nn.instances import cell_targets, limited_loss
from chestmap.packs.augment import AugmentSettings
from chestmap.packs.build import PackSettings, make_pack
from chestmap.packs.loader import Loader, LoaderSettings
from chestmap.packs.part import Part
from chestmap.phantom import PhantomSettings, write_phantom
from chestmap.serving.store.active_learning import in_order, scores_of, worth
from chestmap.types import Box, Frame
from chestmap.vocabulary import BOXED_IN_CHESTXRAY14

SIDE, BASE, POOL = 80, 350, 250
REPLAYED = 150  # images of the base that are trained on again, by their labels, beside the reviewed ones
BUDGETS = (20, 40, 80, 160)
STEPS = 40
SETTINGS = {
    "name": "patch_mil", "backbone": {"name": "test_resnet", "output_stride": 8, "weights": "none"},
    "patches": 10, "width": 96, "sharp": 1,
}  # fmt: skip
AUGMENT = AugmentSettings(flip=0.5, scale=(1.0, 1.12), inside=True)
ORDERS = ("teaches", "worth", "random")


@dataclass(frozen=True, eq=False)
class Seen:
    """All images as one trained network sees them."""

    source: Source
    network: nn.Module
    features: dict[str, Tensor]
    frames: dict[str, Frame]
    labels: dict[str, Tensor]


def trained(source, pack, ids, seed, epochs):
    """On image labels alone."""
    torch.manual_seed(seed)
    network = METHODS["patch_mil"].build(METHODS["patch_mil"].settings(**SETTINGS), source.findings, (SIDE, SIDE))
    loader = Loader(
        part=Part.of(replace(source, boxes={}), pack, ids),
        settings=LoaderSettings(batch_size=16),
        seed=seed,
        augment=AUGMENT,
    )
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.02)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs=epochs, steps_per_epoch=len(loader), pct_start=0.1)
    task = Patches(network, 0.0).train()
    for epoch in range(epochs):
        for batch in loader.epoch(epoch):
            optimizer.zero_grad()
            sum(task(batch).values()).backward()
            optimizer.step()
            plan.step()
    return network.eval()


@torch.no_grad()
def seen_by(network, source, pack):
    features, frames, labels = {}, {}, {}
    for batch in Loader(part=Part.of(source, pack, source.ids), settings=LoaderSettings(batch_size=32), shuffle=False).epoch(
        0
    ):
        features |= dict(zip(batch.ids, network.features(batch.images), strict=True))
        frames |= dict(zip(batch.ids, batch.frames, strict=True))
        labels |= dict(zip(batch.ids, batch.labels, strict=True))
    return Seen(source, network, features, frames, labels)


def corrected(seen, replayed, reviewed):
    """The network with its last layer trained on; boxes of the reviewed images alone are known."""
    ids = [*replayed, *reviewed]
    network = copy.copy(seen.network)
    network._modules = {**seen.network._modules, "head": copy.deepcopy(seen.network.head)}
    features, labels = torch.stack([seen.features[one] for one in ids]), torch.stack([seen.labels[one] for one in ids])
    boxes = [()] * len(replayed) + [seen.source.boxes.get(one, ()) for one in reviewed]
    targets = cell_targets(boxes, [seen.frames[one] for one in ids], seen.source.findings, features.shape[:1:-1])
    optimizer = torch.optim.AdamW(network.head.parameters(), 1e-2, weight_decay=0.02)
    for _ in range(STEPS):
        optimizer.zero_grad()
        sum(limited_loss(network.read(features).cells, targets, labels, network.floor)).backward()
        optimizer.step()
    return network


@torch.no_grad()
def predict(network, seen, ids):
    """By image: what the store would hold of each finding. A box is the largest region at half of its map's peak."""
    output = network.read(torch.stack([seen.features[one] for one in ids]))
    found, sizes = {}, (output.maps.shape[-1], output.maps.shape[-2])
    for image, logits, maps in zip(ids, output.logits, output.maps.numpy(), strict=True):
        frame, scores = seen.frames[image].resized(sizes), torch.sigmoid(logits).tolist()
        found[image] = [
            {"name": name, "score": score, "threshold": None, "boxes": boxes_of(name, cells, frame)}
            for name, score, cells in zip(seen.source.findings, scores, maps, strict=True)
        ]
    return found


def boxes_of(name, cells, frame):
    if name not in BOXED_IN_CHESTXRAY14 or cells.max() <= 0:
        return []
    _, _, regions, _ = cv2.connectedComponentsWithStats((cells >= cells.max() / 2).astype(np.uint8))
    x, y, width, height, _ = max(regions[1:], key=lambda one: one[4])
    box = frame.to_image([Box(name, x, y, x + width, y + height)])[0].clipped(*frame.image)
    return [dict(zip(("x0", "y0", "x1", "y1"), box.corners, strict=True))] if box else []


def scored(found, source):
    """T(IoU) at .1 and .3, and the mean IoU, of the one box against the best true one; each a mean over findings."""
    overlaps = {name: [] for name in BOXED_IN_CHESTXRAY14}
    for image, findings in found.items():
        shown = {one["name"]: [Box(one["name"], **box) for box in one["boxes"]] for one in findings}
        for name in {box.finding for box in source.boxes.get(image, ())}:
            true = [box for box in source.boxes[image] if box.finding == name]
            overlaps[name].append(max((a.iou(b) for a in shown[name] for b in true), default=0.0))
    each = [np.array(one) for one in overlaps.values() if one]
    return [
        float(np.mean([of(one) for one in each]))
        for of in (lambda o: (o >= 0.1).mean(), lambda o: (o >= 0.3).mean(), np.mean)
    ]


def ordered(order, left, reviewed, mine, others):
    """As the worklist has it, of two models; `worth` leaves diversity out."""
    told = {one: [mine[one], others[one]] for one in [*left, *reviewed]}
    worths = np.array([worth(told[one]) for one in left])
    if order == "worth":
        return [left[row] for row in np.argsort(-worths, kind="stable")]
    places = np.array([[np.mean(values) for values in scores_of(one).values()] for one in told.values()])
    return [left[row] for row in in_order(worths, places[: len(left)], places[len(left) :])]


def one_run(order, draw, seen, other, parts):
    """A line for each budget: boxes, studies, measures."""
    base, pool, test = parts
    random = np.random.default_rng(draw)
    others = predict(other.network, other, pool)
    network, reviewed, boxes, lines = seen.network, [], 0, []
    for budget in (0, *BUDGETS):
        left = sorted(set(pool) - set(reviewed))
        if order == "random":
            left = list(random.permutation(left))
        elif budget:
            left = ordered(order, left, reviewed, predict(network, seen, pool), others)
        while boxes < budget and left:
            reviewed.append(left.pop(0))
            boxes += len(seen.source.boxes.get(reviewed[-1], ()))
        if budget:
            network = corrected(seen, base[:REPLAYED], reviewed)
        lines.append([boxes, len(reviewed), *scored(predict(network, seen, test), seen.source)])
    print(order, draw, " ".join(f"{row[0]}/{row[1]}: {row[2]:.3f} {row[3]:.3f} {row[4]:.3f}" for row in lines), flush=True)
    return lines


def tell(runs):
    """For each budget the means over networks, and how far an order is from chance on the same network: t interval of 95 %."""
    wide = stats.t.ppf(0.975, len(runs["random"]) - 1) / np.sqrt(len(runs["random"]))
    for column, name in ((2, "T(IoU) .1"), (3, "T(IoU) .3"), (4, "mean IoU")):
        print(f"\n{name}\n| order | " + " | ".join(f"{budget} boxes" for budget in (0, *BUDGETS)) + " | half-way at |")
        print("|---|" + "---:|" * (len(BUDGETS) + 2))
        table = {order: np.array(lines)[:, :, column] for order, lines in runs.items()}
        level = table["random"].mean(0)[[0, -1]].mean()
        for order, values in table.items():
            over = values - table["random"]
            cells = [f"{mean:.3f}" for mean in values.mean(0)]
            if order != "random":
                spread = wide * over.std(0, ddof=1)
                cells = [
                    f"{one} ({mean:+.3f} ± {far:.3f})" for one, mean, far in zip(cells, over.mean(0), spread, strict=True)
                ]
            places = np.array(runs[order])[:, :, :2].mean(0)  # boxes and studies
            where = [needed(places[:, kind], values.mean(0), level) for kind in (0, 1)]
            print(f"| {order} | {' | '.join(cells)} | {where[0]:.0f} boxes, {where[1]:.0f} studies |")
        print(f"half-way: {level:.3f}")
    print(
        "\nstudies looked at:", {order: np.array(lines)[:, :, 1].mean(0).round().tolist() for order, lines in runs.items()}
    )


def needed(places, values, level):
    """Where a curve last comes up through a level, straight between budgets."""
    for row in range(len(values) - 1, 0, -1):
        if values[row - 1] < level <= values[row]:
            return places[row - 1] + (places[row] - places[row - 1]) * (level - values[row - 1]) / (
                values[row] - values[row - 1]
            )
    return float("nan")


def by_patient(source):
    """Base, pool and test, a patient in one of them alone."""
    patients = list(dict.fromkeys(source.images["patient_id"]))
    np.random.default_rng(0).shuffle(patients)
    place = {name: number for number, name in enumerate(patients)}
    patient = dict(zip(source.ids, source.images["patient_id"], strict=True))
    ids = sorted(source.ids, key=lambda one: place[patient[one]])
    first, second = (
        next(row for row in range(count, len(ids)) if patient[ids[row]] != patient[ids[row - 1]])
        for count in (BASE, BASE + POOL)
    )
    return ids[:first], ids[first:second], ids[second:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, usual in (("seeds", 8), ("epochs", 10), ("draws", 5)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    asked = parser.parse_args()
    folder, seeds = asked.folder, asked.seeds
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    drawn = PhantomSettings(images=800, side=96, seed=21, enrich=1, boxed=1, boxed_train=1, label_noise=0, processes=1)
    source = read_nih(NihSettings(root=write_phantom(folder / "phantom", drawn, progress=False)))
    pack = make_pack(source, folder / f"pack-{SIDE}", PackSettings(width=SIDE, height=SIDE), workers=1, progress=False)
    parts = by_patient(source)
    print(*(f"{len(ids)} images with {sum(len(source.boxes.get(one, ())) for one in ids)} boxes" for ids in parts), sep=", ")
    seen = []
    for seed in range(seeds):
        seen.append(seen_by(trained(source, pack, parts[0], seed, asked.epochs), source, pack))
        print(f"network {seed}: {time.process_time():.0f} s", flush=True)
    runs = {order: [] for order in ORDERS}
    for seed in range(seeds):
        pair = seen[seed], seen[(seed + 1) % seeds]
        for order in ORDERS:
            draws = [one_run(order, draw, *pair, parts) for draw in range(asked.draws if order == "random" else 1)]
            runs[order].append(np.mean(draws, axis=0).tolist())
    (folder / "teaching.json").write_text(json.dumps(runs))
    tell(runs)
    print(f"{time.process_time():.0f} s of processor")


if __name__ == "__main__":
    main()

"""The rows of benchmarks/real.py: what each of them changes of one schedule and one backbone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from chestmap.settings import Tree

SCHEDULE: Tree = {
    "epochs": 5, "batches": 40, "batch_size": 24, "optimizer": "adamw", "learning_rate": 6e-4, "weight_decay": 0.05,
    "warmup": 0.5, "decay": "cosine", "clip": 5.0, "boxed_share": 0.5, "select": "last", "validate_every": 5,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table; `boxes` is the share of the boxed patients whose boxes training sees."""

    method: str
    steps: dict[str, Tree]  # with what they change of SCHEDULE
    settings: Tree = field(default_factory=dict)
    boxes: float = 0.8
    trunk: int = 3  # stages that stand still: 3 as pretrained on films, 2 as ImageNet left them
    backbone: Tree = field(default_factory=dict)
    sees: str = "features"  # kept ones; or pixels, which methods need that cut, erase or compare images; or noise
    base: str | None = None  # a row whose finished steps are taken where they are the same
    variants: dict[str, Tree] = field(default_factory=dict)  # rows of the same training that differ in how it is read


WIDTH: Tree = {"width": 64}
LAST: Tree = {"stages": [4], "pyramid": 0}
TWO: Tree = {"stages": [3, 4]}
QUICK: Tree = {"learning_rate": 1.5e-3}
FAB_ALONE: Tree = {"positive_weight": 0.0, "bound_weight": 0.0, "union_weight": 0.0}
WIDE: Tree = {"width": 256}
CIA: Tree = {"aligned": False, "gallery": 2048}
MINING: Tree = {"classify": {"epochs": 4}, "aggregate": {"epochs": 1}, "tune": {"epochs": 1}, "mine": {"epochs": 1}}
MINED: Tree = WIDTH | {"steps": 3}
AG_CNN: Tree = {"global_branch": {"epochs": 4}, "fusion_branch": {"epochs": 4}}
MASKS: Tree = {"aligned": False, "least_share": 0.02}

HAM_TUNED = Row("ham", {"attend": QUICK}, WIDE | {"box_weight": 0.5}, backbone=TWO)

ROWS = {
    "cam": Row("cam", {"classify": {}}),
    "ham-0": Row("ham", {"attend": {}}, WIDTH | {"box_weight": 0.0}),
    "ham-80": Row("ham", {"attend": {}}, WIDTH | {"box_weight": 0.1}),
    "patch-0": Row("patch_mil", {"attend": {}}, WIDTH | {"box_weight": 0.0}),
    "patch-80": Row("patch_mil", {"attend": {}}, WIDTH),
    "cia-base-0": Row("cia_net", {"attend": {}}, CIA | {"contrast": False, "box_weight": 0.0}, backbone=TWO),
    "cia-base-80": Row("cia_net", {"attend": {}}, CIA | {"contrast": False}, backbone=TWO),
    "cia-0": Row("cia_net", {"attend": {}}, CIA | {"box_weight": 0.0}, backbone=TWO, sees="pixels"),
    "cia-80": Row("cia_net", {"attend": {}}, CIA, backbone=TWO, sees="pixels"),
    "mining-3": Row("attention_mining", MINING, MINED, backbone=LAST, variants={"mining-1": {"shown": 1}}),
    "mining-3-unpreserved": Row(
        "attention_mining", MINING, MINED | {"preservation": "none"}, backbone=LAST, base="mining-3"
    ),
    "ag-fusion": Row(
        "ag_cnn",
        AG_CNN,
        {"order": "G_LF"},
        backbone=LAST,
        sees="pixels",
        variants={"ag-global": {"answer": "global"}, "ag-local": {"answer": "local"}},
    ),
    "masks-none": Row("disease_masks", {"classify": {}}, MASKS | {"masks": "none"}),
    "masks": Row("disease_masks", {"classify": {}, "attend": {"epochs": 3}}, MASKS, base="masks-none"),
    "combined": Row("combined", {"learn": {}}, WIDTH, variants={"combined-cells": {"decode": "cells"}}),
    "combined-8-epochs": Row("combined", {"learn": {"epochs": 8}}, WIDTH),
    "combined-no-prior": Row("combined", {"learn": {}}, WIDTH | {"place_prior": False}),
    "combined-imagenet": Row("combined", {"learn": {}}, WIDTH, trunk=2),
    "place-only": Row("combined", {"learn": {}}, WIDTH, sees="noise"),
    "cam-16": Row("cam", {"classify": QUICK}, backbone=TWO),
    "cam-16-mean": Row("cam", {"classify": QUICK}, {"pooling": "mean"}, backbone=TWO),
    "ham-0-16": Row("ham", {"attend": QUICK}, WIDE | {"box_weight": 0.0}, backbone=TWO),
    "ham-0-16-fab": Row("ham", {"attend": QUICK}, WIDE | {"box_weight": 0.0} | FAB_ALONE, backbone=TWO),
    "ham-80-tuned": HAM_TUNED,  # ham-80-d, chosen on tuning patients
    "ham-40-tuned": replace(HAM_TUNED, boxes=0.4),
    "ham-80-tuned-mse": replace(HAM_TUNED, settings=HAM_TUNED.settings | {"box_loss": "mse"}),
    "patch-80-tuned": Row("patch_mil", {"attend": QUICK}, WIDE),  # patch-80-b
    "combined-tuned": Row("combined", {"learn": QUICK}, WIDTH, trunk=2),  # combined-f
    "ham-80-refined": Row(
        "ham", {"refine": QUICK, "attend": QUICK}, HAM_TUNED.settings | {"self_refinement": True}, backbone=TWO
    ),
    "ham-0-16-fab-pa": Row(
        "ham", {"attend": QUICK}, WIDE | {"box_weight": 0.0, "bound_weight": 0.0, "union_weight": 0.0}, backbone=TWO
    ),
    # HAM's candidates on the tuning patients of fold 1
    "ham-80-a": Row("ham", {"attend": {}}, WIDTH | {"box_weight": 0.1}, backbone=TWO),
    "ham-80-b": Row("ham", {"attend": QUICK}, WIDE | {"box_weight": 0.1}, backbone=TWO),
    "ham-80-d": HAM_TUNED,
    "ham-80-e": Row("ham", {"attend": QUICK}, WIDE | {"box_weight": 2.0}, backbone=TWO),
    # candidates of others there
    "combined-a": Row("combined", {"learn": QUICK}, WIDTH),
    "combined-b": Row("combined", {"learn": QUICK}, WIDE),
    "combined-c": Row("combined", {"learn": QUICK}, WIDE, backbone=TWO),
    "combined-d": Row("combined", {"learn": QUICK}, WIDE | {"overlap_weight": 1.0}),
    "combined-e": Row("combined", {"learn": QUICK | {"epochs": 10}}, WIDTH),
    "combined-f": Row("combined", {"learn": QUICK}, WIDTH, trunk=2),
    "patch-80-a": Row("patch_mil", {"attend": QUICK}, WIDTH),
    "patch-80-b": Row("patch_mil", {"attend": QUICK}, WIDE),
    "patch-80-c": Row("patch_mil", {"attend": QUICK}, WIDE, backbone=TWO),
    "cia-base-80-a": Row("cia_net", {"attend": QUICK}, CIA | {"contrast": False}, backbone=TWO),
}


@dataclass(frozen=True)
class Reading:
    """A network of a row, how many views of a film it is shown, and its share in what several say together."""

    row: str
    views: int = 9
    share: float = 1.0


ONCE_MORE = {  # of benchmarks/real_views.py
    "combined-views": (Reading("combined"),),
    "combined-patches": (Reading("combined", share=0.7), Reading("patch-80", 1, 0.3)),
    "combined-tuned-views": (Reading("combined-tuned"),),
    "patch-80-tuned-views": (Reading("patch-80-tuned"),),
    "combined-joined": (Reading("combined-tuned", share=0.5), Reading("patch-80-tuned", share=0.5)),
}


def names_of(rows: dict[str, Row]) -> list[str]:
    """Of all rows, variants behind their own."""
    return [*(one for name, row in rows.items() for one in (name, *row.variants)), *ONCE_MORE]

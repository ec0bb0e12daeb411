"""Makes a published table again: trains, predicts and scores its configs, and prints ours next to the published figures.

Runs are in `<out>/<config>/<split>`, so tables that share a config share its runs, and what is finished is not done again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import Field

from chestmap.errors import BadInput
from chestmap.evaluation.presets.protocols import PresetName
from chestmap.evaluation.published import find
from chestmap.evaluation.scores import Evaluation
from chestmap.evaluation.settings import EvaluationSettings
from chestmap.evaluation.side_by_side import Table
from chestmap.models.folder import write_model
from chestmap.phantom import PhantomSettings, write_phantom
from chestmap.prediction.from_pack import PredictSettings
from chestmap.reproduction.published_table import CUTS, ours, table_of, write
from chestmap.reproduction.score_run import AnswerSettings, predict_and_score
from chestmap.reproduction.table_plan import SOURCE_OF, Plan, answers_of, plan_of
from chestmap.settings import Settings, Tree, with_overrides
from chestmap.training.config import Config, config_of
from chestmap.training.method import Method
from chestmap.training.train import train
from chestmap.training.wrapper_settings import TINY

QUICK = "QUICK: a small network, trained briefly on drawn images. It shows that the chain runs; its numbers mean nothing."
USUAL = ("resnet50", "resnet18", "test_resnet")
"""Backbones with timm's test network of a resnet in their place; another one stands in for the rest."""
CANVAS = 512
"""Side in the configs that becomes `QuickSettings.side`; a larger one stays larger by as much."""
QUICK_SCORING: dict[str, Any] = {"resamples": 20, "longest": 256, "negatives": 50}
"""Maps are cut on a small surface, and few of images without a finding are read."""
OF_THE_MODEL = "output_stride"
"""The one number of a method's `tiny` settings that defines the method, not its size."""

Tell = Callable[[str], None]


class QuickSettings(Settings):
    """How small `--quick` is: a phantom with all boxes on its test images, and a network that trains in seconds.

    Half of the other boxes are there, too, so that each fold tests every finding and images without boxes still show them.
    """

    images: int = Field(default=240, ge=32)
    side: int = Field(default=96, ge=64)
    epochs: int = Field(default=1, ge=1)
    batches: int = Field(default=4, ge=1)  # of an epoch, at most
    folds: int = Field(default=2, ge=1, le=5)
    seed: int = 0

    @property
    def phantom(self) -> PhantomSettings:
        """The phantom that stands in for the dataset: many findings, boxes on most images."""
        sizes = {"images": self.images, "side": self.side, "seed": self.seed}
        return PhantomSettings.model_validate({**sizes, "enrich": 0.8, "test": 0.4, "boxed": 1.0, "boxed_train": 0.5})

    def shortened(self, schedule: Tree) -> Tree:
        """A schedule of a few batches, which tries the chain and learns little."""
        most = min(self.batches, schedule.get("batches") or self.batches)
        return {**schedule, "epochs": self.epochs, "warmup": 0, "batches": most}


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """`root` is not needed where it is quick; `source` overrules the reader of the table's dataset."""

    table: str
    root: Path | None = None
    source: str | None = None
    row: str | None = None
    fold: int | None = None
    out: Path = Path("runs/reproduce")
    configs: Path = Path("configs")
    overrides: tuple[str, ...] = ()
    quick: QuickSettings | None = None


@dataclass(frozen=True, eq=False)
class Reproduced:
    """The table, the path of its JSON file, and the evaluations behind it."""

    table: Table
    path: Path  # of the JSON; the Markdown is next to it
    evaluations: Mapping[tuple[str, str], list[Evaluation]]  # by config and answer, one for each fold


def reproduce(
    order: ReproduceSettings, methods: Mapping[str, Method], tell: Tell = lambda _: None, *, progress: bool = True
) -> Reproduced:
    """Raises before anything is trained where the table cannot be made, or a config or override holds a mistake."""
    plan = plan_of(find(order.table), order.configs, methods, row=order.row, fold=order.fold)
    out = order.out / "quick" if order.quick else order.out
    source = _source(order, plan, out)
    jobs = [
        (name, _config(name, plan.trees[name], (order, source), fold, methods))
        for name, folds in plan.folds.items()
        for fold in (folds[: order.quick.folds] if order.quick else folds) or (0,)
    ]
    if order.quick:
        tell(QUICK)
        write_phantom(Path(source["root"]), order.quick.phantom, progress=progress)
    asked: dict[str, set[str]] = {}
    for row in plan.rows:
        asked.setdefault(row.config, set()).update(answers_of(plan.table, row))
    found: dict[tuple[str, str], list[Evaluation]] = {}
    for number, (name, config) in enumerate(jobs, start=1):
        tell(f"{number}/{len(jobs)}  {name}, {config.data.split.name}")
        folder = out / name / config.data.split.name
        others = sorted(one for one in out.glob("*/*/*") if one != folder and (one / "run.lock").exists())
        train(config, folder, write_model, progress=progress, others=others)
        how, cut = _how(plan, config, order), CUTS.get(plan.table.id)
        for answer in sorted(asked[name]):
            evaluation = predict_and_score(folder, config.data, methods, how, AnswerSettings(cut, answer), progress=progress)
            found.setdefault((name, answer), []).append(evaluation)
    rows, notes = ours(plan, found), _notes(order, plan)
    if order.quick:
        notes += alike({f"{name}, {config.data.split.name}": out / name / config.data.split.name for name, config in jobs})
    path = out / f"{plan.table.id}{_suffix(order)}.json"
    write(path, plan, rows, notes)
    return Reproduced(table_of(plan, rows, notes), path, found)


def alike(runs: Mapping[str, Path]) -> list[str]:
    """A line for each run with the same maps as one before it: its row would show nothing of its own."""
    seen: dict[str, str] = {}
    lines = []
    for name, folder in runs.items():
        digest, maps = hashlib.sha256(), sorted(folder.glob("predictions/part-*/maps.npy"))
        for path in maps:
            digest.update(path.read_bytes())
        if maps and (before := seen.setdefault(digest.hexdigest(), name)) != name:
            lines.append(f"{name} gives the same maps as {before}")
    return lines


def _suffix(order: ReproduceSettings) -> str:
    """Of the file's name; a row may hold a slash ("w/o KP")."""
    row = order.row.replace("/", "-") if order.row else ""
    return f"{row and f'-{row}'}{f'-fold-{order.fold}' if order.fold else ''}"


def _source(order: ReproduceSettings, plan: Plan, out: Path) -> Tree:
    """The reader's settings; those of the config that say how labels are read stay."""
    if order.quick:
        return {"name": "nih", "root": str(out / f"phantom-{order.quick.images}-{order.quick.side}-{order.quick.seed}")}
    if order.root is None:
        raise BadInput(f"{plan.table.id}: --root is missing: the folder of the dataset, or --quick for a drawn one")
    return {"name": order.source or SOURCE_OF[plan.table.dataset], "root": str(order.root)}


def _config(
    name: str, tree: Tree, asked: tuple[ReproduceSettings, Tree], fold: int, methods: Mapping[str, Method]
) -> Config:
    order, source = asked
    data = dict(tree.get("data", {}))
    kept = data.get("source", {}) if data.get("source", {}).get("name") == source["name"] else {}
    data["source"] = {**kept, **source}
    if fold:
        data["split"] = {**data["split"], "name": f"fold-{fold}"}
    tree = {**tree, "data": data}
    if order.quick:
        tree = shrunk(tree, methods[tree["method"]["name"]], order.quick, Path(source["root"]).parent / "cache")
    return config_of(with_overrides(tree, order.overrides), methods, name=f"{name}.toml")


def shrunk(tree: Tree, method: Method, quick: QuickSettings, cache: Path) -> Tree:
    """A config at the size of its method's `tiny` settings: every number of those, and a test network as each backbone.

    What a row is (losses, blocks, strides, which images train) stays the config's.
    """
    small = cast("Tree", _tested(_smaller(tree["method"], method.tiny)))
    for key in method.tiny:
        if isinstance(small[key], dict) and "epochs" in small[key]:
            small[key] = quick.shortened(small[key])
    asked = tree["data"].get("pack", {})
    side = round(quick.side * max(1, asked.get("width", CANVAS) / CANVAS))
    pack = {**asked, "width": side, "height": side}
    data = {**tree["data"], "pack": pack, "cache": str(cache)}
    around = _tested(_smaller(tree.get("around", {}), {key: TINY[key] for key in tree.get("around", {}) if key in TINY}))
    tree = {**tree, "around": around} if around else tree
    return {**tree, "method": small, "data": data, "run": {**tree.get("run", {}), "tensorboard": False, "workers": 0}}


def _smaller(tree: Mapping[str, Any], tiny: Mapping[str, Any]) -> Tree:
    smaller = dict(tree)
    for key, value in tiny.items():
        if isinstance(value, Mapping):
            smaller[key] = _smaller(tree.get(key, {}), value)
        elif key not in tree or (isinstance(value, int | float) and not isinstance(value, bool) and key != OF_THE_MODEL):
            smaller[key] = value
    return smaller


def _tested(tree: Any) -> Any:
    """Without weights from elsewhere, and with a test network of timm in place of every named one."""
    if not isinstance(tree, Mapping):
        return tree
    inside = {key: _tested(value) for key, value in tree.items()}
    if "weights" not in tree:
        return inside
    usual = str(tree.get("name", "resnet50")).startswith(USUAL)  # a row that differs by its backbone alone differs still
    return {**inside, "name": "test_resnet" if usual else "test_efficientnet", "weights": "none"}


def _how(plan: Plan, config: Config, order: ReproduceSettings) -> tuple[PredictSettings, EvaluationSettings]:
    precision = "bf16" if config.run.precision == "bf16" else 32
    predicting = PredictSettings(
        batch_size=32, device="cpu" if config.run.device == "mps" else config.run.device, precision=precision
    )
    preset = plan.table.rule.preset
    presets = (cast("PresetName", preset),) if preset else ()
    return predicting, EvaluationSettings(presets=presets, **(QUICK_SCORING if order.quick else {}))


def _notes(order: ReproduceSettings, plan: Plan) -> list[str]:
    notes = [plan.table.note] if plan.table.note else []
    return [*notes, QUICK] if order.quick else notes

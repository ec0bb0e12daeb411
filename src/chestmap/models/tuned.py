"""Measures the fastest way to run a model on this machine, once, and keeps it for `--engine auto`.

Kept in the cache by processor, cores, versions of the programs and the model, so that another machine measures its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float16, Float32

from chestmap.errors import BadInput, BadModel, ChestmapError
from chestmap.imaging.canvas import on_canvas
from chestmap.models.engines import (
    LIBRARY,
    PROCESSOR_ONLY,
    EngineName,
    Forward,
    ForwardSettings,
    Precision,
    open_forward,
    processor_name,
)
from chestmap.models.folder import Model
from chestmap.models.predictor import Predictor, images_of
from chestmap.models.runtimes import is_installed, threads
from chestmap.settings import cache_folder
from chestmap.storage.atomic import write_json
from chestmap.storage.json_file import read_json
from chestmap.types import Radiograph
from chestmap.version import __version__

if TYPE_CHECKING:
    from rich.table import Table

SCORE, OVERLAP = 0.005, 0.99
"""How far a way may be from fp32: the largest difference of a score, the least mean IoU of masks."""
BATCHES = (1, 4, 8)
KINDS: tuple[tuple[EngineName, Precision], ...] = (
    ("onnx", 32), ("openvino", 32), ("openvino", "bf16"), ("torch", 32), ("torch", "bf16"), ("compile", 32), ("compile", "bf16"),
)  # fmt: skip
Images = Float32[np.ndarray, "batch 1 h w"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run the model, with what was measured of it; `trouble` is the reason where there is no measurement."""

    engine: EngineName
    precision: Precision
    threads: int
    batch: int = 1
    rate: float = 0.0  # images in a second
    score: float = 0.0  # largest difference of a score from fp32
    overlap: float = 1.0  # mean IoU of masks with those of fp32
    trouble: str = ""

    @property
    def is_near(self) -> bool:
        """Whether its scores and masks are as good as those of fp32."""
        return not self.trouble and self.score <= SCORE and self.overlap >= OVERLAP

    @property
    def settings(self) -> ForwardSettings:
        """The settings that run the model in this way."""
        return ForwardSettings(engine=self.engine, precision=self.precision, device="cpu", threads=self.threads)

    def __str__(self) -> str:
        """Writes the way in words for tables and messages."""
        kind = "fp32" if self.precision == 32 else self.precision
        return f"{self.engine}, {kind}, {self.threads} threads, {self.batch} images at once"


def tune(
    model: Model,
    radiographs: Sequence[Radiograph],
    seconds: float = 1.0,
    *,
    with_compile: bool = False,
    tell: Callable[[Candidate], None] = lambda _: None,
) -> list[Candidate]:
    """Measure every way that is installed on these images, keep the fastest near ones, and return all, fastest first."""
    if not radiographs:
        raise BadInput("model tune: no image to measure with; give some")
    images = images_of(np.stack([on_canvas(one, model.canvas)[0] for one in radiographs]))
    found = []
    for way in _measured_ways(model, images, _ways(model, with_compile=with_compile), _reference(), seconds):
        tell(way)
        found.append(way)
    return _record(model, found)


def tune_graph(model: Model, images: Images, precision: Literal["auto", 32] = 32) -> Candidate:
    """Measure the programs that run the model's own graph, some seconds long, and keep the fastest near one; without torch."""
    there = [one for one in KINDS if one[0] in PROCESSOR_ONLY and (one[1] == 32 or precision == "auto")]
    ways = [Candidate(engine=one[0], precision=one[1], threads=count) for one in there for count in sorted({1, threads()})]
    return next(way for way in _record(model, list(_measured_ways(model, images, ways, "onnx", 0.2, (4,)))) if way.is_near)


def _measured_ways(
    model: Model,
    images: Images,
    ways: Iterable[Candidate],
    reference: EngineName,
    seconds: float,
    batches: Sequence[int] = BATCHES,
) -> Iterator[Candidate]:
    """Each way for each size of batch, compared with the reference in fp32."""
    images = np.concatenate([images] * -(-max(batches) // len(images)))[: max(batches)]
    wanted = _outputs(Predictor(model, open_forward(model, ForwardSettings(engine=reference, device="cpu"))), images)
    for way in ways:
        yield from _measured(model, way, images, wanted, seconds, batches)


def _record(model: Model, found: list[Candidate]) -> list[Candidate]:
    """The trials, fastest first; the fastest that agree with fp32 are kept for `tuned`."""
    found.sort(key=lambda way: -way.rate)
    near = [way for way in found if way.is_near]
    if not near:
        raise BadInput(f"{model.folder}: no way to run it agrees with fp32; look at the table")
    fastest = {"auto": asdict(near[0]), "32": asdict(next((way for way in near if way.precision == 32), near[0]))}
    _record_file(model).parent.mkdir(parents=True, exist_ok=True)
    write_json(_record_file(model), {"machine": machine(), "fastest": fastest, "ways": [asdict(way) for way in found]})
    return found


def tuned(model: Model, precision: Literal["auto", 32, "bf16"] = 32) -> Candidate | None:
    """What `tune` kept for this model on this machine; None where nothing was measured, or bf16 is asked for."""
    try:
        kept: Any = read_json(_record_file(model), "tune again")["fastest"][str(precision)]
        way = Candidate(**kept)
    except (OSError, BadModel, KeyError, TypeError):
        return None
    return way if is_installed(LIBRARY.get(way.engine, "torch")) else None


def drawn(model: Model) -> list[Radiograph]:
    """Phantom radiographs, for a user who has no image at hand."""
    from chestmap.phantom import Case, draw

    cases = [
        Case(seed=0, patient=patient, follow_up=0, sex="F", age=50, view="PA", findings=("Effusion",))
        for patient in range(max(BATCHES))
    ]
    pictures = [draw(case, max(model.canvas.canvas)).pixels for case in cases]
    return [
        Radiograph(pixels=one.astype(np.float32) / 255, image_id=f"phantom {place}") for place, one in enumerate(pictures)
    ]


def table_of(ways: Sequence[Candidate]) -> Table:
    """Lists all ways with their speed, their distance from fp32, and which may be taken."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("way", "images/s", "score apart", "IoU of masks", "taken"):
        table.add_column(column)
    for way in ways:
        figures = ("", "", "") if way.trouble else (f"{way.rate:.3g}", f"{way.score:.1g}", f"{way.overlap:.4f}")
        table.add_row(str(way), *figures, way.trouble or ("may be" if way.is_near else "no: too far from fp32"))
    return table


def machine() -> dict[str, str]:
    """What a measurement depends on, besides the model."""
    programs = {name: _version(name) for name in ("onnxruntime", "openvino", "torch")}
    return {"processor": processor_name(), "threads": str(threads()), "chestmap": __version__, **programs}


def _version(name: str) -> str:
    """Gives the version of an installed package; empty where it is missing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _record_file(model: Model) -> Path:
    """Names the file of a model's measurements, by machine, weights and settings.

    The cache thus keeps measurements of several machines or versions, and a new version measures anew.
    """
    told = json.dumps([machine(), model.sha256, dict(model.about["settings"])], sort_keys=True, default=str)
    key = blake2b(told.encode(), digest_size=12).hexdigest()
    return cache_folder() / "engines" / f"{model.method.name}-{key}.json"


def _reference() -> EngineName:
    """Chooses the program that others are compared with: torch where it is installed, else ONNX Runtime."""
    return "torch" if is_installed("torch") else "onnx"


def _ways(model: Model, *, with_compile: bool) -> Iterator[Candidate]:
    """Each program, precision and number of threads; a graph is made where torch can."""
    torch = is_installed("torch")
    graph = model.graph is not None or torch
    there = {
        "onnx": graph and is_installed("onnxruntime"),
        "openvino": graph and is_installed("openvino"),
        "torch": torch,
        "compile": torch and with_compile,
    }
    for engine, precision in KINDS:
        for count in sorted({1, threads()}) if there[engine] else ():
            yield Candidate(engine=engine, precision=precision, threads=count)


def _measured(
    model: Model, way: Candidate, images: Images, wanted: _Outputs, seconds: float, batches: Sequence[int]
) -> Iterator[Candidate]:
    """One line for each size of batch, or one with the reason why there is none."""
    try:
        forward = open_forward(model, way.settings)
        found = _outputs(Predictor(model, forward), images)
    except ChestmapError as problem:
        yield replace(way, trouble=str(problem))
        return
    apart = float(np.abs(found.scores - wanted.scores).max())
    overlap = _overlap(found.masks, wanted.masks)
    for batch in batches:
        yield replace(way, batch=batch, rate=_rate(forward, images[:batch], seconds), score=apart, overlap=overlap)


def _rate(forward: Forward, images: Images, seconds: float) -> float:
    """Images in a second, of the fastest call: what else runs on the machine only makes calls slower."""
    best, until = float("inf"), time.perf_counter() + seconds
    forward(images)
    while True:
        begun = time.perf_counter()
        forward(images)
        best = min(best, time.perf_counter() - begun)
        if time.perf_counter() >= until:
            return len(images) / best


@dataclass(frozen=True, eq=False)
class _Outputs:
    """Holds what a way of running gives for the trial images, to be compared with another's."""

    scores: Float32[np.ndarray, "batch finding"]
    masks: Bool[np.ndarray, "batch finding h w"]


def _outputs(predictor: Predictor, images: Images) -> _Outputs:
    """Scores, and masks on the network's own grid."""
    scores, maps = predictor.raw(images)
    return _Outputs(scores, _masks(predictor, maps))


def _masks(predictor: Predictor, maps: Float16[np.ndarray, "batch finding h w"]) -> Bool[np.ndarray, "batch finding h w"]:
    """Cuts maps on the network's own grid as the model's rule does, without leading them to the image.

    A finding with a level of its own is scaled to [0, 1] first, as is any where the method's rule asks for it.
    """
    rule, values = predictor.rule, maps.astype(np.float32)
    names = predictor.findings.names
    levels = np.array([rule.levels.get(name, rule.own.threshold) for name in names])[:, None, None]
    scaled = np.array([rule.own.normalize or name in rule.levels for name in names])[:, None, None]
    low, high = values.min((2, 3), keepdims=True), values.max((2, 3), keepdims=True)
    return np.where(scaled, (values - low) / np.maximum(high - low, 1e-12), values) >= levels


def _overlap(masks: Bool[np.ndarray, "batch finding h w"], others: Bool[np.ndarray, "batch finding h w"]) -> float:
    """Averages the IoU of masks over images and findings; two empty masks agree."""
    both, either = (masks & others).sum((2, 3)), (masks | others).sum((2, 3))
    return float(np.where(either > 0, both / np.maximum(either, 1), 1.0).mean())

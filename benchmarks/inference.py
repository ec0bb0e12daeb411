"""Images per second of HAM (ResNet-50, stride 8) for each engine and precision against plain eager fp32, as ratios within one run.

    python benchmarks/inference.py [--side 512] [--rounds 5] [--threads N] [--ways onnx openvino ...]
    python benchmarks/inference.py --latency [--file FILM.dcm]
    python benchmarks/inference.py --agreement MODEL --source DATASET [--kind nih] [--split official] [--int8]

Every way has a process of its own, and they take turns image by image, so that a busy minute hits all of them; plain is always one of
them, so parts can be run one by one. `--latency` is one image from file to boxes. `--agreement` is what engines and precisions change in
the scores and boxes of a trained model, on the boxed test images. Prints Markdown for benchmarks/inference.md.
"""

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

WAYS = {
    "plain": None,
    "torch": ("torch", 32),
    "compile": ("compile", 32),
    "onnx": ("onnx", 32),
    "openvino": ("openvino", 32),
    "torch-bf16": ("torch", "bf16"),
    "compile-bf16": ("compile", "bf16"),
    "openvino-bf16": ("openvino", "bf16"),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--side", type=int, default=512)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    options.add_argument("--latency", action="store_true")
    options.add_argument("--file", type=Path)
    options.add_argument("--agreement", type=Path, metavar="MODEL")
    options.add_argument("--source", type=Path)
    options.add_argument("--kind", default="nih")
    options.add_argument("--split", default="official")
    options.add_argument("--int8", action="store_true", help="also int8 by onnxruntime, calibrated on training images")
    options.add_argument("--one", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.one:
        one_way(chosen.one, chosen.side)
    elif chosen.agreement:
        agreement(chosen)
    elif chosen.latency:
        latency(chosen)
    else:
        speed(chosen)


def speed(chosen: argparse.Namespace) -> None:
    limits = {kind: matmul_limit(kind) for kind in (torch.float32, torch.bfloat16)}
    print(
        f"{machine()}, {chosen.threads} threads, torch {torch.__version__}; {chosen.side}×{chosen.side}, batch 1, median of "
        f"{chosen.rounds}. Matrix product: fp32 {limits[torch.float32]:,.0f}, bf16 {limits[torch.bfloat16]:,.0f} GFLOP/s.\n"
    )
    names = ["plain", *(name for name in chosen.ways if name != "plain")]
    workers: dict[str, Worker] = {}
    for name in names:  # one after the other: compiling takes both cores
        workers[name] = Worker(name, chosen)
        print(f"{name}: ready after {workers[name].first['ready']:.0f} s", file=sys.stderr)
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(chosen.rounds):
        for name, worker in workers.items():
            times[name].append(worker.step()["seconds"])
    plain = float(np.median(times["plain"]))
    print(
        "| way | ms per image | × | GFLOP/s | of the limit | ready after | scores differ | masks' IoU |\n|---|---|---|---|---|---|---|---|"
    )
    for name, worker in workers.items():
        seconds = float(np.median(times[name]))
        rate = worker.first["gflop"] / seconds
        limit = limits[torch.bfloat16 if name.endswith("bf16") else torch.float32]
        scores, masks = differences(workers["plain"].found(), worker.found(), 0.46907)
        print(
            f"| {name} | {seconds * 1e3:,.0f} | {plain / seconds:.2f} | {rate:,.0f} | {rate / limit:.0%} | {worker.first['ready']:.0f} s "
            f"| {scores:.1g} | {masks:.3f} |"
        )
    for worker in workers.values():
        worker.end()


class Worker:
    """A process that sees an image whenever it gets a line."""

    def __init__(self, name: str, chosen: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--one", name, "--side", str(chosen.side), "--threads", str(chosen.threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first = self.step()

    def step(self) -> dict:
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        with np.load(self.first["found"]) as found:
            return found["logits"], found["maps"]

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        Path(self.first["found"]).unlink()


def one_way(name: str, side: int) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from chestmap.models.engines import ForwardSettings, open_forward

    model = untrained(side)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.network(torch.zeros(1, 1, 64, 64))
    gflop = (
        counter.get_total_flops() / 1e9 * (side / 64) ** 2
    )  # convolutions, which are nearly all of it, grow with the area
    images = pictures(side)
    begun = time.perf_counter()
    way = WAYS[name]
    if way is None:
        forward = plain_forward(model)
    else:
        forward = open_forward(model, ForwardSettings(engine=way[0], precision=way[1], device="cpu"))
    logits, maps = forward(images[:1])
    told = {"ready": time.perf_counter() - begun, "gflop": gflop}
    for _ in sys.stdin:
        if "found" not in told:
            with tempfile.NamedTemporaryFile(suffix=".npz", delete=False) as file:
                np.savez(file, logits=logits, maps=maps)
            told["found"] = file.name
        begun = time.perf_counter()
        forward(images[:1])
        print(json.dumps(told | {"seconds": time.perf_counter() - begun}), flush=True)


def plain_forward(model):
    """As a network runs without anything done to it."""

    def forward(images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            output = model.network(images)
        return output.logits.numpy(), output.maps.numpy()

    return forward


def untrained(side: int):
    """HAM as printed with random weights, and norms that do something."""
    from chestmap.imaging.canvas import CanvasSettings
    from chestmap.methods import METHODS, ham
    from chestmap.models.folder import Model
    from chestmap.vocabulary import CHESTXRAY14

    torch.manual_seed(0)
    settings, canvas = ham.HamSettings(), CanvasSettings(width=side, height=side)
    network = ham.build(settings, CHESTXRAY14, canvas.canvas).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(4, 1, 64, 64))
    about = {"sha256": f"benchmark-{side}", "data": {}}
    rule = METHODS["ham"].own_rule(settings)
    return Model(
        folder=Path("benchmark"), findings=CHESTXRAY14, canvas=canvas, own_rule=rule, about=about, built=network.eval()
    )


def pictures(side: int) -> torch.Tensor:
    """Smooth, as films are."""
    random = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 1, 16, 16, generator=random)
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


def differences(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], level: float
) -> tuple[float, float]:
    """Largest difference of a score, and the mean IoU of the masks at the method's own level of each scaled map."""
    scores = [1 / (1 + np.exp(-logits.astype(np.float64))) for logits, _ in (one, other)]
    masks = [scaled(maps.astype(np.float64)) >= level for _, maps in (one, other)]
    shared, either = (masks[0] & masks[1]).sum((-2, -1)), (masks[0] | masks[1]).sum((-2, -1))
    return float(np.abs(scores[0] - scores[1]).max()), float(np.where(either, shared / np.maximum(either, 1), 1.0).mean())


def scaled(maps: np.ndarray) -> np.ndarray:
    low, high = maps.min((-2, -1), keepdims=True), maps.max((-2, -1), keepdims=True)
    return (maps - low) / np.maximum(high - low, 1e-8)


def latency(chosen: argparse.Namespace) -> None:
    """One film of 2,048 px or so, alone, after one to warm up: what a user waits for once a model is open."""
    from chestmap.imaging.canvas import on_canvas
    from chestmap.imaging.read import read_radiograph
    from chestmap.models.engines import ForwardSettings, open_forward
    from chestmap.models.largest_box import boxes_of
    from chestmap.models.predictor import Predictor, images_of

    with tempfile.TemporaryDirectory() as folder:
        path = chosen.file or phantom_film(Path(folder))
        size = read_radiograph(path).pixels.shape
        print(f"{machine()}, {chosen.threads} threads; {path.name} ({size[1]}×{size[0]}), median of {chosen.rounds}, ms\n")
        print("| way | read the DICOM | onto the canvas | network | boxes | end to end |\n|---|---|---|---|---|---|")
        for name in chosen.ways:
            if (way := WAYS[name]) is None:
                continue
            forward = open_forward(untrained(chosen.side), ForwardSettings(engine=way[0], precision=way[1], device="cpu"))
            predictor, rows = Predictor(untrained(chosen.side), forward), []
            for _ in range(chosen.rounds + 1):
                marks = [time.perf_counter()]
                radiograph = read_radiograph(path)
                marks.append(time.perf_counter())
                canvas, frame = on_canvas(radiograph, predictor.model.canvas)
                marks.append(time.perf_counter())
                scores, maps = predictor.raw(images_of(canvas[None]))
                marks.append(time.perf_counter())
                boxes_of(predictor.findings, scores[0], maps[0], frame, predictor.rule)
                marks.append(time.perf_counter())
                predictor.predict(path)
                marks.append(time.perf_counter())
                rows.append(np.diff(marks))
            print(
                f"| {name} | " + " | ".join(f"{1e3 * value:,.0f}" for value in np.median(rows[1:], axis=0)) + " |",
                flush=True,
            )


def phantom_film(folder: Path) -> Path:
    from chestmap.phantom import PhantomSettings, write_phantom

    write_phantom(folder / "phantom", PhantomSettings(images=4, side=2048, dicom=True, processes=1), progress=False)
    return min((folder / "phantom").rglob("*.dcm"))


def agreement(chosen: argparse.Namespace) -> None:
    """Every way on the boxed test images, scored by the protocol; the default must not move T(IoU) by more than 0.005."""
    from chestmap.datasets import open_source, source_settings
    from chestmap.datasets.split import SplitSettings, make_split
    from chestmap.methods import METHODS
    from chestmap.models.engines import ForwardSettings, open_forward
    from chestmap.models.folder import open_model
    from chestmap.packs.build import PackSettings, make_pack
    from chestmap.packs.part import Part

    model = open_model(chosen.agreement, METHODS)
    source = open_source(source_settings({"name": chosen.kind, "root": str(chosen.source)}))
    split = make_split(source, SplitSettings(name=chosen.split))
    boxed = [one for one in split.parts["test"] if source.boxes.get(one)]
    training = list(split.parts["train"])[:64]
    with tempfile.TemporaryDirectory() as folder:
        canvas = PackSettings(**model.canvas.model_dump())
        rows = {one: row for row, one in enumerate(source.ids)}
        source = source.select(np.array([rows[one] for one in [*boxed, *training]]))
        part = Part.of(source, make_pack(source, Path(folder) / "pack", canvas), boxed, "images")
        print(f"{model.method.title}, {len(part)} boxed test images of {chosen.source.name}; differences from plain fp32.\n")
        print(
            "| way | score, largest | score, mean | masks' IoU | "
            + " | ".join(f"T(IoU = {at})" for at in LEVELS)
            + " | largest change |"
        )
        print("|---" * (5 + len(LEVELS)) + "|")
        wanted = None
        ways = {name: WAYS[name] for name in ["plain", *(one for one in chosen.ways if one != "plain")]}
        for name in [*ways, *(["onnx-int8"] if chosen.int8 else [])]:
            if name == "plain":
                forward = plain_forward(model)
            elif name == "onnx-int8":
                calibration = Part.of(part.source, part.pack, training, "images")
                forward = int8_forward(model, calibration, Path(folder))
            else:
                engine, precision = ways[name]
                forward = open_forward(model, ForwardSettings(engine=engine, precision=precision, device="cpu"))
            found = predicted(model, forward, part, Path(folder) / name)
            found["hits"] = hits(found["predictions"], source)
            wanted = wanted or found
            print(row_of(name, wanted, found, model.own_rule), flush=True)


LEVELS = (0.1, 0.3, 0.5, 0.7)


def predicted(model, forward, part, folder: Path) -> dict:
    from chestmap.models.predictor import Predictor
    from chestmap.packs.loader import Loader, LoaderSettings
    from chestmap.predictions.folder import Chunk, Header, PredictionsWriter, open_predictions

    predictor = Predictor(model, forward)
    writer = PredictionsWriter(
        folder, Header(findings=predictor.findings, canvas=model.canvas.canvas, model={}, own_rule=model.own_rule)
    )
    batches = Loader(part=part, settings=LoaderSettings(batch_size=4, workers=0), shuffle=False).epoch(0)
    raw = ((one, *predictor.raw(one.images)) for one in batches)
    chunks = [
        Chunk(image_ids=one.ids, patient_ids=one.ids, frames=one.frames, scores=scores, maps=maps)
        for one, scores, maps in raw
    ]
    writer.write(0, len(part), iter(chunks))
    writer.finish()
    maps = np.concatenate([chunk.maps for chunk in chunks]).astype(np.float64)
    scores = np.concatenate([chunk.scores for chunk in chunks]).astype(np.float64)
    return {"predictions": open_predictions(folder), "scores": scores, "maps": maps}


def hits(predictions, source) -> list[float]:
    """T(IoU) by the method's own rule on masks: the mean over findings, at each level."""
    from chestmap.evaluation.settings import EvaluationSettings
    from chestmap.reproduction.score_run import score_split

    scored = score_split(predictions, source, None, EvaluationSettings(resamples=1))
    found = [scored.select("T(IoU)", rule="own", geometry="mask", at=at, finding="mean") for at in LEVELS]
    return [one[0].value for one in found]


def row_of(name: str, wanted: dict, found: dict, rule) -> str:
    apart = np.abs(wanted["scores"] - found["scores"])
    level = (lambda maps: scaled(maps) >= rule.threshold) if rule.normalize else (lambda maps: maps >= rule.threshold)
    one, other = level(wanted["maps"]), level(found["maps"])
    either = (one | other).sum((-2, -1))
    masks = np.where(either, (one & other).sum((-2, -1)) / np.maximum(either, 1), 1.0).mean()
    moved = max(abs(a - b) for a, b in zip(wanted["hits"], found["hits"], strict=True))
    cells = [
        f"{apart.max():.1g}",
        f"{apart.mean():.1g}",
        f"{masks:.4f}",
        *(f"{value:.3f}" for value in found["hits"]),
        f"{moved:.4f}",
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def int8_forward(model, calibration, folder: Path):
    """Post-training, static, one scale for each channel of a weight; not offered by chestmap, measured here to say why."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    from chestmap.models.graph import cached_onnx
    from chestmap.packs.loader import Loader, LoaderSettings

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(
                Loader(part=calibration, settings=LoaderSettings(batch_size=1, workers=0), shuffle=False).epoch(0)
            )

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.images.numpy()}

    logging.getLogger().setLevel(logging.ERROR)
    path = folder / "int8.onnx"
    options = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    quantize_static(
        cached_onnx(model),
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        **options,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: tuple(session.run(["logits", "maps"], {"images": images.numpy()}))


def matmul_limit(kind: torch.dtype, size: int = 2048) -> float:
    """GFLOP/s, the best of a few."""
    one, other = torch.rand(size, size).to(kind), torch.rand(size, size).to(kind)
    return 2 * size**3 / min(timed(lambda: one @ other) for _ in range(8)) / 1e9


def timed(step) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def machine() -> str:
    with open("/proc/cpuinfo") as file:  # noqa: PTH123
        name = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), platform.processor())
    from chestmap.models.engines import processor_flags

    return f"{name}, {os.cpu_count()} cores, AMX: {'yes' if 'amx_tile' in processor_flags() else 'no'}"


if __name__ == "__main__":
    main()

"""From a DICOM file to boxes with the starter, and DenseNet-121 at 224 px: `python benchmarks/small_networks.py [--films FOLDER]`.

Ways take turns film by film, one thread each; processor time, medians. `--films` holds PNGs to calibrate int8 on; without it, phantoms are.
DenseNet-121 is torchvision's with one channel and 14 outputs, the network of torchxrayvision, with random weights: they do not change its speed.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from pydicom import uid

import chestmap
from chestmap.imaging.canvas import on_canvas
from chestmap.imaging.read import radiograph_of
from chestmap.models.engines import ForwardSettings
from chestmap.models.graph import cached_onnx
from chestmap.models.largest_box import boxes_of
from chestmap.models.predictor import images_of
from chestmap.phantom import Case, draw

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "imaging"))
from dicom_samples import as_bytes, compressed, radiograph

STAGES = ("read", "canvas", "network", "boxes")
Forward = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def films(count: int, side: int = 2048) -> list[bytes]:
    """Phantoms with the noise of a detector in 12 bits, as archives hold them: JPEG lossless every second one."""
    made = []
    for seed in range(count):
        drawn = draw(
            Case(seed=seed, patient=seed, follow_up=0, sex="F", age=50, view="PA", findings=("Effusion",)), 1024
        ).pixels
        large = cv2.resize(drawn.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
        large = 300 + 3400 * (large - large.min()) / np.ptp(large)
        noise = np.random.default_rng(seed).normal(0, 1, large.shape) * np.sqrt(large) * 0.35
        dataset = radiograph(np.clip(large + noise, 0, 4095).astype(np.uint16))
        made.append(as_bytes(compressed(dataset, uid.JPEGLosslessSV1 if seed % 2 else uid.ExplicitVRLittleEndian)))
    return made


def session(path: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def int8(path: Path, folder: Path, images: list[np.ndarray]) -> Path:
    """Static, one scale for each channel of a weight, convolutions only, calibrated on `images`."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(images)

        def get_next(self):
            one = next(self.rest, None)
            return None if one is None else {"images": one}

    logging.getLogger().setLevel(logging.ERROR)
    folded, made = folder / "folded.onnx", folder / "int8.onnx"
    quant_pre_process(str(path), str(folded), skip_symbolic_shape=True)
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    quantize_static(
        folded,
        made,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        extra_options={"ActivationSymmetric": False},
        **kinds,
    )
    return made


def densenet(folder: Path) -> dict[str, Callable[[np.ndarray], object]]:
    from torchvision.models import densenet121

    network = densenet121(num_classes=14)
    network.features.conv0 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    network = network.eval().to(memory_format=torch.channels_last)
    path = folder / "densenet.onnx"
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(network, (torch.zeros(1, 1, 224, 224),), buffer, input_names=["images"], dynamo=False)
    path.write_bytes(buffer.getvalue())
    run = session(path)

    def eager(images: np.ndarray) -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(images).to(memory_format=torch.channels_last))

    return {"DenseNet-121 224, torch": eager, "DenseNet-121 224, onnx": lambda images: run.run(None, {"images": images})}


def timed(work: Callable[[], object], spent: list[float]) -> object:
    before = time.process_time()
    found = work()
    spent.append(1000 * (time.process_time() - before))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--films", type=Path)
    parser.add_argument("--calibration", type=int, default=64)
    parser.add_argument("--engines", nargs="*", default=["onnx", "openvino", "torch"])
    chosen = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    starter = chestmap.load("starter")
    canvas, findings, rule = starter.model.canvas, starter.findings, starter.rule
    paths = sorted(chosen.films.rglob("*.png"))[: chosen.calibration] if chosen.films else []
    held = [one.read_bytes() for one in paths] or films(chosen.calibration, 512)
    small = [images_of(on_canvas(radiograph_of(one, "x"), canvas)[0][None]) for one in held]
    content = films(chosen.count)
    with tempfile.TemporaryDirectory() as place:
        ways: dict[str, Callable[[np.ndarray], object]] = {}
        for engine in chosen.engines:
            settings = ForwardSettings(engine=engine, device="cpu", threads=1)
            ways[f"starter, {engine} fp32"] = chestmap.load("starter", settings).raw
        quantized = session(int8(cached_onnx(starter.model), Path(place), [np.asarray(one) for one in small]))
        plain = starter.forward

        def eighth(images: np.ndarray) -> object:
            starter.forward = lambda given: tuple(quantized.run(["logits", "maps"], {"images": np.asarray(given)}))
            try:
                return starter.raw(images)
            finally:
                starter.forward = plain

        ways["starter, onnx int8"] = eighth
        others = densenet(Path(place))
        took: dict[str, dict[str, list[float]]] = {name: {stage: [] for stage in STAGES} for name in (*ways, *others)}
        for turn in range(-2, chosen.count):  # two to warm up
            data = content[turn % chosen.count]
            for name, own in took.items():
                spent = own if turn >= 0 else {stage: [] for stage in STAGES}
                one = timed(lambda data=data: radiograph_of(data, "film.dcm"), spent["read"])
                if name in others:
                    image = timed(
                        lambda one=one: cv2.resize(one.pixels, (224, 224), interpolation=cv2.INTER_AREA), spent["canvas"]
                    )
                    timed(lambda name=name, image=image: others[name](image[None, None] * 2048 - 1024), spent["network"])
                    continue
                grey, frame = timed(lambda one=one: on_canvas(one, canvas), spent["canvas"])
                scores, maps = timed(lambda name=name, grey=grey: ways[name](images_of(grey[None])), spent["network"])
                timed(lambda s=scores, m=maps, f=frame: boxes_of(findings, s[0], m[0], f, rule), spent["boxes"])
        report(took)
        compare(ways, small)


def report(took: dict[str, dict[str, list[float]]]) -> None:
    print(f"| way | {', '.join(STAGES)}, ms | one film, ms | films a second of two cores, computed |\n|---|---|---:|---:|")
    for name, own in took.items():
        parts = [float(np.median(own[stage])) if own[stage] else 0.0 for stage in STAGES]
        print(f"| {name} | {', '.join(f'{one:.1f}' for one in parts)} | {sum(parts):.1f} | {2000 / sum(parts):.1f} |")


def compare(ways: dict[str, Callable[[np.ndarray], object]], images: list[np.ndarray]) -> None:
    names = list(ways)
    plain = [ways[names[0]](one) for one in images]
    for name in names[1:]:
        found = [ways[name](one) for one in images]
        score = max(float(np.abs(a[0] - b[0]).max()) for a, b in zip(plain, found, strict=True))
        level = max(float(np.abs(a[1].astype(float) - b[1].astype(float)).max()) for a, b in zip(plain, found, strict=True))
        print(f"{name}: scores differ from {names[0]} by {score:.2g} at most, maps by {level:.2g}")


if __name__ == "__main__":
    main()

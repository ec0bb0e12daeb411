"""Exports a model into a folder for programs that have no torch.

export.json     what goes in and comes out, findings, how an image gets on the canvas, how a map becomes a mask, checksums
network.onnx    and/or network.xml with network.bin (OpenVINO), network.pt2 (torch.export)
program.py      scores of one picture, in a few lines; README.md explains it

All graphs take canvas pixels as a pack has them (uint8, 0 … 255) and give scores, calibrated where the model is, and maps; what
the network does to the pixels lies within.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.export import ExportedProgram

from chestmap.errors import BadInput, ChestmapError, Diverged
from chestmap.models.cards.export_card import card, first_of, program
from chestmap.models.engines import ForwardSettings, onnx_compute, open_forward
from chestmap.models.folder import GRAPH, WEIGHTS, Model, open_model, write_about, write_model
from chestmap.models.graph import (
    MOST,
    PixelGraph,
    described,
    engine_graph,
    is_half,
    quiet,
    share_weights,
    traced,
    write_onnx,
)
from chestmap.models.graph import NAMES as ENGINE_NAMES
from chestmap.models.predictor import Predictor, images_of
from chestmap.models.runtimes import compiled_by_openvino, needed, session_of, threads
from chestmap.nn.folding import folded
from chestmap.storage.atomic import making_folder, replacing, write_bytes
from chestmap.storage.manifest import extend, is_sealed, seal
from chestmap.training.train import Trained
from chestmap.version import __version__

Format = Literal["onnx", "openvino", "pt2"]
FORMATS: tuple[Format, ...] = ("onnx", "openvino", "pt2")
FORMAT = 1
NAMES = ("pixels", "scores", "maps")
NEAR = 1e-4
"""By how much a graph's scores may differ from torch's, both in fp32."""

Canvases = UInt8[np.ndarray, "batch height width"]
Found = tuple[Float[np.ndarray, "batch finding"], Float[np.ndarray, "batch finding h w"]]


def export(model: Model, formats: Sequence[Format], out: Path) -> Path:
    """Fills `out`, which may be there but empty; each graph is run and compared with torch before the folder gets its name."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out}: is not empty; give a new folder for the export, or delete this one")
    for name in {"onnx": ("onnx", "onnxscript"), "openvino": ("onnx", "onnxscript", "openvino"), "pt2": ()}.items():
        for library in name[1] if name[0] in formats else ():
            needed(library)
    with making_folder(out) as made:
        _fill(model, formats, made)
        seal(made)
    return out


def write_with_graph(folder: Path, trained: Trained) -> None:
    """Fill an empty model folder, with the graph; where there can be none, model.json holds the reason."""
    write_model(folder, trained)
    model = open_model(folder, {trained.method.name: trained.method})
    try:
        add_graph(model)
    except ChestmapError as problem:
        write_about(folder, {**model.about, "graph": {"refused": str(problem).removeprefix(f"{folder}: ")}})


def add_graph(model: Model) -> Path:
    """Write the graph of a model into its folder, once it is found to agree with torch; return its path.

    The graph of weights in half precision reads them from weights.safetensors, so that they lie there once.
    """
    path, weights = model.folder / GRAPH, model.folder / WEIGHTS
    about = {key: value for key, value in model.about.items() if key != "graph"}
    half = is_half(weights)
    with replacing(path) as made:
        about_graph = described(model, model.findings.names)
        write_onnx(engine_graph(model, fold=not half), made, ENGINE_NAMES, about_graph, optimize=not half)
        if half:
            share_weights(made, weights)
        canvases = images_of(_trial(model))
        apart = _largest_difference(
            Predictor(model, onnx_compute(made)).raw(canvases), _predictor(model).raw(canvases), str(path)
        )
        digest = hashlib.sha256(made.read_bytes()).hexdigest()
        write_about(model.folder, about)  # without the graph that is replaced
    graph = {"sha256": digest, "weights": model.sha256, "differs_from_torch": apart, "torch": str(torch.__version__)}
    graph |= {"reads": WEIGHTS} if half else {}
    write_about(model.folder, {**about, "graph": graph})
    if is_sealed(model.folder):
        extend(model.folder, GRAPH)
    return path


def _predictor(model: Model) -> Predictor:
    """Opens the model with torch on the CPU in fp32, which every exported graph is compared with."""
    return Predictor(model, open_forward(model, ForwardSettings(engine="torch", device="cpu", precision=32)))


def _fill(model: Model, formats: Sequence[Format], folder: Path) -> None:
    """Writes the graphs, runs each on trial images, and writes what a program needs to know of them.

    OpenVINO is converted from the ONNX file, which goes again where ONNX itself is not asked for.
    """
    predictor = _predictor(model)
    graph = traced(_graph(predictor), model.canvas.canvas, str(model.folder))
    if "onnx" in formats or "openvino" in formats:
        write_onnx(graph, folder / "network.onnx", NAMES, described(model, predictor.findings.names))
    if "openvino" in formats:
        openvino = needed("openvino")
        openvino.save_model(openvino.convert_model(folder / "network.onnx"), folder / "network.xml", compress_to_fp16=False)
    if "onnx" not in formats:
        (folder / "network.onnx").unlink(missing_ok=True)
    if "pt2" in formats:
        with quiet():
            torch.export.save(graph, folder / "network.pt2")
    canvases = _trial(model)
    wanted = predictor.raw(images_of(canvases))
    apart = {name: _largest_difference(run(folder, name, canvases), wanted, f"{model.folder} as {name}") for name in formats}
    about = _about(predictor, folder, wanted[1].shape[2:], apart)
    write_bytes(folder / "export.json", (json.dumps(about, indent=1) + "\n").encode())
    write_bytes(folder / "program.py", program(first_of(about), model.canvas.fit).encode())
    write_bytes(folder / "README.md", card(about).encode())


def _graph(predictor: Predictor) -> PixelGraph:
    """Builds what is traced: folded network, calibration, and the findings that the model was trained on."""
    slope, offset = (torch.from_numpy(np.asarray(values, dtype=np.float32)) for values in predictor.calibration)
    columns = [predictor.model.findings.index(name) for name in predictor.findings]
    chosen = torch.tensor(columns) if len(columns) < len(predictor.model.findings) else None
    return PixelGraph(folded(predictor.model.network), slope, offset, chosen)


def _trial(model: Model) -> Canvases:
    """Three images that no one drew: a ramp, a disk and noise."""
    rows, columns = np.mgrid[: model.canvas.height, : model.canvas.width]
    ramp = 255 * columns / model.canvas.width
    far = np.hypot(rows / model.canvas.height - 0.5, columns / model.canvas.width - 0.4)
    noise = np.random.default_rng(0).integers(0, 256, ramp.shape)
    return np.stack([ramp, 255 * (far < 0.2), noise]).astype(np.uint8)


def run(folder: Path, name: Format, canvases: Canvases) -> Found:
    """Scores and maps of an export folder's graph, computed as its README describes; in fp32."""
    pixels = np.ascontiguousarray(canvases[:, None])
    if name == "onnx":
        session = session_of(folder / "network.onnx")
        scores, maps = session.run(["scores", "maps"], {"pixels": pixels})
        return scores, maps
    if name == "openvino":
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads()}
        compiled = compiled_by_openvino(folder / "network.xml", hints)
        found = compiled({"pixels": pixels})
        return np.array(found["scores"]), np.array(found["maps"])
    with torch.inference_mode(), quiet():
        loaded: ExportedProgram = torch.export.load(folder / "network.pt2")
        scores, maps = loaded.module()(torch.from_numpy(pixels))
    return scores.numpy(), maps.numpy()


def _largest_difference(found: Found, wanted: Found, name: str) -> float:
    """The largest difference of a score; refused where the graph differs from torch."""
    apart = float(np.abs(found[0] - wanted[0]).max())
    scale = max(float(wanted[1].max()), 1e-6)  # maps are kept as float16, which rounds by 5e-4
    maps = float(np.abs(np.clip(found[1], 0, None) - wanted[1].astype(np.float32)).max()) / scale
    if not (apart <= NEAR and maps <= 2e-3):
        raise Diverged(
            f"{name}: the graph differs from torch by {apart:.2g} in scores and {maps:.2g} in maps; allowed: {NEAR:g} and 0.002"
        )
    return apart


def _about(predictor: Predictor, folder: Path, grid: tuple[int, ...], apart: dict[str, float]) -> dict[str, Any]:
    """Collects what export.json holds.

    `grid` is the (height, width) of a map, `apart` the difference from torch by format. It lists the files that are
    there when it is called, so it comes after the graphs.
    """
    model, canvas = predictor.model, predictor.model.canvas
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    return {
        "format": FORMAT,
        "chestmap": __version__,
        "torch": str(torch.__version__),
        "method": model.method.name,
        "title": model.method.title,
        "paper": model.method.paper,
        "model_sha256": model.sha256,
        "findings": list(predictor.findings.names),
        "canvas": canvas.model_dump(mode="json"),
        "input": {
            "name": "pixels",
            "type": "uint8",
            "shape": ["batch", 1, canvas.height, canvas.width],
            "says": "gray of one frontal chest X-ray on the canvas, 0 … 255, white is dense; no other preprocessing",
            "most": MOST,
        },
        "outputs": {
            "scores": {"type": "float32", "shape": ["batch", len(predictor.findings)], "calibrated": _calibrated(model)},
            "maps": {"type": "float32", "shape": ["batch", len(predictor.findings), *grid]},
        },
        "own_rule": model.about["own_rule"],
        **{key: model.about[key] for key in ("thresholds", "operating_points") if model.about.get(key)},
        "data": model.about["data"],
        "scores_differ_from_torch": apart,
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    }


def _calibrated(model: Model) -> bool:
    """Tells whether the scores of the model's graphs are calibrated."""
    return bool(model.about.get("calibration"))

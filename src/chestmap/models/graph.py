"""Writes a network as a graph for other programs: traced by torch.export with an open batch, written as ONNX.

What a graph cannot hold is a network that decides by looking at its numbers; such a network is refused with torch's own reason.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from chestmap.errors import Refused
from chestmap.models.folder import Model
from chestmap.models.runtimes import needed
from chestmap.nn.folding import folded
from chestmap.settings import cache_folder
from chestmap.version import __version__

MOST = 1024
"""Images in a batch of a graph."""
NAMES = ("images", "logits", "maps")
RULES = 2
"""Raised when graphs are made in another way, so that older ones in the cache are not read."""


class Graph(nn.Module):
    """Wraps a network for tracing; a subclass defines what goes in and what comes out besides the maps.

    `forward` gives plain tensors in a fixed order, which a graph can name, and no output object.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "batch 1 height width"]) -> tuple[Tensor, Tensor]:
        """Canvas in [0, 1] to logits and maps."""
        output = self.network(images)
        return output.logits, output.maps


class PixelGraph(Graph):
    """Canvas pixels as a pack has them, 0 … 255, to scores (calibrated where the model is) and maps, of some findings or all."""

    def __init__(
        self,
        network: nn.Module,
        slope: Float[Tensor, "finding"],
        offset: Float[Tensor, "finding"],
        chosen: Int64[Tensor, "some"] | None = None,
    ) -> None:
        super().__init__(network)
        self.register_buffer("slope", slope)
        self.register_buffer("offset", offset)
        self.register_buffer("chosen", chosen)

    def forward(self, images: Shaped[Tensor, "batch 1 height width"]) -> tuple[Tensor, Tensor]:
        """From pixels 0 to 255 to calibrated scores and maps, so that a program without chestmap needs no steps of its own."""
        output = self.network(images.float() / 255)
        scores = torch.sigmoid(output.logits * self.get_buffer("slope") + self.get_buffer("offset"))
        chosen = self._buffers["chosen"]
        return (scores, output.maps) if chosen is None else (scores[:, chosen], output.maps[:, chosen])


def traced(graph: Graph, canvas: tuple[int, int], name: str) -> ExportedProgram:
    """For canvases of (width, height) and 1 … `MOST` images; `name` is what a refusal begins with."""
    kind = torch.uint8 if isinstance(graph, PixelGraph) else torch.float32
    images = torch.zeros(2, 1, canvas[1], canvas[0], dtype=kind)
    batch = Dim("batch", min=1, max=MOST)
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(graph.eval(), (images,), dynamic_shapes=({0: batch},))
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Refused(
            f"{name}: torch cannot write this network as a graph of any batch size; use the engine torch, which runs all "
            f"({type(error).__name__}: {reason})"
        ) from None


def described(model: Model, findings: Sequence[str]) -> dict[str, str]:
    """What a program that finds the graph alone needs to know; `findings` are those of its outputs, in their order."""
    return {
        "findings": json.dumps(list(findings)),
        "canvas": json.dumps(model.canvas.model_dump(mode="json")),
        "weights_sha256": model.sha256,
        "title": model.method.title,
        "method": model.method.name,
        "chestmap": __version__,
        "license": str(model.about.get("license", "none stated")),
        "use": "research only; not a medical device",
    }


def write_onnx(
    program: ExportedProgram, path: Path, names: tuple[str, str, str], about: Mapping[str, str], *, optimize: bool = True
) -> None:
    """`names` are those of the input and the two outputs; the weights and `about` lie within the file.

    Without `optimize` the weights keep their names and values.
    """
    onnx = needed("onnx")
    needed("onnxscript")
    try:
        with quiet():
            written = torch.onnx.export(
                program,
                (),
                dynamo=True,
                input_names=names[:1],
                output_names=names[1:],
                verbose=False,
                optimize=optimize,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = " ".join(str(error).split())[:200]
        raise Refused(f"{path.name}: ONNX has no way to write this network; use the format pt2 ({reason})") from None
    assert written is not None
    model = written.model_proto
    symbol = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = dim.dim_param.replace(symbol, "batch")
    for part in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        part.ClearField("metadata_props")  # where in torch's code a node comes from
    onnx.helper.set_model_props(model, dict(about))
    onnx.checker.check_model(model)
    onnx.save(model, path)


def engine_graph(model: Model, *, fold: bool = True) -> ExportedProgram:
    """Traces the network as the engines run it: logits and maps, calibration left to the caller.

    Batch norms are folded into convolutions, unless the graph is to share the weights of the model file.
    """
    network = folded(model.network) if fold else model.network
    return traced(Graph(network), model.canvas.canvas, str(model.folder))


def share_weights(path: Path, weights: Path) -> int:
    """Let the graph at `path` read its weights from the safetensors file next to it; return how many tensors it shares.

    ONNX takes raw bytes of another file from an offset on, which is how safetensors lie there. What is half precision there is
    cast when a program loads the graph, so a folder holds its weights once.
    """
    onnx = needed("onnx")
    model, places = onnx.load(path), _places(weights)
    casts, shared = [], 0
    for tensor in model.graph.initializer:
        place = places.get(tensor.name.removeprefix("network."))
        if place is None or tensor.data_type != onnx.TensorProto.FLOAT or list(tensor.dims) != place["shape"]:
            continue
        name, half = tensor.name, place["dtype"] == "F16"
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", weights.name), ("offset", place["offset"]), ("length", place["length"])):
            tensor.external_data.add(key=key, value=str(value))
        if half:
            tensor.name, tensor.data_type = f"{name}.half", onnx.TensorProto.FLOAT16
            casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
        shared += 1
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(path)
    return shared


def _places(weights: Path) -> dict[str, Any]:
    """Type, shape, offset and length in bytes of each tensor in a safetensors file."""
    with weights.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    return {
        name: {
            "dtype": one["dtype"],
            "shape": one["shape"],
            "offset": 8 + size + one["data_offsets"][0],
            "length": one["data_offsets"][1] - one["data_offsets"][0],
        }
        for name, one in header.items()
        if name != "__metadata__" and one["dtype"] in {"F16", "F32"}
    }


def is_half(weights: Path) -> bool:
    """Whether a safetensors file holds half precision."""
    return any(one["dtype"] == "F16" for one in _places(weights).values())


def cached_onnx(model: Model) -> Path:
    """The graph of the engines, made once for these weights, settings and versions."""
    told = json.dumps([dict(model.about), __version__, torch.__version__, RULES], sort_keys=True, default=str)
    key = hashlib.blake2b(told.encode(), digest_size=12).hexdigest()
    path = cache_folder() / "graphs" / f"{model.method.name}-{key}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as beside:
            made = Path(beside) / path.name
            write_onnx(engine_graph(model), made, NAMES, described(model, model.findings.names))
            shutil.move(made, path)
    return path


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' own messages; what matters comes as an error."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)

"""Writes views: runs the frozen trunk of a backbone once over every augmentation of a training.

Only methods with frozen stages can use views. The kept features are float16; another trunk, augmentation or pack makes new
ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from chestmap.nn.backbone import Backbone, BackboneSettings
from chestmap.nn.folding import folded
from chestmap.packs.augment import AugmentSettings, augmented, draw
from chestmap.packs.pack import Pack
from chestmap.packs.views import Views, ViewSettings, open_views
from chestmap.progress import progress_of
from chestmap.storage.atomic import write_json
from chestmap.training.training_data import Data

BATCH = 16


class _Kept(nn.Module):
    """The trunk as a module of its own."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        """The maps of the frozen stages, in one tensor of [batch, channel, h, w]."""
        return self.backbone.kept(images)


def views_of(
    pack: Pack,
    settings: BackboneSettings,
    augment: AugmentSettings,
    views: ViewSettings,
    place: Path,
    *,
    progress: bool = True,
) -> Views:
    """What lies in `place` already, or written there; the folder's name is the fingerprint of all that it depends on."""
    backbone = Backbone(settings).eval()
    assert backbone.trunk is not None or backbone.kept(torch.zeros(1, 1, 64, 64)) is not None  # refuses in its own words
    fingerprint = _fingerprint(pack, backbone, augment, views)
    folder = place / fingerprint
    found = open_views(folder, fingerprint)
    if found is None:
        with torch.random.fork_rng(devices=[]):  # what is drawn next must not depend on whether views were there
            _write(folder, pack, backbone, (augment, views, fingerprint), progress=progress)
        found = open_views(folder, fingerprint)
        assert found is not None
    return found


def with_views(data: Data, views: Views) -> Data:
    """The same parts, which now show kept features in place of pixels."""
    train, validation, test = (part and replace(part, views=views) for part in (data.train, data.validation, data.test))
    assert train is not None
    return replace(data, train=train, validation=validation, test=test)


def _fingerprint(pack: Pack, backbone: Backbone, augment: AugmentSettings, views: ViewSettings) -> str:
    assert backbone.trunk is not None
    digest = sha256(f"1|{pack.fingerprint}|{backbone.trunk.kept}|{backbone.mean}|{backbone.std}".encode())
    digest.update(f"{augment.model_dump_json()}|{views.model_dump_json()}".encode())
    for module in backbone.still():
        for key, tensor in module.state_dict().items():
            digest.update(key.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _compute(backbone: Backbone, canvas: tuple[int, int]) -> Callable[[Tensor], np.ndarray]:
    """The trunk with its norms folded; OpenVINO, where it is installed, is three times as fast on a CPU."""
    kept = folded(_Kept(backbone))
    if find_spec("openvino") is None:
        eager = kept.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] -- not typed
        return lambda images: eager(images.contiguous(memory_format=torch.channels_last)).half().numpy()
    import openvino

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing
        example = torch.zeros(BATCH, 1, canvas[1], canvas[0])
        program = torch.jit.trace(kept, example, check_trace=False)  # a second trace gives its modules other names
        graph = openvino.convert_model(program, example_input=example)
    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.compile_model(graph, "CPU", threads)
    return lambda images: compiled(images.numpy())[0].astype(np.float16)


def _write(
    folder: Path,
    pack: Pack,
    backbone: Backbone,
    how: tuple[AugmentSettings, ViewSettings, str],
    *,
    progress: bool,
) -> None:
    """Computes the features of all views, a batch at a time, and writes them with the fingerprint last."""
    augment, views, fingerprint = how
    folder.mkdir(parents=True, exist_ok=True)
    canvas = pack.settings.canvas
    kept = _compute(backbone, canvas)
    sample = kept(torch.zeros(BATCH, 1, canvas[1], canvas[0]))
    shape = (len(pack.ids), views.count + 1, *sample.shape[1:])
    features = np.memmap(folder / "features.bin", dtype=np.float16, mode="w+", shape=shape)
    rows = sorted(pack.row_of.values())
    with progress_of("views", len(rows), show=progress) as advance, torch.inference_mode():
        for first in range(0, len(rows), BATCH):
            some = rows[first : first + BATCH]
            images = torch.from_numpy(pack.pixels(np.array(some))).unsqueeze(1).float().div_(255.0)
            for number in range(views.count + 1):
                seen = images
                if number:
                    changes = [draw(augment, canvas, views.seed, (number, 0), pack.ids[row]) for row in some]
                    seen = augmented(images.clone(), changes, augment)
                features[some, number] = kept(seen)
            advance(len(some))
    features.flush()
    about = {
        "settings": views.model_dump(),
        "augment": augment.model_dump(mode="json"),
        "shape": shape,
        "fingerprint": fingerprint,
    }
    write_json(folder / "views.json", about)

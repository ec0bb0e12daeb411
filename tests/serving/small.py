"""A service so small that a test of it takes milliseconds."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from chestmap.methods import METHODS
from chestmap.models.folder import write_model
from chestmap.models.predictor import Predictor, load
from chestmap.packs.build import PackSettings
from chestmap.serving.engine.served_model import ServedModel
from chestmap.training.train import Trained
from chestmap.types import Findings

FINDINGS = Findings(("Effusion", "Mass", "Nodule"))
SIDE = 64


def trained_small(seed: int = 2) -> Trained:
    """Random weights; another seed is another model."""
    torch.manual_seed(seed)
    method = METHODS["cam"]
    settings = method.settings.model_validate({"name": "cam", **method.tiny})
    canvas = PackSettings(width=SIDE, height=SIDE)
    network = method.build(settings, FINDINGS, canvas.canvas)
    with torch.no_grad():  # or every score would be a half
        for name, weights in network.named_parameters():
            if name.startswith("head"):
                weights.mul_(300)
    return Trained(
        method=method,
        settings=settings,
        findings=FINDINGS,
        canvas=canvas,
        network=network,
        data={"source": "none", "fingerprint": "0", "split": "none"},
    )


def write_small_model(folder: Path, seed: int = 2) -> Path:
    folder.mkdir(parents=True)
    write_model(folder, trained_small(seed))
    return folder


def served_of(folder: Path) -> ServedModel:
    return ServedModel(load(folder))


def picture(seed: int, width: int = 80, height: int = 96) -> bytes:
    """A PNG that no other seed gives."""
    random = np.random.default_rng(seed)
    grey = cv2.resize(random.integers(0, 256, (12, 10), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    done, coded = cv2.imencode(".png", grey)
    assert done
    return coded.tobytes()


def directly(predictor: Predictor, content: bytes, folder: Path) -> dict[str, float]:
    """What the model says of a file without any service."""
    path = folder / "direct.png"
    path.write_bytes(content)
    found = predictor.predict(path)
    return dict(zip(found.findings, map(float, found.scores), strict=True))


def upload(*contents: bytes, name: str = "film.png") -> list[tuple[str, tuple[str, io.BytesIO, str]]]:
    return [("files", (name, io.BytesIO(content), "application/octet-stream")) for content in contents]


def serve(model: Path, store: Path, port: Any) -> None:
    """For a process of its own; `port` is told once it listens."""
    torch.set_num_threads(1)
    from chestmap.serving.engine.open_service import open_service
    from chestmap.serving.engine.settings import ServeSettings
    from chestmap.serving.http import start as run

    class Telling(run.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            port.value = self.servers[0].sockets[0].getsockname()[1]

    settings = ServeSettings(readers=1, engine="torch")
    run.run(open_service([model], store, settings), run.ListenAddress(port=0), run.HttpOptions(), server=Telling)

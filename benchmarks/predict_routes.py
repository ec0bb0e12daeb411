"""Processor time of the one prediction job against the three loops before it, on the same images in one run.

`git worktree add OLD 7939040; python benchmarks/predict_routes.py MODEL OLD_MODEL OLD [IMAGES]` prints a table. Each version runs in a process of its own,
importing left out, all routes ROUNDS times in turn; the least processor time counts, as other work on the machine adds to it.
MODEL and OLD_MODEL are the same weights in a model folder of each version. The last rows are what the integrity checks cost.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS = 3
ROOT = Path(__file__).resolve().parents[1]

START = """
import json, os, shutil, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
model, root, films, work, rounds = *sys.argv[1:5], int(sys.argv[5])
work = Path(work)
"""

NEW = """
from chestmap.datasets import open_source, source_settings
from chestmap.models.engines import ForwardSettings
from chestmap.models.predictor import load
from chestmap.prediction.job import JobSettings, Shard, open_job, predict_all, predict_shard
from chestmap.prediction.providers import DatasetProvider, FileProvider
from chestmap.predictions.folder import open_predictions
from chestmap.storage import manifest
predictor = load(model, ForwardSettings(engine="torch", device="cpu", precision=32))
settings = JobSettings(batch_size=8, workers=0, part_size=64, show_patient=True)
source = open_source(source_settings({"name": "nih", "root": root}))
def files(out):
    predict_all(predictor, [films], out, settings, progress=False)
def shard(out):
    predict_shard(open_job(predictor, FileProvider([films]), out, settings), Shard(), 0, progress=False)
def dataset(out):
    provider = DatasetProvider.packed(source, source.ids, predictor.model.canvas, work / "cache")
    predict_all(predictor, provider, out, settings, progress=False)
def opened(out):
    manifest._hashes.clear()
    open_predictions(out.with_name("files"))
def again(out):
    predict_all(predictor, [films], out.with_name("files"), settings, progress=False)
def hashed(out):
    for path in Path(films).rglob("*.png"):
        manifest.sha256(path.read_bytes()).hexdigest()
"""

OLD = """
from chestmap.data import open_source, source_settings
from chestmap.inference.forward import ForwardSettings
from chestmap.inference.inputs import Inputs
from chestmap.inference.predict import PredictSettings, predict_source
from chestmap.inference.predictor import load
from chestmap.inference.shard import Shard, open_job, predict_shard
from chestmap.inference.stream import StreamSettings, predict_inputs
from chestmap.data.predictions import open_predictions
predictor = load(model, ForwardSettings(engine="torch", device="cpu", precision=32))
settings = StreamSettings(batch_size=8, workers=0, part_size=64, show_patient=True)
source = open_source(source_settings({"name": "nih", "root": root}))
def files(out):
    predict_inputs(predictor, Inputs([films]), out, settings, progress=False)
def shard(out):
    predict_shard(open_job(predictor, [films], out, settings), Shard(), 0, progress=False)
def dataset(out):
    how = PredictSettings(batch_size=8, workers=0, part_size=64, device="cpu")
    predict_source(predictor.model, source, source.ids, out, how, work / "cache")
def opened(out):
    open_predictions(out.with_name("files"))
def again(out):
    predict_inputs(predictor, Inputs([films]), out.with_name("files"), settings, progress=False)
"""

END = """
routes = [files, shard, dataset, opened, again] + ([hashed] if "hashed" in globals() else [])
least = {}
files(work / "warm up"); dataset(work / "and its pack")
for _ in range(rounds):
    for route in routes:
        out = work / route.__name__
        shutil.rmtree(out, ignore_errors=True)
        start = time.process_time()
        route(out)
        took = time.process_time() - start
        least[route.__name__] = min(least.get(route.__name__, took), took)
print(json.dumps(least))
"""


def measured(script: str, source: Path, words: list[str]) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": str(source / "src"), "OMP_NUM_THREADS": "1", "CHESTMAP_KEY": "of a benchmark"}
    command = [sys.executable, "-c", START + script + END, *words, str(ROUNDS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(model: str, old_model: str, old: str, images: str = "128") -> None:
    from chestmap.phantom.settings import PhantomSettings
    from chestmap.phantom.write import write_phantom

    with tempfile.TemporaryDirectory() as place:
        root = write_phantom(Path(place) / "phantom", PhantomSettings(images=int(images), side=256, processes=1))
        words = [str(root), str(root / "images")]
        before = measured(OLD, Path(old), [old_model, *words, f"{place}/old"])
        now = measured(NEW, ROOT, [model, *words, f"{place}/new"])
    print(f"| {images} phantom images of 256 x 256 | before, s | now, s | now / before |\n|---|---|---|---|")
    for name, took in now.items():
        was = before.get(name)
        print(f"| {name} | {was:.3f} | {took:.3f} | {took / was:.3f} |" if was else f"| {name} | | {took:.3f} | |")


if __name__ == "__main__":
    main(*sys.argv[1:])

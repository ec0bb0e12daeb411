"""Every room on one phantom with one backbone and one budget, three seeds each, and each paper's claims tried there.

    python benchmarks/methods.py FOLDER                  # draws, trains, predicts what is missing there; hours on two cores
    python benchmarks/methods.py FOLDER --rows ham cam   # of these rows only
    python benchmarks/methods.py FOLDER --images 15000 --side 256 --start FOLDER/start --times 4   # one point of a learning curve

`--start` is a model folder whose backbone every row begins with, `--epochs` takes so many for every step, and `--times` multiplies them.
The shape of a folder's phantom is fixed when it is drawn. `--heads` trains the last stage and heads alone, on kept features of `--start`,
without augmentation and alignment: half the time of a row.
    python benchmarks/methods_report.py FOLDER           # what is there as Markdown for benchmarks/methods.md

A row is a config of `configs/phantom/` with overrides. Every training is a process of one thread, so that several run side by side
and its processor time is its own. What is finished is never made again.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from methods_rows import ROWS, Row, run_of

from chestmap.settings import read_toml, with_overrides
from chestmap.storage.manifest import SUMS, seal

CONFIGS = Path(__file__).parents[1] / "configs" / "phantom"
PHANTOM = {"enrich": 1, "boxed": 1, "boxed_train": 1, "label_noise": 0}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--side-by-side", type=int, default=2)
    options.add_argument("--images", type=int, default=2000)
    options.add_argument("--side", type=int, default=128)
    options.add_argument("--start", type=Path, help="a model folder: its backbone is where every row begins")
    options.add_argument("--times", type=int, default=1, help="multiplies the epochs of every step")
    options.add_argument("--epochs", type=int, help="of every step, in place of its config's")
    options.add_argument("--heads", action="store_true", help="the last stage and heads alone")
    options.add_argument("--one", nargs=2, metavar=("ROW", "SEED"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.one:
        make(chosen, chosen.one[0], int(chosen.one[1]))
        return
    draw(chosen.folder, chosen.images, chosen.side, {ROWS[name].root for name in chosen.rows})
    if chosen.heads and not chosen.start:
        options.error("--heads needs --start: the model folder with the stages that stay as they are")
    there = [name for name in chosen.rows if (chosen.folder / ROWS[name].root).exists()]
    jobs = [(name, seed) for seed in chosen.seeds for name in sorted(there, key=lambda name: ROWS[name].of != "")]
    if chosen.heads:  # starting a process would cost more than a row
        for name, seed in jobs:
            if not (run_of(chosen.folder, name, seed, chosen.times) / "cost.json").exists():
                make(chosen, name, seed)
            print(f"{name}-{seed}", flush=True)
        return
    with ThreadPoolExecutor(chosen.side_by_side) as pool:
        for said in pool.map(lambda job: child(chosen, *job), jobs):
            print(said, flush=True)


def draw(folder: Path, images: int, side: int, roots: set[str]) -> None:
    """A phantom whose training patients show their boxes all, to 80, 40 or 0 %, one of patients far off the middle; what rows need."""
    folder.mkdir(parents=True, exist_ok=True)
    phantom(folder / "phantom", PHANTOM, images, side)
    if "phantom-moved" in roots:
        phantom(folder / "phantom-moved", PHANTOM | {"misalignment": 3}, images, side)
    for share in (0, 40, 80):
        if roots & {f"phantom-{share}", "phantom-place" if share == 80 else ""}:
            fewer_boxes(folder / "phantom", folder / f"phantom-{share}", share / 100)
    if "phantom-place" in roots:
        place_only(folder / "phantom-80", folder / "phantom-place")


def phantom(folder: Path, settings: dict[str, float], images: int, side: int) -> None:
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    verb = [
        sys.executable,
        "-m",
        "chestmap",
        "data",
        "phantom",
        str(folder),
        "--images",
        str(images),
        "--side",
        str(side),
        "--seed",
        "11",
    ]
    subprocess.run([*verb, *sets], check=True)


def fewer_boxes(whole: Path, folder: Path, share: float) -> None:
    """The same dataset with the boxes of a share of the training patients; those of validation stay, as thresholds need them."""
    from chestmap.datasets.nih import NihSettings, read_nih
    from chestmap.datasets.split import SplitSettings, make_split
    from chestmap.datasets.split_rules import patients_of, shuffled

    if folder.exists():
        return
    beside = folder.with_name(folder.name + ".making")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    for path in whole.iterdir():
        if path.name == "images":
            (beside / "images").symlink_to(path.resolve())
        elif path.is_file() and path.name != SUMS:  # what is made here is another phantom
            shutil.copy(path, beside / path.name)
    source = read_nih(NihSettings(root=whole))
    training, patient_of = make_split(source, SplitSettings(name="official")).parts["train"], patients_of(source)
    patients = shuffled({patient_of[one] for one in training}, 0, "boxes")
    shown = set(patients[: round(share * len(patients))])
    hidden = {one for one in training if patient_of[one] not in shown}
    lines = (whole / "BBox_List_2017.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [lines[0], *(line for line in lines[1:] if line.split(",")[0] not in hidden)]
    (beside / "BBox_List_2017.csv").write_text("".join(kept), encoding="utf-8")
    beside.rename(folder)


def place_only(whole: Path, folder: Path) -> None:
    """The same dataset with noise in place of every training and validation image: boxes then teach nothing but places."""
    import cv2
    import numpy as np

    from chestmap.datasets.nih import NihSettings, read_nih

    if folder.exists():
        return
    beside = folder.with_name(folder.name + ".making")
    shutil.rmtree(beside, ignore_errors=True)
    (beside / "images").mkdir(parents=True)
    for path in whole.iterdir():
        if path.is_file() and path.name != SUMS:
            shutil.copy(path, beside / path.name)
    test, random = set(read_nih(NihSettings(root=whole)).lists["test"]), np.random.default_rng(0)
    for path in sorted((whole / "images").iterdir()):
        if path.name in test:
            (beside / "images" / path.name).symlink_to(path.resolve())
        else:
            shape = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).shape
            cv2.imwrite(str(beside / "images" / path.name), random.integers(0, 256, shape, dtype=np.uint8))
    beside.rename(folder)


def child(chosen: argparse.Namespace, name: str, seed: int) -> str:
    """One row and seed in a process of its own; a line that says what it cost."""
    folder, run = chosen.folder, run_of(chosen.folder, name, seed, chosen.times)
    if not (run / "cost.json").exists():
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        asked = [sys.executable, __file__, str(folder), "--one", name, str(seed), "--times", str(chosen.times)]
        asked += ["--side", str(chosen.side)] + (["--start", str(chosen.start)] if chosen.start else [])
        asked += ["--epochs", str(chosen.epochs)] if chosen.epochs else []
        done = subprocess.run(asked, check=False, capture_output=True, text=True, env=environment)
        if done.returncode:
            return f"{name}-{seed}: failed: {done.stderr[-1500:]}"
    cost = json.loads((run / "cost.json").read_text(encoding="utf-8"))
    return f"{name}-{seed}: {cost['processor_seconds']:.0f} s of processor, {cost['gigabytes']:.2f} GB"


def make(chosen: argparse.Namespace, name: str, seed: int) -> None:
    """Trains, predicts and scores."""
    import torch

    from chestmap.evaluation.settings import EvaluationSettings
    from chestmap.methods import METHODS
    from chestmap.models.folder import write_model
    from chestmap.prediction.from_pack import PredictSettings
    from chestmap.reproduction.score_run import predict_and_score
    from chestmap.training.config import read_config
    from chestmap.training.train import train

    torch.set_num_threads(1)
    begun = time.process_time()
    folder, row, run = chosen.folder, ROWS[name], run_of(chosen.folder, name, seed, chosen.times)
    config = read_config(CONFIGS / f"{row.config}.toml", sets_of(chosen, row, seed), METHODS)
    if row.of:
        other = run_of(folder, row.of, seed, chosen.times)
        reread(other / "model", run / "model", config.settings.model_dump(mode="json"))
    else:
        train(config, run, write_model, progress=False)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    cost = {"processor_seconds": time.process_time() - begun, "gigabytes": memory}
    how = (PredictSettings(batch_size=16), EvaluationSettings(longest=2 * chosen.side, negatives=50, resamples=200))
    predict_and_score(run, config.data, METHODS, how, progress=False)
    (run / "cost.json").write_text(json.dumps(cost), encoding="utf-8")


def sets_of(chosen: argparse.Namespace, row: Row, seed: int) -> list[str]:
    """What a row, the folder and the budget change of the config; epochs of the config or of the row are multiplied."""
    folder, tree = chosen.folder, with_overrides(read_toml(CONFIGS / f"{row.config}.toml"), row.sets)
    places = [f'data.source.root="{folder / row.root}"', f'data.cache="{folder / "cache" / row.root}"']
    places += [f"data.pack.width={chosen.side}", f"data.pack.height={chosen.side}"]
    steps = {key: step["epochs"] for key, step in tree["method"].items() if isinstance(step, dict) and "epochs" in step}
    budget = {key: (chosen.epochs or epochs) * chosen.times for key, epochs in steps.items()}
    warmup = {key: min(tree["method"][key].get("warmup", 0.0), epochs / 2) for key, epochs in budget.items()}
    start = [f'method.backbone.weights="{chosen.start.resolve()}"'] if chosen.start else []
    if chosen.heads:
        start += ["method.backbone.frozen=3", "data.views.count=0"]
        start += ["method.aligned=false"] if "aligned" in tree["method"] else []
    return [
        *row.sets,
        f"run.seed={seed}",
        *places,
        *(f"method.{key}.epochs={epochs}" for key, epochs in budget.items()),
        *(f"method.{key}.warmup={epochs}" for key, epochs in warmup.items()),
        *start,
    ]


def reread(trained: Path, folder: Path, settings: dict[str, object]) -> None:
    """A model folder with the weights of another one and other settings of reading them; a graph would be of the other ones."""
    folder.mkdir(parents=True, exist_ok=True)
    about = json.loads((trained / "model.json").read_text(encoding="utf-8")) | {"settings": settings}
    shutil.copy(trained / "weights.safetensors", folder)
    (folder / "model.json").write_text(
        json.dumps({key: one for key, one in about.items() if key != "graph"}), encoding="utf-8"
    )
    seal(folder)


if __name__ == "__main__":
    main()

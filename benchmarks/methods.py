"""Every room on one phantom with one backbone and one budget, three seeds each, and each paper's claims tried there.

    python benchmarks/methods.py FOLDER                  # draws, trains, predicts what is missing there; hours on two cores
    python benchmarks/methods.py FOLDER --rows ham cam   # of these rows only
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from methods_rows import ROWS, Row

CONFIGS = Path(__file__).parents[1] / "configs" / "phantom"
PHANTOM = {"enrich": 1, "boxed": 1, "boxed_train": 1, "label_noise": 0}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--side-by-side", type=int, default=2)
    options.add_argument("--one", nargs=2, metavar=("ROW", "SEED"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.one:
        make(chosen.folder, chosen.one[0], int(chosen.one[1]))
        return
    draw(chosen.folder)
    there = [name for name in chosen.rows if (chosen.folder / ROWS[name].root).exists()]
    jobs = [(name, seed) for seed in chosen.seeds for name in sorted(there, key=lambda name: ROWS[name].of != "")]
    with ThreadPoolExecutor(chosen.side_by_side) as pool:
        for said in pool.map(lambda job: child(chosen.folder, *job), jobs):
            print(said, flush=True)


def draw(folder: Path) -> None:
    """A phantom whose training patients show their boxes all, to 80, 40 or 0 %, and one of patients far off the middle."""
    folder.mkdir(parents=True, exist_ok=True)
    phantom(folder / "phantom", PHANTOM)
    phantom(folder / "phantom-moved", PHANTOM | {"misalignment": 3})
    for share in (0, 40, 80):
        fewer_boxes(folder / "phantom", folder / f"phantom-{share}", share / 100)


def phantom(folder: Path, settings: dict[str, float]) -> None:
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    verb = [
        sys.executable,
        "-m",
        "chestmap",
        "data",
        "phantom",
        str(folder),
        "--images",
        "2000",
        "--side",
        "128",
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
        elif path.is_file():
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


def child(folder: Path, name: str, seed: int) -> str:
    """One row and seed in a process of its own; a line that says what it cost."""
    run = folder / "runs" / f"{name}-{seed}"
    if not (run / "cost.json").exists():
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        asked = [sys.executable, __file__, str(folder), "--one", name, str(seed)]
        done = subprocess.run(asked, check=False, capture_output=True, text=True, env=environment)
        if done.returncode:
            return f"{name}-{seed}: failed: {done.stderr[-1500:]}"
    cost = json.loads((run / "cost.json").read_text(encoding="utf-8"))
    return f"{name}-{seed}: {cost['processor_seconds']:.0f} s of processor, {cost['gigabytes']:.2f} GB"


def make(folder: Path, name: str, seed: int) -> None:
    """Trains, predicts and scores."""
    import torch

    from chestmap.evaluation.evaluate import EvaluationSettings
    from chestmap.methods import METHODS
    from chestmap.models.folder import write_model
    from chestmap.prediction.from_pack import PredictSettings
    from chestmap.reproduction.score_run import predict_and_score
    from chestmap.training.config import read_config
    from chestmap.training.train import train

    torch.set_num_threads(1)
    row, run = ROWS[name], folder / "runs" / f"{name}-{seed}"
    config = read_config(CONFIGS / f"{row.config}.toml", sets_of(folder, row, seed), METHODS)
    if row.of:
        reread(folder / "runs" / f"{row.of}-{seed}" / "model", run / "model", config.settings.model_dump(mode="json"))
    else:
        train(config, run, write_model, progress=False)
    used = resource.getrusage(resource.RUSAGE_SELF)
    cost = {"processor_seconds": used.ru_utime + used.ru_stime, "gigabytes": used.ru_maxrss * 1024 / 1e9}
    how = (PredictSettings(batch_size=16), EvaluationSettings(presets=("ham",)))
    predict_and_score(run, config.data, METHODS, how, progress=False)
    (run / "cost.json").write_text(json.dumps(cost), encoding="utf-8")


def sets_of(folder: Path, row: Row, seed: int) -> list[str]:
    places = [f'data.source.root="{folder / row.root}"', f'data.cache="{folder / "cache" / row.root}"']
    return [*row.sets, f"run.seed={seed}", *places]


def reread(trained: Path, folder: Path, settings: dict[str, object]) -> None:
    """A model folder with the weights of another one and other settings of reading them."""
    folder.mkdir(parents=True, exist_ok=True)
    about = json.loads((trained / "model.json").read_text(encoding="utf-8")) | {"settings": settings}
    shutil.copy(trained / "weights.safetensors", folder)
    (folder / "model.json").write_text(json.dumps(about), encoding="utf-8")


if __name__ == "__main__":
    main()

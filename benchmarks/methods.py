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
from dataclasses import dataclass
from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs" / "phantom"
PHANTOM = {"enrich": 1, "boxed": 1, "boxed_train": 1, "label_noise": 0}


@dataclass(frozen=True)
class Row:
    """`sets` are overrides of the config; `of` names a row whose trained weights this one only reads in another way."""

    config: str
    sets: tuple[str, ...] = ()
    root: str = "phantom"
    of: str = ""
    title: str = ""


def ham(*sets: str, root: str = "phantom", title: str = "") -> Row:
    return Row("ham", tuple(f"method.{one}" for one in sets), root, title=title)


SEVEN = ("cam", "patch_mil", "ham", "attention_mining", "disease_masks", "ag_cnn", "cia_net")
PLAIN = ("positive_weight=0", "bound_weight=0", "union_weight=0")
BOXES = ("box_weight=0.5",)
ROWS = {
    "cam": Row("cam", title="classifier, LSE"),
    "patch_mil": Row("patch_mil", title="patches, noisy-OR"),
    "ham": Row("ham", title="HAM without boxes"),
    "attention_mining": Row("attention_mining", title="attention mining, t = 3"),
    "disease_masks": Row("disease_masks", title="disease masks"),
    "ag_cnn": Row("ag_cnn", title="AG-CNN, fusion"),
    "cia_net": Row("cia_net", root="phantom-0", title="CIA-Net without boxes"),
    # parts of HAM
    "cam-32-mean": Row("cam", ('method.pooling="mean"', "method.backbone.output_stride=32"), title="stride 32, mean"),
    "cam-8-mean": Row("cam", ('method.pooling="mean"',), title="stride 8, mean"),
    "ham-fab": ham(*PLAIN, title="+ FAB"),
    "ham-fab-pa": ham("bound_weight=0", "union_weight=0", title="+ FAB + PA"),
    "ham-boxes": ham(*BOXES, root="phantom-80", title="HAM, 80 % of boxes, AMSE"),
    "ham-boxes-mse": ham(*BOXES, 'box_loss="mse"', root="phantom-80", title="HAM, 80 % of boxes, MSE"),
    "ham-boxes-sr": ham(*BOXES, "self_refinement=true", root="phantom-80", title="HAM, 80 % of boxes, self-refinement"),
    # attention mining
    "am-t1": Row("attention_mining", ("method.shown=1",), of="attention_mining", title="maps of one step"),
    "am-kp-none": Row("attention_mining", ('method.preservation="none"',), title="no knowledge preservation"),
    "am-msa-32": Row("attention_mining", ("method.steps=0", "method.backbone.output_stride=32"), title="MSA at stride 32"),
    "am-none-32": Row(
        "attention_mining",
        ("method.steps=0", 'method.upsample="none"', "method.backbone.output_stride=32"),
        title="stride 32 without MSA",
    ),
    # AG-CNN
    "ag-global": Row("ag_cnn", ('method.answer="global"',), of="ag_cnn", title="AG-CNN, global branch"),
    "ag-local": Row("ag_cnn", ('method.answer="local"',), of="ag_cnn", title="AG-CNN, local branch"),
    "ag-glf": Row("ag_cnn", ('method.order="GLF"', "method.fusion_branch.epochs=6"), title="AG-CNN, all at once"),
    "ag-long": Row(
        "ag_cnn",
        ("method.global_branch.epochs=12", "method.local_branch.epochs=12", "method.fusion_branch.epochs=4"),
        title="AG-CNN, 28 epochs, fusion",
    ),
    "ag-long-global": Row("ag_cnn", ('method.answer="global"',), of="ag-long", title="AG-CNN, 28 epochs, global"),
    "ag-long-local": Row("ag_cnn", ('method.answer="local"',), of="ag-long", title="AG-CNN, 28 epochs, local"),
    # CIA-Net
    "cia-base": Row("cia_net", ("method.contrast=false",), "phantom-0", title="CIA-Net's base"),
    "cia-unaligned": Row("cia_net", ("method.aligned=false",), "phantom-0", title="CIA-Net, images as they are"),
    "cia-random": Row("cia_net", ('method.partner="random"',), "phantom-0", title="random partners"),
    "cia-canonical": Row("cia_net", ('method.partner="canonical"',), "phantom-0", title="canonical partner"),
    "cia-40": Row("cia_net", root="phantom-40", title="40 % of boxes"),
    "cia-80": Row("cia_net", root="phantom-80", title="80 % of boxes"),
    # disease masks
    "dm-none": Row("disease_masks", ('method.masks="none"', "method.classify.epochs=12"), title="alignment alone"),
    "dm-pseudo": Row("disease_masks-pseudo", title="pseudo masks"),
    # real images: FOLDER/real is a link to them; skipped where there is none
    **{f"real-{name}": Row(name, root="real", title=name) for name in SEVEN},
    "moved-plain": Row(
        "disease_masks",
        ('method.masks="none"', "method.aligned=false", "method.classify.epochs=12"),
        root="phantom-moved",
        title="misaligned, as they are",
    ),
    "moved-aligned": Row(
        "disease_masks",
        ('method.masks="none"', "method.classify.epochs=12"),
        root="phantom-moved",
        title="misaligned, aligned",
    ),
}


@dataclass(frozen=True)
class Claim:
    paper: str
    text: str
    better: str
    worse: str
    measure: str = "T(IoU)"
    finding: str = ""  # all


CLAIMS = (
    Claim("HAM", "stride 8 localizes better than 32", "cam-8-mean", "cam-32-mean"),
    Claim("HAM", "LSE pooling localizes better than the mean", "cam", "cam-8-mean"),
    Claim("HAM", "the foreground block (FAB) localizes better", "ham-fab", "cam"),
    Claim("HAM", "positive attention (PA) localizes better", "ham-fab-pa", "ham-fab"),
    Claim("HAM", "bound and union losses localize better", "ham", "ham-fab-pa"),
    Claim("HAM", "HAM without boxes localizes better than the classifier", "ham", "cam"),
    Claim("HAM", "HAM's AUC is higher", "ham", "cam", "AUC"),
    Claim("HAM", "boxes localize better than none", "ham-boxes", "ham"),
    Claim("HAM", "AMSE localizes better than MSE", "ham-boxes", "ham-boxes-mse"),
    Claim("HAM", "self-refinement raises T(IoR)", "ham-boxes-sr", "ham-boxes", "T(IoR)"),
    Claim("Attention mining", "maps of three steps localize better than of one", "attention_mining", "am-t1"),
    Claim("Attention mining", "knowledge preservation keeps AUC", "attention_mining", "am-kp-none", "AUC"),
    Claim("Attention mining", "MSA localizes nodules better", "am-msa-32", "am-none-32", "T(IoU)", "Nodule"),
    Claim("AG-CNN", "fusion has a higher AUC than the global branch", "ag_cnn", "ag-global", "AUC"),
    Claim("AG-CNN", "fusion has a higher AUC than the local branch", "ag_cnn", "ag-local", "AUC"),
    Claim("AG-CNN", "fusion over the global branch, with 28 epochs", "ag-long", "ag-long-global", "AUC"),
    Claim("AG-CNN", "fusion over the local branch, with 28 epochs", "ag-long", "ag-long-local", "AUC"),
    Claim("AG-CNN", "training one after the other (G_L_F) is better than all at once", "ag_cnn", "ag-glf", "AUC"),
    Claim("CIA-Net", "contrast-induced attention localizes better than the base", "cia_net", "cia-base"),
    Claim("CIA-Net", "similar partners are better than random ones", "cia_net", "cia-random"),
    Claim("CIA-Net", "random partners are better than a canonical one", "cia-random", "cia-canonical"),
    Claim("CIA-Net", "80 % of boxes are better than 40 %", "cia-80", "cia-40"),
    Claim("CIA-Net", "40 % of boxes are better than none", "cia-40", "cia_net"),
    Claim("Disease masks", "masks are better than alignment alone", "disease_masks", "dm-none"),
    Claim("Disease masks", "masks from data are better than pseudo masks", "disease_masks", "dm-pseudo"),
    Claim("Disease masks", "alignment is better than none, on misaligned images", "moved-aligned", "moved-plain"),
)


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

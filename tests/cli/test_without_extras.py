"""Every verb of a plain installation works, or answers in one line what to install, never with a traceback."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import typer
from PIL import Image

from chestmap.api.model_names import model_folder
from chestmap.cli import app
from chestmap.extras import EXTRAS
from chestmap.models.folder import read_about
from predictions.small import write_predictions

BLOCK = """
import contextlib, io, json, sys
for name in {modules!r}:
    sys.modules[name] = None  # as where it is not installed, for imports and for those who only look
from chestmap.cli import call
answers = {{}}
for name, words in {calls!r}.items():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
        code = call(words)
    answers[name] = code, err.getvalue()
print(json.dumps(answers))
"""
SOURCE = "--source folder --root films --set labels=labels.csv"
CONFIG = """
[data]
source = { name = "folder", root = "films", labels = "labels.csv" }
split = { name = "patients", validation = 0.4, test = 0.4 }
pack = { width = 32, height = 32 }

[method]
name = "cam"
"""
VERBS = {
    "init": ("films", None),
    "all": ("films", "train"),
    "train": ("ham/image-labels", "train"),
    "methods": ("", None),
    "configs": ("", None),
    "predict": ("starter film.png", "infer"),
    "evaluate": (f"predictions {SOURCE} --score-set resamples=20", None),
    "compare": (f"predictions run {SOURCE}", None),
    "export": ("starter --out exported", "export"),
    "report": ("run --pictures 1", None),
    "reproduce": ("ham/table-3 --root films", "train"),
    "demo": ("--out demo", "train"),
    "serve": ("starter --store store", "serve"),
    "node": ("starter --store store --to A@localhost:104", "dicom"),
    "check": ("run/model", None),
    "data check": ("folder films --set labels=labels.csv", None),
    "data split": ("folder films --set labels=labels.csv --out split", None),
    "data pack": ("folder films --set labels=labels.csv --out pack --width 32 --height 32 --workers 0", None),
    "data phantom": ("phantom --images 16 --side 64", None),
    "data deidentify": ("films --out out", "dicom"),
    "data from-reviews": ("--store store --out out", "serve"),
    "data annotations export": ("folder films --set labels=labels.csv --out marks.json", None),
    "data annotations import": ("coco.json --images films --out imported", None),
    "model calibrate": ("run --least 2", None),
    "model card": ("run --predictions run/predictions --least 2", None),
    "model faithfulness": ("run --images 1", "infer"),
    "model tune": ("starter", "infer"),
    "model check": ("starter", "train"),
    "model push": ("starter hf://me/mine", "hub"),
    "model pull": ("hf://me/mine --out pulled", "hub"),
}
"""Arguments of each verb, and the extra that it asks for."""


def blocked(folder, calls, extras=tuple(EXTRAS)):
    """Exit code and stderr of each call, in one process that lacks the extras."""
    modules = {name for extra in extras for name in EXTRAS[extra]} | {"multipart"}
    code = BLOCK.format(
        modules=sorted(modules), calls={name: [*name.split(), *words.split()] for name, words in calls.items()}
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def verbs() -> Iterator[str]:
    def walk(found, words):
        if not hasattr(found, "commands"):
            yield " ".join(words)
        for name, one in getattr(found, "commands", {}).items():
            yield from walk(one, (*words, name))

    return walk(typer.main.get_command(app), ())


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("plain"), np.random.default_rng(1)
    (folder / "films").mkdir()
    rows, ids = ["image,patient_id,Mass,Effusion"], tuple(f"{number}.png" for number in range(24))
    for number, image_id in enumerate(ids):
        Image.fromarray(random.integers(0, 255, (32, 32), dtype=np.uint8)).save(folder / "films" / image_id)
        rows.append(f"{image_id},p{number // 2},{number % 2},{number % 3 % 2}")
    (folder / "films" / "labels.csv").write_text("\n".join([*rows, ""]))
    shutil.copy(folder / "films" / "0.png", folder / "film.png")
    shutil.copytree(model_folder("starter"), folder / "run" / "model")
    (folder / "run" / "config.toml").write_text(CONFIG)
    write_predictions(folder / "predictions", ids)
    about = read_about(folder / "run" / "model")
    write_predictions(folder / "run" / "predictions", ids, about["findings"], {"sha256": about["sha256"]})
    image = {"id": 1, "file_name": "0.png", "width": 32, "height": 32}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 8, 8]}
    marks = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "Mass"}]}
    (folder / "coco.json").write_text(json.dumps(marks))
    return blocked(folder, {name: words for name, (words, _) in VERBS.items()})


def test_no_verb_is_forgotten():
    assert set(verbs()) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_without_extras_works_or_is_one_line(verb, answers):
    code, said = answers[verb]
    extra = VERBS[verb][1]
    assert "Traceback" not in said
    if extra is None:
        assert code == 0, said
        return
    assert code == 2, said
    (line,) = said.splitlines()
    assert f'pip install "chestmap[{extra}]"' in line


def test_a_part_of_a_verb_asks_for_its_own_extra(tmp_path):
    calls = {
        "node --status store": ("", "dicom"),
        "data phantom out --images 1 --set dicom=true": ("", "dicom"),
        "train ham/image-labels --search": ("", "train"),
    }
    for call, (code, said) in blocked(tmp_path, {call: words for call, (words, _) in calls.items()}).items():
        assert code == 2, said
        (line,) = said.splitlines()
        assert f'pip install "chestmap[{calls[call][1]}]"' in line
    (answer,) = blocked(tmp_path, {"train ham/image-labels --search": ""}, extras=("search",)).values()
    assert answer == [2, 'chestmap: chestmap train --search needs optuna: pip install "chestmap[search]"\n']


def test_training_without_torch_is_one_line(tmp_path):
    (answer,) = blocked(tmp_path, {"train ham/image-labels": ""}, extras=("train",)).values()
    assert answer == [
        2,
        "chestmap: chestmap train needs lightning_fabric, onnx, onnxruntime, onnxscript, safetensors, tensorboard, timm, torch, "
        'torchvision: pip install "chestmap[train]"\n',
    ]


def test_the_service_opens_without_the_dicom_extra():
    """`pip install chestmap[infer]` serves, and has no pydicom."""
    names = sorted({*EXTRAS["dicom"], *EXTRAS["train"]} - set(EXTRAS["infer"]))
    code = f"import sys\nsys.modules |= dict.fromkeys({names})\nimport chestmap.serving.engine.open_service"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

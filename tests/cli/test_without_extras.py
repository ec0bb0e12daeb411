"""Every verb of a plain installation answers in one line what to install, never with a traceback."""

import subprocess
import sys

import pytest

from chestmap.extras import EXTRAS

BLOCK = """
import sys
for name in {modules!r}:
    sys.modules[name] = None  # as where it is not installed, for imports and for those who only look
sys.argv = ['chestmap', *{arguments!r}]
from chestmap.cli import main
main()
"""


def plain(folder, *arguments, extras=tuple(EXTRAS)):
    """The verb as a plain installation runs it."""
    modules = {name for extra in extras for name in EXTRAS[extra]} | {"multipart"}
    code = BLOCK.format(modules=modules, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["serve", "model", "--store", "store"], "serve"),
        (["node", "model", "--store", "store", "--to", "A@localhost:104"], "dicom"),
        (["node", "--status", "store"], "dicom"),
        (["data", "deidentify", "films", "--out", "out"], "dicom"),
        (["data", "phantom", "out", "--images", "1", "--set", "dicom=true"], "dicom"),
        (["data", "from-reviews", "--store", "store", "--out", "out"], "serve"),
        (["export", "model", "--out", "out"], "export"),
        (["train", "ham/image-labels", "--search"], "train"),
        (["model", "push", "model", "hf://me/mine"], "hub"),
        (["model", "pull", "hf://me/mine", "--out", "model"], "hub"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else value,
)
def test_a_missing_extra_is_one_line(tmp_path, arguments, extra):
    done = plain(tmp_path, *arguments)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert f"pip install 'chestmap[{extra}]'" in line


def test_training_without_torch_is_one_line(tmp_path):
    done = plain(tmp_path, "train", "ham/image-labels", extras=("train",))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "chestmap: chestmap train needs lightning_fabric, onnx, onnxruntime, onnxscript, safetensors, tensorboard, timm, torch, "
        "torchvision: pip install 'chestmap[train]'"
    ]


def test_what_needs_no_extra_runs_without(tmp_path):
    done = plain(tmp_path, "data", "phantom", "out", "--images", "16", "--side", "64")
    assert done.returncode == 0, done.stderr
    for arguments in (["data", "check", "nih", "out", "--no-files"], ["methods"], ["configs"], ["--help"]):
        done = plain(tmp_path, *arguments)
        assert done.returncode in {0, 1}, done.stderr
        assert "Traceback" not in done.stderr


def test_a_search_without_optuna_is_one_line(tmp_path):
    done = plain(tmp_path, "train", "ham/image-labels", "--search", extras=("search",))
    assert done.returncode == 2
    assert "pip install 'chestmap[search]'" in done.stderr

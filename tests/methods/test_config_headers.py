"""The first lines of every config: their command is one that can be given, and their words say what is loaded."""

import re
import shlex
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from chestmap.cli import app
from chestmap.datasets.nih import NihSettings, read_nih
from chestmap.datasets.split import make_split
from chestmap.methods import METHODS
from chestmap.phantom import PhantomSettings, write_phantom
from chestmap.reproduction.reproduce import QuickSettings, shrunk
from chestmap.settings import with_overrides
from chestmap.training.config import config_of, read_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*/*.toml"))
QUICK = QuickSettings(images=96, side=64)
EVERY = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")


def header(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [
        line.removeprefix("# ") for line in lines[: next(row for row, line in enumerate(lines) if not line.startswith("#"))]
    ]


def command(path: Path) -> list[str]:
    return shlex.split(header(path)[0])


def overrides(words: list[str]) -> list[str]:
    return [value for option, value in pairwise(words) if option == "--set"]


def reads_boxes(config) -> bool:
    """Whether the method learns from boxes, and not from image labels alone."""
    return bool(getattr(config.settings, "box_weight", 0))


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """With boxes in training and in test."""
    settings = QUICK.phantom.model_copy(update={"boxed_train": 1.0})
    return write_phantom(tmp_path_factory.mktemp("headers") / "phantom", settings, progress=False)


@EVERY
def test_the_command_names_this_config_and_is_accepted(path):
    words = command(path)
    assert words[:2] == ["chestmap", "train"]
    assert ROOT / words[2] == path
    assert set(words[3::2]) <= {"--set"}
    read_config(path, overrides(words), METHODS)


@EVERY
def test_its_words_say_whether_boxes_train(path, phantom):
    """Of the split's training part, on a dataset whose every part has boxes."""
    words, config = " ".join(header(path)[1:]), read_config(path, [], METHODS)
    split = config.data.split
    if config.data.source.name != "nih":
        split = split.model_copy(update={"name": split.name if split.name != "official" else "patients"})
    source = read_nih(NihSettings(root=phantom))
    boxed = any(source.boxes.get(one) for one in make_split(source, split).parts["train"])
    without = re.search(r"image labels alone|no boxes in training|without boxes|without their boxes", words)
    with_some = re.search(r"\d+ % of the annotated|[1-9]\d %(?! of the unannotated)|extra|Ours-MSE|SR:", words)
    if without:
        assert not (boxed and reads_boxes(config)), words
    elif with_some and path.parent.name in {"ham", "cia_net", "patch_mil"}:
        assert boxed, words
        assert reads_boxes(config), words


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.parent.name == "phantom"], ids=lambda path: path.stem)
def test_a_phantom_config_draws_what_its_second_line_says(path):
    words = shlex.split(header(path)[1].partition(": ")[2])
    assert words[:3] == ["chestmap", "data", "phantom"]
    with path.open("rb") as file:
        data = tomllib.load(file)["data"]
    assert words[3] == data["source"]["root"]
    assert int(words[words.index("--side") + 1]) == data["pack"]["width"] == data["pack"]["height"]
    PhantomSettings.model_validate(
        {key: float(value) for key, _, value in (word.partition("=") for word in overrides(words))}
        | {"images": int(words[words.index("--images") + 1])}
    )


def tiny(path: Path, root: Path) -> dict:
    """What `--set` brings the config to: the same splits, losses and blocks, on a phantom and with the test network."""
    with path.open("rb") as file:
        tree = with_overrides(tomllib.load(file), overrides(command(path)))
    source = {"name": "nih", "root": str(root)}
    data = {**tree["data"], "source": source}
    if tree["data"]["source"]["name"] != "nih" and data["split"]["name"] == "official":
        data["split"] = {"name": "patients", "validation": 0.2}
    return shrunk({**tree, "data": data}, METHODS[tree["method"]["name"]], QUICK, root.parent / "cache")


@pytest.mark.slow
@EVERY
def test_the_command_runs(path, phantom, tmp_path):
    """At tiny sizes, from the config to a model folder."""
    tree = tiny(path, phantom)
    config_of(tree, METHODS, name=path.name)
    (tmp_path / path.name).write_text(tomli_w.dumps(tree))
    done = CliRunner().invoke(app, ["train", str(tmp_path / path.name), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "model" / "model.json").exists()

"""Every row of HAM's Table VI, and the rows with boxes and self-refinement, train from their own config files."""

from pathlib import Path

import pytest

from chestmap.methods import METHODS
from chestmap.settings import read_toml, with_overrides
from chestmap.training.config import config_of, read_config
from chestmap.training.train import train
from training.small import data_settings

CONFIGS = Path(__file__).parents[2] / "configs"
ROWS = [
    *sorted((CONFIGS / "ham").glob("rn50-*.toml")),
    *(CONFIGS / "ham" / f"boxes{kind}.toml" for kind in ("", "-mse", "-sr")),
]
TINY = ("epochs=1", "batches=2", "batch_size=4")


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_a_row_trains_for_a_few_steps(path, dataset, tmp_path):
    settings = read_toml(path)
    steps = [key for key, value in settings["method"].items() if isinstance(value, dict) and "epochs" in value]
    overrides = [f"method.{step}.{change}" for step in steps for change in TINY]
    overrides += ["method.backbone.name=test_resnet", "method.backbone.weights=none"]
    if settings["method"]["name"] == "ham":
        overrides.append("method.width=16")
    tree = with_overrides(settings, overrides)
    tree["run"] = {"device": "cpu", "workers": 0, "tensorboard": False, "log_every": 1}
    tree["data"] |= data_settings(dataset).model_dump(mode="json", exclude_none=True) | {"pack": {"width": 64, "height": 64}}
    train(config_of(tree, METHODS, name=path.name), tmp_path, progress=False)
    trained = [folder.parent.name.partition("-")[2] for folder in sorted(tmp_path.glob("*/done.json"))]
    assert trained[-1] in steps
    masks = list(tmp_path.glob("*-masks/masks.json"))
    assert bool(masks) == bool(settings["method"].get("self_refinement"))


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.toml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_file_is_read(path):
    config = read_config(path, [], METHODS)
    first = path.read_text().splitlines()[0]
    assert first.startswith(f"# chestmap train configs/{path.relative_to(CONFIGS)}"), "the first line is the command"
    assert config.method.name in METHODS

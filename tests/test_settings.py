"""Every mistake at once, in our words."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from chestmap.errors import BadSettings
from chestmap.settings import Settings, checked, load, read_toml, with_overrides
from chestmap.storage.atomic import write_toml


class Step(Settings):
    epochs: int = Field(10, gt=0)
    learning_rate: float = Field(1e-4, gt=0)


class Cam(Settings):
    name: Literal["cam"] = "cam"
    pooling: Literal["mean", "max", "lse"] = "mean"
    classify: Step = Step()


class Ham(Settings):
    name: Literal["ham"] = "ham"
    bound_weight: float = 0.001


class Config(Settings):
    seed: int = 0
    root: Path = Path()
    limit: float | None = None
    method: Annotated[Cam | Ham, Field(discriminator="name")] = Cam()


def mistakes(tree):
    with pytest.raises(BadSettings) as caught:
        checked(Config, tree, name="run.toml")
    return str(caught.value).splitlines()


def test_all_mistakes_come_at_once():
    lines = mistakes(
        {"sed": 1, "method": {"name": "cam", "poling": "max", "classify": {"epochs": 0, "learning_rate": "fast"}}}
    )
    assert len(lines) == 4
    assert 'run.toml: sed: not a setting (got 1); did you mean "seed"?' in lines
    assert any("poling: not a setting (got 'max'); did you mean \"pooling\"?" in line for line in lines)
    assert any("classify.epochs: input should be greater than 0 (got 0)" in line for line in lines)
    assert any("classify.learning_rate" in line and "'fast'" in line for line in lines)


def test_a_wrong_choice_lists_what_is_allowed():
    (line,) = mistakes({"method": {"name": "cam", "pooling": "men"}})
    assert "allowed: mean, max, lse (got 'men')" in line
    assert 'did you mean "mean"' in line


def test_a_far_off_key_lists_the_keys():
    (line,) = mistakes({"method": {"name": "ham", "zzz": 1}})
    assert "allowed: bound_weight, name" in line


def test_an_unknown_method_is_named():
    (line,) = mistakes({"method": {"name": "hamm"}})
    assert "hamm" in line
    assert line.endswith("""method.name: allowed: cam, ham (got 'hamm'); did you mean "ham"?""")


def test_overrides_are_toml_or_plain_text():
    tree = with_overrides(
        {"method": {"name": "cam"}}, ["seed=3", "method.pooling=lse", "method.classify.learning_rate=1e-3", "root=/a/b"]
    )
    config = checked(Config, tree, name="x")
    assert config.seed == 3
    assert config.root == Path("/a/b")
    assert isinstance(config.method, Cam)
    assert config.method.pooling == "lse"
    assert config.method.classify.learning_rate == 1e-3


def test_the_key_is_that_of_the_file_not_of_the_chosen_table():
    (line,) = mistakes({"method": {"name": "ham", "bound_weight": "much"}})
    assert line.startswith("run.toml: method.bound_weight: ")


def test_overrides_leave_the_tree_alone():
    tree = {"method": {"name": "cam"}}
    with_overrides(tree, ["method.name=ham"])
    assert tree == {"method": {"name": "cam"}}


@pytest.mark.parametrize("text", ["seed", "=3", "a..b=1"])
def test_a_broken_override_says_what_is_expected(text):
    with pytest.raises(BadSettings, match="expected key=value"):
        with_overrides({}, [text])


def test_an_override_below_a_value_is_refused():
    with pytest.raises(BadSettings, match='"seed" is a value, not a table'):
        with_overrides({"seed": 1}, ["seed.deeper=1"])


def test_a_missing_file_offers_its_neighbor(tmp_path):
    (tmp_path / "fold-1.toml").touch()
    with pytest.raises(BadSettings, match=r'no such settings file; did you mean "fold-1.toml"'):
        read_toml(tmp_path / "fold1.toml")


@pytest.mark.parametrize("content", [b"seed = ", b"\xff\xfe\x00", b"seed = 1\nseed = 2"])
def test_a_broken_file_is_one_line(tmp_path, content):
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(BadSettings) as caught:
        read_toml(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_instead_of_a_file_is_one_line(tmp_path):
    with pytest.raises(BadSettings, match="cannot be read as text"):
        read_toml(tmp_path)


def test_written_settings_read_back_the_same(tmp_path):
    config = checked(Config, {"seed": 7, "method": {"name": "ham", "bound_weight": 0.5}}, name="x")
    write_toml(tmp_path / "config.toml", config)
    assert load(Config, tmp_path / "config.toml") == config
    assert "limit" not in tomllib.loads((tmp_path / "config.toml").read_text())


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (".".join("a" * 3000) + "=1", "3,000 tables deep; at most 32 are read"),
        ("a=" + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("a=" + "[" * 40 + "]" * 40, "nested more than 32 deep"),
        ("a=" + "{b=" * 3000 + "1" + "}" * 3000, "nested too deeply"),
        ("a=" + "9" * 5000, "with a number too long"),
    ],
)
def test_an_override_without_bottom_is_one_short_line(text, said):
    with pytest.raises(BadSettings) as caught:
        with_overrides({}, [text])
    assert said in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("content", ["x = " + "[" * 3000 + "]" * 3000, ".".join("a" * 3000) + " = 1", "x = " + "9" * 5000])
def test_a_file_without_bottom_is_one_short_line(tmp_path, content):
    (tmp_path / "run.toml").write_text(content)
    with pytest.raises(BadSettings) as caught:
        load(Config, tmp_path / "run.toml")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 200 + len(str(tmp_path))

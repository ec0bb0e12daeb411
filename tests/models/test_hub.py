"""Models by name: pushed, pinned and pulled through a folder that stands for the hub, and through the hub's client."""

import json

import pytest

from chestmap.api.model_names import model_folder
from chestmap.errors import BadInput, BadModel, Unreachable
from chestmap.models.folder import read_about
from chestmap.models.hub import pull, push
from chestmap.storage.manifest import damage_in


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("CHESTMAP_HUB", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_what_was_pushed_comes_back_under_its_name(run_folder, hub, tmp_path):
    (run_folder / "model" / "secret.txt").write_text("of this machine")
    try:
        place = push(run_folder / "model", "hf://me/mine", "apache-2.0")
    finally:
        (run_folder / "model" / "secret.txt").unlink()
    assert place == str(hub / "me" / "mine")
    assert {path.name for path in (hub / "me" / "mine").iterdir()} == {
        "model.json",
        "weights.safetensors",
        "config.toml",
        "README.md",
        "SHA256SUMS",
    }
    assert damage_in(hub / "me" / "mine") == []
    card = (hub / "me" / "mine" / "README.md").read_text()
    assert card.startswith('---\nlicense: "apache-2.0"\nlibrary_name: chestmap\n')
    folder = pull("hf://me/mine", tmp_path / "mine")
    weights = (run_folder / "model" / "weights.safetensors").read_bytes()
    assert (folder / "weights.safetensors").read_bytes() == weights
    assert model_folder("hf://me/mine") == hub / "me" / "mine"
    with pytest.raises(BadInput, match="is not empty"):
        pull("hf://me/mine", tmp_path / "mine")


def test_a_pinned_model_must_have_these_weights(run_folder, hub):
    push(run_folder / "model", "hf://me/mine")
    own = read_about(run_folder / "model")["sha256"]
    assert pull(f"hf://me/mine#sha256={own}").name == "mine"
    with pytest.raises(BadModel, match="was changed"):
        pull(f"hf://me/mine#sha256={'0' * 64}")


@pytest.mark.parametrize(
    "address", ["hf://mine", "hf://me/mine/more", "hf://me/../x#sha256=1", "https://me/mine", "hf://me/mine@"]
)
def test_a_wrong_address_is_one_line(hub, address):
    with pytest.raises(BadInput, match="expected hf://OWNER/NAME"):
        pull(address)


def test_measured_figures_go_into_the_card(run_folder, hub, tmp_path):
    import shutil

    folder = shutil.copytree(run_folder / "model", tmp_path / "model")
    (folder / "figures.json").write_text(json.dumps({"scores": [{"measure": "AUC", "finding": "mean", "value": 0.81234}]}))
    push(folder, "hf://me/mine")
    assert '"value": 0.8123' in (hub / "me" / "mine" / "README.md").read_text()


def test_the_hubs_client_is_asked_for_text_and_safetensors_only(run_folder, monkeypatch, tmp_path):
    client = pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
    asked = {}

    def snapshot(repo, **options):
        asked.update(options, repo=repo)
        return str(run_folder / "model")

    monkeypatch.delenv("CHESTMAP_HUB", raising=False)
    monkeypatch.setattr(client, "snapshot_download", snapshot)
    assert pull("hf://me/mine@v1") == run_folder / "model"
    assert (asked["repo"], asked["revision"]) == ("me/mine", "v1")
    assert not [name for name in asked["allow_patterns"] if name.endswith((".bin", ".pt", ".pkl", ".py"))]

    def away(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(client, "snapshot_download", away)
    with pytest.raises(Unreachable, match="not in the cache, and the hub cannot be reached"):
        pull("hf://me/mine")


def test_an_unknown_name_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadModel, match="no such folder, and no known model"):
        model_folder("stater")

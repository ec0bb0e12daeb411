"""`chestmap model check`: a whole folder is one line of facts; what opening passes over is told; what is broken is refused."""

import json
import shutil

import pytest

from chestmap.errors import BadModel
from chestmap.models.verify import look_over
from chestmap.storage.manifest import seal
from training.small import METHODS


@pytest.fixture
def folder(run_folder, tmp_path):
    return shutil.copytree(run_folder / "model", tmp_path / "model")


def edited(folder, **changes):
    about = json.loads((folder / "model.json").read_text()) | changes
    (folder / "model.json").write_text(json.dumps(about))
    seal(folder)


def test_a_whole_folder_is_one_line(folder):
    looked = look_over(folder, METHODS)
    assert looked.problems == ()
    assert "3 findings (0 of 3 calibrated" in looked.facts
    assert "32 × 32" in looked.facts
    assert "trained on" in looked.facts
    assert "(20 images)" in looked.facts
    assert looked.facts.endswith("verified")
    assert "\n" not in looked.facts


def test_what_opening_passes_over_is_told(folder):
    edited(folder, calibratoin={})
    (folder / "weights.pt").write_bytes(b"\x80\x04.")
    unknown, stray = look_over(folder, METHODS).problems
    assert 'calibratoin: not a key of this version; did you mean "calibration"' in unknown
    assert "weights.pt: not part of a model folder, and never read" in stray


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": ""}, "sha256"),
        ({"sha256": "0" * 64}, "weights"),
        ({"method": "nobody"}, "nobody"),
        ({"own_rule": {"threshold": "high"}}, "own_rule"),
        ({"findings": []}, "findings"),
    ],
)
def test_a_broken_folder_is_refused_in_one_line(folder, changes, message):
    edited(folder, **changes)
    with pytest.raises(BadModel, match=message) as caught:
        look_over(folder, METHODS)
    assert "\n" not in str(caught.value)


def test_a_pickle_in_place_of_weights_is_never_loaded(folder):
    (folder / "weights.safetensors").write_bytes(b"\x80\x04\x95cposix\nsystem\n(S'touch harm'\ntR.")
    with pytest.raises(BadModel):
        look_over(folder, METHODS)

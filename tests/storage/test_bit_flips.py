"""Flips single bits of kept files: a reader gives what was written or one line, never something else and never a traceback."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from chestmap.datasets import open_source, source_settings
from chestmap.errors import BadModel, ChestmapError
from chestmap.models.folder import read_about
from chestmap.packs.build import PackSettings, make_pack
from chestmap.packs.pack import PACKED, open_pack
from chestmap.packs.verify_folder import seal_folders, verify_folder
from chestmap.prediction.job import JobSettings, predict_all
from chestmap.prediction.output_formats import read_boxes, write_boxes
from chestmap.prediction.part_inputs import read_failed, read_inputs
from chestmap.predictions.folder import open_predictions
from chestmap.training.optimization.checkpoint import read_weights
from chestmap.training.run_folder import read_done
from prediction.predict_small import small_predictor
from training.small import write_dataset


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("CHESTMAP_KEY", "of the tests")


@pytest.fixture(scope="module")
def kept(run_folder, tmp_path_factory):
    """Predictions with boxes and a failure, a pack with an image set aside, a run with its model."""
    root = tmp_path_factory.mktemp("kept")
    films = write_dataset(root / "films", count=6)
    (films / "003.png").write_bytes(b"nothing")
    predictor = small_predictor(run_folder / "model")
    settings = JobSettings(batch_size=4, part_size=8, workers=0, show_patient=True)
    predict_all(predictor, [str(films)], root / "predictions", settings, progress=False)
    write_boxes(root / "predictions" / "part-00000", predictor)
    source = open_source(source_settings({"name": "folder", "root": str(films), "labels": "labels.csv"}))
    make_pack(source, root / "pack", PackSettings(width=32, height=32), progress=False)
    shutil.copytree(run_folder, root / "run")
    return root


def of_predictions(folder):
    found = open_predictions(folder)
    part = folder / "part-00000"
    inputs, failed = read_inputs(folder, 0), read_failed(part)
    maps = [np.asarray(one).tobytes() for one in found.parts]
    tables = [one.rows() for one in (found.table, inputs, failed, read_boxes(part))]
    return found.header, found.scores.tobytes(), maps, tables


def of_pack(folder):
    pack = open_pack(folder)
    rows = np.flatnonzero(pack.state["status"] == PACKED)
    return pack.ids, pack.state.tobytes(), dict(pack.set_aside), pack.settings, pack.pixels(rows).tobytes()


def of_model(folder):
    about = read_about(folder)
    return about, {
        name: value.numpy().tobytes()
        for name, value in read_weights(folder / "weights.safetensors", about["sha256"]).items()
    }


READERS = {
    "predictions": ("predictions", of_predictions, ("predictions.json", "SHA256SUMS", "part-00000/SHA256SUMS", "part-00000/scores.parquet",
                    "part-00000/maps.npy", "part-00000/inputs.parquet", "part-00000/failed.parquet", "part-00000/boxes.parquet")),
    "pack": ("pack", of_pack, ("pack.json", "ids.txt", "state.bin", "set_aside.csv", "images.bin", "SHA256SUMS")),
    "model": ("run/model", of_model, ("model.json", "weights.safetensors", "SHA256SUMS")),
    "step": ("run/1-learn", read_done, ("done.json", "SHA256SUMS")),
}  # fmt: skip
CASES = [(kind, name) for kind, (_, _, names) in READERS.items() for name in names]


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def folder_of(kept, kind):
    folder = kept / READERS[kind][0]
    return folder if kind != "step" else next(path.parent for path in sorted((kept / "run").glob("*/done.json")))


def used_silently(kept, kind, name, count):
    """How often a reader gave something else than what was written."""
    folder, read = folder_of(kept, kind), READERS[kind][1]
    path, expected, wrong = folder / name, read(folder), []
    bits = np.random.default_rng(len(name)).integers(0, 8 * path.stat().st_size, count)
    for bit in bits.tolist():
        flip(path, bit)
        try:
            if read(folder) != expected:
                wrong.append(bit)
        except ChestmapError as problem:
            wrong += [bit] * ("\n" in str(problem))
        finally:
            flip(path, bit)
    assert read(folder) == expected
    return wrong


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_no_flipped_bit_is_used_silently(kept, kind, name):
    assert used_silently(kept, kind, name, 12) == []


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_none_of_five_hundred_flipped_bits_is_used_silently(kept, kind, name):
    assert used_silently(kept, kind, name, 500) == []


def test_check_lists_what_changed_in_every_kind_of_folder(kept, tmp_path):
    root = shutil.copytree(kept, tmp_path / "kept")
    whole = verify_folder(root, progress=False)
    assert whole.problems == ()
    assert whole.files > 15
    names = ["predictions/part-00000/boxes.parquet", "pack/images.bin", "run/model/model.json", "run/model/README.md"]
    for name in names:
        flip(root / name, 77)
    found = verify_folder(root, progress=False).problems
    assert len(found) == len(names)
    for name in names:
        assert [line for line in found if str(Path(name).parent) in line]
    shutil.rmtree(root / "predictions" / "part-00000")
    assert any("part-00000: is missing" in line for line in verify_folder(root, progress=False).problems)


def test_what_has_no_sums_is_refused_until_it_is_accepted(kept, tmp_path):
    model = shutil.copytree(kept / "run" / "model", tmp_path / "model")
    (model / "SHA256SUMS").unlink()
    with pytest.raises(BadModel, match="chestmap check --seal"):
        read_about(model)
    assert verify_folder(model, progress=False).problems
    assert list(seal_folders(model)) == [model]
    assert verify_folder(model, progress=False).problems == ()
    assert read_about(model)


def test_two_finding_names_that_were_swapped_are_seen(kept, tmp_path):
    model = shutil.copytree(kept / "run" / "model", tmp_path / "model")
    text = (model / "model.json").read_text()
    first, second = read_about(model)["findings"][:2]
    (model / "model.json").write_text(text.replace(first, "?").replace(second, first).replace("?", second))
    with pytest.raises(BadModel, match=r"model\.json: changed after it was written"):
        read_about(model)


def test_a_row_of_a_pack_that_changed_is_made_again_when_asked(kept, tmp_path):
    root = shutil.copytree(kept / "films", tmp_path / "films")
    source = open_source(source_settings({"name": "folder", "root": str(root), "labels": "labels.csv"}))
    pack = make_pack(source, tmp_path / "pack", PackSettings(width=32, height=32), progress=False)
    expected = pack.pixels(pack.rows(pack.row_of)).tobytes()
    flip(tmp_path / "pack" / "images.bin", 8 * (32 * 32 + 100))
    mended = make_pack(source, tmp_path / "pack", PackSettings(width=32, height=32), progress=False, verify=True)
    assert mended.pixels(mended.rows(mended.row_of)).tobytes() == expected
    flip(tmp_path / "pack" / "state.bin", 999)
    mended = make_pack(source, tmp_path / "pack", PackSettings(width=32, height=32), progress=False)
    assert mended.pixels(mended.rows(mended.row_of)).tobytes() == expected

"""From reviews to a dataset, and through a training: what was not said stays unknown, and boxes are where they were drawn."""

import json
import sqlite3

import numpy as np
import pytest

from chestmap.cli.annotations import from_reviews
from chestmap.datasets.checks.check import check
from chestmap.datasets.folder import FolderSettings, read_folder
from chestmap.errors import BadInput
from chestmap.methods import METHODS
from chestmap.models.folder import read_about, write_model
from chestmap.serving.engine.service import Service
from chestmap.serving.store.export_reviews import read_reviews, write_reviewed
from chestmap.serving.store.store import Store
from chestmap.training.config import config_of
from chestmap.training.train import train
from serving.small import FINDINGS, picture, upload

DRAWN = {"x0": 4, "y0": 5.5, "x1": 30, "y1": 40}


@pytest.fixture(scope="module")
def house(served, readers, client_of, tmp_path_factory):
    """A store with five studies of three patients, its service running: (folder, ids, results by id)."""
    folder = tmp_path_factory.mktemp("reviewed") / "store"
    service = Service([served], Store(folder), readers=readers)
    with client_of(service) as client:
        ids, results = [], {}
        for number, patient in enumerate(["ann", "ann", "bob", "", "eve"]):
            sent = {"files": upload(picture(500 + number)), "data": {"patient": patient}}
            study = client.post("/v1/predict", **sent).json()["studies"][0]
            ids.append(study["id"])
            results[study["id"]] = {one["name"]: one["boxes"] for one in study["results"][0]["findings"]}
        reviews = [
            {
                "Effusion": {"verdict": "correct", "boxes": [DRAWN]},
                "Mass": {"verdict": "reject"},
                "Nodule": {"verdict": "unset"},
            },
            {next(name for name in FINDINGS if results[ids[1]][name]): {"verdict": "accept"}},
            {"Effusion": {"verdict": "correct"}, "Nodule": {"verdict": "reject"}},
            {"Nodule": {"verdict": "accept", "boxes": [{**DRAWN, "x0": 6}, DRAWN]}},
            {"Mass": {"verdict": "unset"}},
        ]
        for study, findings in zip(ids, reviews, strict=True):
            body = {"base": 0, "state": "part", "findings": findings, "note": "=1+1"}
            assert client.put(f"/v1/studies/{study}/review", json=body, headers={"X-Reviewer": "Ana"}).status_code == 200
        body = {"base": 1, "state": "done", "findings": reviews[0] | {"Mass": {"verdict": "accept", "boxes": [DRAWN]}}}
        client.put(f"/v1/studies/{ids[0]}/review", json=body, headers={"X-Reviewer": "Bo"})
        yield folder, ids, results


@pytest.fixture(scope="module")
def made(house, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "reviewed"
    write_reviewed(out, *read_reviews(house[0]))
    return out


def opened(folder):
    return read_folder(FolderSettings(root=folder, labels="labels.csv", boxes="boxes.json"))


def test_the_folder_says_what_reviewers_said_and_no_more(house, made):
    source, (_, ids, results) = opened(made), house
    assert source.findings.names == FINDINGS.names
    said = {one.removeprefix("images/").removesuffix(".png"): source.labels[row] for row, one in enumerate(source.ids)}
    called = next(name for name in FINDINGS if results[ids[1]][name])
    second = [1 if name == called else -1 for name in FINDINGS]
    expected = dict(zip(ids, [[1, 1, -1], second, [1, -1, 0], [-1, -1, 1]], strict=False))  # the newest version counts
    assert {name: list(row) for name, row in said.items()} == expected
    boxes = {name: [(b.finding, *b.corners) for b in source.boxes.get(f"images/{name}.png", ())] for name in expected}
    drawn, moved = (4, 5.5, 30, 40), (6, 5.5, 30, 40)
    assert boxes[ids[0]] == [("Effusion", *drawn), ("Mass", *drawn)]
    of_model = [tuple(box[one] for one in ("x0", "y0", "x1", "y1")) for box in results[ids[1]][called]]
    assert [name for name, *_ in boxes[ids[1]]] == [called] * len(of_model)
    assert np.allclose([corners for _, *corners in boxes[ids[1]]], of_model)
    assert boxes[ids[2]] == []  # there, but nobody said where
    assert boxes[ids[3]] == [("Nodule", *moved), ("Nodule", *drawn)]


def test_patients_stay_together_under_pseudonyms(house, made):
    table = opened(made).images.select("image_id", "patient_id").rows()
    patient = {name.removeprefix("images/").removesuffix(".png"): one for name, one in table}
    ids = house[1]
    assert patient[ids[0]] == patient[ids[1]] != patient[ids[2]]
    assert patient[ids[3]] == ids[3]
    text = (made / "labels.csv").read_text() + (made / "reviews.jsonl").read_text()
    assert not any(f'"{name}"' in text or f",{name}," in text for name in ("ann", "bob"))


def test_who_said_what_is_kept(house, made, served):
    lines = {one["study"]: one for one in map(json.loads, (made / "reviews.jsonl").read_text().splitlines())}
    first = lines[house[1][0]]
    assert (first["by"], first["version"], first["state"]) == ("Bo", 2, "done")
    assert [(one["version"], one["by"]) for one in first["versions"]] == [(1, "Ana"), (2, "Bo")]
    assert first["models"] == [{"id": served.id, "sha256": served.sha256}]
    effusion = first["findings"]["Effusion"]
    assert (effusion["verdict"], effusion["how"], effusion["by"], effusion["boxes"]) == (
        "correct",
        "considered",
        "Ana",
        ["drawn"],
    )
    corners = [[DRAWN[key] for key in ("x0", "y0", "x1", "y1")]]
    assert first["readings"] == {"Ana": {"Effusion": corners, "Mass": []}, "Bo": {"Mass": corners}}
    assert "readings" not in lines[house[1][1]]  # one person alone
    (accepted,) = lines[house[1][1]]["findings"].values()
    assert {one.split()[0] for one in accepted["boxes"]} <= {"model"}


def test_a_check_of_the_folder_finds_nothing(made):
    report = check(opened(made), decode=True, workers=1, progress=False)
    assert report.problems == ()
    assert (report.images, report.boxed_images) == (4, 3)


def test_images_are_the_uploads(house, made):
    for number, study in enumerate(house[1][:4]):
        assert (made / "images" / f"{study}.png").read_bytes() == picture(500 + number)
    assert made.stat().st_mode & 0o077 == 0


def test_a_method_trains_on_it(made, tmp_path):
    """One epoch; the boxes reach it as annotated images of the training part."""
    tiny = METHODS["patch_mil"].tiny
    tree = {
        "run": {"device": "cpu", "workers": 0, "tensorboard": False},
        "data": {
            "source": {"name": "folder", "root": str(made), "labels": "labels.csv", "boxes": "boxes.json"},
            "split": {"name": "patients", "validation": 0.0, "test": 0.34}, "pack": {"width": 64, "height": 64},
            "cache": str(tmp_path / "cache"),
        },
        "method": {"name": "patch_mil", **tiny},
    }  # fmt: skip
    folder = train(config_of(tree, METHODS, name="test"), tmp_path / "run", write_model, progress=False)
    labels = read_about(folder)["data"]["train"]["labels"]
    assert sum(one["present"] for one in labels.values()) >= 2


def test_the_verb_reads_a_store_in_use_and_never_writes_to_it(house, tmp_path, capsys):
    folder, out = house[0], tmp_path / "out"
    other = sqlite3.connect(folder / "store.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # a writer in the middle of something
    before = (folder / "store.sqlite").stat().st_mtime_ns
    from_reviews(folder, out, only_done=True, copy=True)
    assert (folder / "store.sqlite").stat().st_mtime_ns == before
    other.execute("ROLLBACK")
    other.close()
    said = capsys.readouterr()
    assert "Effusion\t1 present\t0 absent\t1 boxes" in said.out.splitlines()
    assert f"chestmap data check folder {out} --set labels=labels.csv --set boxes=boxes.json" in said.err
    assert (out / "labels.csv").read_text().splitlines()[1].startswith(f"images/{house[1][0]}.png,p-")
    assert (out / "images" / f"{house[1][0]}.png").stat().st_nlink == 1
    with pytest.raises(BadInput, match="is there already"):
        from_reviews(folder, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_read_is_one_line(tmp_path, served, readers):
    with pytest.raises(BadInput, match=r"no store\.sqlite"):
        read_reviews(tmp_path)
    store = Store(tmp_path / "store")
    with pytest.raises(BadInput, match="nobody has reviewed"):
        read_reviews(tmp_path / "store")
    with store.writing() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = 'older'")
    store.close()
    with pytest.raises(BadInput, match="of another version"):
        read_reviews(tmp_path / "store")
    assert not list(tmp_path.glob("*.making*"))

"""`chestmap report` scores what is not scored, shows it, and says in one line what it lacks."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from chestmap.cli import call
from chestmap.cli.report import report
from chestmap.errors import BadInput
from chestmap.predictions.folder import Chunk, Header, OwnRule, PredictionsWriter
from chestmap.types import Findings, Frame

IDS = tuple(f"{number}.png" for number in range(8))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    for number, image_id in enumerate(IDS):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 50), dtype=np.uint8)).save(root / image_id)
    (root / "labels.csv").write_text(
        "image,Mass,Edema\n" + "".join(f"{one},{n % 2},{int(n > 3)}\n" for n, one in enumerate(IDS))
    )
    (root / "boxes.csv").write_text(
        "image,finding,x0,y0,x1,y1\n" + "".join(f"{one},Mass,10,10,30,30\n" for one in IDS[1::2])
    )
    return root


@pytest.fixture
def predictions(tmp_path):
    maps = np.zeros((8, 2, 10, 10), dtype=np.float16)
    maps[:, :, 4:8, 2:6] = 1
    frames = (Frame.fit((50.0, 40.0), (50, 50)),) * 8
    scores = np.linspace(0.1, 0.9, 16, dtype=np.float32).reshape(8, 2)
    writer = PredictionsWriter(
        tmp_path / "predictions",
        Header(findings=Findings(("Mass", "Edema")), canvas=(50, 50), model={}, own_rule=OwnRule(0.5)),
    )
    writer.write(0, 8, iter([Chunk(image_ids=IDS, patient_ids=IDS, frames=frames, scores=scores, maps=maps)]))
    writer.finish()
    return tmp_path / "predictions"


def show(folder, dataset, *published, pictures=200, out=None):
    overrides = ["labels=labels.csv", "boxes=boxes.csv"]
    report(str(folder), "folder", dataset, published=list(published), pictures=pictures, out=out, overrides=overrides)


def test_predictions_become_a_report(predictions, dataset, capsys):
    show(predictions, dataset, "ham/table-4")
    said = capsys.readouterr()
    assert "Scoring 8 images" in said.err
    assert said.out.strip() == str(predictions / "report.html")
    text = (predictions / "report.html").read_text()
    assert len(re.findall(r'<figure data-finding="Mass"', text)) == 8
    assert "chestmap, preset ham" in text  # the preset that the table asks for
    hits = [float(one) for one in re.findall(r'data-iou="([^"]+)"', text)]
    assert len(hits) == 4
    tree = json.loads((predictions / "metrics.json").read_text())
    means = [
        row
        for row in tree["scores"]
        if (row["measure"], row["finding"], row.get("geometry")) == ("mean IoU", "Mass", "mask")
    ]
    rule = "validation" if any(row["rule"] == "validation" for row in means) else "own"
    assert np.mean(hits) == pytest.approx(next(row["value"] for row in means if row["rule"] == rule), abs=1e-5)


def test_what_is_scored_is_not_scored_again(predictions, dataset, capsys):
    show(predictions, dataset, pictures=0)
    before = (predictions / "metrics.json").stat().st_mtime_ns
    capsys.readouterr()
    show(predictions, dataset, pictures=3, out=predictions / "other.html")
    assert "Scoring" not in capsys.readouterr().err
    assert (predictions / "metrics.json").stat().st_mtime_ns == before
    assert (predictions / "other.html").is_file()


def test_figures_are_files_next_to_the_page(predictions, dataset, tmp_path):
    words = ["report", str(predictions), "--source", "folder", "--root", str(dataset), "--pictures", "0"]
    words += ["--set", "labels=labels.csv", "--set", "boxes=boxes.csv", "--figures", str(tmp_path / "figures")]
    assert call(words) == 0
    drawn = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert drawn == ["accuracy.svg", "froc.svg", "precision-recall.svg", "reliability.svg", "roc.svg"]
    assert "The upright tick is the medoid box" in (predictions / "report.html").read_text()


def test_what_is_missing_is_told(predictions, dataset):
    with pytest.raises(BadInput, match=r"--source KIND --root ROOT"):
        report(str(predictions))
    with pytest.raises(BadInput, match="expected a run folder or a predictions folder"):
        show(dataset, dataset)
    with pytest.raises(BadInput, match="did you mean"):
        show(predictions, dataset, "ham/tabel-3")

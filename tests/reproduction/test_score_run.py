"""Floors need sizes of training images, also where a dataset's tables do not name them."""

import numpy as np
import pytest

from chestmap.datasets.folder import FolderSettings, read_folder
from chestmap.datasets.split import Split
from chestmap.evaluation.floors import fit_floors
from chestmap.evaluation.truth import truth_of
from chestmap.reproduction.score_run import floors_of
from datasets.toys import write_png


def test_floors_of_boxes_by_csv_take_sizes_from_the_files(tmp_path):
    for seed, name in enumerate("abc"):
        write_png(tmp_path / f"{name}.png", seed, (40 + 10 * seed, 80))
    (tmp_path / "labels.csv").write_text("image,patient_id,Mass\na.png,p,1\nb.png,q,1\nc.png,r,1\n")
    (tmp_path / "boxes.csv").write_text("image,finding,x0,y0,x1,y1\na.png,Mass,8,4,24,20\nb.png,Mass,8,5,24,25\n")
    source = read_folder(FolderSettings(root=tmp_path, labels="labels.csv", boxes="boxes.csv"))
    parts = {"train": ("a.png", "b.png"), "validation": (), "test": ("c.png",)}
    split = Split(name="own", parts=parts, seed=0, source=source.fingerprint)
    assert np.isnan(truth_of(source, parts["train"]).sizes).all()
    truth = floors_of(source, split)
    assert truth.sizes.tolist() == [[80, 40], [80, 50]]
    (box,) = fit_floors(truth).boxes["Mass"]["medoid"]
    assert box.tolist() == pytest.approx([0.1, 0.1, 0.3, 0.5])

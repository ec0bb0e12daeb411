"""Figures against the references' own code, where a folder has it.

CHESTMAP_REFERENCES names a folder of clones under the names of their repositories: `wsolevaluation` (clovaai), `RoDeO` (FeliMe).
Without it, or without a clone, a test skips and says which. benchmarks/conformance.md has what came out.
"""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.metrics import matthews_corrcoef

from chestmap.evaluation.maps.comparison_space import Workspace
from chestmap.evaluation.maps.passes import Map
from chestmap.evaluation.presets.wsol import SURFACE, note_largest, scaled
from chestmap.types import Frame
from evaluation.test_rodeo import drawn, fast

WHERE = "CHESTMAP_REFERENCES"
METADATA = "configure_metadata get_image_ids get_bounding_boxes get_image_sizes get_mask_paths"


@pytest.fixture
def reference(monkeypatch):
    """Imports a module of a clone, beside which nothing of its own names is left."""

    def loaded(clone: str, module: str, **stubs: ModuleType) -> ModuleType:
        if not os.environ.get(WHERE):
            pytest.skip(f"{WHERE} names no folder with the references' code")
        folder = Path(os.environ[WHERE]) / clone
        if not folder.is_dir():
            pytest.skip(f"{folder} is not there: clone {clone} into it")
        monkeypatch.syspath_prepend(str(folder))
        for name, stub in stubs.items():
            monkeypatch.setitem(sys.modules, name, stub)
        for name in [one for one in sys.modules if one.partition(".")[0] in (module, "util")]:
            monkeypatch.delitem(sys.modules, name)
        return importlib.import_module(module)

    return loaded


def maps(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Blobs with boxes of whole and of broken pixels; the last ones are a ring, two equal blobs, one hot cell and stripes."""
    rng, found = np.random.default_rng(5), []
    for _ in range(count):
        a, b = np.sort(rng.uniform(0, 100, (2, 2)), axis=0)
        found.append((gaussian_filter(rng.random((14, 14)), rng.uniform(0.4, 2)), np.array([[*a, *(b + 3)]])))
    hostile = np.zeros((4, 14, 14))
    hostile[0, 2:12, 2:12], hostile[0, 4:10, 4:10], hostile[0, 6, 6] = 1, 0, 1
    hostile[1, 1:4, 1:4] = hostile[1, 9:12, 9:12] = 1
    hostile[2, 7, 7] = 1
    hostile[3, :, ::2] = 1
    return found + [(one, np.array([[10.5, 10.5, 60, 60], [70, 70, 90.9, 103]])) for one in hostile]


@pytest.mark.slow
def test_max_box_acc_is_that_of_wsolevaluation(reference, monkeypatch) -> None:
    monkeypatch.setattr(np, "float", float, raising=False)  # its code is older than numpy 1.24
    data_loaders = ModuleType("data_loaders")
    for name in METADATA.split():
        setattr(data_loaders, name, None)
    theirs = reference("wsolevaluation", "evaluation", data_loaders=data_loaders)
    thresholds, size = list(np.arange(0, 1, 0.001)), (104.0, 104.0)
    ours, given = [], []
    for values, boxes in maps(40):
        seen = Map(
            values=values.astype(np.float16), frame=Frame.fit(size, (56, 56)), boxes=boxes, score=0.5, work=Workspace()
        )
        ours.append(note_largest(seen)[(np.array(thresholds) * 255).astype(int)])
        found = theirs.compute_bboxes_from_scoremaps(scaled(seen, SURFACE).astype(float), thresholds)
        true = [theirs.resize_bbox(box.astype(int), size, (224, 224)) for box in boxes]
        given.append(theirs.calculate_multiple_iou(np.array(found), np.array(true)).max(1))
    assert np.mean(np.isclose(ours, given, atol=1e-12)) > 0.999  # a pixel that is an integer in fp32 may not be one in fp64
    best = [(np.array(one) >= 0.5).mean(axis=0).max() for one in (ours, given)]
    assert best[0] == best[1]
    assert 0 < best[0] < 1


@pytest.mark.slow
def test_rodeo_is_that_of_its_authors(reference, monkeypatch) -> None:
    rodeo = reference("RoDeO", "rodeo")
    inner = sys.modules["rodeo.rodeo"]  # its code is older than scikit-learn's plain floats
    monkeypatch.setattr(inner, "matthews_corrcoef", lambda *given: np.float64(matthews_corrcoef(*given)))
    rng = np.random.default_rng(11)
    images = [drawn(rng, number, 4) for number in range(60)]
    theirs = rodeo.RoDeO(class_names=list("abcd"), return_per_class=True)
    for one in images:
        both = (one.given, one.given_finding), (one.true, one.true_finding)
        given, true = (
            np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2], kinds[:, None]], axis=1) for boxes, kinds in both
        )
        theirs.add([given], [true])
    found = theirs.compute()
    keys = ("total", "localization", "shape_matching", "classification")
    assert fast(images, 4) == pytest.approx([found[f"RoDeO/{key}"] for key in keys], abs=2e-6)
    for finding, name in enumerate("abcd"):
        assert fast(images, 4, finding) == pytest.approx([found[f"RoDeO/{name}/{key}"] for key in keys], abs=2e-6)

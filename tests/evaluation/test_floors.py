from itertools import product

import numpy as np
import pytest

from chestmap.datasets.nih import NihSettings, read_nih
from chestmap.evaluation.floors import (
    FLOORS,
    boxed_pairs,
    ceiling,
    ceiling_rows,
    fit_floors,
    floor_overlaps,
    floor_rows,
)
from chestmap.evaluation.rates import Limits
from chestmap.evaluation.score_columns import Resampling
from chestmap.evaluation.scores import Evaluation
from chestmap.evaluation.truth import truth_of
from chestmap.types import Box
from chestmap.vocabulary import BOXED_IN_CHESTXRAY14

NOTHING = np.zeros((1, 8, 8))
IOU, IOR = Limits().iou, Limits().ior


def test_floors_by_hand(made) -> None:
    training = made(["Mass"]).image(NOTHING, {"Mass": [(0, 0, 4, 4)]}).image(NOTHING, {"Mass": [(0, 0, 4, 2)]})
    floors = fit_floors(training.image(NOTHING, {"Mass": [(4, 4, 8, 8)]}).truth())
    fitted = {floor: boxes.tolist() for floor, boxes in floors.boxes["Mass"].items()}
    assert fitted["medoid"] == [[0, 0, 0.5, 0.5]]  # mean IoU .5 with all three, against .5 and .33; the first of equals
    assert fitted["mean"] == pytest.approx(np.array([[4 / 3, 4 / 3, 16 / 3, 14 / 3]]) / 8)
    assert len(fitted["random"]) == 3
    test = made(["Mass"]).image(NOTHING, {"Mass": [(0, 0, 4, 3), (0, 1, 4, 4)]}).truth()  # together 4 x 4
    found = {floor: floor_overlaps(floors, floor, boxed_pairs(test), ("Mass",))[0] for floor in FLOORS}
    assert found["medoid"][:, 0].tolist() == [1.0, 1.0, 1.0]
    assert found["whole image"][:, 0].tolist() == [0.25, 0.25, 1.0]
    assert found["random"][0].tolist() == [1.0, 0.5, 0.0]
    assert found["pixel"][:, 0] == pytest.approx([1 / 16, 1.0, 1 / 16])
    rows = Evaluation(title="", findings=training.findings, rows=tuple(floor_rows(floors, test, Limits(), Resampling(20))))
    assert rows.only_score("T(IoU)", at=0.5, rule="floor random", finding="Mass").value == pytest.approx(2 / 3)
    assert rows.only_score("T(IoU)", at=0.5, rule="floor medoid", finding="mean").value == 1.0


def test_a_finding_without_training_boxes_has_no_floor(made) -> None:
    floors = fit_floors(made(["Mass", "Nodule"]).image(NOTHING, {"Mass": [(0, 0, 4, 4)]}).truth())
    test = made(["Mass", "Nodule"]).image(NOTHING, {"Nodule": [(0, 0, 4, 4)]}).truth()
    rows = floor_rows(floors, test, Limits(), Resampling(20))
    assert {row.value for row in rows} == {None}


def test_boxes_are_scaled_with_the_image(made) -> None:
    floors = fit_floors(made(["Mass"]).image(NOTHING, {"Mass": [(0, 4, 4, 8)]}).truth())
    assert floors.boxes["Mass"]["medoid"].tolist() == [[0.0, 0.5, 0.5, 1.0]]


def test_the_ceiling_is_the_best_of_all_unions_of_cells() -> None:
    rng = np.random.default_rng(0)
    across, down = np.array([0.0, 3, 5, 9]), np.array([0.0, 2, 6, 9])
    cells = [Box("Mass", x0, y0, x1, y1) for y0, y1 in zip(down, down[1:]) for x0, x1 in zip(across, across[1:])]  # noqa: B905, RUF007
    for _ in range(20):
        a, b = np.sort(rng.uniform(0, 9, (2, 2)), axis=1)
        box = Box("Mass", a[0], b[0], a[1], b[1])
        best = 0.0
        for taken in product([False, True], repeat=9):
            chosen = [cell for cell, take in zip(cells, taken, strict=True) if take]
            inside = sum(cell.intersection(box) for cell in chosen)
            best = max(best, inside / (box.area + sum(cell.area for cell in chosen) - inside))
        assert ceiling(np.array([box.corners]), across, down) == pytest.approx(best)


@pytest.fixture(scope="module")
def nih(shared_data):
    return read_nih(NihSettings(root=shared_data("nih-full")))


def listed(shared_data, fold: int, name: str) -> list[str]:
    path = shared_data("nih-full") / "ham-imagesets" / f"fold{fold}" / f"{name}.txt"
    return path.read_text(encoding="utf-8").split()


def test_the_floors_of_the_authors_folds_come_out_as_published(shared_data, nih) -> None:
    hits: dict[tuple[str, str], list[np.ndarray]] = {}
    for fold in range(1, 6):
        floors = fit_floors(truth_of(nih, listed(shared_data, fold, "train_0.8")))
        test = truth_of(nih, listed(shared_data, fold, "test"))
        pairs = boxed_pairs(test)
        for floor in FLOORS:
            for finding, overlaps in zip(
                pairs.finding, floor_overlaps(floors, floor, pairs, nih.findings.names), strict=True
            ):
                hits.setdefault((floor, nih.findings.names[finding]), []).append(overlaps)
    assert sum(len(hits["medoid", name]) for name in BOXED_IN_CHESTXRAY14) == 984

    def mean(floor: str, measure: int, limits: tuple[float, ...]) -> list[str]:
        """Hits pooled over the five folds for each finding, then the mean over findings."""
        return [
            f"{np.mean([np.mean([one[measure] >= limit for one in hits[floor, name]]) for name in BOXED_IN_CHESTXRAY14]):.3f}"
            for limit in limits
        ]

    assert mean("medoid", 0, IOU) == ["0.491", "0.323", "0.251", "0.195", "0.150", "0.094", "0.048"]
    assert mean("mean", 0, IOU) == ["0.292", "0.188", "0.145", "0.128", "0.107", "0.078", "0.046"]
    assert mean("whole image", 0, IOU) == ["0.261", "0.079", "0.021", "0.009", "0.001", "0.000", "0.000"]
    assert mean("medoid", 1, IOR) == ["0.515", "0.324", "0.225", "0.112", "0.044"]
    assert mean("pixel", 1, IOR) == ["0.292"] * 5


def test_the_ceilings_of_grids_come_out_as_published(nih) -> None:
    truth = truth_of(nih, sorted(nih.boxes))
    rows = Evaluation(title="", findings=nih.findings, rows=tuple(ceiling_rows(truth, Limits(), Resampling(2))))

    def at(grid: int, finding: str, limit: float) -> str:
        return f"{rows.only_score('T(IoU)', at=limit, rule=f'ceiling {grid}x{grid}', finding=finding).value:.2f}"

    assert [at(grid, "Nodule", 0.5) for grid in (7, 14, 16, 20, 32, 64)] == ["0.01", "0.27", "0.47", "0.63", "0.92", "0.99"]
    assert [at(7, "Mass", 0.5), at(7, "Atelectasis", 0.5), at(16, "Mass", 0.5)] == ["0.34", "0.33", "0.80"]
    assert [at(grid, "mean", 0.7) for grid in (7, 14, 16, 20, 32, 64)] == ["0.18", "0.52", "0.59", "0.68", "0.84", "0.98"]
    nodules = rows.only_score("T(IoU)", at=0.5, rule="ceiling 16x16", finding="Nodule")
    assert (nodules.support, rows.only_score("T(IoU)", at=0.5, rule="ceiling 16x16", finding="mean").support) == (79, 984)

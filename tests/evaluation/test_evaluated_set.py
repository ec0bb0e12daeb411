"""Predictions and truth that do not speak of the same images, or not in the same image space, are refused or told."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from chestmap.datasets.folder import FolderSettings, read_folder
from chestmap.datasets.split import Split
from chestmap.errors import BadInput, BadModel, BadSettings
from chestmap.evaluation.evaluate import EvaluationContext, EvaluationSettings, evaluate
from chestmap.evaluation.evaluated_set import (
    check_recorded,
    check_space,
    ids_of_part,
    matched,
    missing_note,
    set_of,
    shared_ids,
)
from chestmap.evaluation.maps.overlap import regions
from chestmap.evaluation.side_by_side import Table
from chestmap.predictions.folder import Chunk, Header, OwnRule, PredictionsWriter, open_predictions
from chestmap.predictions.image_set import image_set_of
from chestmap.settings import checked
from chestmap.types import Box, Findings, Frame

QUICK = EvaluationSettings(resamples=2, workers=1, negatives=1)


def eight(made, size: float = 8.0):
    """Eight images of which each has one box on the hot corner of its map."""
    built = made(["Mass"])
    values = np.zeros((1, 8, 8))
    values[0, :4, :4] = 1.0
    for number in range(8):
        half = size / 2
        frame = Frame.fit((size, size), (8, 8))
        built.image(values, {"Mass": [(0, 0, half, half)]} if number % 2 else {}, [number % 2], [0.0], frame=frame)
    return built


def with_table(predictions, **columns):
    return replace(predictions, table=predictions.table.with_columns(**columns))


def test_predictions_of_half_size_copies_score_as_those_of_the_originals(made) -> None:
    original, copies = eight(made, 16.0), eight(made, 8.0)
    expected = evaluate(original.predictions(), original.truth(), QUICK)
    found = evaluate(copies.predictions(), original.truth(), QUICK)
    assert [row.value for row in found.rows] == [row.value for row in expected.rows]
    assert any("8 images were predicted at another size (8 × 8 for 16 × 16 of made" in note for note in found.notes)


def test_images_of_another_shape_are_refused(made) -> None:
    case = eight(made, 8.0)
    truth = replace(case.truth(), sizes=np.tile([8.0, 16.0], (8, 1)))
    with pytest.raises(BadInput, match=r"8 of 8 images have another shape than in made.*8 × 8 and 8 × 16"):
        matched(case.predictions(), truth)


def test_a_size_that_contradicts_its_frame_is_refused(made) -> None:
    case = eight(made)
    wrong = with_table(case.predictions(), width=pl.Series(np.full(8, 512, np.float32)))
    with pytest.raises(BadModel, match=r"8 images whose width and height contradict their frame.*512 × 8 and 8 × 8"):
        matched(wrong, case.truth())


def test_boxes_outside_their_images_refuse_the_image_space(made) -> None:
    predictions = eight(made).predictions()
    with pytest.raises(BadInput, match="23 of 37 boxes lie outside their image"):
        check_space(37, 23, predictions)
    check_space(984, 1, predictions)


def test_doubled_ids_are_refused(made) -> None:
    case = eight(made)
    ids = list(case.predictions().image_ids)
    doubled = with_table(case.predictions(), image_id=pl.Series([*ids[:6], ids[0], ids[1]]))
    with pytest.raises(BadInput, match="2 image ids come more than once, the first is image-000"):
        matched(doubled, case.truth(range(6)))


def test_missing_images_are_told() -> None:
    assert missing_note(["a", "b", "c"], ["b", "a"], "test of split official") == [
        "1 of the 3 images of test of split official are missing from the predictions, the first is c"
    ]
    assert not missing_note(["a"], ["a"], "test")


def test_a_deleted_part_is_refused(made) -> None:
    case = eight(made)
    truth, predictions = case.truth(), case.predictions()
    whole = replace(predictions, header=replace(predictions.header, dataset=set_of(truth).as_dict()))
    assert matched(whole, truth).notes == ()
    short = replace(whole, table=whole.table[:6])
    with pytest.raises(BadModel, match="holds 6 of the 8 images that were predicted; a part was deleted"):
        matched(short, case.truth(range(6)))


@pytest.fixture
def scanned(tmp_path):
    """A source of eight images with one box, and predictions of them as `predict` writes them."""
    rows = "".join(f"{n}.png,p{n // 2},{n % 2}\n" for n in range(8))
    (tmp_path / "labels.csv").write_text(f"image,patient_id,Mass\n{rows}")
    (tmp_path / "boxes.csv").write_text("image,finding,x0,y0,x1,y1\n1.png,Mass,0,0,4,4\n")
    source = read_folder(FolderSettings(root=tmp_path, labels="labels.csv", boxes="boxes.csv"))
    return tmp_path, source


def predicted(made, source, ids=None):
    case = eight(made)
    table = case.predictions().table.with_columns(image_id=pl.Series(ids or source.ids))
    kept = case.predictions()
    return replace(kept, table=table, header=replace(kept.header, dataset=image_set_of(source, source.ids).as_dict()))


def test_the_recorded_digests_are_compared_with_the_source(made, scanned) -> None:
    root, source = scanned
    assert check_recorded(predicted(made, source), source) == []
    wrong = predicted(made, source, [*source.ids[:7], "another"])
    with pytest.raises(BadModel, match="its images are not the 8 of folder that predictions"):
        check_recorded(wrong, source)
    (root / "boxes.csv").write_text("image,finding,x0,y0,x1,y1\n1.png,Mass,0,0,5,4\n")
    later = read_folder(FolderSettings(root=root, labels="labels.csv", boxes="boxes.csv"))
    assert check_recorded(predicted(made, source), later)[0].endswith("boxes changed in between")
    (root / "labels.csv").write_text((root / "labels.csv").read_text().replace("0.png,p0", "0.png,p9"))
    last = read_folder(FolderSettings(root=root, labels="labels.csv", boxes="boxes.csv"))
    assert "images, patients or sizes and boxes changed" in check_recorded(predicted(made, source), last)[0]


def test_the_set_changes_with_patients_boxes_and_sizes_and_not_with_the_order(made) -> None:
    case = eight(made)
    one, turned = case.truth(), case.truth([7, 6, 5, 4, 3, 2, 1, 0])
    assert set_of(one) == set_of(turned)
    other = replace(one, patients=("other", *one.patients[1:]))
    assert set_of(other).digest != set_of(one).digest
    moved = replace(one, boxes={**one.boxes, one.ids[1]: (Box("Mass", 0, 0, 5, 4),)})
    assert (set_of(moved).digest, set_of(moved).box_digest != set_of(one).box_digest) == (set_of(one).digest, True)
    assert set_of(replace(one, sizes=one.sizes * 2)).digest != set_of(one).digest


def test_metrics_carry_the_set_and_the_part(made) -> None:
    case = eight(made)
    split = Split(name="by-hand", parts={"test": case.truth().ids}, seed=0, source="source")
    found = evaluate(case.predictions(), case.truth(), QUICK, EvaluationContext(split=split, part="test"))
    assert (found.about["part"], found.evaluated.part, found.evaluated.images, found.evaluated.boxes) == (
        "test",
        "test",
        8,
        4,
    )
    assert found.evaluated.summary().startswith("made, test of split by-hand: 8 images of 8 patients, 4 boxes; set ")


def test_only_images_that_all_predictions_hold_are_compared(made) -> None:
    whole = eight(made).predictions()
    assert shared_ids([whole, replace(whole, table=whole.table[2:5])]) == whole.image_ids[2:5]


def test_a_misspelt_part_is_one_line() -> None:
    split = Split(name="official", parts={"train": ("a",), "test": ("b",)}, seed=0, source="source")
    with pytest.raises(
        BadInput, match=r'--part "tset": split official has the parts train, validation, test; did you mean "test"'
    ):
        ids_of_part(split, "tset")
    with pytest.raises(BadInput, match="no images there"):
        ids_of_part(split, "validation")


@pytest.mark.parametrize("key", ["iou", "ior"])
@pytest.mark.parametrize("value", [[0.3, 30], [0.0], []])
def test_limits_that_no_overlap_can_have_are_refused(key, value) -> None:
    with pytest.raises(BadSettings, match=key):
        checked(EvaluationSettings, {key: value}, name="--score-set")


@pytest.fixture
def folder(tmp_path):
    writer = PredictionsWriter(
        tmp_path / "kept", Header(findings=Findings(("Mass",)), canvas=(8, 8), model={"name": "x"}, own_rule=OwnRule(0.5))
    )
    chunk = Chunk(
        image_ids=("a",),
        patient_ids=("p",),
        frames=(Frame.fit((8.0, 8.0), (8, 8)),),
        scores=np.zeros((1, 1), np.float32),
        maps=np.zeros((1, 1, 4, 4), np.float16),
    )
    writer.write(0, 1, iter([chunk]))
    writer.finish()
    return tmp_path / "kept"


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (None, "own_rule: missing"),
        ({"threshold": "half"}, "own_rule.threshold"),
        ({}, "own_rule.threshold: missing"),
        ({"threshold": 5}, r"threshold 5: expected a number in \[0, 1\]"),
        ({"threshold": -1, "normalize": False}, "own_rule.threshold"),
    ],
)
def test_an_own_rule_that_is_none_is_one_line(folder, rule, told) -> None:
    header = json.loads((folder / "predictions.json").read_text())
    header.pop("own_rule") if rule is None else header.update(own_rule=rule)
    (folder / "predictions.json").write_text(json.dumps(header))
    with pytest.raises(BadModel, match=told):
        open_predictions(folder)


def test_the_set_comes_back_with_the_folder(made, tmp_path) -> None:
    case = eight(made)
    header = Header(
        findings=Findings(("Mass",)),
        canvas=(8, 8),
        model={"name": "x"},
        own_rule=OwnRule(0.5),
        dataset=set_of(case.truth()).as_dict(),
    )
    writer = PredictionsWriter(tmp_path / "kept", header)
    writer.write(0, 8, case.predictions().chunks(8))
    writer.finish()
    again = open_predictions(tmp_path / "kept")
    assert again.header.dataset == header.dataset
    assert matched(again, case.truth()).notes == ()


def test_a_region_in_the_hole_of_another_is_counted() -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[:, :] = 1
    mask[1:8, 1:8] = 0
    mask[4, 4] = 1
    boxes, sizes = regions(mask)
    assert sorted(map(tuple, boxes.tolist())) == [(0, 0, 9, 9), (4, 4, 5, 5)]
    assert sorted(sizes.tolist()) == [1, 81]


def test_a_wide_table_is_cut_between_columns_and_never_within_a_figure() -> None:
    rows = tuple((f"finding {n}", *(f"0.{k}{n}1 [0.100, 0.900]" for k in range(6))) for n in range(3))
    table = Table(
        title="Wide", headers=("finding", *(f"model {k}" for k in range(6))), rows=rows, labels=1, notes=("a note",)
    )
    pieces = table.fitted(80)
    assert all(piece.width <= 80 for piece in pieces)
    assert [header for piece in pieces for header in piece.headers[1:]] == list(table.headers[1:])
    assert [piece.notes for piece in pieces][-1] == ("a note",)
    assert table.fitted(400) == [table]

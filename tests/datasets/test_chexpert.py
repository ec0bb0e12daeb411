import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from chestmap.datasets.checks.check import check
from chestmap.datasets.chexpert import ChexpertSettings, read_chexpert
from chestmap.datasets.source import UNKNOWN, Source
from chestmap.errors import BadTable
from chestmap.types import Box
from chestmap.vocabulary import CHEXPERT

KEYS = ("train/patient00001/study1/view1_frontal.jpg", "train/patient00002/study1/view1_frontal.jpg")
LATERAL = "train/patient00002/study1/view2_lateral.jpg"
VALID = "valid/patient00009/study1/view1_frontal.jpg"


def row(image: str, prefix: str = "CheXpert-v1.0/", **labels: str) -> str:
    lateral = "lateral" in image
    about = [f"{prefix}{image}", "Female", "68", "Lateral" if lateral else "Frontal", "" if lateral else "AP"]
    return ",".join([*about, *(labels.get(name.replace(" ", "_"), "") for name in CHEXPERT)])


def chexpert(root: Path, *rows: str, boxes: Any = None, part: str = "train", **settings: Any) -> Source:
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(CHEXPERT)
    (root / f"{part}.csv").write_text("\n".join([header, *(rows or (row(KEYS[0]), row(KEYS[1]), row(LATERAL)))]))
    if boxes is not None:
        (root / "BBoxes.json").write_text(boxes if isinstance(boxes, str) else json.dumps(boxes))
    return read_chexpert(ChexpertSettings(root=root, **settings))


def kinds(source: Source, level: str) -> dict[str, int]:
    return {problem.kind: problem.count for problem in source.problems if problem.level == level}


def label(source: Source, finding: str, image: int = 0) -> int:
    return int(source.labels[image, source.findings.index(finding)])


def test_the_published_tables(shared_data):
    source = read_chexpert(ChexpertSettings(root=shared_data("chexpert"), small=False, frontal_only=False))
    report = check(source, files=False)
    assert (report.images, report.patients) == (223_414, 64_540)
    edema = next(one for one in report.findings if one.finding == "Edema")
    assert (edema.positive, edema.unknown) == (52_246, 12_984)
    told = {problem.kind: problem for problem in source.problems}
    assert told["box file"].message == "BBoxes.json: 6,101 boxes on 2,348 keys; 148 keys of valid/, 272 of laterals, 1 empty"
    spellings = {
        problem.message.split(": ")[1]: problem.count for problem in source.problems if problem.kind == "label spelling"
    }
    assert spellings == {
        '"edema" read as "Edema" (44 in all)': 44,
        '"Enlarg_Cardiomediastinum" read as "Enlarged Cardiomediastinum" (25 in all)': 25,
    }
    assert report.boxes + told["box of another image"].count == 6_101
    assert report.boxed_images == 2_348 - 148 - 1  # all keys but those of valid/ and the empty one
    assert report.views == {"AP": 161_590, "LATERAL": 32_387, "PA": 29_420, "unknown": 17}
    assert kinds(source, "repaired")["view"] == 17  # AP/PA says LL or RL of a frontal image
    drawn = json.loads((shared_data("chexpert") / "BBoxes.json").read_text())
    for image in list(source.boxes)[::50]:
        corners = sorted(tuple(map(float, box)) for boxes in drawn[image].values() for box in boxes)
        assert sorted(box.corners for box in source.boxes[image]) == corners
    assert not report.failed


def test_ids_patients_and_places(tmp_path):
    source = chexpert(tmp_path)
    assert source.ids == KEYS
    assert source.images["patient_id"].to_list() == ["patient00001", "patient00002"]
    assert source.images["sex"].to_list() == ["F", "F"]
    assert source.images["width"].to_list() == [None, None]
    assert source.path(0) == tmp_path / KEYS[0]
    assert source.lists == {"train": KEYS}
    (tmp_path / "CheXpert-v1.0" / "train").mkdir(parents=True)
    assert chexpert(tmp_path).path(0) == tmp_path / "CheXpert-v1.0" / KEYS[0]
    with_laterals = chexpert(tmp_path, frontal_only=False)
    assert with_laterals.images["view"].to_list() == ["AP", "AP", "LATERAL"]


def test_the_publisher_s_folder_may_lie_in_the_root(tmp_path):
    folder = tmp_path / "CheXpert-v1.0-small"
    (folder / "train").mkdir(parents=True)
    chexpert(folder, row(KEYS[0], "CheXpert-v1.0-small/"))
    source = read_chexpert(ChexpertSettings(root=tmp_path))
    assert source.path(0) == folder / KEYS[0]


def test_valid_and_test_tables_are_lists(tmp_path):
    chexpert(tmp_path, row(VALID), part="valid")
    (tmp_path / "test_labels.csv").write_text(
        "Path," + ",".join(CHEXPERT) + "\n" + "test/patient00007/study1/view1_frontal.jpg" + ",0" * 14
    )
    source = chexpert(tmp_path)
    assert source.lists == {"train": KEYS, "valid": (VALID,), "test": ("test/patient00007/study1/view1_frontal.jpg",)}
    assert source.images["sex"].to_list() == ["F", "F", "F", ""]


POLICIES = {
    "ignore": UNKNOWN,
    "zeros": 0,
    "ones": 1,
}


@pytest.mark.parametrize(("policy", "expected"), POLICIES.items())
def test_policies_of_uncertain_labels(tmp_path, policy, expected):
    source = chexpert(tmp_path, row(KEYS[0], Edema="-1.0", Fracture="1.0", Pneumonia="0.0"), uncertain=policy)
    assert label(source, "Edema") == expected
    assert label(source, "Fracture") == 1
    assert label(source, "Pneumonia") == 0
    assert label(source, "Lung Lesion") == 0  # not mentioned
    assert source.soft is None
    assert kinds(source, "note")["uncertain label"] == 1


def test_smoothed_labels_train_but_do_not_evaluate(tmp_path):
    many = [row(f"train/patient{number:05}/study1/view1_frontal.jpg", Edema="-1.0", Mass="1.0") for number in range(1, 401)]
    source = chexpert(tmp_path, *many, uncertain="ones-lsr")
    column = source.findings.index("Edema")
    assert (source.labels[:, column] == UNKNOWN).all()
    soft = source.known_labels()[:, column]
    assert soft.min() >= 0.55
    assert soft.max() <= 0.85
    assert abs(soft.mean() - 0.70) < 0.01  # uniform: the mean of 400 lies within 0.0043 s.d.
    assert len(set(soft.tolist())) > 390
    others = np.delete(source.known_labels(), column, axis=1)
    assert (others == 0).all()
    reversed_table = chexpert(tmp_path, *many[::-1], uncertain="ones-lsr")
    np.testing.assert_array_equal(reversed_table.known_labels()[::-1, column], soft)
    other_seed = chexpert(tmp_path, *many, uncertain="ones-lsr", seed=1)
    assert (other_seed.known_labels()[:, column] != soft).mean() > 0.99
    assert other_seed.fingerprint != source.fingerprint
    low = chexpert(tmp_path, *many, uncertain="zeros-lsr").known_labels()[:, column]
    assert 0 <= low.min() <= low.max() <= 0.3
    part = source.select(np.array([3, 1]))
    np.testing.assert_array_equal(part.known_labels()[:, column], soft[[3, 1]])


def test_a_mixture_of_policies(tmp_path):
    unsure = row(KEYS[0], Edema="-1.0", Atelectasis="-1.0", Cardiomegaly="-1.0", Consolidation="-1.0")
    mixture = {"edema": "ones", "Atelectasis": "ones-lsr", "Consolidation": "ignore", "others": "zeros"}
    source = chexpert(tmp_path, unsure, uncertain=mixture)
    assert label(source, "Edema") == 1
    assert label(source, "Cardiomegaly") == 0
    assert label(source, "Consolidation") == UNKNOWN
    assert np.isnan(source.known_labels()[0, source.findings.index("Consolidation")])
    assert 0.55 <= source.known_labels()[0, source.findings.index("Atelectasis")] <= 0.85
    without_others = chexpert(tmp_path, unsure, uncertain={"Edema": "ones"})
    assert label(without_others, "Cardiomegaly") == UNKNOWN


def test_blank_may_mean_unknown(tmp_path):
    rows = (row(KEYS[0], No_Finding="1.0"), row(KEYS[1], Edema="1.0"))
    source = chexpert(tmp_path, *rows, blank="unknown", findings=("Edema", "Fracture", "Support Devices"))
    assert source.labels.tolist() == [[0, 0, UNKNOWN], [1, UNKNOWN, UNKNOWN]]
    negative = chexpert(tmp_path, *rows, findings=("Edema", "Fracture", "Support Devices"))
    assert negative.labels.tolist() == [[0, 0, 0], [1, 0, 0]]


def test_a_cell_that_is_no_label_is_an_error_and_unknown(tmp_path):
    source = chexpert(tmp_path, row(KEYS[0], Edema="2.0"), row(KEYS[1], Edema="1"), uncertain="ones", blank="unknown")
    assert [label(source, "Edema", image) for image in (0, 1)] == [UNKNOWN, 1]
    told = next(problem for problem in source.problems if problem.level == "error")
    assert told.message == 'train.csv row 2: column Edema "2.0": expected 1, 0, -1 or nothing; taken as unknown'
    # also where a blank would be negative
    assert label(chexpert(tmp_path, row(KEYS[0], Edema="2.0")), "Edema") == UNKNOWN


BOXES = {
    KEYS[0]: {"edema": [[10, 20, 300, 400], [500, 20, 700, 400]], "Enlarg_Cardiomediastinum": [[1, 2, 3, 4]]},
    KEYS[1]: {},
    LATERAL: {"Fracture": [[1, 2, 3, 4]]},
    VALID: {"Edema": [[1, 2, 3, 4]]},
}


def test_the_box_file_is_repaired_and_counted(tmp_path):
    source = chexpert(tmp_path, boxes=BOXES)
    assert source.boxes == {
        KEYS[0]: (
            Box("Edema", 10, 20, 300, 400),
            Box("Edema", 500, 20, 700, 400),
            Box("Enlarged Cardiomediastinum", 1, 2, 3, 4),
        )
    }
    told = {problem.kind: problem.message for problem in source.problems}
    assert told["box file"] == "BBoxes.json: 5 boxes on 4 keys; 1 keys of valid/, 1 of laterals, 1 empty"
    assert kinds(source, "note")["box of another image"] == 2
    assert chexpert(tmp_path, boxes=BOXES, frontal_only=False).boxes[LATERAL] == (Box("Fracture", 1, 2, 3, 4),)
    assert chexpert(tmp_path, boxes=BOXES, findings=("Fracture",)).boxes == {}
    assert chexpert(tmp_path, boxes=BOXES).boxes == source.boxes
    assert read_chexpert(ChexpertSettings(root=tmp_path, boxes="none")).boxes == {}


def test_entries_of_another_shape_are_set_aside(tmp_path):
    boxes = {
        KEYS[0]: {
            "Edema": [[1, 2, 3, 4], [1, 2, 3], ["1", 2, 3, 4], 7, [1, 2, 3, True]],
            "Fracture": 5,
            "Edma": [[1, 2, 3, 4]],
        },
        KEYS[1]: [[1, 2, 3, 4]],
    }
    source = chexpert(tmp_path, boxes=boxes)
    assert source.boxes == {KEYS[0]: (Box("Edema", 1, 2, 3, 4),)}
    assert kinds(source, "error") == {"box entry": 6, "unknown finding": 1}


def small(root: Path, prefix: str = "CheXpert-v1.0-small/", **settings: Any) -> Source:
    return chexpert(root, row(KEYS[0], prefix), row(KEYS[1], prefix), boxes=BOXES, **settings)


def test_boxes_have_no_place_on_small_images_of_unknown_size(tmp_path):
    source = small(tmp_path)
    assert source.boxes == {}
    assert check(source, files=False).failed
    told = next(problem for problem in source.problems if problem.level == "error")
    assert told.count == 3
    assert all(word in told.message for word in ("full-size images", "original_sizes", "boxes=none"))
    assert len(small(tmp_path, small=False).boxes) == 1


def test_original_sizes_give_small_images_their_box_space(tmp_path):
    sizes = f"Path,width,height\nCheXpert-v1.0/{KEYS[0]},690,2320\n{KEYS[1]},2828,0\n"
    (tmp_path / "sizes.csv").write_text(sizes)
    source = small(tmp_path, original_sizes="sizes.csv")
    assert source.images["width"].to_list() == [690, None]
    assert [box.corners for box in source.boxes[KEYS[0]]] == [(10, 20, 300, 400), (500, 20, 690, 400), (1, 2, 3, 4)]
    assert kinds(source, "repaired")["box clipped"] == 1
    assert kinds(source, "error") == {"size": 1}


@pytest.mark.parametrize(("prefix", "side", "placed"), [("CheXpert-v1.0/", 320, False), ("CheXpert-v1.0-small/", 400, True)])
def test_the_stored_images_tell_better_than_the_name_whether_they_are_small(tmp_path, prefix, side, placed):
    path = tmp_path / KEYS[0]
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), np.zeros((side, side + 10), np.uint8))
    assert bool(small(tmp_path, prefix).boxes) == placed


def test_laterals_alone_are_an_error_with_a_way_out(tmp_path):
    with pytest.raises(BadTable, match="frontal_only=false"):
        chexpert(tmp_path, row(LATERAL))

"""Splits: counts worked out by hand, promises about patients, and the files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chestmap.datasets.nih import NihSettings, read_nih
from chestmap.datasets.source import COLUMNS, Source
from chestmap.datasets.split import Split, SplitSettings, leaks, make_split, read_split
from chestmap.errors import BadInput, BadTable, Leak, Refused
from chestmap.types import Box, Findings

ONE = Findings(("Mass",))


def a_source(patients: int = 60, boxed: int = 25, lists: bool = True) -> Source:
    """Patient p has 1 + p % 4 images; every third image carries a box until `boxed` do."""
    pairs = [(f"{p:04d}_{k}", f"p{p}") for p in range(patients) for k in range(1 + p % 4)]
    ids = [image_id for image_id, _ in pairs]
    images = pl.DataFrame(
        {"image_id": ids, "patient_id": [patient for _, patient in pairs], "path": [f"{one}.png" for one in ids], "view": "PA",
         "age": 50.0, "sex": "", "width": 1024.0, "height": 1024.0},
        schema=COLUMNS,
    )  # fmt: skip
    boxes = {one: (Box("Mass", 1, 2, 30, 40),) for one in ids[::3][:boxed]}
    half = patients // 2
    published = {
        "train_val": tuple(one for one, patient in pairs if int(patient[1:]) >= half),
        "test": tuple(one for one, patient in pairs if int(patient[1:]) < half),
    }
    labels = np.array([[one in boxes] for one in ids], dtype=np.int8)
    return Source(
        name="toy",
        findings=ONE,
        root=Path("nowhere"),
        images=images,
        labels=labels,
        boxes=boxes,
        lists=published if lists else {},
    )


def sizes(split: Split) -> list[int]:
    return [len(split.parts[part]) for part in ("train", "validation", "test")]


def patients(source: Source, ids: tuple[str, ...]) -> set[str]:
    return set(source.images["patient_id"].to_numpy()[source.rows(ids)])


def test_official_keeps_the_lists_and_validates_on_other_patients():
    source = a_source()
    split = make_split(source, SplitSettings(validation=0.2))
    assert set(split.parts["test"]) == set(source.lists["test"])
    assert set(split.parts["train"]) | set(split.parts["validation"]) == set(source.lists["train_val"])
    assert len(patients(source, split.parts["validation"])) == 6  # a fifth of 30 patients
    assert not split.shares_patients
    assert all(shared.images == shared.patients == 0 for shared in leaks(split, source).values())


def test_three_published_lists_are_taken_as_they_are_and_two_as_training_and_test():
    source = a_source()
    training, test = source.lists["train_val"], source.lists["test"]
    named = {"train": training[:40], "valid": training[40:], "test": test}  # cut between two patients
    three = make_split(replace(source, lists=named), SplitSettings())
    assert [set(ids) for ids in three.parts.values()] == [set(named[name]) for name in ("train", "valid", "test")]
    drawn = make_split(replace(source, lists=named), SplitSettings(validation=0.5))
    assert len(patients(source, drawn.parts["validation"])) == len(patients(source, named["train"])) / 2
    two = make_split(replace(source, lists={"train": training, "valid": test}), SplitSettings())
    assert set(two.parts["test"]) == set(test)


def test_boxes_out_trains_on_every_image_without_a_box_and_counts_its_leak():
    source = a_source()
    split = make_split(source, SplitSettings(name="official-boxes"))
    assert set(split.parts["test"]) == set(source.boxes)
    assert sizes(split) == [len(source) - 25, 0, 25]
    assert split.shares_patients
    both = patients(source, split.parts["train"]) & patients(source, split.parts["test"])
    assert leaks(split, source)["train", "test"] == (0, len(both), len(patients(source, split.parts["test"])))
    assert both

    clean = make_split(source, SplitSettings(name="clean-boxes"))
    assert set(clean.parts["test"]) == set(source.boxes)
    assert leaks(clean, source)["train", "test"].patients == 0
    assert set(clean.parts["train"]) < set(split.parts["train"])


def test_the_split_of_attention_mining_trains_on_its_test_images_and_says_so():
    source = a_source()
    split = make_split(source, SplitSettings(name="official-plus-boxes", validation=0))
    assert set(split.parts["test"]) == set(source.boxes)
    assert set(split.parts["train"]) == set(source.lists["train_val"]) | set(source.boxes)
    assert leaks(split, source)["train", "test"].images == 25


@pytest.mark.parametrize("kind", ["fold", "clean-fold"])
def test_five_folds_test_each_annotated_image_once(kind):
    source = a_source()
    splits = [make_split(source, SplitSettings.model_validate({"name": f"{kind}-{k}"})) for k in range(1, 6)]
    tested = [one for split in splits for one in split.parts["test"]]
    assert sorted(tested) == sorted(source.boxes)
    for split in splits:
        assert leaks(split, source)["train", "test"].images == 0
        if kind == "clean-fold":
            assert leaks(split, source)["train", "test"].patients == 0


def test_shares_of_a_fold_are_those_of_the_papers():
    source = a_source()
    others = len(source) - 25
    split = make_split(source, SplitSettings(name="fold-2"))  # 0.8 / 0.5, tests on the annotated fifth
    boxed = [sum(one in source.boxes for one in split.parts[part]) for part in ("train", "validation", "test")]
    assert boxed == [20, 0, 5]
    assert sizes(split) == [20 + round(others / 2), round(others / 10), 5]

    both = make_split(source, SplitSettings(name="fold-2", annotated=0.7, unannotated=0.7, test_on="all"))
    boxed = [sum(one in source.boxes for one in both.parts[part]) for part in ("train", "validation", "test")]
    assert boxed == [18, 2, 5]  # round(17.5), round(2.5): to even
    plain = [size - of_it for size, of_it in zip(sizes(both), boxed, strict=True)]
    assert plain == [round(0.7 * others), round(0.1 * others), others * 2 // 5 - others // 5]
    assert set(both.parts["test"]) >= set(split.parts["test"])

    everything = make_split(source, SplitSettings(name="fold-2", unannotated=1))
    assert sizes(everything) == [20 + others, 0, 5]


def test_ag_cnn_is_70_10_20_by_image_and_its_twin_by_patient():
    source = a_source()
    split = make_split(source, SplitSettings(name="ag-cnn"))
    assert sizes(split) == [105, 15, 30]
    assert split.shares_patients
    assert leaks(split, source)["train", "test"].patients > 0
    twin = make_split(source, SplitSettings(name="ag-cnn-patients"))
    assert [len(patients(source, ids)) for ids in twin.parts.values()] == [42, 6, 12]
    assert sum(sizes(twin)) == len(source)


def test_search_takes_a_fifth_of_the_training_patients_and_no_test_image():
    source = a_source()
    split = make_split(source, SplitSettings(name="search"))
    used = split.parts["train"] + split.parts["validation"]
    assert set(used) < set(source.lists["train_val"])
    assert len(patients(source, used)) == 6
    assert len(patients(source, split.parts["validation"])) == 1
    assert split.parts["test"] == ()


def test_an_image_keeps_its_side_when_others_go():
    whole = a_source(patients=400, boxed=0)
    settings = SplitSettings(name="ag-cnn", seed=3)
    fewer = whole.select(np.arange(0, len(whole), 2))
    before, after = make_split(whole, settings), make_split(fewer, settings)
    moved = sum(len(set(after.parts[part]) - set(before.parts[part])) for part in after.parts)
    assert moved / len(fewer) < 0.1  # a fresh permutation would move about 46 %
    assert make_split(whole, settings) == before
    assert make_split(whole, SplitSettings(name="ag-cnn", seed=4)).parts != before.parts


@given(st.integers(1, 80), st.integers(0, 30), st.integers(0, 5), st.sampled_from(["patients", "clean-fold-3", "official"]))
def test_a_patient_wise_name_never_shares_patients(count, boxed, seed, name):
    source = a_source(count, boxed)
    try:
        split = make_split(source, SplitSettings(name=name, seed=seed))
    except BadInput:  # too few patients or boxes; a Leak is no BadInput
        return
    ids = [one for part in split.parts.values() for one in part]
    assert len(ids) == len(set(ids))
    assert sum(len(patients(source, part)) for part in split.parts.values()) == len(patients(source, tuple(ids)))


def ham_lists(source: Source, folder: Path, suffix: str = ".png") -> Path:
    """The form of the authors' lists of annotated images: train_0.8 = train_0.7 + val_0.1."""
    boxed = list(source.boxes)
    for fold in range(1, 6):
        test = boxed[(fold - 1) * 5 : fold * 5]
        rest = [one for one in boxed if one not in test]
        lists = {"test": test, "train_0.8": rest, "train_0.7": rest[2:], "val_0.1": rest[:2]}
        (folder / f"fold{fold}").mkdir(parents=True)
        for name, ids in lists.items():
            (folder / f"fold{fold}" / f"{name}.txt").write_text("\n".join(f"{one}{suffix}" for one in ids))
    (folder / "test_bboxs.txt").write_text("\n".join(f"{one}{suffix}" for one in boxed))
    return folder


def test_ham_folds_read_the_published_lists(tmp_path):
    source = a_source()
    lists = ham_lists(source, tmp_path)
    others = len(source) - 25
    split = make_split(source, SplitSettings(name="ham-fold-2", lists=lists))
    assert sorted(split.parts["test"]) == sorted(list(source.boxes)[5:10])
    assert sizes(split) == [20 + round(others / 2), round(others / 10), 5]
    assert split.shares_patients

    seven = make_split(source, SplitSettings(name="ham-fold-2", lists=lists, annotated=0.7))
    boxed = [sum(one in source.boxes for one in seven.parts[part]) for part in ("train", "validation", "test")]
    assert boxed == [18, 2, 5]


def test_ham_folds_take_the_full_lists_where_they_are(tmp_path):
    source = a_source()
    folder = tmp_path / "fold1"
    folder.mkdir()
    ids = source.ids
    parts = {"train_0.5_0.8": ids[:90], "val_0.1_0.1": ids[80:100], "test_0_0.2": ids[100:110], "test_0.2_0.2": ids[100:150]}
    for name, listed in parts.items():
        (folder / f"{name}.txt").write_text("".join(f"{one}.png\n" for one in listed))
    split = make_split(source, SplitSettings(name="ham-fold-1", lists=tmp_path))
    assert tuple(split.parts.values()) == (ids[:90], ids[90:100], ids[100:110])
    both = make_split(source, SplitSettings(name="ham-fold-1", lists=tmp_path, test_on="all"))
    assert both.parts["test"] == ids[100:150]

    (folder / "test_0_0.2.txt").write_text(f"{ids[3]}.png\n")
    with pytest.raises(Leak, match=r"1 images of test_0_0.2.txt are also in train_0.5_0.8.txt"):
        make_split(source, SplitSettings(name="ham-fold-1", lists=tmp_path))


def test_lists_of_another_dataset_are_refused(tmp_path):
    source = a_source()
    lists = ham_lists(source, tmp_path)
    with pytest.raises(
        BadTable, match=r"test_bboxs.txt: 21 of 25 listed images are not in toy, the first is .*; complete the dataset"
    ):
        make_split(source.select(np.arange(10)), SplitSettings(name="ham-fold-5", lists=lists))
    (lists / "fold5" / "test.txt").unlink()
    with pytest.raises(BadInput, match=r"test.txt: missing; there are train_0.7.txt, train_0.8.txt, val_0.1.txt beside it"):
        make_split(source, SplitSettings(name="ham-fold-5", lists=lists))


def test_lists_that_share_a_patient_break_the_promise_of_official():
    source = a_source()
    first = source.lists["test"][2]  # patient 1 has two images
    lists = {
        "train_val": (*source.lists["train_val"], first),
        "test": tuple(one for one in source.lists["test"] if one != first),
    }
    broken = replace(source, lists=lists)
    with pytest.raises(Leak, match=r"1 of the 30 patients of test are also in train, but its name promises whole patients"):
        make_split(broken, SplitSettings(validation=0))


def test_validation_equal_to_test_is_refused_unless_the_name_says_so():
    parts = {"train": ("a",), "validation": ("b", "c"), "test": ("c", "b")}
    with pytest.raises(Refused, match="validation equals test"):
        Split(name="mine", parts=parts, seed=0, source="0")
    Split(name="mine-validation-is-test", parts=parts, seed=0, source="0")
    with pytest.raises(Leak, match="1 images are in both train and test, the first is a"):
        Split(name="mine", parts={"train": ("a",), "test": ("a", "b")}, seed=0, source="0")


def test_written_and_read_again(tmp_path):
    source = a_source()
    split = make_split(source, SplitSettings(name="fold-1", seed=7))
    split.write(tmp_path / "split")
    again = read_split(tmp_path / "split", source)
    assert again == split
    assert again.fingerprint == split.fingerprint
    about = json.loads((tmp_path / "split" / "split.json").read_text())
    assert about["images"] == dict(zip(("train", "validation", "test"), sizes(split), strict=True))
    assert (tmp_path / "split" / "test.txt").read_text().split() == list(split.parts["test"])


def test_an_edited_or_foreign_split_is_refused(tmp_path):
    source = a_source()
    folder = make_split(source, SplitSettings()).write(tmp_path)
    with pytest.raises(Refused, match="was made for a source with fingerprint"):
        read_split(folder, source.select(np.arange(50)))
    test = folder / "test.txt"
    test.write_text(test.read_text().split("\n", 1)[1])
    with pytest.raises(Refused, match="was edited after it was made"):
        read_split(folder)
    test.unlink()
    with pytest.raises(
        BadInput, match=r"test.txt: missing; a split folder holds split.json, train.txt, validation.txt, test.txt"
    ):
        read_split(folder)
    test.touch()
    (folder / "split.json").write_text("[]")
    with pytest.raises(BadInput, match="not a split folder"):
        read_split(folder)


def test_what_cannot_be_split_says_why():
    with pytest.raises(BadInput, match='toy: has no official train_val list; use split "patients" instead'):
        make_split(a_source(lists=False), SplitSettings())
    with pytest.raises(BadInput, match=r"split fold-1 leaves no image to test \(150 images, 0 with boxes\)"):
        make_split(a_source(boxed=0), SplitSettings(name="fold-1"))
    with pytest.raises(ValueError, match=r'ham-fold-1 reads the published lists: set "lists" to their folder'):
        SplitSettings(name="ham-fold-1")
    with pytest.raises(ValueError, match=r"unannotated 0.9 with test_on all: at most 0.8"):
        SplitSettings(name="fold-1", unannotated=0.9, test_on="all")


@pytest.fixture(scope="module")
def full_nih(shared_data):
    return read_nih(NihSettings(root=shared_data("nih-full")))


def test_the_real_lists_leak_as_measured(full_nih):
    official = make_split(full_nih, SplitSettings())
    assert sizes(official)[0] + sizes(official)[1] == 86_524
    assert sizes(official)[2] == 25_596
    assert all(shared.patients == 0 for shared in leaks(official, full_nih).values())

    boxes = make_split(full_nih, SplitSettings(name="official-boxes"))
    assert sizes(boxes) == [111_240, 0, 880]
    assert leaks(boxes, full_nih)["train", "test"] == (0, 668, 726)


def test_the_published_folds_of_ham_leak_as_measured(full_nih):
    """Of the authors' own training lists (the unannotated half is not ours) 172, 152, 151, 157, 136 patients were counted."""
    lists = full_nih.root / "ham-imagesets"
    shared = []
    for fold in range(1, 6):
        split = make_split(
            full_nih, SplitSettings.model_validate({"name": f"ham-fold-{fold}", "lists": lists, "unannotated": 1})
        )
        shared.append(leaks(split, full_nih)["train", "test"])
    assert [one.of for one in shared] == [184, 174, 164, 168, 155]
    assert [one.patients for one in shared] == [
        177,
        157,
        153,
        158,
        142,
    ]  # with every unannotated image: the most there can be
    half = leaks(make_split(full_nih, SplitSettings(name="ham-fold-1", lists=lists)), full_nih)["train", "test"]
    assert half.images == 0
    assert 165 <= half.patients <= 177

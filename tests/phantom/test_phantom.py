"""The phantom promises: the same from the same seed, honest boxes and masks, NIH's layout, rates and sizes."""

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chestmap.datasets.nih import NihSettings, read_nih
from chestmap.errors import BadInput
from chestmap.imaging.read import read_radiograph
from chestmap.phantom import Case, PhantomSettings, draw, make_population, write_phantom
from chestmap.phantom.nih_figures import AP_SHARE, BOX_AREA, PREVALENCE
from chestmap.phantom.population import NAMES
from chestmap.phantom.raster import Raster, ellipse, ribbon, smooth_step, spline, stream
from chestmap.vocabulary import BOXED_IN_CHESTXRAY14

SMALL = PhantomSettings(
    images=18, side=48, seed=5, enrich=1, boxed=1, boxed_train=1, masks=True, dicom=True, monochrome1=0.5, processes=1
)


def case(patient: int, *findings: str, view: str = "PA", **other: object) -> Case:
    return Case(
        seed=3,
        patient=patient,
        follow_up=0,
        sex="MF"[patient % 2],
        age=30 + 3 * patient % 40,
        view=view,
        findings=findings,
        **other,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("phantom") / "small", SMALL, progress=False)


class TestOnePicture:
    def test_is_a_function_of_its_case(self):
        first = draw(case(1, "Nodule", "Effusion"), 96)
        draw(case(2, "Mass"), 96)
        again = draw(case(1, "Nodule", "Effusion"), 96)
        assert np.array_equal(first.pixels, again.pixels)
        assert first.boxes == again.boxes
        assert not np.array_equal(first.pixels, draw(replace(case(1, "Nodule", "Effusion"), follow_up=1), 96).pixels)

    @pytest.mark.parametrize("side", [32, 100, 250])
    def test_has_the_side_asked_for_and_boxes_in_the_1024_frame(self, side):
        drawing = draw(case(4, "Cardiomegaly"), side)
        assert drawing.pixels.shape == drawing.masks["Cardiomegaly"].shape == (side, side)
        (box,) = drawing.boxes
        assert 250 < box.x1 - box.x0 < 750
        assert box.clipped(1024, 1024) == box

    @pytest.mark.parametrize("finding", NAMES)
    def test_boxes_are_the_extent_of_their_mask(self, finding):
        for patient in (0, 1):
            drawing = draw(case(patient, finding, view="AP" if patient == 1 else "PA"), 192)
            mask = drawing.masks[finding]
            left, top = np.full(192, False), np.full(192, False)
            for box in drawing.boxes:
                x0, y0, x1, y1 = (round(value * 192 / 1024) for value in box.corners)
                left[x0:x1], top[y0:y1] = True, True
                inside = mask[y0:y1, x0:x1]
                assert inside[0].any()
                assert inside[-1].any()
                assert inside[:, 0].any()
                assert inside[:, -1].any()
            # Every marked row and column lies in some box, and the boxes reach no further.
            assert not (mask.any(0) & ~left).any()
            assert not (mask.any(1) & ~top).any()
            assert 20 <= mask.sum() < 0.5 * mask.size

    @pytest.mark.parametrize(
        "finding", ["Nodule", "Mass", "Infiltration", "Pneumonia", "Consolidation", "Pleural Thickening"]
    )
    def test_a_finding_without_volume_effect_changes_its_place_only(self, finding):
        for patient in (2,):
            ill = draw(case(patient, finding, confounders=False), 192)
            well = draw(case(patient, confounders=False), 192)
            change = np.abs(ill.pixels.astype(int) - well.pixels)
            mask = ill.masks[finding]
            far = cv2.dilate(mask.astype(np.uint8), np.ones((25, 25), np.uint8)) == 0
            assert change[far].mean() < 2.5
            assert change[mask].mean() > 3 * change[far].mean() + 1

    def test_a_patient_keeps_anatomy_and_the_place_of_a_nodule(self):
        moved = []
        for patient in range(4):
            boxes = [draw(replace(case(patient, "Nodule"), follow_up=k), 192).boxes[0] for k in range(2)]
            centers = [np.array([box.x0 + box.x1, box.y0 + box.y1]) / 2 for box in boxes]
            moved.append(float(np.hypot(*(centers[0] - centers[1]))))
        assert np.median(moved) < 90
        assert max(moved) < 350

    def test_confounders_can_be_left_out(self):
        cases = [case(patient, "Effusion", "Pneumothorax", view="AP") for patient in range(3)]
        changed = [
            np.abs(draw(one, 64).pixels.astype(int) - draw(replace(one, confounders=False), 64).pixels).max()
            for one in cases
        ]
        assert np.median(changed) > 20

    def test_misalignment_scales_the_position_alone(self):
        still = [draw(replace(case(p, "Cardiomegaly", confounders=False), misalignment=0.0), 64).boxes[0] for p in range(5)]
        loose = [draw(replace(case(p, "Cardiomegaly", confounders=False), misalignment=4.0), 64).boxes[0] for p in range(5)]
        spread = [np.std([(box.x0 + box.x1) / 2 for box in boxes]) for boxes in (still, loose)]
        assert spread[1] > 1.3 * spread[0]

    @pytest.mark.parametrize("finding", BOXED_IN_CHESTXRAY14)
    def test_boxes_have_the_sizes_that_readers_drew(self, finding):
        areas = [
            draw(case(patient, finding, view="AP" if patient % 5 < 2 else "PA", confounders=False), 64).boxes[0].area
            / 1024**2
            for patient in range(20, 29)
        ]
        assert 0.45 < np.median(areas) / BOX_AREA[finding] < 2.2

    @pytest.mark.parametrize(("view", "real"), [("PA", (87, 147, 192.5, 224)), ("AP", (110.5, 149, 177, 208))])
    def test_grey_levels_are_those_of_real_films(self, view, real):
        """Medians over 572 PA and 432 AP images of ChestX-ray14 of each image's quantiles .25, .5, .75, .95."""
        images = [draw(case(patient, view=view), 64).pixels for patient in range(60, 78)]
        levels = np.median([np.quantile(image, (0.25, 0.5, 0.75, 0.95)) for image in images], axis=0)
        assert np.abs(levels - real) == pytest.approx(np.zeros(4), abs=32)


class TestPopulation:
    def test_has_the_rates_of_nih(self):
        people = make_population(PhantomSettings(images=40_000, seed=1))
        assert people.truth.mean(0) == pytest.approx([PREVALENCE[name] for name in NAMES], abs=0.0005)
        assert people.ap.mean() == pytest.approx(AP_SHARE, abs=0.001)
        assert 3.2 < len(people) / people.patient.max() < 4.1
        assert np.bincount(people.patient)[1:].max() > 60
        assert 0.2 < people.test.mean() < 0.25

    def test_findings_go_together_and_last_as_in_nih(self):
        people = make_population(PhantomSettings(images=40_000, seed=1))
        truth = dict(zip(NAMES, people.truth.T, strict=True))

        def lift(one: np.ndarray, other: np.ndarray) -> float:
            return float((one & other).mean() / one.mean() / other.mean())

        assert 1.9 < lift(truth["Effusion"], truth["Atelectasis"]) < 3.0  # 2.39
        assert 4.5 < lift(truth["Emphysema"], truth["Pneumothorax"]) < 8.0  # 6.28
        assert lift(truth["Pneumothorax"], truth["Edema"]) < 0.7  # 0.30
        assert 7 < truth["Edema"][people.ap].mean() / truth["Edema"][~people.ap].mean() < 16  # 11.0
        same = people.patient[1:] == people.patient[:-1]
        now, then = truth["Pneumothorax"][:-1][same], truth["Pneumothorax"][1:][same]
        assert 0.4 < then[now].mean() < 0.7  # 0.556

    @pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
    def test_labels_are_wrong_at_the_rate_asked_for(self, noise):
        people = make_population(PhantomSettings(images=30_000, seed=2, enrich=0.5, label_noise=noise))
        right = (people.labels & people.truth).sum(0)
        assert right.sum() / people.labels.sum() == pytest.approx(1 - noise, abs=0.01)
        assert right.sum() / people.truth.sum() == pytest.approx(1 - noise, abs=0.01)
        assert people.labels.mean() == pytest.approx(people.truth.mean(), rel=0.02)

    def test_wrong_labels_fall_on_what_looks_alike(self):
        people = make_population(PhantomSettings(images=30_000, seed=2, enrich=0.5))
        mass, nodule = NAMES.index("Mass"), NAMES.index("Nodule")
        wrong = people.labels[:, mass] & ~people.truth[:, mass]
        free = ~people.truth[:, mass]
        assert wrong[people.truth[:, nodule] & free].mean() > 2.5 * wrong[~people.truth[:, nodule] & free].mean()

    def test_enriched_small_phantoms_hold_forty_boxes_of_each(self):
        for seed in range(3):
            people = make_population(PhantomSettings(images=2000, seed=seed, enrich=1, boxed=1))
            counts = people.boxed.sum(0)[: len(BOXED_IN_CHESTXRAY14)]
            assert counts.min() >= 30
            assert np.median(counts) >= 40

    def test_patients_are_on_one_side_and_boxes_only_where_asked(self):
        people = make_population(PhantomSettings(images=3000, seed=4, enrich=1, boxed=0.5))
        assert not set(people.patient[people.test]) & set(people.patient[~people.test])
        assert not people.boxed[~people.test].any()
        assert not people.boxed[:, 8:].any()
        able = (people.truth & people.labels & people.test[:, None])[:, :8]
        assert people.boxed.sum() / able.sum() == pytest.approx(0.5, abs=0.06)
        assert make_population(PhantomSettings(images=3000, seed=4, boxed_train=1)).boxed[~people.test].any()


class TestDataset:
    def test_reads_as_nih(self, phantom):
        source, people = read_nih(NihSettings(root=phantom)), make_population(SMALL)
        assert source.ids == tuple(people.image_id(row) + suffix for row in range(18) for suffix in [source.ids[0][12:]])
        assert np.array_equal(source.labels == 1, people.labels)
        assert list(source.images["view"]) == ["AP" if ap else "PA" for ap in people.ap]
        assert not [problem for problem in source.problems if problem.level == "error"]
        assert sum(map(len, source.boxes.values())) == people.boxed.sum() > 2
        assert sorted(map(len, source.lists.values())) == sorted([int(people.test.sum()), int((~people.test).sum())])
        example = source[0]
        assert example.radiograph.pixels.shape == (48, 48)
        assert example.radiograph.size == (1024, 1024)

    def test_truth_lies_beside_the_labels(self, phantom):
        people = make_population(SMALL)
        with (phantom / "truth.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [[int(row[name.replace(" ", "_")]) for name in NAMES] for row in rows] == people.truth.astype(int).tolist()
        with (phantom / "truth_boxes.csv").open() as file:
            boxes = Counter((row["Image Index"], row["Finding Label"].replace("_", " ")) for row in csv.DictReader(file))
        present = {(f"{people.image_id(row)}.png", NAMES[column]) for row, column in np.argwhere(people.truth).tolist()}
        assert len(present - set(boxes)) <= 1
        assert not set(boxes) - present
        for name in people.image_id(0), people.image_id(7):
            with np.load(phantom / "masks" / f"{name}.npz") as masks:
                assert {(f"{name}.png", finding) for finding in masks} == {key for key in boxes if key[0] == f"{name}.png"}

    def test_readers_marked_a_finding_once(self, phantom):
        lines = (phantom / "BBox_List_2017.csv").read_text().splitlines()
        assert lines[0] == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
        assert max(Counter(tuple(line.split(",")[:2]) for line in lines[1:]).values()) == 1
        assert "Infiltration" not in "".join(lines)  # NIH writes Infiltrate here

    def test_is_the_same_from_any_number_of_processes(self, phantom, tmp_path):
        other = write_phantom(tmp_path / "two", SMALL.model_copy(update={"processes": 2}), progress=False)
        assert contents(other) == contents(phantom)

    def test_goes_on_where_it_was_killed(self, phantom, tmp_path):
        class Killed(Exception):
            pass

        def kill(done: int, total: int) -> None:
            if done > 0:
                raise Killed

        with pytest.raises(Killed):
            write_phantom(tmp_path / "again", SMALL, progress=kill)
        assert not (tmp_path / "again").exists()
        first = min((tmp_path / "again.part" / "images").iterdir())
        made = first.stat().st_mtime_ns
        (tmp_path / "again.part" / "test_list.txt.95ee1c0e.part").write_text("as a kill leaves it")
        folder = write_phantom(tmp_path / "again", SMALL, progress=False)
        assert (folder / "images" / first.name).stat().st_mtime_ns == made
        assert contents(folder) == contents(phantom)

    def test_finished_ones_are_found_and_others_refused(self, phantom, tmp_path):
        before = contents(phantom)
        assert write_phantom(phantom, SMALL) == phantom
        with pytest.raises(BadInput, match="phantom of other settings"):
            write_phantom(phantom, SMALL.model_copy(update={"seed": 6}))
        (tmp_path / "letters.txt").write_text("mine")
        with pytest.raises(BadInput, match="something that is no phantom"):
            write_phantom(tmp_path, SMALL)
        assert contents(phantom) == before
        assert json.loads((phantom / "phantom.json").read_text())["settings"]["seed"] == 5

    def test_a_changed_file_of_a_finished_one_is_named(self, phantom, tmp_path):
        folder = tmp_path / "changed"
        shutil.copytree(phantom, folder)
        image = min((folder / "images").iterdir())
        image.write_bytes(image.read_bytes()[:-9])
        with pytest.raises(BadInput, match=rf"{image.name}: changed after it was written .* remove this folder"):
            write_phantom(folder, SMALL)
        image.unlink()
        (folder / "truth.csv").write_text("")
        with pytest.raises(BadInput, match=r"\(2 files in all\)"):
            write_phantom(folder, SMALL)

    def test_dicom_copies_hold_the_same_picture(self, phantom):
        pydicom = pytest.importorskip("pydicom")
        inverted, classes = 0, set()
        for file in sorted((phantom / "dicom").iterdir()):
            radiograph = read_radiograph(file)
            png = cv2.imread(str(phantom / "images" / f"{file.stem}.png"), cv2.IMREAD_GRAYSCALE) / 255
            height, width = radiograph.pixels.shape  # the film's own, which the PNG squeezes into a square
            squeezed = cv2.resize(png, (width, height), interpolation=cv2.INTER_LINEAR)
            assert np.abs(radiograph.pixels - squeezed).max() < 0.001
            header = pydicom.dcmread(file, stop_before_pixels=True)
            assert (header.BitsStored, header.BitsAllocated, header.PatientID) == (12, 16, file.stem[:8])
            assert radiograph.view == header.ViewPosition
            inverted += header.PhotometricInterpretation == "MONOCHROME1"
            classes.add(str(header.SOPClassUID))
        assert 3 <= inverted <= 15
        assert classes == {"1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"}


class TestShapes:
    @given(st.lists(st.tuples(st.floats(-200, 200), st.floats(-200, 200)), min_size=3, max_size=8, unique=True))
    @settings(max_examples=40, deadline=None)
    def test_a_spline_goes_through_its_points(self, points):
        line = spline(points, 20 * (len(points) - 1) + 1)
        assert line[::20] == pytest.approx(np.array(points), abs=1e-6)

    @given(st.floats(5, 40), st.floats(5, 40), st.floats(0, 90), st.floats(-20, 20))
    @settings(max_examples=30, deadline=None)
    def test_filled_area_is_the_shape_area_in_millimeters(self, a, b, degrees, x):
        raster = Raster(160, np.array([[1.5, 0.2, 80.0], [-0.1, 1.3, 80.0]]))
        mask = raster.polygon(ellipse((x, 5.0), (a, b), degrees, 96))
        corners = raster.to_pixels(ellipse((x, 5.0), (a, b), degrees, 96))
        if corners.min() > 2 and corners.max() < 158:
            k = np.linalg.det(raster.matrix[:, :2])
            rim = 0.5 / np.sqrt(k)  # the blended edge
            assert mask.sum() / 255 == pytest.approx(k * np.pi * (a + rim) * (b + rim), rel=0.06)

    def test_the_grid_is_the_inverse_of_the_projection(self):
        raster = Raster(64, np.array([[0.3, 0.02, 30.0], [-0.03, 0.25, 20.0]]))
        x, y = raster.grid
        points = np.stack([x[10, 20], y[10, 20]])[None]
        assert raster.to_pixels(points)[0] == pytest.approx([20.5, 10.5], abs=1e-3)

    def test_a_straight_ribbon_is_a_rectangle(self):
        outline = ribbon(np.array([(0.0, 0.0), (10.0, 0.0), (20.0, 0.0)]), 3.0)
        assert np.allclose(sorted(outline.tolist()), [(0, -3), (0, 3), (10, -3), (10, 3), (20, -3), (20, 3)])

    def test_a_bulge_is_a_quarter_circle(self):
        raster = Raster(100, np.array([[1.0, 0, 0], [0, 1.0, 0]]))
        square = np.zeros((100, 100), np.uint8)
        square[20:80, 20:80] = 255
        profile = raster.bulge(square, 20.0)[50, 20:50]
        depth = np.minimum(np.arange(1, 31) / 20, 1)
        assert profile == pytest.approx(np.sqrt(1 - (1 - depth) ** 2), abs=0.02)

    def test_noise_does_not_depend_on_the_side(self):
        small, large = (Raster(side, np.eye(2, 3)).noise(stream(1, "noise"), 60.0) for side in (64, 256))
        assert np.corrcoef(cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA).ravel(), small.ravel())[0, 1] > 0.97

    def test_smooth_step_by_hand(self):
        assert smooth_step(np.array([0.0, 1.0, 2.0, 3.0, 9.0]), 1, 3) == pytest.approx([0, 0, 0.5, 1, 1])

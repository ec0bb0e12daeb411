import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from chestmap.phantom.dicom_copy import write_dicom as write_phantom
from chestmap.phantom.population import make_population
from chestmap.phantom.settings import PhantomSettings
from chestmap.reports.dicom import KINDS, Provenance, result_objects, write_dicom
from chestmap.types import Box, Frame, Prediction
from chestmap.vocabulary import CHESTXRAY14
from imaging.dicom_samples import chest
from orthanc import orthanc, orthanc_server

__all__ = ["orthanc", "orthanc_server"]

WIDTH, HEIGHT = 120, 96


def predicted(width: float, height: float, found: dict[str, tuple[float, tuple[float, float, float, float]]]) -> Prediction:
    """Boxes in shares of the image; each finding's map is 1 in its box, 0.25 near it, and 0 elsewhere."""
    frame = Frame.fit((float(width), float(height)), (128, 128))
    grid = frame.resized((64, 64))
    scores, maps = np.full(14, 0.03, np.float32), np.zeros((14, 64, 64), np.float16)
    boxes = []
    for name, (score, (x0, y0, x1, y1)) in found.items():
        box = Box(name, x0 * width, y0 * height, x1 * width, y1 * height, score)
        (cells,) = grid.to_canvas([box])
        row = CHESTXRAY14.index(name)
        scores[row] = score
        maps[row, round(cells.y0) : round(cells.y1), round(cells.x0) : round(cells.x1)] = 1
        boxes.append(box)
    return Prediction("image", "patient", CHESTXRAY14, scores, maps, frame, tuple(boxes))


FOUND = {
    "Cardiomegaly": (0.91, (0.25, 0.5, 0.75, 0.8)),
    "Effusion": (0.64, (0.125, 0.5, 0.25, 0.75)),
    "Pleural Thickening": (0.12, (0.5, 0.125, 0.75, 0.25)),
}
"""The last one stays below 0.5, where it counts as shown without an operating point."""


@pytest.fixture(scope="session")
def about():
    return Provenance(name="cam on a phantom", sha256="ab" * 32, operating_points={"Cardiomegaly": 0.4})


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """DX and CR, with white high and with white low; headers of the phantom, pixels of 96 x 120."""
    folder, made = tmp_path_factory.mktemp("phantoms"), {}
    pixels = (chest(HEIGHT, WIDTH, 8)).astype(np.uint8)
    for low_is_white in (False, True):
        settings = PhantomSettings(images=40, side=128, seed=int(low_is_white), monochrome1=float(low_is_white), dicom=True)
        people = make_population(settings)
        for ap in (False, True):
            row = int(np.flatnonzero(people.ap == ap)[0])
            path = folder / f"{'CR' if ap else 'DX'}{1 if low_is_white else 2}.dcm"
            write_phantom(path, people, settings, row, pixels)
            made[path.stem] = path
    return made


@pytest.fixture(scope="session")
def written(phantoms, about, tmp_path_factory):
    """Every kind of one image, as files; highdicom takes its time."""
    source, folder = pydicom.dcmread(phantoms["DX2"]), tmp_path_factory.mktemp("written")
    return write_dicom(source, predicted(WIDTH, HEIGHT, FOUND), about, folder, KINDS)


@pytest.fixture
def results(written):
    """By kind; read anew, so that a test may change them."""
    found = {}
    for path in written:
        found.setdefault(path.name.split("-")[0], []).append(pydicom.dcmread(path))
    return found


@pytest.fixture
def dx(phantoms):
    return pydicom.dcmread(phantoms["DX2"])


def errors_of(path: Path) -> list[str]:
    """What dciodvfy calls an error."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is absent: apt-get install dicom3tools")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error") or "Error -" in line]


def run(*command: object) -> str:
    """A program of dcmtk."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is absent: apt-get install dcmtk")
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def of_kind(kind, source, prediction, about):
    return [made for one, made in result_objects(source, prediction, about, [kind]) if one == kind]


def walk(item):
    yield item
    for child in item.get("ContentSequence", ()):
        yield from walk(child)


def groups_of(report):
    return [item for item in walk(report) if concept(item) == "125007"]


def concept(item):
    name = item.get("ConceptNameCodeSequence")
    return name[0].CodeValue if name else ""


def corners(numbers):
    x, y = numbers[0::2], numbers[1::2]
    return min(x), min(y), max(x), max(y)


def expected(prediction, *names):
    return [next(box.corners for box in prediction.boxes if box.finding == name) for name in names]

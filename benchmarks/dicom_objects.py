"""Processor time of a result's DICOM objects: as highdicom builds them, and as templates fill them, by turns in one run.

python benchmarks/dicom_objects.py [--images 12]
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from pydicom.dataset import Dataset

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from chestmap.reports.dicom import Provenance, filled_objects
from chestmap.reports.dicom.capture import capture
from chestmap.reports.dicom.finding_marks import MarkedResult
from chestmap.reports.dicom.presentation import presentation
from chestmap.reports.dicom.source_header import referenced
from chestmap.reports.dicom.sr import boxes_report, scored, scores_report
from imaging.dicom_samples import chest, radiograph
from reports.dicom.conftest import FOUND, HEIGHT, WIDTH, predicted

Make = Callable[[MarkedResult], Dataset]
PAIRS: dict[str, tuple[Make, Make]] = {
    "sr": (boxes_report, filled_objects.filled_boxes_report),
    "scores": (lambda result: scores_report(result, scored(result)), filled_objects.filled_scores_report),
    "gsps": (presentation, filled_objects.filled_presentation),
    "sc": (capture, filled_objects.filled_capture),
}


def result_of(number: int) -> MarkedResult:
    """Each of an image, a study and a patient of its own."""
    own = {"SOPInstanceUID": f"1.2.3.{number}", "StudyInstanceUID": f"1.2.4.{number}", "PatientID": f"p{number}"}
    source = radiograph(chest(HEIGHT, WIDTH), PatientOrientation=["L", "F"], **own)
    about = Provenance(name="cam", sha256="ab" * 32, operating_points={"Cardiomegaly": 0.4})
    return MarkedResult(reference=referenced(source), source=source, prediction=predicted(WIDTH, HEIGHT, FOUND), about=about)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=12)
    count = parser.parse_args().images
    warnings.simplefilter("ignore")
    results = [result_of(number) for number in range(count + 1)]
    print("| object | highdicom, ms | filled, ms | ratio |\n|---|---|---|---|")
    for kind, makers in PAIRS.items():
        for make in makers:
            make(results[0])  # the first fills the cache
        spent = [0.0, 0.0]
        for result in results[1:]:
            for place, make in enumerate(makers):
                start = time.process_time()
                make(result)
                spent[place] += time.process_time() - start
        slow, fast = (1000 * value / count for value in spent)
        print(f"| {kind} | {slow:.1f} | {fast:.1f} | {slow / fast:.1f} |")


if __name__ == "__main__":
    main()

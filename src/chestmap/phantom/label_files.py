"""The CSV files and lists of a phantom dataset, column for column as NIH publishes them, and the truth in files of its own.

Data_Entry_2017.csv  BBox_List_2017.csv  train_val_list.txt  test_list.txt     what NIH would give
truth.csv            true findings of every image, before label noise
truth_boxes.csv      every lesion of every finding of every image, in the 1024 frame
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from chestmap.phantom.body import make_body
from chestmap.phantom.exam import make_exam
from chestmap.phantom.population import NAMES, Population
from chestmap.phantom.settings import PhantomSettings
from chestmap.storage.atomic import write_text

_ENTRY = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
_BOXES = "Image Index,Finding Label,Bbox [x,y,w,h],,,"  # NIH's own header: nine names for six columns

Found = Mapping[int, Sequence[Sequence[object]]]
"""Row to its lesions, each (finding, x0, y0, x1, y1)."""


def _nih_name(finding: str) -> str:
    """NIH joins words with underscores."""
    return finding.replace(" ", "_")


def write_tables(folder: Path, people: Population, settings: PhantomSettings, found: Found) -> None:
    """`truth.csv` and `truth_boxes.csv` hold what was drawn; the files with NIH's names hold what a publisher would give."""
    rows = range(len(people))
    _write(folder / "Data_Entry_2017.csv", _ENTRY, (_entry(people, settings, row) for row in rows))
    marked = list(_marked(people, found))
    if marked:  # NIH's file without a row would not be its file
        _write(folder / "BBox_List_2017.csv", _BOXES, marked)
    for name, wanted in (("train_val_list.txt", False), ("test_list.txt", True)):
        _write(folder / name, None, ([f"{people.image_id(row)}.png"] for row in rows if people.test[row] == wanted))
    names = ",".join(map(_nih_name, NAMES))
    truth = ([f"{people.image_id(row)}.png", *people.truth[row].astype(int)] for row in rows)
    _write(folder / "truth.csv", f"Image Index,{names}", truth)
    everything = (
        [f"{people.image_id(row)}.png", _nih_name(str(finding)), *_corner_and_size(corners)]
        for row in rows
        for finding, *corners in found[row]
    )
    _write(folder / "truth_boxes.csv", "Image Index,Finding Label,x,y,w,h", everything)


def _write(path: Path, header: str | None, rows: Iterable[Iterable[object]]) -> None:
    text = io.StringIO()
    if header:
        text.write(header + "\n")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def _entry(people: Population, settings: PhantomSettings, row: int) -> list[object]:
    """One row of Data_Entry_2017.csv."""
    case = people.case(row, settings)
    exam = make_exam(make_body(case.seed, case.patient, case.sex, case.age), case.view, case.follow_up, case.misalignment)
    width, height, spacing = exam.film
    labels = "|".join(_nih_name(name) for name, here in zip(NAMES, people.labels[row], strict=True) if here)
    return [
        f"{people.image_id(row)}.png", labels or "No Finding", case.follow_up, case.patient, people.age[row],
        case.sex, case.view,
        width, height, spacing, spacing,
    ]  # fmt: skip


def _corner_and_size(corners: Sequence[object]) -> list[float]:
    """x, y, width, height, as NIH gives boxes."""
    x0, y0, x1, y1 = (float(str(value)) for value in corners)
    return [x0, y0, x1 - x0, y1 - y0]


def _marked(people: Population, found: Found) -> Iterable[list[object]]:
    """The readers' boxes: of a finding only its largest lesion, and of the findings only those chosen to be marked."""
    for row in range(len(people)):
        seen = set()
        for finding, *corners in found[row]:
            if people.boxed[row, NAMES.index(str(finding))] and finding not in seen:
                seen.add(finding)
                name = "Infiltrate" if finding == "Infiltration" else _nih_name(str(finding))
                yield [f"{people.image_id(row)}.png", name, *_corner_and_size(corners)]

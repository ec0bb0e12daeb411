"""Fills result objects from what highdicom made once for the same kind of header, model and finding.

highdicom takes tens of milliseconds to check and build an object, and most of that is the same for every image. A template is such
an object as a plain tree of elements. Values that differ between images are slots, found by the unique stand-ins put there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from threading import Lock
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID
from pydicom.valuerep import DS

from chestmap.reports.dicom.finding_marks import Mark, MarkedResult
from chestmap.types import Box

MOST = 256
"""Templates that are kept; the one that was not used for longest goes."""

STAND_INS: Mapping[str, str] = {
    "StudyInstanceUID": "1.2.826.0.1.3680043.10.511.1",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.10.511.2",
    "SOPInstanceUID": "1.2.826.0.1.3680043.10.511.3",
    "PatientName": "slot^name",
    "ReferringPhysicianName": "slot^physician",
    "PatientID": "slot patient",
    "StudyID": "slot study",
    "AccessionNumber": "slot accession",
    "IssuerOfPatientID": "slot issuer",
    "StudyDescription": "slot description",
    "PatientBirthDate": "18010203",
    "StudyDate": "18040506",
    "StudyTime": "010203.040506",
}
"""Values of a header's elements while a template is made."""

MARK_UID = "1.2.826.0.1.3680043.10.511.4"
OF_MARK = {tag_for_keyword(keyword): keyword for keyword in ("GraphicData", "AnchorPoint", "UnformattedTextValue")}
"""Elements that hold nothing but what a box says."""
OF_SCORE = {tag_for_keyword(keyword): keyword for keyword in ("NumericValue", "FloatingPointValue")}
"""Elements that hold a score, or the size and spacing of the image."""
STAND_IN_SCORE = 0.777
"""No image has 77.7 or .777 rows, or pixels of such a size; as a score it is written as either."""

NOW = {
    tag_for_keyword(keyword): pattern
    for pattern, keywords in {
        "%Y%m%d": ("InstanceCreationDate", "ContentDate", "PresentationCreationDate", "DateOfSecondaryCapture"),
        "%Y%m%d%H%M%S.%f": ("ContributionDateTime",),
        "%H%M%S.%f": ("InstanceCreationTime", "ContentTime", "PresentationCreationTime", "TimeOfSecondaryCapture"),
    }.items()
    for keyword in keywords
}


@dataclass(frozen=True, kw_only=True)
class Field:
    """One element: its value, the items of its sequence, or the name of its slot."""

    tag: int
    vr: str
    value: Any = None
    items: tuple[Node, ...] | None = None
    slot: str = ""


Node = tuple[Field, ...]


@dataclass(frozen=True)
class Template:
    """An object that highdicom made once, and its file meta, with slots for what changes."""

    node: Node
    meta: Node


def compiled(dataset: Dataset) -> Template:
    """Turns an object into a template; its series and instance UID become slots."""
    slots = _SLOTS | {str(dataset.SeriesInstanceUID): "series", str(dataset.SOPInstanceUID): "instance"}
    return Template(_node(dataset, slots), _node(dataset.file_meta, slots))


def _node(dataset: Dataset, slots: Mapping[str, str]) -> Node:
    return tuple(_field(element, slots) for element in dataset)


def _field(element: DataElement, slots: Mapping[str, str]) -> Field:
    tag, vr = int(element.tag), str(element.VR)
    if vr == "SQ":
        return Field(tag=tag, vr=vr, items=tuple(_node(item, slots) for item in element.value or ()))
    if slot := OF_MARK.get(tag) or NOW.get(tag):
        return Field(tag=tag, vr=vr, slot=slot)
    if tag in OF_SCORE and float(element.value) in (STAND_IN_SCORE, round(100 * STAND_IN_SCORE, 1)):
        return Field(tag=tag, vr=vr, slot=OF_SCORE[tag])
    return Field(tag=tag, vr=vr, value=element.value, slot=slots.get(str(element.value), ""))


_SLOTS = {value: keyword for keyword, value in STAND_INS.items()} | {MARK_UID: "mark"}


def filled(node: Node, values: Mapping[str, Any]) -> Dataset:
    """A new dataset; sequences without any item stay empty."""
    made = Dataset()
    for field in node:
        made.add(_element(field, values))
    return made


def _element(field: Field, values: Mapping[str, Any]) -> DataElement:
    if field.items is not None:
        return DataElement(field.tag, "SQ", [filled(item, values) for item in field.items])
    if field.slot:
        return DataElement(field.tag, field.vr, values[field.slot])
    return DataElement(field.tag, field.vr, field.value, already_converted=True)


def finished(template: Template, values: Mapping[str, Any]) -> Dataset:
    """The whole object with its file header, and the time of now."""
    now = datetime.now()  # noqa: DTZ005 - as highdicom, local time
    values = {**values, **{pattern: now.strftime(pattern) for pattern in set(NOW.values())}}
    made = filled(template.node, values)
    made.file_meta = FileMetaDataset()
    for field in template.meta:
        made.file_meta.add(_element(field, values))
    made.preamble = b"\0" * 128
    return made


def header_values(result: MarkedResult, series: Mapping[str, Any]) -> dict[str, Any]:
    """What fills the slots of the header and of the object's own identifiers; `series` as of `series_of`."""
    own = {keyword: result.reference.get(keyword) for keyword in STAND_INS}
    return {**own, "series": series["series_instance_uid"], "instance": series["sop_instance_uid"]}


def number_values(number: float) -> dict[str, Any]:
    """As a decimal string, and as a number."""
    return {"NumericValue": DS(number, auto_format=True), "FloatingPointValue": number}


def mark_values(mark: Mark) -> dict[str, Any]:
    """What the slots of a mark are filled with; places are in stored pixels."""
    return {
        "mark": mark.uid,
        "GraphicData": mark.outline.ravel().tolist(),
        "AnchorPoint": [float(mark.box.x0), float(mark.box.y0)],
        "UnformattedTextValue": mark.label,
    }


def changed(dataset: Dataset, values: Mapping[str, Any]) -> Dataset:
    """Another dataset with other values; `copy.copy` would share the elements, and change the first one too."""
    made = Dataset()
    made.update(dataset)
    for keyword, value in values.items():
        tag = Tag(keyword)
        made[tag] = DataElement(tag, dictionary_VR(tag), value)
    return made


def stand_in(result: MarkedResult, marks: Sequence[Mark] = ()) -> MarkedResult:
    """The same result of nobody: stand-ins in place of what differs between images."""
    reference = changed(result.reference, {one: value for one, value in STAND_INS.items() if result.reference.get(one)})
    made = replace(result, reference=reference)
    neutral = [
        replace(mark, uid=UID(MARK_UID), box=Box(mark.finding, 1.0, 2.0, 3.0, 4.0), score=STAND_IN_SCORE) for mark in marks
    ]
    vars(made)["marks"] = tuple(neutral)  # in place of the cached property
    return made


def mark_key(mark: Mark) -> Hashable:
    """What marks must share to be filled from the same template."""
    return mark.finding, mark.present, mark.code.value, mark.code.scheme_designator, mark.code.meaning


def items_of(node: Node, keyword: str) -> tuple[Node, ...]:
    """The items of a sequence of a template, by DICOM keyword."""
    tag = tag_for_keyword(keyword)
    return next(field.items or () for field in node if field.tag == tag)


def key_of(result: MarkedResult) -> Hashable:
    """Whatever a template depends on beside a mark: the model, the header without its slots, and which slots are empty."""
    fixed = tuple(
        (element.tag, bool(element.value) if element.keyword in STAND_INS else str(element.value))
        for element in result.reference
    )
    return result.about.identity, fixed, str(dict(result.about.measured)), result.replaces


class Templates:
    """Kept by what they depend on; for any number of threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Template] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], Dataset]) -> Template:
        """Gives the kept template of a key, or makes it. The least used one goes when there are too many."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = compiled(make())
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)
        return found


KEPT = Templates()

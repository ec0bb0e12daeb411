"""Writes a reader's finished review for the archive: a verified report, and a note that rejects objects.

The service calls it when a review is done. Objects of the archive that the review contradicts are rejected by a note.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from highdicom import sr
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset

from chestmap.errors import BadInput
from chestmap.imaging.dicom_header import quiet
from chestmap.reports.dicom.earlier import (
    PERSON,
    Earlier,
    key_note,
    key_notes,
    predecessors,
    rejection_note,
    series_of_reader,
)
from chestmap.reports.dicom.finding_marks import Mark, code_of, mark_on, printable, site_of
from chestmap.reports.dicom.provenance import made_uid
from chestmap.reports.dicom.source_header import charset_of, finish, referenced, requests_of, spacing_of
from chestmap.reports.dicom.sr import SCHEMES, planar_group, planar_report, text_report
from chestmap.types import Box, Findings


@dataclass(frozen=True)
class Verdict:
    """What a reader stated of a finding; `bulk` where many were agreed to at once."""

    finding: str
    present: bool
    boxes: tuple[Box, ...] = ()
    bulk: bool = False


@dataclass(frozen=True, kw_only=True)
class ReaderReport:
    """A finished review. `size` is (width, height) of the image that its boxes lie in; `study` names the image's content."""

    reader: str
    organization: str
    at: str
    version: int
    study: str
    size: tuple[float, float]
    verdicts: tuple[Verdict, ...]
    note: str = ""
    measures: tuple[str, ...] = ()
    key: bool = False

    @property
    def lines(self) -> list[str]:
        """In words, present findings first."""
        present = [_said(one) for one in self.verdicts if one.present]
        absent = [_said(one) for one in self.verdicts if not one.present]
        lines = [
            f"Verified by {printable(self.reader, 64)}, {self.at[:16].replace('T', ' ')} UTC, review version {self.version}."
        ]
        lines += [f"Present: {'; '.join(present)}."] if present else ["Present: none of the findings that were judged."]
        lines += [f"Absent: {'; '.join(absent)}."] if absent else []
        lines += [f"Measured: {'; '.join(printable(one, 100) for one in self.measures)}."] if self.measures else []
        lines += ["Marked as a key image."] if self.key else []
        note = " ".join(printable(line, 1000) for line in self.note.splitlines() if line.strip())
        return [*lines, *([f"Note: {note}"] if note else []), "A finding that is not listed was not judged."]


def _said(one: Verdict) -> str:
    count = len(one.boxes)
    place = (
        ("" if not one.present else "no place given") if not count else f"{count} {'region' if count == 1 else 'regions'}"
    )
    about = ", ".join(part for part in (place, "agreed in bulk" if one.bulk else "") if part)
    return printable(one.finding, 48) + (f" ({about})" if about else "")


def verified_objects(
    source: Dataset, report: ReaderReport, earlier: Sequence[Earlier], rejected: Sequence[Earlier]
) -> Iterator[tuple[str, Dataset]]:
    """The report, with all earlier reports of the image as its predecessors; and notes of what is rejected and of a key image."""
    if not report.reader.strip():
        raise BadInput("the review has no reader's name: nobody could have verified it; sign in, or give a name")
    reference = referenced(source)
    texts = [report.reader, report.organization, report.note, *(one.finding for one in report.verdicts)]
    reference.SpecificCharacterSet = charset_of(reference, texts)
    with quiet():
        made = [("sr", _report(reference, report, earlier))]
        if rejected:
            reason = f"The report of {printable(report.reader, 64)} contradicts them."
            made.append(("kos", rejection_note(reference, rejected, reason, _observer(report))))
        own = [key_note(reference, f"{report.study} {report.version}", _observer(report))] if report.key else []
        made.extend(("kos", one) for one in own)
        if old := [one for one in key_notes(source, earlier) if one.instance not in {note.SOPInstanceUID for note in own}]:
            reason = "A newer mark replaces it." if report.key else "The mark of a key image was taken back."
            made.append(("kos", rejection_note(reference, old, reason, _observer(report))))
        for kind, one in made:
            finish(one, reference)
            yield kind, one


def _report(reference: Dataset, report: ReaderReport, earlier: Sequence[Earlier]) -> Dataset:
    series = series_of_reader("verified report", reference, report.study, str(report.version))
    document = {
        **series, "instance_number": report.version, "evidence": [reference], "is_complete": True, "is_final": True,
        "is_verified": True, "verifying_observer_name": person_name(report.reader),
        "verifying_organization": printable(report.organization, 64), "coding_schemes": SCHEMES,
        "previous_versions": predecessors(earlier, reference, series["sop_instance_uid"]),
        "requested_procedures": requests_of(reference),
    }  # fmt: skip
    marks, text = list(_marks(reference, report)), "\n".join(report.lines)
    if marks:
        groups = [planar_group(mark, reference, ["Present."], measurements=[area_of(mark, reference)]) for mark in marks]
        made = planar_report(reference, _observer(report), groups, text, document)
    else:
        made = text_report(_observer(report), text, document)
    at = datetime.fromisoformat(report.at)
    made.VerifyingObserverSequence[0].VerificationDateTime = at.strftime("%Y%m%d%H%M%S.%f%z")
    return made


def area_of(mark: Mark, reference: Dataset) -> sr.Measurement:
    """Of the region, at the detector. Its name repeats the finding, as that of a model's score does."""
    x0, y0, x1, y1 = mark.box.corners
    known = bool(reference.get("PixelSpacing") or reference.get("ImagerPixelSpacing"))
    down, across = spacing_of(reference)
    unit = CodedConcept("mm2", "UCUM", "square millimeter") if known else CodedConcept("{pixels}", "UCUM", "pixels")
    name = CodedConcept("42798000", "SCT", f"{printable(mark.finding, 40)}: Area")
    return sr.Measurement(name=name, value=round((x1 - x0) * across * (y1 - y0) * down, 1), unit=unit)


def _marks(reference: Dataset, report: ReaderReport) -> Iterator[Mark]:
    findings = Findings(tuple(one.finding for one in report.verdicts)) if report.verdicts else None
    for one in report.verdicts:
        for place, box in enumerate(one.boxes if one.present and findings else ()):
            stored = mark_on(box, report.size, (int(reference.Columns), int(reference.Rows)))
            if stored is not None and findings:
                uid = made_uid("verified mark", report.study, str(report.version), one.finding, str(place))
                code, site = code_of(one.finding, findings), site_of(one.finding)
                yield Mark(finding=one.finding, box=stored, score=1.0, code=code, site=site, uid=uid, present=True)


def _observer(report: ReaderReport) -> sr.ObserverContext:
    name = person_name(report.reader)
    return sr.ObserverContext(
        PERSON, sr.PersonObserverIdentifyingAttributes(name, organization_name=printable(report.organization, 64))
    )


def person_name(text: str) -> str:
    """Family name first, as DICOM writes it; a single word is one."""
    plain = " ".join(printable(text.replace("=", " "), 60).split())
    if "^" in plain:
        return plain
    first, _, last = plain.rpartition(" ")
    return f"{last}^{first}"

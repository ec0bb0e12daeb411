"""Writes a study as FHIR R4: ImagingStudy, an Observation for each finding, DiagnosticReport.

The patient is a pseudonym. Accession number and indication are there only where the service shows patients.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chestmap.serving.engine.measured import measured
from chestmap.serving.store.database_tables import Result, Study
from chestmap.serving.store.review_schema import KeptFinding, ReviewOut
from chestmap.types import Code
from chestmap.vocabulary import CODES, NO_FINDING, SITES

SNOMED, LOINC, V2 = "http://snomed.info/sct", "http://loinc.org", "http://terminology.hl7.org/CodeSystem/v2-0074"
KINDS = "http://terminology.hl7.org/CodeSystem/v2-0203"
CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
PRESENT, ABSENT = ("52101004", "Present"), ("2667000", "Absent")
UCUM = "http://unitsofmeasure.org"
RESEARCH = "For research, not for diagnosis."


def bundle_of(study: Study, results: Sequence[Result], review: ReviewOut, shown: Mapping[str, Any]) -> dict[str, Any]:
    """A collection. `shown` is the study's line of the worklist: what may be given out of date and order."""
    imaging = _imaging_study(study, shown)
    done, finished = [one for one in results if one.state == "done"], review.state == "done"
    observations = [one for result in done for one in _of_model(study, result)]
    if review.version:
        observations += [*_of_reader(study, review), *_of_measures(study, review)]
    report = {
        **_resource("DiagnosticReport", study.id, "report"),
        "status": "final" if finished else "preliminary",
        "category": [{"coding": [{"system": V2, "code": "RAD", "display": "Radiology"}]}],
        "code": {"coding": [{"system": LOINC, "code": "18748-4", "display": "Diagnostic imaging study"}]},
        "subject": _subject(study),
        "issued": (review.at or study.received).replace("+00:00", "Z"),
        "imagingStudy": [_reference(imaging)],
        "result": [_reference(one) for one in observations],
        "conclusion": _conclusion(review, done),
    }
    if shown["accession"]:
        report["basedOn"] = [{"type": "ServiceRequest", "identifier": _accession(shown["accession"])}]
    report |= {"resultsInterpreter": [{"display": review.by}]} if finished and review.by else {}
    report = {key: value for key, value in report.items() if value}
    entries = [{"fullUrl": f"urn:uuid:{one['id']}", "resource": one} for one in (imaging, *observations, report)]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


def transaction_of(
    study: Study, results: Sequence[Result], review: ReviewOut, shown: Mapping[str, Any], versions: Sequence[ReviewOut]
) -> dict[str, Any]:
    """The same resources as updates for a server. What an earlier version stated, and this one does not, is an error there."""
    resources = [one["resource"] for one in bundle_of(study, results, review, shown)["entry"]]
    there = {one["id"] for one in resources}
    stated = [one for old in versions for one in (*_of_reader(study, old), *_of_measures(study, old))]
    gone = {one["id"]: {**one, "status": "entered-in-error"} for one in stated if one["id"] not in there}
    entries = [
        {
            "fullUrl": f"urn:uuid:{one['id']}",
            "resource": one,
            "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"},
        }
        for one in (*resources, *gone.values())
    ]
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def _resource(kind: str, *names: str) -> dict[str, Any]:
    """The same names give the same id, so that a server that has it updates it."""
    return {"resourceType": kind, "id": str(uuid.uuid5(uuid.NAMESPACE_URL, " ".join(("chestmap", kind, *names))))}


def _reference(resource: dict[str, Any]) -> dict[str, str]:
    return {"reference": f"urn:uuid:{resource['id']}"}


def _subject(study: Study) -> dict[str, Any]:
    known = study.patient or f"of {study.id}"
    return {"type": "Patient", "identifier": {"system": "urn:chestmap:patient", "value": known}}


def _accession(number: str) -> dict[str, Any]:
    return {"type": {"coding": [{"system": KINDS, "code": "ACSN", "display": "Accession ID"}]}, "value": number}


def _imaging_study(study: Study, shown: Mapping[str, Any]) -> dict[str, Any]:
    made = {
        **_resource("ImagingStudy", study.id),
        "identifier": [{"system": "urn:chestmap:study", "value": study.id}],
        "status": "available",
        "subject": _subject(study),
        "numberOfSeries": 1,
        "numberOfInstances": 1,
        "description": " ".join(word for word in ("Chest radiograph", study.view, study.position) if word),
    }
    if shown["accession"]:
        made["identifier"].append(_accession(shown["accession"]))
    if shown["indication"]:
        made["reasonCode"] = [{"text": shown["indication"]}]
    return made | ({"started": shown["taken"][:10]} if shown["taken"] else {})


def _of_model(study: Study, result: Result) -> Iterator[dict[str, Any]]:
    """Preliminary, and without presence: that is for a reader to state."""
    for found in result.findings:
        if found["name"] == NO_FINDING:
            continue
        score = {"code": {"text": "Model score"}, "valueQuantity": {"value": round(found["score"], 4), "unit": "1"}}
        called = {"code": {"text": "Called by the model"}, "valueBoolean": bool(found["over"])}
        point = found["threshold"]
        known = (
            [] if point is None else [{"code": {"text": "Operating point"}, "valueQuantity": {"value": point, "unit": "1"}}]
        )
        yield {
            **_observation(study, found["name"], "model", result.model_sha),
            "status": "preliminary",
            "device": {"display": f"chestmap {result.model_id}"},
            "component": [score, called, *known, *map(_region, found["boxes"])],
            "note": [{"text": RESEARCH}],
        }


def _of_reader(study: Study, review: ReviewOut) -> Iterator[dict[str, Any]]:
    for name, said in sorted(review.findings.items()):
        if said.verdict == "unset":
            continue
        value, display = ABSENT if said.verdict == "reject" else PRESENT
        made = {
            **_observation(study, name, "reader"),
            "status": "final" if review.state == "done" else "preliminary",
            "valueCodeableConcept": {"coding": [{"system": SNOMED, "code": value, "display": display}]},
        }
        made |= {"performer": [{"display": said.by}]} if said.by else {}
        yield made | ({"component": [_region(box.model_dump()) for box in said.boxes]} if said.boxes else {})


def _of_measures(study: Study, review: ReviewOut) -> Iterator[dict[str, Any]]:
    """Lengths, angles and ratios that a reader measured."""
    for place, one in enumerate(review.measures):
        found = measured(one, study.image.get("spacing"))
        unit = {"mm": {"unit": "mm", "system": UCUM, "code": "mm"}, "deg": {"unit": "deg", "system": UCUM, "code": "deg"}}
        yield {
            **_observation(study, found.name, "measure", str(place)),
            "status": "final" if review.state == "done" else "preliminary",
            "valueQuantity": {"value": round(found.value, 2), **unit.get(found.unit, {"unit": found.unit or "1"})},
            "performer": [{"display": review.by or "reader"}],
        }


def _observation(study: Study, finding: str, *names: str) -> dict[str, Any]:
    made = {
        **_resource("Observation", study.id, finding, *names),
        "category": [{"coding": [{"system": CATEGORY, "code": "imaging", "display": "Imaging"}]}],
        "code": {"text": finding, **_coding(CODES.get(finding))},
        "subject": _subject(study),
    }
    site = _coding(SITES.get(finding))
    return made | ({"bodySite": site} if site else {})


def _coding(code: Code | None) -> dict[str, Any]:
    if code is None or code.scheme != "SCT":
        return {}
    return {"coding": [{"system": SNOMED, "code": code.value, "display": code.meaning}]}


def _region(box: dict[str, Any]) -> dict[str, Any]:
    corners = " ".join(f"{box[key]:g}" for key in ("x0", "y0", "x1", "y1"))
    return {"code": {"text": "Region: x0 y0 x1 y1 in image pixels"}, "valueString": corners}


def _conclusion(review: ReviewOut, results: Sequence[Result]) -> str:
    """The reader's words once there is a verdict, until then what models call."""
    said = {name: one for name, one in review.findings.items() if one.verdict != "unset"}
    if not said:
        called = sorted({found["name"] for one in results for found in one.findings if found["over"]})
        return f"Called by a model, not verified: {', '.join(called) or 'nothing'}. {RESEARCH}"
    words = [f"{name}: {_word(one)}" for name, one in sorted(said.items())]
    return " ".join([f"{'; '.join(words)}.", review.note, RESEARCH]).replace("  ", " ")


def _word(said: KeptFinding) -> str:
    return "absent" if said.verdict == "reject" else "present"

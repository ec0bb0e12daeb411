"""A study as FHIR R4, checked by fhir.resources (its R4B, which differs from R4 in no resource used here)."""

import pytest

from serving.small import picture, upload

bundles = pytest.importorskip("fhir.resources.R4B.bundle", reason="fhir.resources is absent: pip install fhir.resources")


def of(bundle, kind):
    return [one.resource for one in bundle.entry if one.resource.__class__.__name__ == kind]


@pytest.fixture
def study(client):
    (made,) = client.post("/v1/predict", files=upload(picture(41)), data={"patient": "Ann-7"}).json()["studies"]
    yield made
    client.delete(f"/v1/studies/{made['id']}")


def asked(client, study):
    answer = client.get(f"/v1/studies/{study['id']}/fhir")
    assert answer.headers["content-type"] == "application/fhir+json"
    assert "Ann-7" not in answer.text
    return bundles.Bundle.model_validate(answer.json())


def test_a_models_result_is_preliminary_and_states_no_presence(client, study):
    bundle = asked(client, study)
    (report,), (imaging,) = of(bundle, "DiagnosticReport"), of(bundle, "ImagingStudy")
    assert (report.status, imaging.status) == ("preliminary", "available")
    assert imaging.subject.identifier.value == study["patient"] == report.subject.identifier.value
    observations = {one.code.text: one for one in of(bundle, "Observation")}
    scores = {one["name"]: one["score"] for one in study["results"][0]["findings"]}
    assert observations.keys() == scores.keys()
    for name, one in observations.items():
        assert (one.status, one.valueCodeableConcept) == ("preliminary", None)
        assert float(one.component[0].valueQuantity.value) == pytest.approx(scores[name], abs=1e-4)
        assert one.code.coding[0].system == "http://snomed.info/sct"
    known = {f"urn:uuid:{one.resource.id}" for one in bundle.entry}
    assert {one.reference for one in (*report.result, *report.imagingStudy)} <= known
    assert "not verified" in report.conclusion


def test_measures_have_units(client, study):
    lines = [{"x0": 0, "y0": 0, "x1": 30, "y1": 40}, {"x0": 0, "y0": 0, "x1": 0, "y1": 25}]
    measures = [{"kind": "ruler", "lines": lines[:1]}, {"kind": "ctr", "lines": lines}, {"kind": "angle", "lines": lines}]
    address, ana = f"/v1/studies/{study['id']}/review", {"X-Reviewer": "Ana"}
    sent = {"base": 0, "state": "part", "measures": measures, "key": True}
    written = client.put(address, json=sent, headers=ana).json()
    assert (written["measures"], written["key"]) == (measures, True)
    written = client.put(address, json={"base": 1, "state": "part"}, headers=ana).json()
    assert (written["measures"], written["key"]) == (measures, True)  # a client that knows neither leaves both
    found = {one.code.text: one for one in of(asked(client, study), "Observation") if one.valueQuantity}
    values = {name: (float(one.valueQuantity.value), one.valueQuantity.unit) for name, one in found.items()}
    assert values == {"Distance": (50.0, "px"), "Cardiothoracic ratio": (0.5, "1"), "Angle": (36.87, "deg")}
    for wrong in ({"kind": "ctr", "lines": lines[:1]}, {"kind": "ruler", "lines": [{**lines[0], "x1": 0, "y1": 0}]}):
        assert client.put(address, json={"base": 2, "state": "part", "measures": [wrong]}, headers=ana).status_code == 422


def test_a_finished_review_makes_it_final(client, study):
    said = {
        "Mass": {"verdict": "correct", "boxes": [{"x0": 1, "y0": 2, "x1": 30, "y1": 40}]},
        "Nodule": {"verdict": "reject"},
    }
    sent = {"base": 0, "state": "done", "findings": said, "note": "Follow up."}
    assert client.put(f"/v1/studies/{study['id']}/review", json=sent, headers={"X-Reviewer": "Ana"}).status_code == 200
    bundle = asked(client, study)
    (report,) = of(bundle, "DiagnosticReport")
    assert (report.status, report.resultsInterpreter[0].display) == ("final", "Ana")
    assert report.conclusion == "Mass: present; Nodule: absent. Follow up. For research, not for diagnosis."
    verdicts = {one.code.text: one for one in of(bundle, "Observation") if one.valueCodeableConcept}
    words = {name: (one.status, one.valueCodeableConcept.coding[0].display) for name, one in verdicts.items()}
    assert words == {"Mass": ("final", "Present"), "Nodule": ("final", "Absent")}
    assert verdicts["Mass"].component[0].valueString == "1 2 30 40"

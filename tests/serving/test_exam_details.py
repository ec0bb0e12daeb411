"""Accession number, indication and body position: kept and shown where patients are, and nowhere else."""

import io
from contextlib import closing

import pydicom
import pytest
from pydicom.dataset import Dataset

from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import ServeSettings
from chestmap.serving.store.database_tables import Study
from chestmap.serving.store.store import Store
from imaging.dicom_samples import as_bytes, chest, radiograph
from serving.browsing import forgotten, read, visit
from serving.fake_service import FakeService
from serving.small import upload

ACCESSION, INDICATION = "ACC-2031-7", "Cough for three weeks, smoker, weight loss; rule out a mass of the right upper lobe"
REASON = INDICATION[:59]


def coded(meaning, **more):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99TEST", meaning
    for keyword, value in more.items():
        setattr(item, keyword, value)
    return item


def film(**elements):
    request = Dataset()
    request.RequestedProcedureID, request.ReasonForTheRequestedProcedure = "P-1", REASON
    told = {
        "PatientName": "Doe^Jane", "PatientID": "MRN-1", "AccessionNumber": ACCESSION, "AdditionalPatientHistory": INDICATION,
        "PatientOrientationCodeSequence": [coded("Erect")], "RequestAttributesSequence": [request],
    }  # fmt: skip
    return as_bytes(radiograph(chest(60, 70), **{**told, **elements}))


@pytest.fixture
def shown(served, client_of, tmp_path):
    settings = ServeSettings(readers=1, show_patient=True)
    with client_of(Service([served], Store(tmp_path / "shown"), settings)) as client:
        yield client


def of(client, content):
    (study,) = client.post("/v1/predict", files=upload(content)).json()["studies"]
    return study, client.get(f"/v1/studies/{study['id']}").json()


def test_they_come_with_the_study_and_the_worklist_finds_the_accession(shown):
    study, whole = of(shown, film())
    for one in (study, whole, *shown.get("/v1/studies", params={"search": "acc-2031"}).json()["studies"]):
        assert (one["accession"], one["indication"], one["position"]) == (ACCESSION, REASON, "erect")
    assert shown.get("/v1/studies", params={"search": "acc-2032"}).json()["total"] == 0
    _, other = of(shown, film(RequestAttributesSequence=[], SOPInstanceUID="1.2.3.9"))
    assert other["indication"] == INDICATION


def test_they_go_to_fhir_and_into_the_report(shown):
    bundles = pytest.importorskip("fhir.resources.R4B.bundle", reason="fhir.resources is absent: pip install fhir.resources")
    study, _ = of(shown, film())
    bundle = bundles.Bundle.model_validate(shown.get(f"/v1/studies/{study['id']}/fhir").json())
    found = {one.resource.__class__.__name__: one.resource for one in bundle.entry}
    imaging, report = found["ImagingStudy"], found["DiagnosticReport"]
    assert [one.value for one in imaging.identifier if one.type and one.type.coding[0].code == "ACSN"] == [ACCESSION]
    assert [one.text for one in imaging.reasonCode] == [REASON]
    assert imaging.description.endswith("erect")
    assert report.basedOn[0].identifier.value == ACCESSION
    body = shown.get(f"/v1/studies/{study['id']}/dicom").content
    made = pydicom.dcmread(io.BytesIO(body[body.index(b"DICM") - 128 :]))
    (order,) = made.ReferencedRequestSequence
    assert (made.AccessionNumber, order.ReasonForTheRequestedProcedure) == (ACCESSION, REASON)


def test_a_store_of_pseudonyms_never_holds_them(served, readers, client_of, tmp_path):
    with client_of(Service([served], Store(tmp_path / "store"), readers=readers)) as client:
        study, whole = of(client, film())
        answers = [
            str(study),
            str(whole),
            client.get("/v1/studies").text,
            client.get(f"/v1/studies/{study['id']}/fhir").text,
        ]
        assert all(word not in text for text in answers for word in (ACCESSION, INDICATION[:20], "Doe"))
        assert whole["position"] == "erect"
        assert client.get("/v1/studies", params={"search": ACCESSION}).json()["total"] == 0
    with closing(Store(tmp_path / "store")) as store, store.reading() as session:
        (row,) = session.query(Study).all()
        assert (row.accession, row.indication) == ("", "")


def test_a_service_that_hides_patients_hides_what_the_store_kept(served, readers, client_of, tmp_path):
    settings = ServeSettings(readers=1, show_patient=True)
    with client_of(Service([served], Store(tmp_path), settings)) as client:
        study, _ = of(client, film())
    with client_of(Service([served], Store(tmp_path), readers=readers)) as client:
        pages = [f"/v1/studies/{study['id']}", "/v1/studies", f"/v1/studies/{study['id']}/fhir"]
        assert all(word not in client.get(page).text for page in pages for word in (ACCESSION, INDICATION[:20]))


@pytest.mark.parametrize(
    ("elements", "position"),
    [
        ({"PatientOrientationCodeSequence": [], "PatientPosition": "HFS"}, "supine"),
        ({"PatientOrientationCodeSequence": [], "PatientPosition": "FFDL"}, "left decubitus"),
        ({"PatientOrientationCodeSequence": [coded("Recumbent", PatientOrientationModifierCodeSequence=[coded("Prone")])]}, "recumbent prone"),
        ({"PatientOrientationCodeSequence": [], "PatientPosition": "UPSIDE"}, ""),
    ],
    ids=["supine", "decubitus", "modified", "unknown"],
)  # fmt: skip
def test_the_position_is_read_from_either_place(client, elements, position):
    study, _ = of(client, film(SOPInstanceUID=f"1.2.3.{len(position)}.{len(elements)}", **elements))
    assert study["position"] == position
    client.delete(f"/v1/studies/{study['id']}")


def test_the_page_shows_them_under_the_name(browser):
    fake = FakeService(side=256, studies=2)
    try:
        fake.studies["s-0000"] |= {"accession": ACCESSION, "indication": "<b>Cough</b>", "position": "erect"}
        with visit(browser, forgotten(fake).address) as page:
            read(page, fake.address)
            assert page.locator("#study-order").inner_text() == f"Indication: <b>Cough</b> · Accession {ACCESSION}"
            assert "erect" in page.locator("#study-facts").inner_text()
            read(page, fake.address, "s-0001")
            assert page.locator("#study-order").is_hidden()
    finally:
        fake.close()

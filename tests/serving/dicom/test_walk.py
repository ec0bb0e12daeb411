"""The whole loop once, with a real archive and a browser: two exams come in, two readers and a third read, the archive gets it back.

Then OHIF shows what the archive holds. Each skips, saying so, where Orthanc, Chromium or OHIF are absent.
"""

import json
import os
import shutil
from contextlib import ExitStack, closing
from types import SimpleNamespace

import cv2
import numpy as np
import pydicom
import pytest

from chestmap.serving.dicom.delivery import DeliverySettings
from chestmap.serving.dicom.destinations import c_store_of
from chestmap.serving.dicom.node import Node
from chestmap.serving.dicom.receiver import ListenOptions, allowed_of
from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import DicomSettings, ServeSettings
from chestmap.serving.store.store import Store
from serving.browsing import frames, last_of, read, row, saved, visit
from serving.dicom.films import counts, film, study_of, wait_until
from serving.dicom.ohif import serving_ohif
from serving.running import running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
WIDE = 1600


@pytest.fixture(scope="module")
def world(orthanc_server, served, readers, tmp_path_factory):
    """A service with both doors, an archive that knows it, and two exams of one patient in that archive."""
    folder, settings = tmp_path_factory.mktemp("walk"), DicomSettings(retry_seconds=0.05, free_bytes=0)
    orthanc_server.empty()
    films = [film(1, StudyDate="20200102"), film(2, StudyDate="20200402")]
    for number, one in enumerate(films):
        one.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    assert orthanc_server.store(sorted(folder.glob("*.dcm"))) == [0, 0]
    with ExitStack() as ends:
        ready = ServeSettings(readers=1, dicom=settings, show_patient=True)
        service = Service([served], Store(folder / "store"), ready, readers)
        archive = c_store_of(f"ORTHANC@127.0.0.1:{orthanc_server.dicom_port}", "CHESTMAP", settings, None)
        duty = DeliverySettings(archive, ("sr", "gsps", "seg", "pmap"), keep=True)
        node = Node(service, ListenOptions(port=0, allowed=allowed_of(["ORTHANC"])), duty)
        web = ends.enter_context(running(service))  # starts the service
        port = node.start()
        ends.callback(node.stop)
        made = {"AET": "CHESTMAP", "Host": "127.0.0.1", "Port": port}
        orthanc_server.request("/modalities/chestmap", json.dumps(made).encode(), "PUT")
        orthanc_server.request("/modalities/chestmap/store", json.dumps(orthanc_server.get("/studies")).encode())
        counts(node, done=2)
        yield SimpleNamespace(
            node=node, archive=orthanc_server, films=films, address=f"http://127.0.0.1:{web}/", study=study_of(node, films[1]),
            shots=tmp_path_factory.mktemp("shots"),
        )  # fmt: skip


def objects_of(world, modality):
    """Those of the second exam, oldest first."""
    names = [one["MainDicomTags"]["SOPInstanceUID"] for one in world.archive.get("/instances?expand")]
    found = [world.archive.file(name) for name in names]
    mine = [one for one in found if one.StudyInstanceUID == world.films[1].StudyInstanceUID and one.Modality == modality]
    return sorted(mine, key=lambda one: str(one.get("ContentDate", "")) + str(one.get("ContentTime", "")))


def called_of(world):
    (result,) = world.node.store.study(world.study)[1]
    return [one["name"] for one in result.findings if one["over"]]


def read_blind(browser, world, name, verdict):
    """Blind; then with the overlay. Ana corrects the first box, Bo rejects the finding."""
    first, *others = called_of(world)
    with visit(browser, world.address, name, width=WIDE) as page:
        answers = []
        page.on("response", lambda answer: answers.append(answer) if f"/{world.study}" in answer.url else None)
        page.locator("#blind").click()
        read(page, world.address, world.study)
        assert "blind first read" in page.locator("#study-facts").inner_text()
        bodies = [one.text() for one in answers if "json" in one.headers.get("content-type", "")]
        assert bodies
        assert all('"results":[]' in one and "score" not in one for one in bodies)
        assert not [one.url for one in answers if "/maps/" in one.url]
        page.screenshot(path=world.shots / f"blind-{name}.png")
        row(page, first).locator(f".{verdict}").click()
        saved(page)
        page.keyboard.press("Shift+C")
        page.locator("#finding-head").wait_for()
        frames(page)
        if verdict == "accept":
            page.locator("[data-act=maps][aria-pressed=true]").wait_for()
            row(page, first).locator(".correct").click()
            page.keyboard.press("Control+z") if row(page, first).locator(".chip").count() == 0 else None
            draw_box(page, world, first)
        else:
            row(page, first).locator(".reject").click() if row(page, first).get_attribute("data-said") != "reject" else None
        for other in others:
            row(page, other).locator(".accept").click()
        saved(page)
        page.screenshot(path=world.shots / f"open-{name}.png")
        page.locator("#done").click()
        page.wait_for_url(lambda url: world.study not in url)  # the next one that is not done, or the list


def draw_box(page, world, finding):
    """A box in the middle, by keys, moved once."""
    row(page, finding).locator(".name").click()
    page.keyboard.press("Shift+B")
    page.keyboard.press("ArrowRight")
    frames(page)


@pytest.fixture(scope="module")
def walked(browser, world):
    """Everything up to the archive; what the archive held of models before."""
    before = {kind: {one.SOPInstanceUID for one in objects_of(world, kind)} for kind in ("SR", "PR", "SEG", "OT")}
    with visit(browser, world.address, "Chief", width=WIDE) as page:
        page.locator("#rows li[data-id]").nth(1).wait_for()
        lines = page.locator("#rows li[data-id]").all_inner_texts()
        assert sorted(date for date in ("2 Jan 2020", "2 Apr 2020") if any(date in one for one in lines)) == [
            "2 Apr 2020", "2 Jan 2020",
        ]  # fmt: skip
        page.screenshot(path=world.shots / "worklist.png")
        read(page, world.address, world.study)
        options = page.locator("#compare option").all_inner_texts()
        assert "prior, 3 months before" in options
        page.locator("#assign summary").click()
        page.locator("#readers").fill("Ana, Bo")
        page.locator("#readers-form button").click()
        page.locator("#readers-who", has_text="Ana: to read · Bo: to read").wait_for()
    read_blind(browser, world, "Ana", "accept")
    read_blind(browser, world, "Bo", "reject")
    first, *others = called_of(world)
    with visit(browser, world.address, "Chief", width=WIDE) as page:
        read(page, world.address, world.study)
        assert page.locator("#reads-rows tr.clash th").all_inner_texts() == [first]
        page.screenshot(path=world.shots / "adjudication.png")
        if others:
            page.locator("#take-agreed").click()
        page.locator("#reads-rows button", has_text="present").first.click()
        saved(page)
        page.locator("#done").click()
        page.wait_for_url(lambda url: world.study not in url)  # the next one that is not done, or the list
    counts(world.node, done=2)
    return before


def test_two_exams_are_read_and_the_archive_has_what_was_verified(walked, world):
    notes = wait_until(lambda: objects_of(world, "KO"))
    (report,) = [one for one in objects_of(world, "SR") if one.get("VerificationFlag") == "VERIFIED"]
    assert str(report.VerifyingObserverSequence[0].VerifyingObserverName) == "Chief^"
    listed = lambda sequence: {  # noqa: E731
        item.ReferencedSOPInstanceUID
        for study in sequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert listed(report.PredecessorDocumentsSequence) == walked["SR"]
    (note,) = notes
    assert note.ConceptNameCodeSequence[0].CodeValue == "113001"
    assert listed(note.CurrentRequestedProcedureEvidenceSequence) == set.union(*walked.values())
    first = called_of(world)[0]
    review = last_of(world.node.store, world.study)
    boxes = [[getattr(box, key) for key in ("x0", "y0", "x1", "y1")] for box in review.findings[first].boxes]
    drawn = [item for item in walk(report) if item.get("GraphicType") in {"POLYLINE", "POLYGON"}]
    corners = [
        np.reshape(item.GraphicData, (-1, len(item.GraphicData) // 5 if len(item.GraphicData) % 5 == 0 else 2))
        for item in drawn
    ]
    found = [[*one[:, :2].min(0), *one[:, :2].max(0)] for one in corners]
    assert all(any(np.allclose(box, one, atol=0.06) for one in found) for box in boxes)


def walk(item):
    yield item
    for child in item.get("ContentSequence", ()):
        yield from walk(child)


def colored(page):
    """Pixels of the viewport with a color; a radiograph alone has none."""
    picture = cv2.imdecode(np.frombuffer(page.locator("canvas.cornerstone-canvas").screenshot(), np.uint8), cv2.IMREAD_COLOR)
    inner = picture[150:-80, 80:-80].astype(int)  # without the notices and the corner texts
    return inner.max(2) - inner.min(2) > 60


def shown_series(ohif, browser, study, number, shot):
    """Each in a page of its own: OHIF keeps a map's colors in the viewport."""
    with ohif.opened(browser, study) as page:
        page.locator(f"[data-series='{number}']").dblclick()
        for _ in range(40):
            page.wait_for_timeout(1500)
            if (found := colored(page)).sum() > 500:
                page.screenshot(path=shot)
                return found
        raise AssertionError(f"OHIF paints nothing of series {number}")


def test_ohif_shows_each_segment_and_each_map(walked, world, browser):
    """In a browser without WebGL, where OHIF paints maps; where its paint lies follows from the boxes."""
    study = world.films[1].StudyInstanceUID
    (segments,) = objects_of(world, "SEG")
    maps = [one for one in objects_of(world, "OT") if one.SOPClassUID == pydicom.uid.ParametricMapStorage]
    assert len(maps) == len(segments.SegmentSequence) == len(called_of(world))
    with serving_ohif(world.archive) as ohif:
        for one in (segments, *maps):
            painted = shown_series(ohif, browser, study, one.SeriesNumber, world.shots / f"ohif-{one.SeriesNumber}.png")
            assert 0.002 < painted.mean() < 0.9
        assert ohif.errors == []


SHAPES = ", ".join(f"svg.svg-layer {shape}" for shape in ("line", "polyline", "polygon", "path", "rect"))


def test_ohif_shows_the_boxes_of_the_verified_report(walked, world, browser):
    """In a browser that paints WebGL by software, where OHIF draws what a report marks; as many shapes as the report has regions."""
    (report,) = [one for one in objects_of(world, "SR") if one.get("VerificationFlag") == "VERIFIED"]
    regions = [item for item in walk(report) if item.get("ValueType") in {"SCOORD", "SCOORD3D"}]
    assert regions
    path = os.environ.get("CHESTMAP_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    )
    software = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
    with (
        closing(browser.browser_type.launch(executable_path=path, args=software)) as painting,
        serving_ohif(world.archive) as ohif,
        ohif.opened(painting, world.films[1].StudyInstanceUID) as page,
    ):
        page.locator(f"[data-series='{report.SeriesNumber}']").first.dblclick()
        for _ in range(100):
            page.wait_for_timeout(1500)
            if page.locator(SHAPES).count() >= len(regions):
                break
        page.screenshot(path=world.shots / "ohif-report.png")
        assert page.locator(SHAPES).count() >= len(regions)

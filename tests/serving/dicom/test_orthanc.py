"""With a real archive: what it pushes comes back as results of the same study, also over a kill -9."""

import json
import multiprocessing
import signal
import urllib.error
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pydicom
import pytest

from chestmap.serving.dicom.destinations import CStore, c_store_of
from chestmap.serving.store.store import Query, Store
from serving.dicom import killed
from serving.dicom.films import PLANTED, counts, film, send, wait_until

pytestmark = [  # pynetdicom leaves the socket of a connection that failed to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


def modality(orthanc, port):
    """Makes the node known to Orthanc, as an administrator would."""
    body = json.dumps({"AET": "CHESTMAP", "Host": "127.0.0.1", "Port": port}).encode()
    orthanc.request("/modalities/chestmap", body, "PUT")


def of_orthanc(orthanc, settings):
    return c_store_of(f"ORTHANC@127.0.0.1:{orthanc.dicom_port}", "CHESTMAP", settings, None)


def results_in(orthanc):
    """All objects but the images."""
    found = [orthanc.file(one["MainDicomTags"]["SOPInstanceUID"]) for one in orthanc.get("/instances?expand")]
    return [one for one in found if one.Modality in {"SR", "PR"}]


def image_of(result):
    """The image that a result is about."""
    if result.Modality == "PR":
        return result.ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID
    study = result.CurrentRequestedProcedureEvidenceSequence[0]
    return study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID


def test_what_the_archive_pushes_comes_back_as_results_of_its_study(orthanc, start, settings, tmp_path, caplog):
    caplog.set_level("INFO", "chestmap")
    node = start(of_orthanc(orthanc, settings), allow=[orthanc.title])
    assert isinstance(node.delivery.destination, CStore)
    modality(orthanc, node.port)
    films = [film(1), film(2)]
    for number, one in enumerate(films):
        one.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    assert orthanc.store([tmp_path / "0.dcm", tmp_path / "1.dcm"]) == [0, 0]
    studies = orthanc.get("/studies")
    orthanc.request("/modalities/chestmap/store", json.dumps(studies).encode())
    counts(node, done=2)
    results = results_in(orthanc)
    by_image = {one.SOPInstanceUID: one for one in films}
    kinds = Counter((image_of(one), one.Modality) for one in results)
    assert set(kinds) == {(uid, kind) for uid in by_image for kind in ("SR", "PR")}
    assert max(count for (_, kind), count in kinds.items() if kind == "PR") == 1
    for one in results:
        source = by_image[image_of(one)]
        assert one.StudyInstanceUID == source.StudyInstanceUID
        assert one.SeriesInstanceUID != source.SeriesInstanceUID
        assert (one.PatientID, one.PatientName) == (source.PatientID, source.PatientName)
    assert len(orthanc.get("/studies")) == 2
    assert len(orthanc.get("/patients")) == 1

    (report, *_) = (one.SOPInstanceUID for one in results if one.Modality == "SR")
    with pytest.raises(urllib.error.HTTPError):  # results are not taken in
        orthanc.request("/modalities/chestmap/store", json.dumps(orthanc.find(report)).encode())
    again = [name for uid in by_image for name in orthanc.find(uid)]
    orthanc.request("/modalities/chestmap/store", json.dumps(again).encode())
    counts(node, done=2)
    assert len(results_in(orthanc)) == len(results)

    node.ended()
    files = [path for path in (tmp_path / "node").rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix == ".dcm"]
    told = [str(path).encode() + path.read_bytes() for path in files] + [caplog.text.encode()]
    for word in (*PLANTED, "Planted", *by_image):
        assert not [text for text in told if word.encode() in text]


@pytest.fixture(scope="module")
def started(model_folder):
    """Starts nodes as processes of their own. They are forked, as a new process takes up to 20 s to import everything;
    nothing of this process is at work meanwhile, and they use one thread, which torch allows after a fork.
    """
    context = multiprocessing.get_context("fork")
    made = []

    def begin(store, destination):
        port = context.Value("i", 0)
        process = context.Process(target=killed.run_node, args=(model_folder, store, destination, port))
        process.start()
        made.append(process)
        wait_until(lambda: port.value or not process.is_alive())
        assert port.value
        return process, port.value

    yield begin
    for process in made:
        process.kill()
        process.join()


def kill_in_the_middle(started, orthanc, store, images, kills):
    """Every image that was acknowledged has exactly one result of each kind in the archive."""
    destination = f"ORTHANC@127.0.0.1:{orthanc.dicom_port}"
    films, per_life = [film(number) for number in range(images)], images // (kills + 1)
    for life in range(kills):
        process, port = started(store, destination)
        assert send(port, *films[life * per_life : (life + 1) * per_life]) == [0] * per_life
        if life % 2 == 0:  # in the midst of results, too
            wait_until(lambda: results_in(orthanc))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    process, port = started(store, destination)
    rest = films[kills * per_life :]
    assert send(port, *rest, films[0]) == [0] * (len(rest) + 1)  # one comes again
    expected = {one.SOPInstanceUID for one in films}
    found = wait_until(lambda: images == killed.count_done(store) and results_in(orthanc))
    kinds = Counter((image_of(one), one.Modality, one.SeriesNumber) for one in found)
    assert set(kinds.values()) == {1}
    assert {image for image, kind, _ in kinds if kind == "SR"} == expected
    process.terminate()  # an orderly stop
    process.join(60)
    assert process.exitcode == 0


def test_kill_9_loses_and_doubles_nothing(started, orthanc, tmp_path):
    kill_in_the_middle(started, orthanc, tmp_path / "node", images=12, kills=1)


@pytest.mark.slow
def test_kill_9_many_times(started, orthanc, tmp_path):
    kill_in_the_middle(started, orthanc, tmp_path / "node", images=120, kills=5)


def pushed(orthanc, port, studies):
    """The studies that the archive could not send, as it tries them again later."""
    modality(orthanc, port)
    for first in range(0, len(studies), 10):
        try:
            orthanc.request("/modalities/chestmap/store", json.dumps(studies[first : first + 10]).encode())
        except OSError:  # of HTTP, too
            return studies[first:]
    return []


@pytest.mark.slow
def test_two_hundred_studies_of_the_archive_while_the_service_is_killed_twice(started, orthanc, tmp_path):
    """Each is once in the worklist and has one report and one presentation state; a corrected image is the right patient's."""
    films, store = [film(number) for number in range(200)], tmp_path / "node"
    for number, one in enumerate(films[1:]):
        one.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    assert set(orthanc.store(sorted(tmp_path.glob("*.dcm")))) == {0}
    left, destination = orthanc.get("/studies"), f"ORTHANC@127.0.0.1:{orthanc.dicom_port}"
    assert len(left) == 199
    for taken in (60, 130):
        process, port = started(store, destination)
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(pushed, orthanc, port, left)
            wait_until(lambda taken=taken: killed.count_taken(store) >= taken)
            process.kill()
            process.join()
            left = sending.result()
        assert left
    process, port = started(store, destination)
    assert pushed(orthanc, port, left) == []
    corrected = [film(0, PatientID=name, PatientName=name) for name in "AB"]
    assert send(port, *corrected) == [0, 0]  # the first is pending
    wait_until(lambda: killed.count_done(store) == 200, seconds=300)
    with closing(Store(store)) as kept:
        total, page = kept.page(Query(limit=300))
    assert (total, len({one.instance for one in page}), {one.state for one in page}) == (200, 200, {"done"})
    kinds = Counter((image_of(one), one.Modality) for one in results_in(orthanc) if one.PatientID != "A")
    assert kinds == {(one.SOPInstanceUID, kind): 1 for one in films for kind in ("SR", "PR")}
    patients = {one.PatientID for one in results_in(orthanc) if image_of(one) == films[0].SOPInstanceUID}
    assert "B" in patients
    assert patients <= {"A", "B"}
    process.terminate()
    process.join(60)
    assert process.exitcode == 0


def test_results_have_the_identifiers_of_before(start, orthanc, settings):
    """Sent anew to a node that has forgotten them, images give the same objects."""
    for folder in ("one", "two"):
        node = start(of_orthanc(orthanc, settings), folder=folder)
        assert send(node.port, film(3)) == [0]
        counts(node, done=1)
        node.ended()
    found = results_in(orthanc)
    assert found
    assert set(Counter((one.Modality, one.SeriesNumber) for one in found).values()) == {1}
    assert isinstance(found[0], pydicom.Dataset)

"""Radiographs to send, who sends them, and who takes the results."""

import time

import numpy as np
import pydicom
from pydicom import uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification
from sqlalchemy import select

from chestmap.serving.dicom.destinations import CStore, Undelivered
from chestmap.serving.engine.settings import DicomSettings
from chestmap.serving.store import deliveries
from chestmap.serving.store.database_tables import Study
from imaging.dicom_samples import chest, radiograph
from orthanc import free_port

ROOT = "1.2.826.0.1.3680043.8.498.77"
PLANTED = ("Planted^Person", "PLANTED-ID-7")


def film(number, **elements):
    """Each with a study and identifiers of its own; the pixels are such that the small model draws boxes."""
    stored = np.roll(chest(60, 72), 3, axis=1)
    own = {
        "SOPInstanceUID": f"{ROOT}.1.{number}", "SeriesInstanceUID": f"{ROOT}.2.{number}", "StudyInstanceUID": f"{ROOT}.3.{number}",
        "PatientName": PLANTED[0], "PatientID": PLANTED[1], "StudyDate": "20200102",
    }  # fmt: skip
    made = radiograph(stored, **{**own, **elements})
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    return made


def associate(port, *datasets, title="TEST", called="CHESTMAP", tls=None):
    sender = AE(title)
    sender.add_requested_context(Verification)
    for storage in {one.SOPClassUID for one in datasets}:
        sender.add_requested_context(storage, [uid.ExplicitVRLittleEndian])
    sender.connection_timeout = sender.acse_timeout = sender.dimse_timeout = sender.network_timeout = 60
    return sender.associate("127.0.0.1", port, ae_title=called, tls_args=(tls, "localhost") if tls else None)


def send(port, *datasets, **more):
    """The status of each; None where the association ended over it."""
    link = associate(port, *datasets, **more)
    assert link.is_established
    try:
        return [link.send_c_store(one).get("Status") if link.is_established else None for one in datasets]
    finally:
        if link.is_established:
            link.release()


def wait_until(true, seconds=90):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)
    return found


def counts(node, **expected):
    """Waits until the images stand so."""
    try:
        return wait_until(lambda: {**dict.fromkeys(now := deliveries.counts(node.store), 0), **expected} == now)
    except AssertionError:
        raise AssertionError(
            f"{deliveries.counts(node.store)}, {deliveries.reasons(node.store)}: expected {expected}"
        ) from None


def study_of(node, one):
    """The id under which the store knows a film; None where it does not."""
    with node.store.reading() as session:
        instance = node.store.folders.instance_of(str(one.SOPInstanceUID))
        return session.scalar(select(Study.id).where(Study.instance == instance, Study.state != "replaced"))


class Collected:
    """A destination in memory. `refuses` holds what to raise next."""

    name = "memory"

    def __init__(self, *refuses):
        self.refuses, self.results = list(refuses), []

    def send(self, results):
        if self.refuses:
            raise self.refuses.pop(0)
        self.results += [pydicom.dcmread(path) for path in results]


def unreachable():
    return Undelivered("the archive does not answer", unreachable=True)


class Archive:
    """C-STORE of anything, on one port all the time, open or closed. `status` is what it answers."""

    title = "ARCHIVE"

    def __init__(self):
        self.port, self.status, self.stored, self.server = free_port(), 0, {}, None

    def open(self, tls=None):
        entity = AE(self.title)
        for storage in (
            uid.Comprehensive3DSRStorage,
            uid.GrayscaleSoftcopyPresentationStateStorage,
            uid.EnhancedSRStorage,
            uid.KeyObjectSelectionDocumentStorage,
        ):
            entity.add_supported_context(storage)
        self.server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)], ssl_context=tls
        )

    def close(self):
        if self.server:
            self.server.shutdown()
        self.server = None

    def _store(self, event):
        if self.status == 0:
            self.stored.setdefault(event.request.AffectedSOPInstanceUID, []).append(event.dataset)
        return self.status

    def destination(self, settings=None, tls=None):
        return CStore(
            title=self.title,
            host="localhost" if tls else "127.0.0.1",
            port=self.port,
            own_title="CHESTMAP",
            settings=settings or DicomSettings(),
            tls=tls,
        )

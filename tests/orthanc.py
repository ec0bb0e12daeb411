"""A real PACS for tests: Orthanc on two free ports of the loopback, with an empty store, gone when the session ends.

Use the fixture: `pytest_plugins` is not needed, `from orthanc import orthanc` in a conftest.py makes it known. It is started
once for a session (0.4 s) and skips, saying so, where `/usr/sbin/Orthanc` or gcc is missing
(`apt-get install orthanc orthanc-dicomweb gcc`).

    def test_it_arrives(orthanc):
        orthanc.store([path])                    # C-STORE, as a modality does
        orthanc.get("/instances")                # REST, as JSON
        orthanc.file(sop_instance_uid)           # the object as the archive holds it
        orthanc.dicom_web                        # root for QIDO, WADO and STOW; credentials in `orthanc.user`

Orthanc 1.10 listens on every address and knows no setting for it; a shim of a few lines, compiled at first use, turns each
such bind into one of the loopback. Its DICOM port asks for no password, so this matters. It is killed rather than stopped:
an orderly stop takes four seconds, and the store is thrown away.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

PROGRAM = Path("/usr/sbin/Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")

ONLY_LOOPBACK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

typedef int (*binder)(int, const struct sockaddr *, socklen_t);

int bind(int handle, const struct sockaddr *address, socklen_t size) {
    binder next = (binder) dlsym(RTLD_NEXT, "bind");
    struct sockaddr_storage mine;
    if (size > sizeof mine) return next(handle, address, size);
    memcpy(&mine, address, size);
    if (address->sa_family == AF_INET) {
        struct sockaddr_in *four = (struct sockaddr_in *) &mine;
        if (four->sin_addr.s_addr == htonl(INADDR_ANY)) four->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    } else if (address->sa_family == AF_INET6) {
        struct sockaddr_in6 *six = (struct sockaddr_in6 *) &mine;
        if (memcmp(&six->sin6_addr, &in6addr_any, sizeof in6addr_any) == 0) six->sin6_addr = in6addr_loopback;
    }
    return next(handle, (struct sockaddr *) &mine, size);
}
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Orthanc:
    """One archive in a folder of its own; `start` again after `kill` finds what was stored before."""

    title, user = "ORTHANC", ("chestmap", "only-for-tests")

    def __init__(self, folder: Path) -> None:
        self.folder, self.http_port, self.dicom_port = folder, free_port(), free_port()
        self.url, self.dicom_web = f"http://127.0.0.1:{self.http_port}", f"http://127.0.0.1:{self.http_port}/dicom-web"
        self.process: subprocess.Popen[bytes] | None = None
        self.shim = folder / "loopback.so"
        source = folder / "loopback.c"
        source.write_text(ONLY_LOOPBACK)
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(self.shim), str(source), "-ldl"], check=True, timeout=60)
        (folder / "orthanc.json").write_text(json.dumps(self._settings()))

    def _settings(self) -> dict[str, Any]:
        return {
            "Name": "chestmap tests", "StorageDirectory": str(self.folder / "store"),
            "IndexDirectory": str(self.folder / "store"), "HttpPort": self.http_port, "DicomPort": self.dicom_port,
            "DicomAet": self.title, "RemoteAccessAllowed": False, "AuthenticationEnabled": True,
            "RegisteredUsers": dict([self.user]), "DicomAlwaysAllowFind": True, "DicomAlwaysAllowGet": True,
            "OverwriteInstances": False, "StableAge": 1, "Plugins": [str(PLUGIN)] if PLUGIN.is_file() else [],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }  # fmt: skip

    def start(self, patience: float = 30.0) -> None:
        log = self.folder / "log"
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [str(PROGRAM), str(self.folder / "orthanc.json")], stdout=stream, stderr=stream,
                env={**os.environ, "LD_PRELOAD": str(self.shim)},
            )  # fmt: skip
        end = time.monotonic() + patience
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.get("/system")
            except OSError:
                time.sleep(0.02)
            else:
                return
        self.kill()
        raise RuntimeError(f"Orthanc did not start:\n{log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """As a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def request(self, path: str, body: bytes | None = None, method: str | None = None) -> bytes:
        """Any REST call; an HTTP error is a `urllib.error.HTTPError`."""
        return self.answer(path, "*/*", body, method)[0]

    def answer(self, path: str, accept: str, body: bytes | None = None, method: str | None = None) -> tuple[bytes, str]:
        """The same, with the answer's media type."""
        asked = urllib.request.Request(self.url + path, data=body, method=method, headers={"Accept": accept})
        asked.add_header("Authorization", "Basic " + base64.b64encode(":".join(self.user).encode()).decode())
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return answer.read(), answer.headers["Content-Type"] or ""

    def get(self, path: str) -> Any:
        return json.loads(self.request(path))

    def find(self, uid: str) -> list[str]:
        """Orthanc's own names for what carries this study, series or instance UID."""
        return [one["ID"] for one in json.loads(self.request("/tools/lookup", uid.encode()))]

    def file(self, sop_instance_uid: str) -> Dataset:
        """One object, as it would be fetched."""
        (name,) = self.find(sop_instance_uid)
        return pydicom.dcmread(BytesIO(self.request(f"/instances/{name}/file")))

    def empty(self) -> None:
        for name in self.get("/patients"):
            self.request(f"/patients/{name}", method="DELETE")

    def store(self, paths: Sequence[Path]) -> list[int]:
        """Sends files by C-STORE, one association for all; the status of each, 0x0000 where it was taken."""
        from pynetdicom import AE

        datasets = [pydicom.dcmread(path) for path in paths]
        sender = AE("TEST")
        for storage, syntax in {(one.SOPClassUID, one.file_meta.TransferSyntaxUID) for one in datasets}:
            sender.add_requested_context(storage, syntax)
        link = sender.associate("127.0.0.1", self.dicom_port, ae_title=self.title)
        assert link.is_established
        try:
            return [int(link.send_c_store(one).Status) for one in datasets]
        finally:
            link.release()


@pytest.fixture(scope="session")
def orthanc_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    if not PROGRAM.is_file() or shutil.which("gcc") is None:
        pytest.skip(f"{PROGRAM} or gcc is absent: apt-get install orthanc orthanc-dicomweb gcc")
    server = Orthanc(tmp_path_factory.mktemp("orthanc"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def orthanc(orthanc_server: Orthanc) -> Orthanc:
    """The archive of the session, running and empty."""
    if orthanc_server.process is None or orthanc_server.process.poll() is not None:
        orthanc_server.start()
    orthanc_server.empty()
    return orthanc_server

"""OHIF, the viewer of the npm package @ohif/app, served next to a real Orthanc for a browser of a test.

`CHESTMAP_OHIF` names a folder with the package's `dist`; without it, `npm pack` fetches the package once into the user's cache.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import threading
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from orthanc import Orthanc

VERSION = "3.13.2"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "chestmap-tests"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm", ".json": "application/json", ".svg": "image/svg+xml"}  # fmt: skip
CONFIG = """window.config = { routerBasename: null, extensions: [], modes: [], customizationService: {}, showStudyList: true, maxNumberOfWebWorkers: 1,
  showWarningMessageForCrossOrigin: false, showCPUFallbackMessage: false, strictZSpacingForVolumeViewport: true, defaultDataSourceName: 'dicomweb',
  investigationalUseDialog: { option: 'never' },
  dataSources: [{ namespace: '@ohif/extension-default.dataSourcesModule.dicomweb', sourceName: 'dicomweb', configuration: { friendlyName: 'Orthanc', name: 'orthanc',
    wadoUriRoot: '/dicom-web', qidoRoot: '/dicom-web', wadoRoot: '/dicom-web', qidoSupportsIncludeField: false, imageRendering: 'wadors',
    thumbnailRendering: 'wadors', enableStudyLazyLoad: true, supportsFuzzyMatching: false, supportsWildcard: true, omitQuotationForMultipartRequest: true } }] };"""


def dist() -> Path:
    """The files of the viewer; skips where they cannot be had."""
    if named := os.environ.get("CHESTMAP_OHIF"):
        return Path(named)
    found = CACHE / f"ohif-{VERSION}" / "package" / "dist"
    if found.is_dir():
        return found
    if shutil.which("npm") is None:
        pytest.skip("npm is absent, by which OHIF would come; or name the dist folder of @ohif/app in CHESTMAP_OHIF")
    CACHE.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["npm", "pack", f"@ohif/app@{VERSION}", "--silent"],
        cwd=CACHE,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"@ohif/app cannot be fetched by npm: {done.stderr.strip()[:200]}")
    with tarfile.open(CACHE / done.stdout.split()[-1]) as packed:
        packed.extractall(CACHE / f"ohif-{VERSION}", filter="data")
    return found


class Viewer:
    """`errors` are what the page wrote to its console as errors, or threw."""

    def __init__(self, address: str) -> None:
        self.address, self.errors = address, []

    @contextmanager
    def opened(self, browser: Any, study: str) -> Iterator[Any]:
        """A page with the study; its series are listed."""
        context = browser.new_context(viewport={"width": 1600, "height": 1000})
        context.add_init_script("localStorage.setItem('shownTours', JSON.stringify(['basicViewerTour']))")
        page = context.new_page()
        page.set_default_timeout(180_000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(f"{self.address}/viewer?StudyInstanceUIDs={study}")
        yield page
        context.close()


@contextmanager
def serving_ohif(archive: Orthanc) -> Iterator[Viewer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Requests,), {"folder": dist(), "archive": archive}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield Viewer(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    archive: Orthanc

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/app-config.js":
            self._answer(CONFIG.encode(), "text/javascript")
        elif path.startswith("/dicom-web/"):
            self._proxied()
        else:
            file = (self.folder / path.lstrip("/")).resolve()
            there = file.is_file() and self.folder.resolve() in file.parents
            file = file if there else self.folder / "index.html"
            self._answer(file.read_bytes(), TYPES.get(file.suffix, "application/octet-stream"))

    def _proxied(self) -> None:
        """With the archive's password, and its own address in the answers made this one's."""
        try:
            body, kind = self.archive.answer(self.path, self.headers.get("Accept", "*/*"))
        except urllib.error.HTTPError as problem:
            self._answer(problem.read(), "text/plain", problem.code)
            return
        own = f"http://127.0.0.1:{self.server.server_port}".encode()  # type: ignore[attr-defined]
        if "json" in kind:
            body = re.sub(rb"http://[^/\"]+/dicom-web", own + b"/dicom-web", body)
        self._answer(body, kind)

    def _answer(self, body: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.end_headers()
        self.wfile.write(body)

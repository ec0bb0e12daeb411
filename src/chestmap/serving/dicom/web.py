"""Asks a DICOMweb server, within bounds of bytes and of time.

`Pull` uses it. It reads no more bytes and waits no longer than its settings allow, whatever the server sends.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from dicomweb_client import DICOMwebClient
from urllib3.exceptions import HTTPError

from chestmap.errors import BadImage
from chestmap.serving.dicom.destinations import Undelivered, failures_of_http
from chestmap.serving.dicom.receiver import IDENTIFIER
from chestmap.serving.engine.settings import DicomSettings
from chestmap.storage.json_file import json_of

JSON = "application/dicom+json, application/json"
ANY_SYNTAX = 'multipart/related; type="application/dicom"; transfer-syntax=*'
PAGE, MOST_FOUND = 100, 100_000
LIST_BYTES = 64 << 20
PIECE = 1 << 16
START = 1 << 16
"""An image's identifier is in the first bytes of its file: in the file's header, and near the start of what follows."""

Found = dict[str, Any]


class WebClient:
    """`stopping` also ends what is being read."""

    def __init__(self, client: DICOMwebClient, settings: DicomSettings, stopping: threading.Event) -> None:
        self.root, self.session = str(client.base_url), client._session
        self.settings, self.stopping = settings, stopping

    def every(self, path: str, key: str, filters: Mapping[str, str]) -> Iterator[tuple[str, Found]]:
        """QIDO-RS page by page, each with its identifier, until a page brings nothing new: some servers begin again."""
        seen: set[str] = set()
        offset = 0
        while len(seen) < MOST_FOUND:
            page = self.query(path, key, {**filters, "limit": str(PAGE), "offset": str(offset)})
            new = [(name, one) for name, one in page if name not in seen]
            if not new:
                return
            yield from new
            seen.update(name for name, _ in new)
            offset += len(page)

    def query(self, path: str, key: str, filters: Mapping[str, str] | None = None) -> list[tuple[str, Found]]:
        """QIDO-RS in one answer. What has no identifier that can stand in an address is left out."""
        body, _ = self._get(path, JSON, filters, LIST_BYTES)
        found = (
            json_of(body, "the archive answers a search with what is no DICOM JSON", "check its address", Undelivered)
            if body
            else []
        )
        named = [(text_of(one, key), one) for one in (found if isinstance(found, list) else [found])]
        return [(name, one) for name, one in named if IDENTIFIER.fullmatch(name)]

    def image(self, path: str, instance: str) -> bytes:
        """WADO-RS: the file as the archive has it. Nothing is decoded here, which dicomweb-client would do."""
        body = only_part(*self._get(path, ANY_SYNTAX, None, self.settings.object_bytes))
        if body[128:132] != b"DICM" or instance.encode() not in body[:START]:
            raise BadImage("what came is not the file of this image")
        return body

    def _get(self, path: str, accept: str, filters: Mapping[str, str] | None, most: int) -> tuple[bytes, str]:
        """Body and content type. The time for one answer is bounded, as a byte now and then is no silence."""
        body, end = bytearray(), time.monotonic() + self.settings.answer_seconds
        headers, seconds = {"Accept": accept}, self.settings.network_seconds
        with (
            failures_of_http(),
            self.session.get(f"{self.root}/{path}", params=filters, headers=headers, stream=True, timeout=seconds) as answer,
        ):
            answer.raise_for_status()
            try:
                while piece := answer.raw.read1(PIECE, decode_content=True):
                    body += piece
                    if len(body) > most:
                        raise BadImage(f"more than {most:,} bytes")
                    if self.stopping.is_set() or time.monotonic() > end:
                        raise Undelivered(f"the archive's answer took more than {self.settings.answer_seconds:g} seconds")
            except HTTPError as error:
                raise Undelivered(f"the archive's answer broke off ({type(error).__name__})", unreachable=True) from None
            return bytes(body), answer.headers.get("Content-Type", "")


def only_part(body: bytes, kind: str) -> bytes:
    """The one part of a multipart answer; a body that is none is taken as it is."""
    if not kind.lower().startswith("multipart/"):
        return body
    border = re.search(r'boundary="?([^";,]{1,70})"?', kind, re.IGNORECASE)
    line = b"--" + border[1].strip().encode() if border else b""
    start, head, end = body.find(line), body.find(b"\r\n\r\n"), body.rfind(b"\r\n" + line)
    if not line or not 0 <= start < head < end:
        raise BadImage("an answer without a part")
    return body[head + 4 : end]


def text_of(found: Any, tag: str) -> str:
    """The first value of an element in DICOM JSON, as text; empty where there is none, or where it is something else."""
    try:
        value = found[tag]["Value"][0]
    except (KeyError, IndexError, TypeError):
        return ""
    return str(value) if isinstance(value, str | int | float) else ""

"""Keeps a fixed number of decoding processes, and restarts each that dies or takes too long."""

from __future__ import annotations

import os
import queue
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chestmap.errors import BadImage, ChestmapError
from chestmap.imaging.canvas import CanvasSettings
from chestmap.imaging.decoders import Bounds, Decoders, Lost
from chestmap.serving.engine.decoder_process import LARGEST_FILE, MEMORY, answered
from chestmap.serving.engine.settings import ServeSettings


class DecodersBusy(ChestmapError):
    """No process became free in time."""


class DecoderEnded(BadImage):
    """The process died of the image or took too long: because of the image, or because the machine had too much to do."""


class DecoderPool:
    """`read` is for any number of threads; it waits for a free process."""

    def __init__(self, settings: ServeSettings, key: bytes) -> None:
        self.settings, self.key = settings, key
        bounds = Bounds(seconds=settings.bounds.read_seconds, memory=MEMORY, file=LARGEST_FILE)
        self._decoders = Decoders(answered, settings.readers, bounds, plain=True)

    def read(
        self, path: Path, out: Path, canvases: Mapping[str, CanvasSettings], *, name: str, patient: str
    ) -> dict[str, Any]:
        """The answer of `decoder_process.read` for an upload."""
        return self._request(path, out, canvases, {"canvases_only": False, "name": name, "patient": patient})

    def canvases(self, path: Path, out: Path, canvases: Mapping[str, CanvasSettings]) -> dict[str, Any]:
        """The canvases once more, of a file that was read before."""
        return self._request(path, out, canvases, {"canvases_only": True})

    def results(self, path: Path, out: Path, result: dict[str, Any]) -> dict[str, Any]:
        """A stored result or review as DICOM files in `out`, for the DICOM file at `path`; their names and identifiers."""
        return self._answered({"path": str(path), "out": str(out), **result})

    def _request(
        self, path: Path, out: Path, canvases: Mapping[str, CanvasSettings], more: dict[str, Any]
    ) -> dict[str, Any]:
        request = {
            "path": str(path), "out": str(out), "canvases": {name: one.model_dump() for name, one in canvases.items()},
            "file_bytes": self.settings.largest_file, "key": self.key.hex(), **more,
        }  # fmt: skip
        return self._answered({**request, "show_patient": self.settings.show_patient})

    def _answered(self, request: dict[str, Any]) -> dict[str, Any]:
        seconds = self.settings.bounds.read_seconds
        try:
            found = self._decoders.ask(request, seconds)
        except queue.Empty:
            raise DecodersBusy("every process that decodes is busy; try again later") from None
        except Lost:
            raise DecoderEnded(f"cannot be decoded within {seconds:g} seconds and its memory: export it again") from None
        if "trouble" in found:
            raise OSError(found["trouble"], os.strerror(found["trouble"]))
        if "error" in found:
            raise BadImage(found["error"])
        return found

    def close(self) -> None:
        """Waits for those that are at work: a service stops only after its last upload."""
        self._decoders.close(wait=2 * self.settings.bounds.read_seconds)

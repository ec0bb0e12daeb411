"""The processes that decode: a fixed number, each restarted when it dies or takes too long."""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from chestmap.errors import BadImage, ChestmapError
from chestmap.imaging.canvas import CanvasSettings
from chestmap.serving.engine.settings import ServeSettings

LONGEST_ANSWER = 1 << 16
TURNS = 5000
"""Images after which a process is replaced, whatever its libraries leaked."""


class DecodersBusy(ChestmapError):
    """No process became free in time."""


class DecoderEnded(BadImage):
    """The process died of an image, or took too long: of the image, or because the machine had too much to do."""


class _Process:
    """One child. Its messages go nowhere, as they may hold words of a header; numeric libraries get one thread each."""

    def __init__(self) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.running = subprocess.Popen(
            [sys.executable, "-m", "chestmap.serving.engine.decoder_process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env={**os.environ, **threads}, start_new_session=True,
        )  # fmt: skip
        self.turns = 0

    def ask(self, request: bytes, seconds: float) -> bytes | None:
        """The answer's line; None where the process died or was not done in time."""
        talk, heard = self.running.stdin, self.running.stdout
        assert talk is not None and heard is not None  # noqa: PT018
        self.turns += 1
        answer, end = b"", time.monotonic() + seconds
        try:
            talk.write(request)
            talk.flush()
            while not answer.endswith(b"\n"):
                ready, _, _ = select.select([heard], [], [], max(0.0, end - time.monotonic()))
                piece = os.read(heard.fileno(), LONGEST_ANSWER) if ready else b""
                answer += piece
                if not piece or len(answer) > LONGEST_ANSWER:
                    return None
        except OSError:
            return None
        return answer

    def stop(self) -> None:
        self.running.kill()
        for pipe in (self.running.stdin, self.running.stdout):
            with suppress(OSError):
                pipe.close()  # pyright: ignore[reportOptionalMemberAccess]
        self.running.wait()


class DecoderPool:
    """`read` is for any number of threads; it waits for a free process."""

    def __init__(self, settings: ServeSettings, key: bytes) -> None:
        self.settings, self.key = settings, key
        self._free: queue.Queue[_Process | None] = queue.Queue()
        for _ in range(settings.readers):
            self._free.put(None)  # begins when it is needed

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
        """Of a process that is free; one that dies or takes too long is replaced."""
        bounds = self.settings.bounds
        try:
            process = self._free.get(timeout=bounds.read_seconds)
        except queue.Empty:
            raise DecodersBusy("every process that decodes is busy; try again later") from None
        try:
            if process is None:
                process = _Process()
            answer = process.ask(json.dumps(request).encode() + b"\n", bounds.read_seconds)
            if answer is None or process.turns >= TURNS:
                process.stop()
                process = None
        finally:
            self._free.put(process)
        if answer is None:
            raise DecoderEnded(f"cannot be decoded within {bounds.read_seconds:g} seconds and its memory: export it again")
        found = json.loads(answer)
        if "trouble" in found:
            raise OSError(found["trouble"], os.strerror(found["trouble"]))
        if "error" in found:
            raise BadImage(found["error"])
        return found

    def close(self) -> None:
        """Waits for those that are at work: a service stops only after its last upload."""
        for _ in range(self.settings.readers):
            process = self._free.get(timeout=2 * self.settings.bounds.read_seconds)
            if process is not None:
                process.stop()

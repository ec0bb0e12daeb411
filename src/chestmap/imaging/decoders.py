"""Supervises processes that turn files into pixels: one that dies, hangs or needs too much memory costs one image.

Packs, prediction, `data check`, phantoms and the service use it. The processes import no torch, and come from `spawn`: a fork
would copy the locks of whatever threads the caller runs.
"""

from __future__ import annotations

import ast
import inspect
import json
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2

from chestmap.errors import BadImage, BadInput
from chestmap.storage.freed_memory import keep_freed_memory

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None

LOST_IN_A_ROW = 5
"""So many lost items, one after the other, are not the fault of one image."""

TRIES = 2
"""The system may end a process for the memory that another one took."""

TURNS = 5000
"""Items after which a process is replaced, whatever its libraries leaked."""

START = 120.0
"""Seconds for a process to begin: a machine with much to do reads its programs slowly, which is no fault of an image."""

DIED = "the process that read it died (out of memory, or a fault in a decoder)"

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lost(BadImage):
    """The process that worked on an item died or took too long."""

    def __init__(self, reason: str = DIED) -> None:
        super().__init__(reason)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What one process may take: seconds for an item, bytes of address space, bytes of a file that it writes (0: any)."""

    seconds: float = 300.0
    memory: int = 8 << 30
    file: int = 0


class Decoders(Generic[Item, Result]):
    """Up to `count` processes that do `work`, each begun when it is needed; with 0 a thread of this process does it, without bounds.

    `work` and the items must be picklable. With `plain` an answer is JSON, so that nothing comes back unpickled from a process that
    read a stranger's file, and what its libraries print is lost.
    """

    def __init__(
        self, work: Callable[[Item], Result], count: int, bounds: Bounds | None = None, *, plain: bool = False
    ) -> None:
        if count:
            check_guard()
        self.work, self.count, self.bounds, self.plain = work, count, bounds or Bounds(), plain
        self._free: queue.Queue[_Process | None] = queue.Queue()
        self._begun: set[_Process] = set()
        self._closed, self._lost = False, 0
        for _ in range(count):
            self._free.put(None)

    def __enter__(self) -> Decoders[Item, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, item: Item, seconds: float | None = None) -> Result:
        """For any number of threads; `queue.Empty` where no process is free for so long, `Lost` where one did not answer."""
        process, kept = self._free.get(timeout=seconds), None
        try:
            process = process or self._begin()
            answer = process.ask(item, self.bounds.seconds)
            kept = process if process.turns < TURNS else None
        finally:
            if process is not None and kept is None:
                process.stop()
                self._begun.discard(process)
            self._free.put(kept)
        return self._read(answer)

    def run(
        self, items: Iterable[Item], ahead: int, tries: int = TRIES
    ) -> Generator[tuple[Item, Result | Lost], None, None]:
        """Each item with its result, in order; at most `ahead` are under way or wait for the caller."""
        waiting: deque[tuple[Item, Future[Result | Lost]]] = deque()
        rest = iter(items)
        with ThreadPoolExecutor(max(1, self.count)) as threads:
            try:
                while True:
                    for item in islice(rest, max(2, ahead) - len(waiting)):
                        waiting.append((item, threads.submit(self._settled, item, tries)))
                    if not waiting:
                        return
                    item, future = waiting.popleft()
                    yield item, self._counted(future.result())
            except BaseException:
                for _, future in waiting:
                    future.cancel()
                self.close()  # so that no thread waits for a process that hangs
                raise

    def close(self, *, wait: float = 0.0) -> None:
        """Ends the processes, after `wait` seconds at most for each that is at work."""
        self._closed = True
        if not wait:
            for process in list(self._begun):
                process.kill()
        for _ in range(self.count):
            process = self._free.get(timeout=wait or None)
            if process is not None:
                process.stop()
                self._begun.discard(process)
        self.count = 0

    def _begin(self) -> _Process:
        """Begins a process; one begun while another thread closes is killed at once."""
        if self._closed:
            raise Lost
        process = _Process(self.work, self.bounds, plain=self.plain)
        self._begun.add(process)
        if self._closed:  # meanwhile
            process.kill()
        return process

    def _read(self, answer: bytes) -> Result:
        """Unpacks an answer, and raises the problem that it carries; garbage counts as `Lost`."""
        try:
            result, problem = json.loads(answer) if self.plain else pickle.loads(answer)  # noqa: S301 -- of our own process
        except (ValueError, TypeError, RecursionError):
            raise Lost from None
        if problem is not None:
            raise problem
        return result

    def _settled(self, item: Item, tries: int) -> Result | Lost:
        """One that hangs is not tried again."""
        if not self.count:
            return self.work(item)
        try:
            return self.ask(item)
        except Lost as problem:
            again = tries > 1 and not self._closed and str(problem) == DIED
            return self._settled(item, tries - 1) if again else problem

    def _counted(self, result: Result | Lost) -> Result | Lost:
        """Counts lost items in a row; beyond `LOST_IN_A_ROW` the machine is at fault, and the run ends."""
        self._lost = self._lost + 1 if isinstance(result, Lost) else 0
        if self._lost > LOST_IN_A_ROW:
            raise BadInput(
                f"processes that decode keep dying, {self._lost} images in a row; give more memory, or --workers 0 to see why"
            )
        return result


class _Process:
    """One process, and this end of its pipe."""

    def __init__(self, work: Callable[[Any], Any], bounds: Bounds, *, plain: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.running = context.Process(target=_serve, args=(theirs, work, bounds), kwargs={"plain": plain}, daemon=True)
        self.running.start()
        theirs.close()
        self.turns = 0

    def ask(self, item: object, seconds: float) -> bytes:
        """Sends one item and waits for its answer; raises `Lost` when the process died or took too long."""
        try:
            if not self.turns and not (self.pipe.poll(START) and self.pipe.recv_bytes()):
                raise Lost(f"no process began within {START:g} seconds")
            self.turns += 1
            self.pipe.send(item)
            if not self.pipe.poll(seconds):
                raise Lost(f"it was not read within {seconds:g} seconds")
            return self.pipe.recv_bytes()
        except (EOFError, OSError):
            raise Lost from None

    def kill(self) -> None:
        """Kills the process from another thread; one that is gone already is no error."""
        with suppress(ValueError):  # another thread was first
            self.running.kill()

    def stop(self) -> None:
        """Kills the process, waits for its end, and frees its pipe."""
        self.running.kill()
        self.running.join()
        self.running.close()
        self.pipe.close()


def _serve(pipe: Connection, work: Callable[[Any], Any], bounds: Bounds, *, plain: bool) -> None:
    """What such a process does: items in, answers out, until the other end is gone."""
    _prepare(bounds, plain=plain)
    pipe.send_bytes(b"ready")
    while True:
        try:
            item = pipe.recv()
        except (EOFError, OSError):
            return
        if resource is not None:  # for a process that nobody is left to end
            _limit(resource.RLIMIT_CPU, int(time.process_time() + 2 * bounds.seconds) + 1)
        try:
            answer = work(item), None
        except Exception as problem:  # the outermost handler of this process: the caller raises it
            answer = None, problem
        pipe.send_bytes(json.dumps(answer).encode() if plain else pickle.dumps(answer))


def _prepare(bounds: Bounds, *, plain: bool) -> None:
    """Left to the parent to interrupt; one thread of decoding, bounded memory and files, no core dump."""
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    if plain:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    if resource is not None:
        _limit(resource.RLIMIT_AS, bounds.memory)
        _limit(resource.RLIMIT_CORE, 0)
        if bounds.file:
            _limit(resource.RLIMIT_FSIZE, bounds.file)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _limit(kind: int, most: int) -> None:
    """Never above what the system allows."""
    assert resource is not None
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _end_with_parent() -> None:
    """Ends this process as soon as its parent is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def check_guard() -> None:
    """Refuse where a script asks for processes outside of its `if __name__ == "__main__":`.

    Every process of `spawn` reads the script again. Without the guard it would come here too, and wait forever for its parent.
    """
    frame = inspect.currentframe()
    while frame and not (frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__main__"):
        frame = frame.f_back
    path = Path(str(frame.f_globals.get("__file__", ""))) if frame else Path()
    if not frame or not path.is_file():
        return  # a thread, a notebook or a prompt: nothing is read again
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if statement.lineno <= frame.f_lineno <= (statement.end_lineno or statement.lineno):
            names = (
                {node.id for node in ast.walk(statement.test) if isinstance(node, ast.Name)}
                if isinstance(statement, ast.If)
                else set()
            )
            if "__name__" not in names:
                raise BadInput(
                    f"{path}, line {frame.f_lineno}: it starts processes that read this script again, so the line must stand "
                    f'under `if __name__ == "__main__":`; put it there, or pack first with `chestmap data pack`'
                )

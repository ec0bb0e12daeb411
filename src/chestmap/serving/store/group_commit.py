"""Commits what several threads bring at the same time in one transaction: one sync of the disk for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class GroupCommit(Generic[Item, Result]):
    """Lets the first thread that comes work on its own item and on those that came meanwhile; the others wait.

    `work` gives for each item its result, or the error that its thread raises. What `work` raises, all of them raise.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result | Exception]]) -> None:
        self._work, self._working = work, threading.Lock()
        self._lock, self._waiting = threading.Lock(), list[tuple[Item, Future[Result]]]()

    def do(self, item: Item) -> Result:
        """Returns when the item is committed."""
        future: Future[Result] = Future()
        with self._lock:
            self._waiting.append((item, future))
        with self._working:
            if not future.done():
                with self._lock:
                    group, self._waiting = self._waiting, []
                self._settle(group)
        return future.result()

    def _settle(self, group: Sequence[tuple[Item, Future[Result]]]) -> None:
        try:
            results: Sequence[Result | BaseException] = self._work([item for item, _ in group])
        except BaseException as problem:
            results = [problem] * len(group)
        for (_, future), result in zip(group, results, strict=True):
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

"""Ends training at SIGINT and SIGTERM, at the next optimizer step, after its state is saved."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TO_END = 60  # seconds in which the parent of a loading process ends it after SIGTERM; then it ends itself


class Interrupt:
    """While it is open, the first signal only sets `asked`; a second one ends the process as if there were no handler."""

    def __init__(self) -> None:
        """Notes the process: one that loads may inherit the handler, and leaves the decision to its parent."""
        self.asked = False
        self._pid = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        """Sets the handlers; in another thread than the main one Python allows none, and nothing is set."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Puts the handlers back that were there before; safe to call twice."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def comes(self, within: float = 5.0) -> bool:
        """Whether a signal came, or comes in so many seconds."""
        until = time.monotonic() + within
        while not self.asked and time.monotonic() < until:
            time.sleep(0.1)
        return self.asked

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        """Asks the loop to stop at the next batch; a second signal ends the process at once."""
        if (
            os.getpid() != self._pid
        ):  # a loading process that inherited the handler: its parent decides, and needs it until then
            if number == signal.SIGTERM:  # schedulers send it to every process of a job
                signal.alarm(TO_END)
            return
        if self.asked:
            self.__exit__()
            os.kill(self._pid, number)
        self.asked = True

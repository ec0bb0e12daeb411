"""A copy on this machine of files at an address; what has not changed there is not fetched again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from chestmap.errors import BadModel
from chestmap.progress import progress_of
from chestmap.storage.addresses import fetched, listed
from chestmap.storage.atomic import write_text
from chestmap.storage.json_file import read_json

STATES = ".fetched.json"


def _state_of(entry: dict[str, Any]) -> str:
    """The store's entry of a file: size, hash, date, whichever it gives."""
    return blake2b(repr(sorted((key, str(value)) for key, value in entry.items())).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Copy:
    """Keeps a copy of an address in a folder of its own, which is called as the address ends.

    A record in that folder holds a hash of the store's entry of each file; a file with the same one is not fetched
    again.
    """

    address: str
    cache: Path

    @property
    def folder(self) -> Path:
        """The folder of the copy; two addresses never share one."""
        address = self.address.rstrip("/")
        own = blake2b(address.encode(), digest_size=6).hexdigest()
        return self.cache / f"fetched-{own}" / re.sub(r"[^A-Za-z0-9_.-]|^[.]+", "_", address.rsplit("/", 1)[-1])

    def fetch(self, start: str, wanted: Callable[[str], bool]) -> None:
        """Files with names that begin so, where they are wanted; what is gone there goes here, too."""
        self.folder.mkdir(parents=True, exist_ok=True)
        there = {name: _state_of(entry) for name, entry in listed(self.address, start).items() if wanted(name)}
        here = self._states()
        for gone in [name for name in here if name.startswith(start) and name not in there]:
            (self.folder / gone).unlink(missing_ok=True)
            if gone.count("/") and not any((self.folder / gone).parent.iterdir()):
                (self.folder / gone).parent.rmdir()
            del here[gone]
        todo = [name for name, state in there.items() if here.get(name) != state or not (self.folder / name).exists()]
        with progress_of("fetch", len(todo), show=len(todo) > 1, unit="files") as advance:
            try:
                for name in fetched(self.address, todo, self.folder):
                    here[name] = there[name]
                    advance(1)
            finally:
                self._note(here)

    def _states(self) -> dict[str, str]:
        """Reads what was fetched before; without a readable record everything is fetched again."""
        try:
            found = read_json(self.folder / STATES, "")
        except (FileNotFoundError, BadModel):
            return {}
        return found if isinstance(found, dict) else {}

    def _note(self, states: dict[str, str]) -> None:
        """Records which files are whole; `fetch` does so after a failure too, and so goes on there."""
        write_text(self.folder / STATES, json.dumps(states))

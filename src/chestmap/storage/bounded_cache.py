"""Files of an object store, read through a folder on this machine that never grows beyond its limit.

Any number of processes share the folder. A name holds the hash of its content, so a file that is there is the right one; it is
fetched under a temporary name, checked, then renamed. The least recently used is dropped; a process that still reads it keeps its open file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b, file_digest
from pathlib import Path

from pydantic import Field

from chestmap.errors import BadInput, BadModel
from chestmap.settings import Settings
from chestmap.storage.atomic import cannot_write
from chestmap.storage.locks import in_turn
from chestmap.storage.stores import TRIES, attempts, failures, store

LOCKS = 64
LONGEST_FETCH = 3600 * 10**9
"""In nanoseconds without a byte: older, it was left by a process that was killed."""


def hash_of(path: Path) -> str:
    """The 128-bit BLAKE2b of a file, in hexadecimal, as names of shards carry it."""
    with path.open("rb") as file:
        return file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()


class StoredFile(Settings):
    """A file at an address, named `stem-hash.ending`; other names are refused, as they become names of files on this machine."""

    name: str = Field(pattern=r"^[0-9a-z_]+-[0-9a-f]{32}\.[a-z]+$")
    bytes: int = Field(ge=0)

    @property
    def hash(self) -> str:
        """The hash that the file's own name promises."""
        return self.name.rsplit("-", 1)[1].split(".")[0]


@dataclass(frozen=True)
class ShardCache:
    """Reads the files of one address through a folder of this machine with bounded size.

    `limit` is in bytes, of all that is in `folder`; passed only where the shards that are being fetched do not fit in
    it together.
    """

    address: str
    folder: Path
    limit: int

    def __post_init__(self) -> None:
        """Makes the folder; one that cannot be written is refused before anything is read."""
        try:
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from None

    def open(self, stored: StoredFile) -> int:
        """Opens a file for reading, and fetches it where the folder lacks it; the caller closes the descriptor.

        One process fetches a file, others that want it wait. What the descriptor reads stays whole though the file be
        dropped.
        """
        if (found := self._opened(stored)) is not None:
            return found
        with self._exclusive(str(int(stored.hash[:8], 16) % LOCKS)):
            found = self._opened(stored)  # another process fetched it while this one waited
            return self._fetched(stored) if found is None else found

    def read(self, stored: StoredFile) -> bytes:
        """Reads a file of the store through the cache; a copy with another hash than its name is fetched again."""
        with os.fdopen(self.open(stored), "rb") as file:
            return file.read()

    def _opened(self, stored: StoredFile) -> int | None:
        """Marks it as used; a file that was cut short does not count."""
        try:
            file = os.open(self.folder / stored.name, os.O_RDONLY)
        except FileNotFoundError:
            return None
        if os.fstat(file).st_size != stored.bytes:
            os.close(file)
            return None
        os.utime(file)
        return file

    def _fetched(self, stored: StoredFile) -> int:
        """Fetches a file, compares its hash, and gives an open handle, which stays good when the file is evicted.

        Room is made, and the unfinished file put there, under one lock: other processes then count it with its whole
        size.
        """
        beside = self.folder / (stored.name + ".part")
        with self._exclusive("room"):
            self._make_room(stored.bytes)
            beside.touch()
        wrong = ""
        for _ in attempts():
            file_system, path = store(self.address)
            try:
                file_system.get_file(f"{path}/{stored.name}", str(beside))
                file = os.open(beside, os.O_RDONLY)
                if hash_of(beside) == stored.hash:
                    beside.replace(self.folder / stored.name)
                    return file
                os.close(file)
                wrong = "its content is not what was published"
            except FileNotFoundError:
                wrong = "there is no such file"
            except failures() as error:
                wrong = f"{error.__class__.__name__}: {error}"
        beside.unlink(missing_ok=True)
        raise BadModel(
            f"{self.address}/{stored.name}: {wrong} (tried {TRIES} times, into {self.folder}); delete it there if it is damaged, "
            'and run "chestmap data pack … --shards" again, which sends what is not there'
        )

    def _make_room(self, needed: int) -> None:
        """Drops the least recently used, never what is being fetched; that counts with its whole size."""
        if needed > self.limit:
            raise BadInput(
                f"{self.folder}: a shard of {needed / 1e6:.1f} MB does not fit in a cache of {self.limit / 1e6:.1f} MB; "
                "raise data.shards.cache_gb"
            )
        files = sorted(_files(self.folder))
        fetching = {path for used, _, path in files if path.suffix == ".part" and time.time_ns() - used < LONGEST_FETCH}
        total = needed + sum(max(size, needed) if path in fetching else size for _, size, path in files)
        for _, size, path in files:
            if total <= self.limit:
                return
            if path not in fetching:
                path.unlink(missing_ok=True)
                total -= size

    @contextmanager
    def _exclusive(self, name: str) -> Iterator[None]:
        """The lock goes with the process that holds it."""
        with in_turn(self.folder / "locks" / name):
            yield


def _files(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """(last use in nanoseconds, bytes, path) of what a cache holds."""
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if entry.is_file():
                    stat = entry.stat()
                    yield stat.st_mtime_ns, stat.st_size, Path(entry.path)
            except FileNotFoundError:
                continue

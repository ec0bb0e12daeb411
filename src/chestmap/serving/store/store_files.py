"""Writes the files of the store next to the database, atomically.

studies/ab/s-ab12…/   original, pixels.u16, thumbnail.png, maps-MODEL.npy, and canvas-… until the models have seen it
incoming/             what is being received; emptied at every start
orphans/              studies that the database does not know; may be removed
key                   from which pseudonyms and sessions are made
lock                  held by the service that owns the folder

Names are made here from digests; nothing that a client sends becomes part of a path.
"""

from __future__ import annotations

import hmac
import re
import secrets
import shutil
from collections.abc import Collection, Mapping
from hashlib import file_digest, sha256
from pathlib import Path

from filelock import FileLock, Timeout

from chestmap.errors import BadInput, ChestmapError, Refused
from chestmap.storage.atomic import replacing, sweep, sync, write_bytes
from chestmap.storage.locks import lock_of

ID = re.compile(r"s-[0-9a-f]{24}")
DOOMED = "being-deleted"
MOST_CHECKED = 100_000
"""Files with a check that is remembered: some 30 MB."""


class DamagedFile(ChestmapError):
    """What is kept is not what was written."""


def digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def instance_of(key: bytes, sop_instance_uid: str) -> str:
    """The same image has the same one; without the key nobody gets from one to the other."""
    return hmac.new(key, sop_instance_uid.encode(), sha256).hexdigest()[:24]


def _close_to_others(folder: Path) -> None:
    """A folder that was there before may be open to all."""
    if folder.stat().st_mode & 0o077:
        try:
            folder.chmod(0o700)
        except OSError:
            raise Refused(f"{folder}: others may read it; chmod 700 {folder}") from None


class StoreFolder:
    """Writes and reads the files of the store. Nobody else may read the folder: it holds images of patients.

    Folders are made with mode 0700; one that was open to others is closed, or refused where that fails.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.incoming, self.studies = self.root / "incoming", self.root / "studies"
        for folder in (self.root, self.incoming, self.studies):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _close_to_others(folder)
        self._lock: FileLock | None = None
        self._key: bytes | None = None
        self._checked: set[tuple[str, int, int, str]] = set()

    def lock(self) -> None:
        """One service owns the folder; the lock ends with its process, however that ends."""
        lock = lock_of(self.root / "lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise Refused(f"{self.root}: another service holds this store; stop it, or give another --store") from None
        self._lock = lock

    def unlock(self) -> None:
        """Gives the store free for another process; safe to call twice."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def key(self) -> bytes:
        """Gives the 32 random bytes from which pseudonyms and sessions are made, and keeps them in memory."""
        if self._key is None:
            self._key = self._read_key()
        return self._key

    def _read_key(self) -> bytes:
        """Reads the key of the pseudonyms, or makes it at the first start; only its owner may read the file."""
        path = self.root / "key"
        if not path.exists():
            with replacing(path) as made:
                made.touch(0o600)
                made.write_bytes(secrets.token_bytes(32))
        content = path.read_bytes()
        if len(content) != 32:
            raise BadInput(f"{path}: {len(content)} bytes are no key; copy it back, or delete it: pseudonyms will change")
        return content

    def instance_of(self, sop_instance_uid: str) -> str:
        """Gives the pseudonym under which the store keeps a SOP Instance UID; it depends on the store's own key."""
        return instance_of(self.key(), sop_instance_uid)

    def new(self) -> Path:
        """An empty folder for what is being received."""
        folder = self.incoming / secrets.token_hex(12)
        folder.mkdir(mode=0o700)
        return folder

    def folder_of(self, study_id: str) -> Path:
        """Gives the folder of a study. Anything that is not an id of the store is refused, since it would become a path."""
        if not ID.fullmatch(study_id):
            raise BadInput("study id: expected s- and 24 digits")
        return self.studies / study_id[2:4] / study_id

    def make_durable(self, received: Path) -> None:
        """Brings what was received to the disk before it is promised.

        Canvases are left out, since they can be made again; `sweep` removes them at the next start.
        """
        for path in received.iterdir():
            if not path.name.startswith("canvas-"):
                sync(path)
        sync(received)

    def move_in(self, received: Path, study_id: str) -> None:
        """Moves a received folder to its place, durably; where one is, its files are those of the same content."""
        for problem in self.move_all_in({received: study_id}).values():
            raise problem

    def move_all_in(self, folders: Mapping[Path, str]) -> dict[Path, OSError]:
        """Moves each as `move_in` does, all before the first sync, so that a journal takes them at once. Gives what failed."""
        moved: dict[Path, set[Path]] = {}
        troubles: dict[Path, OSError] = {}
        for received, study_id in folders.items():
            try:
                moved[received] = self._moved(received, study_id)
            except OSError as problem:
                troubles[received] = problem
        synced: set[Path] = set()
        for received, changed in moved.items():
            try:
                for folder in changed - synced:
                    sync(folder)
                    synced.add(folder)
            except OSError as problem:
                troubles[received] = problem
        return troubles

    def _moved(self, received: Path, study_id: str) -> set[Path]:
        """Moves one, and gives the folders that are to be synced then."""
        target = self.folder_of(study_id)
        if not target.parent.exists():
            target.parent.mkdir(mode=0o700, exist_ok=True)
            sync(self.studies)
        if target.exists():
            for path in received.iterdir():
                path.replace(target / path.name)
            received.rmdir()
            return {target, target.parent}
        received.rename(target)
        return {target.parent}

    def doom(self, study_id: str) -> None:
        """Marks a study as being deleted, before its row goes.

        Whatever happens then, the next start removes the files of a row that is gone, and the mark of one that is not.
        """
        if (target := self.folder_of(study_id)).exists():
            write_bytes(target / DOOMED, b"")

    def remove(self, study_id: str) -> None:
        """Removes the files of a study; none there is no error.

        The folder is renamed first, so that a study is there whole or not at all. `sweep` removes what is left of it.
        """
        target = self.folder_of(study_id)
        if target.exists():
            doomed = self.incoming / secrets.token_hex(12)
            target.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def sweep(self, known: Collection[str]) -> int:
        """After a start: half-received files go; studies that the database does not know were never promised.

        Those are set aside and not removed: it may be another database than yesterday's. What was being deleted goes.
        """
        for entry in self.incoming.iterdir():
            shutil.rmtree(entry, ignore_errors=True)
        for mark in self.studies.glob(f"*/s-*/{DOOMED}"):
            if mark.parent.name in known:
                mark.unlink()
            else:
                self.remove(mark.parent.name)
        orphans = [path for path in self.studies.glob("*/s-*") if path.name not in known]
        for path in orphans:
            aside = self.root / "orphans" / f"{path.name}-{secrets.token_hex(4)}"
            aside.parent.mkdir(mode=0o700, exist_ok=True)
            path.rename(aside)
        for path in self.studies.glob("*/s-*/canvas-*"):  # not synced, so perhaps not whole: read anew
            path.unlink(missing_ok=True)
        sweep(self.root)
        return len(orphans)

    def checked(self, path: Path, expected: str) -> Path:
        """The same path; its content is hashed when it is first used and whenever its size or time has changed."""
        about = path.stat()
        seen = (str(path), about.st_size, about.st_mtime_ns, expected)
        if seen not in self._checked:
            if digest(path) != expected:
                raise DamagedFile(
                    f"{path.name} of study {path.parent.name} is damaged: restore it from a backup, or send the image again"
                )
            if len(self._checked) >= MOST_CHECKED:
                self._checked.clear()
            self._checked.add(seen)
        return path

    def free(self) -> int:
        """Bytes that are left on the disk."""
        return shutil.disk_usage(self.root).free

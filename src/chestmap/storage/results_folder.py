"""Where a predictions folder lies: on this machine, or at an fsspec address with a working copy on this machine.

An object store has no rename, but a file that is put there is there whole or not at all. So a part is made in the working copy, its
files are sent under the names that they have, and `SHA256SUMS` last: with it the part is there, here as there (ADR 18).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeVar

from chestmap.errors import BadInput, BadModel
from chestmap.storage.addresses import fetched, is_address, listed, tried, without_scheme
from chestmap.storage.json_file import json_of
from chestmap.storage.manifest import SUMS
from chestmap.storage.scratch import Scratch
from chestmap.storage.stores import store

HEADER = "predictions.json"
MARK = SUMS
LARGE = ("maps.npy", "scores.parquet")
"""Not kept in the working copy once they are sent."""

NOT_WHOLE = {
    "sftp", "ssh", "smb", "ftp", "hdfs", "webhdfs", "webHDFS", "arrow_hdfs", "dbfs", "http", "https", "github", "zip", "tar",
}  # fmt: skip
"""Protocols under which a file that is being written is seen half-written, or that do not write."""

Found = TypeVar("Found")


class ResultsFolder:
    """A folder on this machine: what is written is there, so that nothing is to be brought or sent."""

    afar = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def parts(self) -> set[int]:
        """Numbers of the parts that are there."""
        return {
            int(entry.parent.name[5:])
            for entry in self.folder.glob(f"part-?????/{MARK}")
            if entry.parent.name[5:].isdecimal()
        }

    def has(self, part: int) -> bool:
        """Whether a part is complete: its sums are written last."""
        return (self._part(part) / MARK).is_file()

    def _part(self, part: int) -> Path:
        return self.folder / f"part-{part:05d}"

    def begin(self, *names: str) -> None:
        """Brings these files of all parts up to the first that is missing."""

    def bring_header(self) -> None:
        """What others wrote there since."""

    def bring(self, parts: Iterable[int], *names: str) -> None:
        """These files of finished parts; without names all of them."""

    def send_part(self, part: int) -> None:
        """Where the part is there already, the one that is there stays."""

    def drop_part(self, part: int) -> None:
        """Remove a part, its mark first."""
        (self._part(part) / MARK).unlink(missing_ok=True)
        shutil.rmtree(self._part(part), ignore_errors=True)

    def remove(self, name: str) -> None:
        """Remove a file or a folder."""
        path = self.folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def send(self, name: str) -> None:
        """A file as it is here now, or that it is no longer."""

    def send_rest(self) -> None:
        """All that was made or changed here and not sent."""

    def bring_plan(self) -> bool:
        """Whether there is one elsewhere, and it is here now."""
        return False

    def offer_plan(self) -> None:
        """The plan that is here becomes that of all processes, or is replaced by the one that does."""

    def drop_plan(self) -> None:
        """When the folder is complete."""


class RemoteFolder(ResultsFolder):
    """An address. `folder` is this process's own, in `scratch`, and goes with it; `whole` keeps maps there, and brings what others made."""

    afar = True

    def __init__(self, address: str, scratch: Path | None = None, *, whole: bool = False) -> None:
        self.address, self.whole = address.rstrip("/"), whole
        if address.partition("://")[0] in NOT_WHOLE or not store(address)[1]:
            raise BadInput(
                f"{address}: no place for results; expected a folder of an object store, such as s3://bucket/folder, "
                "or a folder on a file system, mounted where need be"
            )
        self._scratch = Scratch(scratch or Path(tempfile.gettempdir()))
        super().__init__(self._scratch.folder)
        self._sent: set[int] = set()
        self._known: dict[str, tuple[int, int]] = {}  # files as they are at the address
        self.bring_header()
        if whole:
            self._get_all([name for name in self._names() if not name.startswith(("part-", "plan/", HEADER))])

    def __str__(self) -> str:
        return self.address

    # ---- parts

    def parts(self) -> set[int]:
        """Those that were sent from here are there, though a listing may come late."""
        listed = (name.split("/") for name in self._names("part-"))
        return self._sent | {int(words[0][5:]) for words in listed if len(words) == 2 and words[1] == MARK}

    def has(self, part: int) -> bool:
        """Whether a part is complete at the address; what this process sent needs no look."""
        return part in self._sent or self._exists(f"part-{part:05d}/{MARK}")

    def begin(self, *names: str) -> None:
        """Fetches the named files of the parts that are there without a gap."""
        there = self.parts()
        self.bring(
            range(next(number for number in range(len(there) + 1) if number not in there)), *(() if self.whole else names)
        )

    def bring(self, parts: Iterable[int], *names: str) -> None:
        """Fetches files of parts that are missing here; all of them where no name is given."""
        wanted = {f"part-{number:05d}" for number in parts}
        listed = (name.split("/", 1) for name in self._names("part-"))
        self._get_all([f"{part}/{name}" for part, name in listed if part in wanted and (not names or name in names)])

    def send_part(self, part: int) -> None:
        """Send a finished part, its sums last."""
        folder = self._part(part)
        if self.has(part):
            shutil.rmtree(folder)
            return
        names = [f"{folder.name}/{path.name}" for path in folder.iterdir()]
        for stale in set(self._names(f"{folder.name}/")) - set(names):  # of an attempt that was killed
            self._delete(stale)
        for name in sorted(names, key=lambda name: (name.endswith(MARK), name)):
            self._put(name)
        self._sent.add(part)
        for name in () if self.whole else LARGE:
            (folder / name).unlink()

    def drop_part(self, part: int) -> None:
        """Delete a part at the address."""
        name = f"part-{part:05d}"
        self._delete(f"{name}/{MARK}")
        self.remove(name)
        self._sent.discard(part)

    def remove(self, name: str) -> None:
        """Delete a file at the address."""
        super().remove(name)
        for known in [one for one in self._known if one == name or one.startswith(f"{name}/")]:
            del self._known[known]
        for there in self._names(name):
            if there == name or there.startswith(f"{name}/"):
                self._delete(there)

    # ---- other files

    def bring_header(self) -> None:
        """Fetches `predictions.json` anew, since another process may have completed the folder."""
        with suppress(FileNotFoundError):
            (self.folder / HEADER).unlink(missing_ok=True)
            self._get_all([HEADER])

    def send(self, name: str) -> None:
        """Send one file."""
        if (self.folder / name).exists():
            self._put(name)
        elif self._exists(name):
            self._delete(name)

    def send_rest(self) -> None:
        """Sends every file that changed since it was fetched or sent; the plan has its own way."""
        files = (path for path in sorted(self.folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
        names = (path.relative_to(self.folder).as_posix() for path in files)
        for name in names:
            if not name.startswith("plan/") and self._known.get(name) != _state(self.folder / name):
                self._put(name)

    # ---- the plan of several processes: rows under a name of their own, and a file that names the valid one, made once

    def bring_plan(self) -> bool:
        try:
            self._bring_plan(self._chosen_plan())
        except FileNotFoundError:  # there is none, or it went away: another process has completed the folder
            return False
        return True

    def _chosen_plan(self) -> list[str]:
        """Names of the files of the plan that holds."""
        text, place = self._tried(lambda store, path: store.cat_file(f"{path}/plan/chosen")), f"{self.address}/plan/chosen"
        remedy = "delete the folder plan/ there and call again: finished parts are kept"
        names = json_of(text, place, remedy)
        if not isinstance(names, list) or not names or not all(isinstance(one, str) for one in names):
            raise BadModel(f"{place}: names no files; {remedy}")
        return names

    def _bring_plan(self, names: list[str]) -> None:
        self._get_all(names)
        beside = self.folder / f"plan-{token_hex(4)}"
        (self.folder / names[0]).parent.rename(beside)
        shutil.rmtree(self.folder / "plan")
        beside.rename(self.folder / "plan")

    def offer_plan(self) -> None:
        """Sends a plan under a random name. The first process makes its plan the chosen one; others take that."""
        files, token = sorted((self.folder / "plan").iterdir()), token_hex(8)
        own = [f"plan/{token}/{file.name}" for file in files]
        for file, name in zip(files, own, strict=True):
            self._tried(lambda store, path, file=file, name=name: store.put_file(str(file), f"{path}/{name}"), sending=True)

        def choose(store: Any, path: str) -> None:
            with suppress(FileExistsError):
                store.pipe_file(f"{path}/plan/chosen", json.dumps(own).encode(), mode="create")

        self._tried(choose, sending=True)
        with suppress(FileNotFoundError):
            names = self._chosen_plan()
            if names != own:
                self._bring_plan(names)

    def drop_plan(self) -> None:
        for name in self._names("plan/"):
            self._delete(name)

    # ---- the store

    def _names(self, start: str = "") -> list[str]:
        return list(listed(self.address, start))

    def _exists(self, name: str) -> bool:
        """Asked of the store itself; `exists` of fsspec takes any failure for a no."""

        def asked(store: Any, path: str) -> bool:
            store.invalidate_cache()
            try:
                return bool(store.info(f"{path}/{name}"))
            except FileNotFoundError:
                return False

        return self._tried(asked)

    def _get_all(self, names: list[str]) -> None:
        """What is not here yet."""
        missing = [name for name in names if not (self.folder / name).exists()]
        for name in fetched(self.address, missing, self.folder):
            self._known[name] = _state(self.folder / name)

    def _put(self, name: str) -> None:
        self._tried(lambda store, path: store.put_file(str(self.folder / name), f"{path}/{name}"), sending=True)
        self._known[name] = _state(self.folder / name)

    def _delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._tried(lambda store, path: store.rm_file(f"{path}/{name}"))

    def _tried(self, action: Callable[[Any, str], Found], *, sending: bool = False) -> Found:
        return tried(self.address, action, sending=sending)


def place_of(out: Path | str | ResultsFolder, scratch: Path | None = None, *, whole: bool = False) -> ResultsFolder:
    """Open where results go: a folder here, or an address with a working copy in `scratch`."""
    if isinstance(out, ResultsFolder):
        return out
    text = without_scheme(str(out))
    return RemoteFolder(text, scratch, whole=whole) if is_address(text) else ResultsFolder(Path(text))


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns

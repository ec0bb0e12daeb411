"""An object store for the tests, in a folder: put, get, list, delete, and create-only. No rename, no copy, no folders.

A file that is put is there whole or not at all. With `LATE` set, names show in lists one list later. The put whose number stands in
`DIES` ends the process that does it, or raises where it is a test. `python bare_store.py FOLDER ADDRESS` sends the parts of a folder.
"""

import os
import signal
import sys
from pathlib import Path
from typing import ClassVar

import fsspec
from fsspec.spec import AbstractFileSystem


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class Bare(AbstractFileSystem):
    protocol = "bare"
    cachable = False
    root = Path()
    late = False
    fresh: ClassVar[set[str]] = set()
    puts = 0
    dies = 0
    kills = False

    @classmethod
    def begin(cls, root: Path, *, late: bool = False, dies: int = 0) -> None:
        cls.root, cls.late, cls.fresh, cls.puts, cls.dies = root, late, set(), 0, dies
        root.mkdir(parents=True, exist_ok=True)
        fsspec.register_implementation("bare", cls, clobber=True)

    @classmethod
    def names(cls) -> list[str]:
        return sorted(path.relative_to(cls.root).as_posix() for path in cls.root.rglob("*") if path.is_file())

    def _path(self, path: str) -> Path:
        return self.root / self._strip_protocol(path)

    def _entry(self, path: Path) -> dict:
        name = path.relative_to(self.root).as_posix()
        if path.is_dir():
            return {"name": name, "size": 0, "type": "directory"}
        return {"name": name, "size": path.stat().st_size, "type": "file", "version": path.stat().st_mtime_ns}

    def ls(self, path, detail=True, **_):
        if not (folder := self._path(path)).is_dir():
            raise FileNotFoundError(path)
        found = [self._entry(one) for one in sorted(folder.iterdir())]
        seen = [entry for entry in found if entry["name"] not in self.fresh]
        Bare.fresh -= {entry["name"] for entry in found}
        return seen if detail else [entry["name"] for entry in seen]

    def info(self, path, **_):
        if not (place := self._path(path)).exists():
            raise FileNotFoundError(path)
        return self._entry(place)

    def cat_file(self, path, start=None, end=None, **_):
        place = self._path(path)
        if "denied" in place.name:
            raise PermissionError(f"Access Denied: {path}")
        if not place.is_file():
            raise FileNotFoundError(path)
        return place.read_bytes()[start:end]

    def get_file(self, rpath, lpath, **_):
        Path(lpath).write_bytes(self.cat_file(rpath))

    def pipe_file(self, path, value, mode="overwrite", **_):
        self._put(path, value, mode)

    def put_file(self, lpath, rpath, callback=None, mode="overwrite", **_):
        self._put(rpath, Path(lpath).read_bytes(), mode)

    def _put(self, path: str, content: bytes, mode: str) -> None:
        Bare.puts += 1
        if Bare.puts == self.dies:
            if self.kills:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Killed
        place = self._path(path)
        if mode == "create" and place.exists():
            raise FileExistsError(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        if self.late:
            Bare.fresh.add(place.relative_to(self.root).as_posix())

    def rm_file(self, path):
        self._path(path).unlink()
        folder = self._path(path).parent
        while folder != self.root and not any(folder.iterdir()):  # a folder is there as long as a file is in it
            folder.rmdir()
            folder = folder.parent

    def cp_file(self, path1, path2, **_):
        raise NotImplementedError("no copy, so no rename")


def send(folder: Path, address: str) -> None:
    import shutil

    from chestmap.storage.results_folder import RemoteFolder

    place = RemoteFolder(address)
    for part in sorted(folder.glob("part-?????")):
        shutil.copytree(part, place.folder / part.name)
        place.send_part(int(part.name[5:]))


if __name__ == "__main__":
    Bare.begin(Path(os.environ["BARE_ROOT"]), dies=int(os.environ["BARE_DIES"]))
    Bare.kills = True
    send(Path(sys.argv[1]), sys.argv[2])

"""Reads inputs at addresses: files, folders of a store, copies of lists.

Any address that fsspec knows will do (s3, gs, https). Pixels are read when they are decoded; listing an address opens no
image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from chestmap.errors import BadImage, BadInput, BadTable
from chestmap.storage.addresses import content_at, plain_path, tried

WEB = ("http://", "https://")


@dataclass(frozen=True)
class Root:
    """A given address; that of a folder ends without "/"."""

    address: str
    kind: Literal["folder", "file", "list"]

    @property
    def folder(self) -> str:
        """From which names are given."""
        return self.address if self.kind == "folder" else self.address.rpartition("/")[0]


def roots_at(text: str, lists: set[str]) -> Sequence[Root]:
    """The inputs of an address: a list by its ending, else a file or folder of the store, or the matches of a pattern."""
    path = PurePosixPath(plain_path(text))
    if path.suffix.lower() in lists:
        return [Root(text, "list")]
    if path.suffix.lower() == ".zip" or path.name.upper() == "DICOMDIR":
        raise BadInput(f"{text}: a ZIP archive or a DICOMDIR is read on this machine only; fetch it first")
    if text.startswith(WEB):
        return [Root(text, "file")]
    if any(letter in text for letter in "*?["):
        found = tried(text, lambda store, path: sorted(store.glob(path)))
        start = text.partition("://")[0]
        if not found:
            raise BadInput(f"{text}: no file matches this pattern")
        return [Root(f"{start}://{name.lstrip('/')}", "file") for name in found]
    try:
        kind = tried(text, lambda store, path: store.info(path))["type"]
    except FileNotFoundError:
        raise BadInput(f"{text}: no such file or folder at this address") from None
    return [Root(text.rstrip("/"), "folder" if kind == "directory" else "file")]


def entries_at(folder: str) -> list[tuple[str, bool]]:
    """Names in a folder, in order, and whether each is one, too."""

    def listed(store: Any, path: str) -> list[tuple[str, bool]]:
        store.invalidate_cache()
        found = ((entry["name"].rstrip("/"), entry["type"] == "directory") for entry in store.ls(path, detail=True))
        return sorted((name.rsplit("/", 1)[-1], deeper) for name, deeper in found if name.strip("/") != path.strip("/"))

    return tried(folder, listed)


def list_at(address: str, folder: Path) -> Path:
    """A copy of a list, as tables are read from files of this machine."""
    target = folder / f"list{PurePosixPath(plain_path(address)).suffix.lower()}"
    try:
        tried(address, lambda store, path: store.get_file(path, str(target)))
    except FileNotFoundError:
        raise BadInput(f"{address}: no such file at this address") from None
    return target


@contextmanager
def told_as(address: str, copy: Path) -> Iterator[None]:
    """Errors of a copy name the address."""
    try:
        yield
    except BadTable as problem:
        raise BadTable(str(problem).replace(str(copy), address)) from None


def starts_as_dicom_at(address: str) -> bool:
    """Reads 132 bytes at an address and looks for DICOM's mark; an address that fails is not DICOM."""
    try:
        return content_at(address, first=132)[128:] == b"DICM"
    except BadImage:
        return False

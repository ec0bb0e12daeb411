"""Streams the inputs of `chestmap predict`: files, folders, globs, a DICOMDIR, zip archives, lists of paths, addresses.

Nothing is unpacked to disk and no image is opened here. Names are paths from the folder that all inputs have in common, so they
do not depend on where that folder lies, and are the same in the next call. A folder's hidden files, and files that are no
images, are passed over and counted.
"""

from __future__ import annotations

import glob
import os
import posixpath
import re
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from chestmap.errors import BadImage, BadInput, did_you_mean
from chestmap.prediction.decoding import Input, unpacked
from chestmap.prediction.input_names import digest, joined, name_and_path, plain_name
from chestmap.prediction.remote_inputs import Root, entries_at, list_at, roots_at, starts_as_dicom_at, told_as
from chestmap.storage.addresses import is_address, plain_path, without_scheme
from chestmap.storage.scratch import Scratch

ENDINGS = {".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".dic"}
OTHERS = {".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".j2k", ".heic", ".avif", ".nii", ".mha", ".mhd", ".svg"}
"""Images that are not read: named in errors.csv rather than passed over in silence."""

LISTS = {".csv", ".tsv", ".txt", ".parquet"}
LEADS_OUT = 'its name leads out of the archive (".." or an absolute path): it is not read'


@dataclass(eq=False)
class Inputs:
    """Iterated as often as needed, each time anew from disk, but lists at addresses are fetched once; memory grows by some 200 bytes for each input.

    `passed_over` counts the files of the last pass that are no images.
    """

    given: Sequence[str]
    passed_over: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not self.given:
            raise BadInput("no input: give files, folders, a zip archive, a DICOMDIR or a list of paths")
        self._roots = [path for text in self.given for path in _existing(without_scheme(text))]
        self._lists = Scratch(Path(tempfile.gettempdir())) if any(isinstance(one, Root) for one in self._roots) else None

    @cached_property
    def base(self) -> Path:
        """The folder from which names on this machine are given."""
        roots = [root for root in self._roots if isinstance(root, Path)] or [Path.cwd()]
        folders = [str(root if root.is_dir() or _is_zip(root) else root.parent) for root in roots]
        folders = [os.path.abspath(folder) for folder in folders]  # noqa: PTH100 -- a link stays what it is called
        return Path(os.path.commonpath(folders))

    @cached_property
    def _far(self) -> str:
        """The address from which names at addresses are given, where those that are given lie in one store."""
        folders = [root.folder for root in self._roots if isinstance(root, Root)]
        return f"{folders[0].partition('://')[0]}://{posixpath.commonpath(map(plain_path, folders))}"

    def count(self) -> int:
        """A pass over everything, for the progress."""
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Input]:
        self.passed_over = 0
        seen: set[bytes] = set()
        files: set[bytes] = set()
        for source in self._all():
            place = digest(f"{source.path}\0{source.member}\0{source.problem}")
            if place not in files:  # given twice: a file and its folder, or overlapping patterns
                files.add(place)
                yield _unique(source, seen)

    def _all(self) -> Iterator[Input]:
        """Yields the inputs of all roots in the order given: files, folders, lists, archives, DICOMDIR."""
        walked: set[tuple[int, int]] = set()
        for root in self._roots:
            if isinstance(root, Root):
                yield from self._at(root)
            elif root.is_dir():
                yield from self._walk(root, walked)
            elif root.name.upper() == "DICOMDIR":
                from chestmap.prediction.dicomdir import dicomdir_files

                for path, problem in dicomdir_files(root):
                    yield self._file(path, problem)
            elif root.suffix.lower() in LISTS:
                yield from self._listed(root, root.parent)
            elif _is_zip(root):
                yield from self._members(root)
            else:
                yield self._file(root)

    def _at(self, root: Root) -> Iterator[Input]:
        """Yields the inputs at an address; a list is copied first, since tables are read from files."""
        if root.kind == "folder":
            yield from self._walk_at(root.address)
        elif root.kind == "list" and self._lists is not None:
            copy = self._lists.folder / digest(root.address).hex()
            if not copy.is_dir():
                copy.mkdir()
                list_at(root.address, copy)
            path = next(copy.iterdir())
            with told_as(root.address, path):
                yield from self._listed(path, root.folder)
        else:
            yield self._file(root.address)

    def _walk_at(self, address: str) -> Iterator[Input]:
        """In the order of a folder on this machine."""
        stack = [address]
        while stack:
            folder = stack.pop()
            entries = entries_at(folder)
            if any(name == "predictions.json" for name, _ in entries):
                continue
            inside = []
            for name, deeper in entries:
                path = f"{folder}/{name}"
                if name.startswith(".") or name == "__MACOSX":
                    continue
                if deeper:
                    inside.append(path)
                elif _is_image_name(name, lambda path=path: starts_as_dicom_at(path)):
                    yield self._file(path)
                else:
                    self.passed_over += 1
            stack += reversed(inside)

    def _file(self, path: Path | str, problem: str = "") -> Input:
        if isinstance(path, str):
            name, whole = name_and_path(path, self._far)
            return Input(name=name, path=whole)
        place = os.path.abspath(path)  # noqa: PTH100
        base = self.base if place != str(self.base) else self.base.parent  # an archive that cannot be opened
        name, whole = name_and_path(place, base)
        return Input(name=name, path=whole, problem=problem)

    def _walk(self, root: Path, walked: set[tuple[int, int]]) -> Iterator[Input]:
        """By names. Links are followed, but each folder is entered once, so that a loop of links ends."""
        stack = [root]
        while stack:
            folder = stack.pop()
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in walked:
                    continue
                walked.add((status.st_dev, status.st_ino))
                entries = sorted(entry.name for entry in os.scandir(folder))
            except OSError as error:
                yield self._file(folder, f"folder cannot be opened ({error.strerror}): check its permissions")
                continue
            if "predictions.json" in entries:
                continue  # an earlier call's results, below the folder that it read
            inside = []
            for name in entries:
                path = folder / name
                if name.startswith(".") or name == "__MACOSX":
                    continue
                if _is_folder(path):
                    inside.append(path)
                elif _is_image_name(name, lambda path=path: _starts_as_dicom(path)):
                    yield self._file(path)
                else:
                    self.passed_over += 1
            stack += reversed(inside)

    def _members(self, path: Path) -> Iterator[Input]:
        """Members that may be images. Links are not followed, and a name that leads out is a problem, not a place."""
        try:
            with zipfile.ZipFile(path) as archive:
                infos = list(enumerate(archive.infolist()))
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            yield self._file(path, f"ZIP archive cannot be opened ({error}): pack or download it again")
            return
        whole = os.path.abspath(path)  # noqa: PTH100
        inner = os.path.relpath(whole, self.base).replace(os.sep, "/")
        for member, info in sorted(infos, key=lambda pair: pair[1].filename):
            parts = [part for part in info.filename.replace("\\", "/").split("/") if part not in {"", "."}]
            if (
                not parts  # also a member without a name, of which `is_dir` fails
                or info.is_dir()
                or parts[0] == "__MACOSX"
                or any(part.startswith(".") and part != ".." for part in parts)
            ):
                continue
            name = plain_name("/".join(part for part in (*inner.split("/"), *parts) if part not in {".", ".."}))
            outside = ".." in parts or info.filename.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", info.filename)
            problem = LEADS_OUT if outside else "a link in the archive: it is not followed" if _is_link(info) else ""
            source = Input(name=name, path=whole, member=member, problem=problem)
            if problem or _is_image_name(parts[-1], lambda source=source: _member_is_dicom(source)):
                yield source
            else:
                self.passed_over += 1

    def _listed(self, path: Path, folder: Path | str) -> Iterator[Input]:
        """Rows of a CSV with a column of paths (and, if wanted, `image_id`), or lines of a text file; `folder` is the list's own."""
        if path.suffix.lower() == ".txt":
            from chestmap.datasets.text_files import read_list

            yield from (self._row(line, folder) for line in read_list(path))
            return
        from chestmap.prediction.input_lists import frames_of  # needs polars, which images alone do not

        for row in (row for frame in frames_of(path) for row in frame.iter_rows(named=True)):
            source = self._row(row["path"], folder)
            yield replace(source, name=plain_name(row["image_id"]), given=True) if row["image_id"] else source

    def _row(self, text: str, folder: Path | str) -> Input:
        text = without_scheme(text)
        if is_address(text):
            name, whole = name_and_path(text, self._far if isinstance(folder, str) else folder)
            return Input(name=name, path=whole)
        if isinstance(folder, Path):
            return self._file(folder / text)
        return self._file(Path(text) if text.startswith("/") else joined(folder, text))


def _existing(text: str) -> Sequence[Path | Root]:
    """The path, or what a pattern finds that no shell has expanded."""
    if is_address(text):
        return roots_at(text, LISTS)
    path = Path(text)
    if path.exists() or path.is_symlink():
        return [path]
    if any(letter in text for letter in "*?["):
        found = [Path(one) for one in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207 -- the pattern may be absolute
        if found:
            return found
        raise BadInput(f"{text}: no file matches this pattern")
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise BadInput(f"{text}: no such file or folder{did_you_mean(path.name, beside)}")


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and path.is_file()


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False


def _is_link(info: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(info.external_attr >> 16)


def _is_image_name(name: str, is_dicom: Callable[[], bool]) -> bool:
    """By its ending; without an ending, by whether it starts as DICOM does."""
    ending = PurePosixPath(name).suffix.lower()
    return ending in ENDINGS or ending in OTHERS or (name.upper() != "DICOMDIR" and is_dicom())


def _starts_as_dicom(path: Path) -> bool:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _member_is_dicom(source: Input) -> bool:
    try:
        return unpacked(source.path, source.member or 0, 132)[128:] == b"DICM"
    except BadImage:
        return False


def _unique(source: Input, seen: set[bytes]) -> Input:
    """Names that came twice, as a table or letters that cannot be printed make them, get a number."""
    name, number = source.name, 1
    while (own := digest(name)) in seen:
        number += 1
        name = f"{source.name}~{number}"
    seen.add(own)
    return source if name == source.name else replace(source, name=name)

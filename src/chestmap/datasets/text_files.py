"""The text files of a dataset: where they are, gzip, encodings, line ends, lists and JSON.

Whatever is wrong with a file comes out as `BadTable`, in one line that names it and the remedy.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from chestmap.errors import BadTable, did_you_mean

LARGEST = 1 << 31
"""Bytes of text; beyond it lies a mistake or a decompression bomb."""

PIECE = 1 << 20

NOT_TABLES = {
    b"PK\x03\x04": "a zip archive or an Excel workbook; unpack it or save it as CSV",
    b"%PDF": "a PDF",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"PAR1": "a parquet file; save it as CSV",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself",
    b"<!doctype": "a web page; the download asked for a login or failed",
    b"<html": "a web page; the download asked for a login or failed",
}

HALF_LETTER = re.compile(r"\\u[dD][89a-fA-F]")
Shape = TypeVar("Shape", dict, list)


def locate(root: Path, *names: str) -> Path | None:
    """The first of these files in a folder, plain or gzipped."""
    if not root.is_dir():
        raise BadTable(f"{root}: no such folder{did_you_mean(root.name, _names_in(root.parent))}")
    beside = (root / (name + ending) for name in names for ending in ("", ".gz"))
    return next((path for path in beside if path.is_file()), None)


def located(root: Path, *names: str) -> Path:
    """As `locate`, but the file must be there."""
    path = locate(root, *names)
    if path is None:
        tables = [
            name for name in _names_in(root) if name.lower().endswith((".csv", ".gz", ".txt", ".json", ".zip", ".xlsx"))
        ]
        there = f"; it holds {', '.join(tables[:8])}" if tables else "; it holds no table"
        raise BadTable(f"{root}: expected {' or '.join(names)} (or .gz){there}{did_you_mean(names[0], tables)}")
    return path


def _names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def read_text(path: Path) -> str:
    """UTF-8 or UTF-16 by its mark, else Windows-1252; every line ends in a line feed."""
    content = _read_bytes(path)
    start = content[:64].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for magic, what in NOT_TABLES.items():
        if start.startswith(magic.lower()):
            raise BadTable(f"{path}: is {what}; expected a text file")
    text = _decoded(content)
    if "\0" in text:
        raise BadTable(f"{path}: holds zero bytes: damaged, or UTF-16 without its mark; fetch it again or save it as UTF-8")
    if not text.strip():
        raise BadTable(f"{path}: is empty")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            content = b"".join(_pieces(gzip.GzipFile(fileobj=file) if zipped else file))
    except FileNotFoundError:
        raise BadTable(f"{path}: no such file{did_you_mean(path.name, _names_in(path.parent))}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise BadTable(f"{path}: the gzip file is damaged or cut short; fetch it again") from None
    except OSError as error:
        raise BadTable(f"{path}: cannot be read ({error.strerror or error.__class__.__name__})") from None
    if len(content) > LARGEST:
        raise BadTable(f"{path}: more than {LARGEST >> 20:,} MiB of text; expected a table of a dataset")
    return content


def _pieces(file: BufferedIOBase) -> Iterator[bytes]:
    """At most one byte more than `LARGEST`. A read of all at once would ask the system for room of that size."""
    left = LARGEST + 1
    while left and (piece := file.read(min(left, PIECE))):
        left -= len(piece)
        yield piece


def _decoded(content: bytes) -> str:
    """Windows-1252 is what spreadsheets write; any byte has some letter in it, so a name may look odd but nothing is lost."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def read_list(path: Path) -> tuple[str, ...]:
    """Names, one a line, each once; blank lines do not count."""
    return tuple(dict.fromkeys(name for line in read_text(path).split("\n") if (name := line.strip())))


def four_numbers(value: object) -> tuple[float, ...] | None:
    """The four numbers of a box in a JSON file, or None where it is something else."""
    if not isinstance(value, list) or len(value) != 4 or any(type(one) not in {int, float} for one in value):
        return None
    try:
        return tuple(map(float, value))
    except OverflowError:
        return None


def read_json(path: Path, shape: type[Shape]) -> Shape:
    """An object or a list; a key given twice is an error, since the first would vanish."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            key = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise BadTable(f'{path}: the key "{key}" stands twice in one object')
        return dict(pairs)

    def refuse(constant: str) -> NoReturn:
        raise BadTable(f"{path}: {constant} is not a JSON number")

    text = read_text(path)
    try:
        tree = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise BadTable(f"{path}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        if isinstance(error, BadTable):
            raise
        raise BadTable(f"{path}: nested too deeply, or with numbers too long, for a table of a dataset") from None
    if HALF_LETTER.search(text) and not _is_unicode(tree):
        raise BadTable(f"{path}: holds half a letter (\\ud800 to \\udfff alone), which is no Unicode; write the file again")
    if not isinstance(tree, shape):
        kinds = {dict: "an object", list: "a list"}
        raise BadTable(f"{path}: holds {kinds.get(type(tree), 'a single value')}, expected {kinds[shape]}")
    return tree


def _is_unicode(tree: object) -> bool:
    """Whether each text can be written as UTF-8: JSON may hold one half of a pair of surrogates."""
    try:
        json.dumps(tree, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True

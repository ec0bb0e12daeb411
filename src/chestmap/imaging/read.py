"""From file to radiograph: PNG, JPEG or DICOM, recognized by content, never by name.

`png.py`, `jpeg.py` and `dicom.py` each turn the bytes of one kind into grey; this file holds what is common to all: which file may
be opened, what the content is where it is none of the three, and that every failure is a `BadImage` that names the file.
"""

import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from chestmap.errors import BadImage
from chestmap.imaging import jpeg, png
from chestmap.imaging.color import check_not_blank
from chestmap.imaging.limits import LIMITS, Limits
from chestmap.types import Radiograph

__all__ = ["LIMITS", "Limits", "ReadSettings", "content_of", "radiograph_of", "read_radiograph"]

ALLOWED = "PNG, JPEG and DICOM are read"

CONVERT, UNPACK, NAME_IMAGE = "convert it", "unpack it", "name an image"
OTHERS = (
    (0, b"GIF8", "GIF", CONVERT),
    (0, b"II*\0", "TIFF", CONVERT),
    (0, b"MM\0*", "TIFF", CONVERT),
    (0, b"II+\0", "TIFF", CONVERT),
    (8, b"WEBP", "WebP", CONVERT),
    (4, b"ftypavi", "AVIF", CONVERT),
    (4, b"ftyphei", "HEIC", CONVERT),
    (0, b"BM", "BMP", CONVERT),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000", CONVERT),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000", CONVERT),
    (344, b"n+1\0", "NIfTI", CONVERT),
    (0, b"\x89HDF", "HDF5", CONVERT),
    (0, b"\x93NUMPY", "NumPy array", CONVERT),
    (0, b"%PDF", "PDF", CONVERT),
    (0, b"%!PS", "PostScript", CONVERT),
    (0, b"PK\x03\x04", "ZIP archive", UNPACK),
    (0, b"\x1f\x8b", "gzip archive", UNPACK),
    (0, b"7z\xbc\xaf", "7z archive", UNPACK),
    (257, b"ustar", "tar archive", UNPACK),
    (0, b"version https://git-lfs", "Git LFS pointer", "fetch the file itself"),
)
"""Offset, mark and name of what people give by mistake, and what to do."""


@dataclass(frozen=True)
class ReadSettings:
    """Which images are taken, and within which limits."""

    limits: Limits = LIMITS
    views: Literal["frontal", "any"] = "frontal"  # "any" lets lateral and oblique DICOMs through


DEFAULTS = ReadSettings()


def read_radiograph(path: Path | str, settings: ReadSettings = DEFAULTS) -> Radiograph:
    """The image in a file, grey in [0, 1] with dense tissue white; `done` lists what happened to the stored pixels.

    Image id is the file's name without its ending, patient id and view are a DICOM's own. Whatever is wrong with the file or
    its content comes out as `BadImage`.
    """
    path = Path(path)
    try:
        data = content_of(path, settings.limits)
    except BadImage as problem:
        raise BadImage(_printable(f"{path}: {problem}")) from None
    return replace(radiograph_of(data, str(path), settings), image_id=_image_id(path))


def radiograph_of(data: bytes, name: str, settings: ReadSettings = DEFAULTS) -> Radiograph:
    """As `read_radiograph`, of a file's content, such as an archive's member or a request's body; `name` starts messages."""
    try:
        settings.limits.check_bytes(len(data))
        if not data:
            raise BadImage(f"empty file; {ALLOWED}: copy or download it again")
        radiograph = _read(data, settings)
        check_not_blank(radiograph.pixels)
    except BadImage as problem:
        raise BadImage(_printable(f"{name}: {problem}")) from None
    return replace(radiograph, image_id=_printable(name), source=_printable(name))


def _read(data: bytes, settings: ReadSettings) -> Radiograph:
    """By the first bytes; `DICM` follows a preamble that may look like anything."""
    if data.startswith(png.SIGNATURE):
        pixels, done = png.read_png(data, settings.limits)
        return Radiograph(pixels=pixels, image_id="", done=done)
    if data.startswith(jpeg.SIGNATURE):
        pixels, done = jpeg.read_jpeg(data, settings.limits)
        return Radiograph(pixels=pixels, image_id="", done=done)
    if data[128:132] == b"DICM":
        try:
            from chestmap.imaging.dicom import read_dicom
        except ImportError as problem:
            raise BadImage(f'DICOM; reading it needs {problem.name}: pip install "chestmap[dicom]"') from None
        return read_dicom(data, settings.limits, any_view=settings.views == "any")
    kind, advice = _kind(data)
    raise BadImage(f"{kind}; {ALLOWED}: {advice}")


def content_of(path: Path, limits: Limits = LIMITS) -> bytes:
    """Only a regular file is opened: a pipe or device would wait forever. The message of a `BadImage` does not name the file."""
    try:
        status = path.stat()
    except (OSError, ValueError) as problem:
        raise _cannot_open(problem) from None
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise BadImage(f"{what}; {ALLOWED}: name a file")
    limits.check_bytes(status.st_size)
    try:
        with path.open("rb") as stream:
            data = stream.read(limits.file_bytes + 1)
    except OSError as problem:
        raise _cannot_open(problem) from None
    return data


def _cannot_open(problem: OSError | ValueError) -> BadImage:
    said = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
    return BadImage(f"cannot be opened ({said}): check path and permissions")


def _kind(data: bytes) -> tuple[str, str]:
    """What the content seems to be, and what to do about it."""
    for offset, mark, name, advice in OTHERS:
        if data.startswith(mark, offset):
            return name, advice
    if not any(data[:4096]):
        return "nothing but zero bytes", "copy or download it again"
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<svg", b"<?xml")):
        return "SVG or XML", NAME_IMAGE
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page (was the download refused?)", "download it again"
    if data[:2] in {b"\x08\0", b"\x02\0"}:
        return "DICOM data without its file header (128 bytes and DICM)", "export it again"
    if all(byte >= 32 or byte in b"\t\r\n\f" for byte in data[:512]):
        return "text", NAME_IMAGE
    return f"unknown content (first bytes {data[:4].hex(' ')})", NAME_IMAGE


def _image_id(path: Path) -> str:
    """The stem; a file named by its UID has no ending to lose."""
    ending = path.suffix[1:]
    return _printable(path.name if not ending or ending.isdigit() else path.stem)


def _printable(text: str) -> str:
    """Names come from outside: no line break, color code or direction mark of theirs reaches a terminal or log."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)

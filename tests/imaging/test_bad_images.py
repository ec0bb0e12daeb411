"""What is refused, one line each: the file's content and what the message must say."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chestmap.errors import BadImage
from chestmap.imaging.read import read_radiograph
from imaging.bad_dicoms import BAD_DICOMS
from imaging.dicom_samples import chest
from imaging.picture_samples import chunk, grey_png, png, rows, saved, segment, with_segment

SECONDS = 10.0  # on a busy machine; alone it is milliseconds
GREY = chest(bits=8)
JPEG = saved(GREY, "jpeg")
FRAME = JPEG.index(b"\xff\xc0")
SCAN = JPEG.index(b"\xff\xda")


def sized(jpeg: bytes, width: int, height: int) -> bytes:
    return jpeg[: FRAME + 5] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + jpeg[FRAME + 9 :]


def many_scans() -> bytes:
    progressive = saved(np.zeros((4000, 4000), np.uint8), "jpeg", progressive=True)
    start, end = progressive.rindex(b"\xff\xda"), len(progressive) - 2
    return progressive[:end] + progressive[start:end] * 200 + progressive[end:]


NOT_IMAGES = {
    "empty": (b"", "empty file"),
    "zeros": (bytes(5000), "nothing but zero bytes"),
    "text": (b"image_id,finding\n00000001_000.png,Mass\n", "text; PNG, JPEG and DICOM are read"),
    "web page": (b"<!DOCTYPE html><html>Login</html>", "a web page"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/hostname"/></svg>', "SVG or XML"),
    "xml": (b"<?xml version='1.0'?><a/>", "SVG or XML"),
    "pdf": (b"%PDF-1.7\n", "PDF"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%id) (r) file\n", "PostScript"),
    "zip": (b"PK\x03\x04" + bytes(500), "ZIP archive"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "gzip archive"),
    "numpy": (b"\x93NUMPY\x01\x00v\x00", "NumPy array"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
    "gif": (saved(GREY, "gif"), "GIF"),
    "tiff": (saved(GREY, "tiff"), "TIFF"),
    "webp": (saved(GREY, "webp"), "WebP"),
    "bmp": (saved(GREY, "bmp"), "BMP"),
    "jpeg 2000": (saved(GREY, "jpeg2000"), "JPEG 2000"),
    "random": (np.random.default_rng(3).bytes(5000), "unknown content"),
}

PNGS = {
    "png signature only": (b"\x89PNG\r\n\x1a\n", "cut short"),
    "png cut in half": (grey_png()[:900], "cut short"),
    "png without end": (grey_png()[:-12], "no end mark"),
    "png wrong checksum": (grey_png()[:200] + b"X" + grey_png()[201:], "checksum of PNG chunk IDAT"),
    "png damaged stream": (png(rows(GREY)[:500]), "pixel data is damaged"),
    "png too few rows": (png(rows(GREY[:40])), "pixel data is damaged"),
    "png unknown filter": (png(rows(GREY)[:2] + b"\xff" * 50), "pixel data is damaged"),
    "png no pixels": (png(b""), "pixel data is damaged"),
    "png 60,000 x 60,000": (png(b"x", size=(60_000, 60_000)), "60000 x 60000 pixels; at most"),
    "png 2,147,483,647 wide": (png(b"x", size=(2**31 - 1, 16)), "at most"),
    "png 41 million pixels": (png(b"x", size=(8200, 5000)), "at most 40,000,000 pixels"),
    "png 1 x 1": (saved(GREY[:1, :1]), "1 x 1 pixels; at least 16"),
    "png 0 wide": (png(rows(GREY), size=(0, 48)), "0 x 48 pixels"),
    "png 16,000 x 1": (saved(np.zeros((1, 16_000), np.uint8)), "at least 16 on each side"),
    "png of 3 bits": (grey_png(depth=3), "not in the standard"),
    "png of color type 5": (grey_png(color=5), "not in the standard"),
    "png without header": (b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", rows(GREY)) + chunk(b"IEND", b""), "header missing"),
    "png with two headers": (grey_png(before=grey_png()[8:33]), "header missing or repeated"),
    "png with short header": (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"123") + chunk(b"IEND", b""), "wrong length"),
    "png unknown critical chunk": (grey_png(before=chunk(b"EVIL", b"1")), "not in the standard"),
    "png animated": (saved(Image.fromarray(GREY), save_all=True, append_images=[Image.fromarray(GREY.T)]), "animated"),
    "png of 200,000 chunks": (grey_png(before=chunk(b"tEXt", b"a\0b") * 200_000), "more than 100,000 chunks"),
    "png blank": (saved(np.full((64, 64), 77, np.uint8)), "blank: every pixel has the same grey (0.302)"),
    "png blank palette": (saved(Image.new("P", (64, 64))), "blank"),
    "png all transparent": (saved(Image.new("LA", (64, 64), (200, 0))), "blank"),
}

JPEGS = {
    "jpeg start only": (b"\xff\xd8\xff", "cut short in its header"),
    "jpeg cut in header": (JPEG[:100], "cut short in its header"),
    "jpeg cut in half": (JPEG[: len(JPEG) // 2], "no end mark"),
    "jpeg 65,000 x 65,000": (sized(JPEG, 65_000, 65_000), "65000 x 65000 pixels; at most"),
    "jpeg 8 x 8": (sized(JPEG, 8, 8), "at least 16"),
    "jpeg cmyk": (saved(Image.new("CMYK", (64, 64)), "jpeg"), "4 channels (CMYK?)"),
    "jpeg blank": (saved(np.full((64, 64), 9, np.uint8), "jpeg"), "blank"),
    "jpeg without frame": (JPEG[:FRAME] + JPEG[SCAN:], "scan without a frame"),
    "jpeg without picture": (b"\xff\xd8\xff\xd9", "cut short in its header"),
    "jpeg arithmetic": (JPEG.replace(b"\xff\xc0", b"\xff\xc9", 1), "unusual process (marker C9)"),
    "jpeg with two frames": (with_segment(JPEG, 0xC0, JPEG[FRAME + 4 : FRAME + 15]), "second frame"),
    "jpeg no marker": (JPEG[:2] + b"\xff\xe0\x00\x04ab12" + JPEG[2:], "no JPEG marker"),
    "jpeg of 20,000 segments": (JPEG[:2] + segment(0xFE, b"a") * 20_000 + JPEG[2:], "more than 10,000 segments"),
    "jpeg of 200 scans": (many_scans, "scans over 4000 x 4000 pixels"),
    "jpeg frame of 3 bytes": (JPEG[:2] + segment(0xC0, b"abc"), "cut short in its header"),
    "jpeg lossless damaged": (JPEG.replace(b"\xff\xc0", b"\xff\xc3", 1), "8-bit lossless JPEG is damaged"),
}

BAD = {**NOT_IMAGES, **PNGS, **JPEGS, **BAD_DICOMS}


@pytest.mark.parametrize("name", BAD)
def test_bad_content_is_refused_by_name(name: str, tmp_path: Path) -> None:
    content, said = BAD[name]
    path = tmp_path / "00000001_000.png"
    path.write_bytes(content() if callable(content) else content)
    begun = time.perf_counter()
    with pytest.raises(BadImage) as problem:
        read_radiograph(path)
    assert time.perf_counter() - begun < SECONDS
    assert said in str(problem.value)
    assert str(problem.value).startswith(f"{path}: ")
    assert str(problem.value).isprintable()
    assert "Never^Shown" not in str(problem.value)
    assert "patient-7" not in str(problem.value)


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path)


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("gone.png"))


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is limited to about 100 letters
    try:
        listener.bind(path.name)
    finally:
        os.chdir(here)
        listener.close()


def nothing(path: Path) -> None:
    pass


def file_inside_a_file(path: Path) -> None:
    path.write_bytes(b"x")


PLACES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "folder": (folder, "image.png", "a folder; PNG, JPEG and DICOM are read"),
    "pipe": (pipe, "image.png", "a pipe, socket or device"),
    "socket": (unix_socket, "image.png", "a pipe, socket or device"),
    "device": (device, "image.png", "a pipe, socket or device"),
    "loop of links": (loop, "image.png", "cannot be opened (Too many levels of symbolic links)"),
    "link to nothing": (dangling, "image.png", "cannot be opened (No such file or directory)"),
    "missing": (nothing, "image.png", "cannot be opened (No such file or directory)"),
    "name too long": (nothing, "a" * 5000, "cannot be opened (File name too long)"),
    "zero in name": (nothing, "a\0b", "embedded null "),  # the rest differs between versions of Python
    "file as folder": (file_inside_a_file, "image.png/inside.png", "cannot be opened (Not a directory)"),
}


@pytest.mark.parametrize("name", PLACES)
def test_what_is_no_file_is_refused_and_never_waited_for(name: str, tmp_path: Path) -> None:
    make, relative, said = PLACES[name]
    make(tmp_path / relative.split("/")[0])
    with pytest.raises(BadImage) as problem:
        read_radiograph(tmp_path / relative)
    assert said in str(problem.value)
    assert str(problem.value).isprintable()


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(grey_png())

    def refused(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)  # the permission bits of a file do not stop root, who may run this
    with pytest.raises(BadImage, match=r"cannot be opened \(Permission denied\): check path and permissions"):
        read_radiograph(path)


def test_a_file_too_big_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(BadImage, match=r"1,099,511,627,776 bytes; at most 134,217,728 are read"):
        read_radiograph(path)

"""PNG to grey pixels: chunks are checked here, pixels are inflated by OpenCV.

OpenCV gives the same numbers as Pillow in less time (benchmarks/decode.py). It is handed the chunks that make the pixels and no
others, so compressed text, color profiles and animation frames are never opened.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float32, UInt

from chestmap.errors import BadImage
from chestmap.imaging.color import grey_of_color, over_black, unit
from chestmap.imaging.exif import UPRIGHT, orientation_of, upright
from chestmap.imaging.limits import Limits

SIGNATURE = b"\x89PNG\r\n\x1a\n"
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Allowed bits per sample by color type: grey, RGB, palette, grey and alpha, RGBA (PNG 3rd edition, table 8)."""
GREY, PALETTE = 0, 3
CHUNKS = 100_000


@dataclass(eq=False, kw_only=True)
class _Parts:
    """Collects what a walk over the chunks finds: the header's fields and the chunks that make the pixels.

    `transparent` and `exif` are the raw data of tRNS and eXIf, empty where the file has none.
    """

    width: int = 0
    height: int = 0
    depth: int = 0
    color: int = GREY
    kept: list[bytes] = field(default_factory=list)
    transparent: bytes = b""
    exif: bytes = b""


def read_png(data: bytes, limits: Limits) -> tuple[Float32[np.ndarray, "h w"], tuple[str, ...]]:
    """Grey in [0, 1] and what was done to the stored values."""
    parts = _parts(data, limits)
    stored = _inflated(b"".join([SIGNATURE, *parts.kept]))
    if stored.shape[:2] != (parts.height, parts.width):
        raise BadImage(
            f"decodes to {stored.shape}, not to its header's {parts.height} x {parts.width}: damaged, copy it again"
        )
    grey, done = _grey(stored, parts)
    orientation = orientation_of(parts.exif)
    if orientation != UPRIGHT:
        grey = upright(grey, orientation)
        done.append(f"turned upright (EXIF orientation {orientation})")
    return grey, tuple(done)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of each chunk's data, up to IEND; a chunk that runs over the end of the file is a cut file."""
    position = len(SIGNATURE)
    for _ in range(CHUNKS):
        if position + 12 > len(data):
            raise BadImage(f"cut short: no end mark in {len(data):,} bytes; copy or download it again")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise BadImage(f"cut short: a part of {length:,} bytes runs over its end; copy or download it again")
        yield kind, position + 8, end
        if kind == b"IEND":
            return
        position = end + 4
    raise BadImage(f"more than {CHUNKS:,} chunks; no radiograph needs them: save it again as a plain PNG")


def _parts(data: bytes, limits: Limits) -> _Parts:
    """Walks the chunks, checks those that make the pixels, and keeps them as they are; the others are skipped unread."""
    parts = _Parts()
    view = memoryview(data)
    for number, (kind, start, end) in enumerate(_chunks(data)):
        if (number == 0) != (kind == b"IHDR"):
            raise BadImage("PNG header missing or repeated: damaged, copy it again")
        if kind == b"acTL":
            raise BadImage("animated PNG; one still image is needed: export its frame")
        if kind == b"eXIf":
            parts.exif = data[start:end]
        if kind not in {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}:
            if kind[:1].isupper():
                raise BadImage(f"PNG chunk {kind!r} is not in the standard: damaged, copy it again")
            continue
        if zlib.crc32(view[start - 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise BadImage(f"checksum of PNG chunk {kind.decode()} is wrong: damaged, copy or download it again")
        if kind == b"IHDR":
            _read_header(parts, data[start:end], limits)
        if kind == b"tRNS":
            parts.transparent = data[start:end]
        parts.kept.append(data[start - 8 : end + 4])
    return parts


def _read_header(parts: _Parts, header: bytes, limits: Limits) -> None:
    """PNG 3rd edition, 11.2.1; compression, filter and interlace method are left to the decoder."""
    if len(header) != 13:
        raise BadImage("PNG header has a wrong length: damaged, copy it again")
    parts.width, parts.height, parts.depth, parts.color = struct.unpack(">IIBB", header[:10])
    if parts.depth not in DEPTHS.get(parts.color, ()):
        raise BadImage(
            f"PNG of color type {parts.color} with {parts.depth} bits is not in the standard: damaged, copy it again"
        )
    limits.check_size(parts.width, parts.height)


def _inflated(clean: bytes) -> UInt[np.ndarray, "h w *channel"]:
    """OpenCV's order: blue, green, red, alpha; a palette comes resolved, fewer than 8 bits stretched to 8. It refuses damage
    by returning nothing, and libpng then writes a line to stderr, which only a file with right checksums can cause.
    """
    try:
        stored = cv2.imdecode(np.frombuffer(clean, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        stored = None
    if stored is None:
        raise BadImage("PNG pixel data is damaged: copy or download it again")
    return stored


def _grey(stored: UInt[np.ndarray, "h w *channel"], parts: _Parts) -> tuple[Float32[np.ndarray, "h w"], list[str]]:
    """More than one channel: color first, then transparency."""
    if stored.ndim == 2:
        return _grey_of_one(stored, parts)
    white = int(np.iinfo(stored.dtype).max)
    blue, green, red, *alpha = cv2.split(stored)
    grey, note = grey_of_color(red, green, blue, white)
    done = [f"palette: {note}" if parts.color == PALETTE else note] if parts.color != 4 else []
    if alpha:
        grey, note = over_black(grey, alpha[0], white)
        done.append(note)
    return grey, done


def _grey_of_one(stored: UInt[np.ndarray, "h w"], parts: _Parts) -> tuple[Float32[np.ndarray, "h w"], list[str]]:
    """One channel; OpenCV drops its transparent level (tRNS), so that is looked up here, in the depth of the file."""
    white, done = int(np.iinfo(stored.dtype).max), []
    if parts.depth == 16:
        white, done = _white_of_16_bits(int(stored.max()))
    grey = unit(stored, white)
    if parts.transparent and parts.color == GREY:
        key = int.from_bytes(parts.transparent[:2], "big")
        stretched = key if parts.depth in {8, 16} else key * 255 // (2**parts.depth - 1)
        grey, note = over_black(grey, np.where(stored == stretched, 0, 255).astype(np.uint8), 255)
        done.append(note)
    return grey, done


def _white_of_16_bits(largest: int) -> tuple[int, list[str]]:
    """A detector's 8, 10, 12 or 14 bits are often saved unscaled; over 65535 they would be black."""
    for bits in (8, 10, 12, 14):
        if largest < 2**bits:
            return 2**bits - 1, [f"16-bit values up to {largest}: read as {bits}-bit"]
    return 65535, []

"""The header of a JPEG 2000 codestream (ISO/IEC 15444-1 annex A), read to bound what decoding it costs.

A codestream decides itself into how many tiles, precincts and code blocks it is cut. OpenJPEG allocates them all before it reads
a pixel: 12 kB with precincts of 8 x 8 cost it 8 seconds and 1.2 GB.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from chestmap.errors import BadImage

START = b"\xff\x4f\xff\x51"
COD, COC, SOT, SOD = 0xFF52, 0xFF53, 0xFF90, 0xFF93
TILES, PIECES, SEGMENTS = 4096, 400_000, 100_000


@dataclass(frozen=True)
class Codestream:
    """Where the codestream starts in its frame, and its size."""

    start: int
    width: int
    height: int
    samples: int


def codestream(frame: bytes) -> Codestream:
    """Where the codestream starts (some files wrap it as JP2, against the standard) and its size; refuses the excessive."""
    start = frame.find(START)
    if start < 0:
        raise BadImage("JPEG 2000 frame without a header: damaged, or its transfer syntax is wrong; export it again")
    if not frame.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise BadImage("JPEG 2000 frame cut short: no end mark; copy or export it again")
    try:
        return _checked(frame, start)
    except (struct.error, IndexError):
        raise BadImage("JPEG 2000 frame cut short in its header: copy or export it again") from None


def _checked(frame: bytes, start: int) -> Codestream:
    """Reads past the end of the frame come out as struct.error."""
    x1, y1, x0, y0, tile_width, tile_height, _, _, samples = struct.unpack_from(">8IH", frame, start + 8)
    width, height = x1 - x0, y1 - y0
    tiles = -(-x1 // max(tile_width, 1)) * -(-y1 // max(tile_height, 1))
    if tiles > TILES:
        raise BadImage(f"JPEG 2000 frame in {tiles:,} tiles; at most {TILES:,} are read: compress it again")
    position = start + 2
    for marker, body in _segments(frame, position):
        if marker == COC or (marker == COD and body < 0):
            raise BadImage("JPEG 2000 frame whose parts are coded in several ways: compress it again")
        if marker == COD:
            _check_pieces(frame[body : body + 64], width, height, samples)
    return Codestream(start, width, height, samples)


def _segments(frame: bytes, position: int) -> Iterator[tuple[int, int]]:
    """(marker, where its data starts) of the main header; a coding style inside a tile comes with -1."""
    tile = 0
    for _ in range(SEGMENTS):
        marker, length = struct.unpack_from(">HH", frame, position)
        if marker == SOT:
            (size,) = struct.unpack_from(">I", frame, position + 6)
            tile, position = position + size if size else 0, position + 12
        elif marker == SOD:
            if not tile or struct.unpack_from(">H", frame, tile) != (SOT,):
                return
            position = tile
        elif marker < 0xFF00:
            return
        else:
            yield marker, -1 if tile else position + 4
            position += 2 + length
    raise BadImage(f"JPEG 2000 frame with more than {SEGMENTS:,} segments: compress it again")


def _check_pieces(body: bytes, width: int, height: int, samples: int) -> None:
    """Precincts of every resolution and code blocks, for the whole picture."""
    levels, block_x, block_y = body[5], body[6] + 2, body[7] + 2
    pieces = (-(-width >> block_x)) * (-(-height >> block_y)) if max(block_x, block_y) <= 10 else PIECES + 1
    for level in range(levels + 1):
        size = body[10 + level] if body[0] & 1 else 0xFF
        shift = levels - level
        pieces += -(-width >> (shift + (size & 15))) * -(-height >> (shift + (size >> 4)))
    if pieces * samples > PIECES:
        raise BadImage(f"JPEG 2000 frame in {pieces * samples:,} pieces; at most {PIECES:,} are read: compress it again")

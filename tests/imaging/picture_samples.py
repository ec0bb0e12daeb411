"""PNG and JPEG files made byte by byte, also such as no library would write."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from imaging.dicom_samples import chest


def saved(picture: Image.Image | np.ndarray, kind: str = "png", **options: object) -> bytes:
    stream = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    stored: bytes, size: tuple[int, int] = (64, 48), depth: int = 8, color: int = 0, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG whose compressed data is `stored`, with other chunks before and after it."""
    header = struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), before, chunk(b"IDAT", stored), after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def rows(stored: np.ndarray) -> bytes:
    """Compressed rows, each behind filter 0."""
    lines = np.ascontiguousarray(stored.astype(stored.dtype.newbyteorder(">"))).view(np.uint8).reshape(len(stored), -1)
    return zlib.compress(np.insert(lines, 0, 0, axis=1).tobytes())


def grey_png(**options: object) -> bytes:
    return png(rows(chest(bits=8)), **options)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """The same JPEG with one more segment at its start."""
    return jpeg[:2] + segment(marker, content) + jpeg[2:]


def interlaced_png(stored: np.ndarray) -> bytes:
    """Adam7 by hand (PNG 3rd edition, 8.1): seven passes, each a small picture of its own."""
    grids = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = [zlib.decompress(rows(stored[y::down, x::right])) for y, x, down, right in grids]
    whole = bytearray(png(zlib.compress(b"".join(passes)), size=(stored.shape[1], stored.shape[0])))
    whole[28] = 1
    whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, "big")
    return bytes(whole)

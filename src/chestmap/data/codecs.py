"""Pixel data of a DICOM file to integer codes, by one named decoder for each transfer syntax.

Which decoder runs never depends on what else is installed: pydicom would try any plug-in it finds, python-gdcm among them, which
ends the interpreter on some images. A frame's own header is compared with the DICOM header before a decoder sees it, so
that no decoder allocates what the limits forbid.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import imagecodecs
import jpeg_ls
import numpy as np
from jaxtyping import UInt
from openjpeg.utils import decode as decode_jpeg_2000
from pydicom import uid
from pydicom.encaps import generate_fragments, parse_basic_offsets

from chestmap.data.jpeg import LOSSLESS, check_scans, jpeg_header, segments
from chestmap.errors import BadImage

Codes = UInt[np.ndarray, "h w *sample"]


@dataclass(frozen=True)
class Layout:
    """The Image Pixel module, PS3.3 C.7.6.3."""

    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    high: int
    signed: bool
    photometric: str
    planar: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)

    @property
    def bytes_per_sample(self) -> int:
        return self.allocated // 8


def decoded(pixel_data: bytes, syntax: str, layout: Layout, *, vr: str, done: list[str]) -> tuple[Codes, str]:
    """Unsigned codes and the photometric interpretation they have now; what was done goes to `done`."""
    if syntax in NATIVE:
        return _native(pixel_data, layout, NATIVE[syntax], vr, done)
    codes, photometric = FRAMES[syntax](_frame(pixel_data), layout)
    if codes.shape != layout.shape:
        raise BadImage(f"frame decodes to {codes.shape}, its header says {layout.shape}: damaged, export it again")
    unsigned = np.uint8 if layout.allocated == 8 else np.uint16
    if codes.dtype.itemsize > unsigned().itemsize:
        raise BadImage(f"frame of {8 * codes.dtype.itemsize}-bit samples in a file of {layout.allocated} bits: damaged")
    if codes.dtype.kind == "i":  # a signed JPEG 2000: sign bits must reach the top of the code
        codes = codes.astype(f"i{layout.bytes_per_sample}").view(unsigned)
    if syntax in LOSSY and not layout.signed and layout.stored < layout.allocated:
        codes = np.minimum(codes, 2**layout.stored - 1)  # overshoot at an edge must not wrap around to black
    done.append(f"decompressed ({uid.UID(syntax).name})")
    return codes.astype(unsigned, copy=False), photometric


def _frame(pixel_data: bytes) -> bytes:
    """All fragments joined: there is one frame, so the table of offsets can only mislead."""
    stream = io.BytesIO(pixel_data)
    parse_basic_offsets(stream)
    frame = b"".join(generate_fragments(stream))
    if not frame:
        raise BadImage("compressed pixel data is empty: export it again")
    return frame


def _native(pixel_data: bytes, layout: Layout, order: str, vr: str, done: list[str]) -> tuple[Codes, str]:
    halved = layout.photometric == "YBR_FULL_422"
    samples = 2 if halved else layout.samples
    count = layout.rows * layout.columns * samples
    needed = count * layout.bytes_per_sample
    if len(pixel_data) < needed:
        raise BadImage(f"cut short: {len(pixel_data):,} bytes of pixels, {needed:,} needed; copy or export it again")
    if len(pixel_data) > needed + 1:
        done.append(f"{len(pixel_data) - needed:,} bytes after the pixels ignored")
    if order == ">" and layout.allocated == 8 and vr == "OW":
        pixel_data = np.frombuffer(pixel_data[: needed + needed % 2], ">u2").astype("<u2").tobytes()
    codes = np.frombuffer(pixel_data, f"{order}u{layout.bytes_per_sample}", count)
    codes = codes.astype(codes.dtype.newbyteorder("="), copy=False)
    if halved:
        return _full_chroma(codes, layout), "YBR_FULL"
    if layout.samples > 1 and layout.planar == 1:
        return np.moveaxis(codes.reshape(layout.samples, layout.rows, layout.columns), 0, -1), layout.photometric
    return codes.reshape(layout.shape), layout.photometric


def _full_chroma(codes: UInt[np.ndarray, "code"], layout: Layout) -> Codes:
    """Y1 Y2 Cb Cr for each pair of pixels (PS3.3 C.7.6.3.1.2) to Y Cb Cr for each."""
    pairs = codes.reshape(layout.rows, layout.columns // 2, 4)
    chroma = np.repeat(pairs[..., 2:], 2, axis=1)
    return np.concatenate([pairs[..., :2].reshape(layout.rows, layout.columns, 1), chroma], axis=-1)


def _check_frame(width: int, height: int, samples: int, layout: Layout) -> None:
    if (height, width, samples) != (layout.rows, layout.columns, layout.samples):
        raise BadImage(
            f"frame of {width} x {height} pixels with {samples} channels in a file of {layout.columns} x {layout.rows} with "
            f"{layout.samples}: damaged, export it again"
        )


def _jpeg(frame: bytes, layout: Layout) -> tuple[Codes, str]:
    """Baseline, extended with 12 bits, and lossless: all by libjpeg-turbo inside imagecodecs."""
    header = jpeg_header(frame)
    _check_frame(header.width, header.height, header.components, layout)
    check_scans(header, frame)
    if layout.samples == 1:
        return np.asarray(imagecodecs.jpeg8_decode(frame)), layout.photometric
    if header.process == LOSSLESS:
        return np.asarray(imagecodecs.jpeg8_decode(frame, colorspace="RGB", outcolorspace="RGB")), layout.photometric
    if header.says_color:
        return np.asarray(imagecodecs.jpeg8_decode(frame)), "RGB"
    stored = "RGB" if layout.photometric == "RGB" else "YCBCR"
    return np.asarray(imagecodecs.jpeg8_decode(frame, colorspace=stored, outcolorspace="RGB")), "RGB"


def _jpeg_ls(frame: bytes, layout: Layout) -> tuple[Codes, str]:
    for marker, _, body, end in segments(frame):
        if marker == 0xF7 and end - body >= 6:
            _, height, width, samples = struct.unpack_from(">BHHB", frame, body)
            _check_frame(width, height, samples, layout)
            break
    else:
        raise BadImage("JPEG-LS frame without a header: damaged, export it again")
    buffer, info = jpeg_ls.decode_pixel_data(frame)
    codes = np.frombuffer(buffer, np.uint8 if info["bits_per_sample"] <= 8 else np.uint16)
    if layout.samples > 1 and info["interleave_mode"] == 0:
        return np.moveaxis(codes.reshape(layout.samples, layout.rows, layout.columns), 0, -1), layout.photometric
    return codes.reshape(layout.shape), layout.photometric


TILES = 4096


def _jpeg_2000(frame: bytes, layout: Layout) -> tuple[Codes, str]:
    """A JP2 wrapper, which DICOM forbids and some files have, is cut off."""
    start = frame.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(frame) < start + 42:
        raise BadImage("JPEG 2000 frame without a header: damaged, or its transfer syntax is wrong; export it again")
    x1, y1, x0, y0, tile_width, tile_height, _, _, samples = struct.unpack_from(">8IH", frame, start + 8)
    _check_frame(x1 - x0, y1 - y0, samples, layout)
    tiles = -(-x1 // max(tile_width, 1)) * -(-y1 // max(tile_height, 1))
    if tiles > TILES:
        raise BadImage(f"JPEG 2000 frame in {tiles:,} tiles; at most {TILES:,} are read: compress it again")
    if not frame.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise BadImage("JPEG 2000 frame cut short: no end mark; copy or export it again")
    codes = decode_jpeg_2000(frame[start:], 0)
    return codes, "RGB" if layout.photometric in {"YBR_ICT", "YBR_RCT"} else layout.photometric


def _rle(frame: bytes, layout: Layout) -> tuple[Codes, str]:
    """PS3.5 annex G: one PackBits segment for each byte of a sample, the most significant first; output is bounded."""
    count, *offsets = struct.unpack_from("<16I", frame)
    if count != layout.samples * layout.bytes_per_sample:
        raise BadImage(f"RLE frame of {count} segments; {layout.samples * layout.bytes_per_sample} are needed: damaged")
    pixels = layout.rows * layout.columns
    bounds = [*offsets[:count], len(frame)]
    codes = np.empty((layout.samples, pixels, layout.bytes_per_sample), np.uint8)
    for segment, (start, end) in enumerate(pairwise(bounds)):
        plane = imagecodecs.packbits_decode(frame[start:end], out=bytearray(pixels + 256))
        sample, place = divmod(segment, layout.bytes_per_sample)
        codes[sample, :, layout.bytes_per_sample - 1 - place] = np.frombuffer(plane, np.uint8)[:pixels]
    whole = codes.view("<u2" if layout.allocated == 16 else "u1").reshape(layout.samples, layout.rows, layout.columns)
    return (whole[0] if layout.samples == 1 else np.moveaxis(whole, 0, -1)), layout.photometric


NATIVE: dict[str, str] = {
    uid.ImplicitVRLittleEndian: "<",
    uid.ExplicitVRLittleEndian: "<",
    uid.DeflatedExplicitVRLittleEndian: "<",
    uid.ExplicitVRBigEndian: ">",
}
"""Transfer syntaxes whose pixels are not compressed, with their byte order."""

FRAMES: dict[str, Callable[[bytes, Layout], tuple[Codes, str]]] = {
    uid.JPEGBaseline8Bit: _jpeg,
    uid.JPEGExtended12Bit: _jpeg,
    uid.JPEGLossless: _jpeg,
    uid.JPEGLosslessSV1: _jpeg,
    uid.JPEGLSLossless: _jpeg_ls,
    uid.JPEGLSNearLossless: _jpeg_ls,
    uid.JPEG2000Lossless: _jpeg_2000,
    uid.JPEG2000: _jpeg_2000,
    uid.HTJ2KLossless: _jpeg_2000,
    uid.HTJ2KLosslessRPCL: _jpeg_2000,
    uid.HTJ2K: _jpeg_2000,
    uid.RLELossless: _rle,
}

LOSSY = {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless, uid.JPEG2000, uid.HTJ2K}

"""Pixel data of a DICOM file to integer codes, by one named decoder for each transfer syntax.

Uncompressed data is read with NumPy. JPEG baseline, extended (12 bits) and lossless go through libjpeg-turbo (imagecodecs),
JPEG-LS through CharLS (pyjpegls), JPEG 2000 through OpenJPEG (pylibjpeg-openjpeg), RLE through imagecodecs' PackBits.
Which decoder runs never depends on what else is installed: pydicom would try any plug-in it finds, python-gdcm among them, which
ends the interpreter on some images. A frame's own header is compared with the DICOM header before a decoder sees it, so
that no decoder allocates what the limits forbid.
"""

import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice, pairwise

import imagecodecs
import numpy as np
from jaxtyping import UInt, UInt8
from openjpeg.utils import decode as decode_jpeg_2000
from pydicom import uid
from pydicom.encaps import generate_fragments

from chestmap.errors import BadImage
from chestmap.imaging.jpeg import LOSSLESS, check_scans, jpeg_header, segments
from chestmap.imaging.jpeg_2000 import codestream

ITEM = b"\xfe\xff\x00\xe0"
FRAGMENTS = 10_000
SOF_LS = 0xF7

Codes = UInt[np.ndarray, "h w *sample"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Describes how pixel data lies in a file: the Image Pixel module, PS3.3 C.7.6.3.

    `allocated` and `stored` count bits of a sample, `high` is its highest bit. `planar` is 1 where colors come plane
    by plane.
    """

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
        """The shape of the decoded array: rows, columns, and samples where there are several."""
        return (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)

    @property
    def bytes_per_sample(self) -> int:
        """Bytes that one sample takes in the file."""
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
    """All fragments joined: there is one frame, so the table of offsets, which comes first, can only mislead."""
    mark, length = struct.unpack_from("<4sI", pixel_data)
    if mark != ITEM:
        raise BadImage("pixel data is not compressed as its transfer syntax says: export it again")
    fragments = list(islice(generate_fragments(pixel_data[8 + length :]), FRAGMENTS + 1))
    if len(fragments) > FRAGMENTS:
        raise BadImage(f"more than {FRAGMENTS:,} fragments for one image: compress it again")
    if not any(fragments):
        raise BadImage("compressed pixel data is empty: export it again")
    return b"".join(fragments)


def _native(pixel_data: bytes, layout: Layout, order: str, vr: str, done: list[str]) -> tuple[Codes, str]:
    """Values side by side or plane by plane, in the byte order of the transfer syntax; whatever follows them is ignored."""
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
    """The frame's own header must repeat the file's: decoders allocate by the former, the limits were held to the latter."""
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


JPEG_LS_CHILD = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]),) * 2)
except (ImportError, ValueError, OSError):
    pass
import jpeg_ls
buffer, info = jpeg_ls.decode_pixel_data(sys.stdin.buffer.read())
sys.stdout.buffer.write(bytes([info["bits_per_sample"], info["interleave_mode"]]) + buffer)
"""
"""CharLS (2.4.3 and before) counts through 2^32 on some damaged streams, ten seconds in which nothing can stop it; a child of
its own costs a quarter of a second and is ended after its share of processor time."""
CHILD_SECONDS = 60
"""Of waiting, however busy the machine is."""


def _in_child(frame: bytes, layout: Layout) -> tuple[int, int, UInt8[np.ndarray, "byte"]]:
    """Decodes a JPEG-LS frame in a process of its own; gives bits of a sample, interleave mode and the decoded bytes.

    The process may use 2 seconds of processor time, and one more for every 20 million samples.
    """
    if find_spec("jpeg_ls") is None:
        raise BadImage('JPEG-LS; reading it needs pyjpegls: pip install "chestmap[dicom]"')
    seconds = 2 + layout.rows * layout.columns * layout.samples // 20_000_000
    try:
        child = subprocess.run(  # noqa: S603 - a fixed program
            [sys.executable, "-I", "-c", JPEG_LS_CHILD, str(seconds)],
            check=False,
            input=frame,
            capture_output=True,
            timeout=CHILD_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise BadImage(f"JPEG-LS frame takes more than {CHILD_SECONDS} seconds: damaged, export it again") from None
    if child.returncode != 0 or len(child.stdout) < 2:
        raise BadImage("JPEG-LS frame is damaged: copy or export it again")
    return child.stdout[0], child.stdout[1], np.frombuffer(child.stdout, np.uint8, offset=2)


def _jpeg_ls(frame: bytes, layout: Layout) -> tuple[Codes, str]:
    """By CharLS (pyjpegls), colors interleaved in any of its three ways."""
    headers = [frame[body:end] for marker, _, body, end in segments(frame) if marker == SOF_LS]
    if len(headers) != 1 or len(headers[0]) < 6:
        raise BadImage("JPEG-LS frame without a single header: damaged, export it again")
    _, height, width, samples = struct.unpack_from(">BHHB", headers[0])
    _check_frame(width, height, samples, layout)
    if b"\xff\xd9" not in (
        frame.rstrip(b"\0")[-2:],
        frame[-3:-1],
    ):  # the byte that makes the length even may be any (DCMTK's)
        raise BadImage("JPEG-LS frame cut short: no end mark; copy or export it again")
    bits, interleave, codes = _in_child(frame, layout)
    codes = codes.view(np.uint8 if bits <= 8 else np.uint16)
    if layout.samples > 1 and interleave == 0:
        return np.moveaxis(codes.reshape(layout.samples, layout.rows, layout.columns), 0, -1), layout.photometric
    return codes.reshape(layout.shape), layout.photometric


def _jpeg_2000(frame: bytes, layout: Layout) -> tuple[Codes, str]:
    """By OpenJPEG (pylibjpeg-openjpeg), which also reads high-throughput streams and undoes the color transform."""
    stream = codestream(frame)
    _check_frame(stream.width, stream.height, stream.samples, layout)
    codes = decode_jpeg_2000(frame[stream.start :], 0)
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
        if len(plane) < pixels:
            raise BadImage(f"RLE frame ends after {len(plane):,} of {pixels:,} pixels: damaged, copy or export it again")
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
"""Transfer syntaxes without compression, with their byte order."""

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

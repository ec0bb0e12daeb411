"""DICOM files that must be refused: name, content (or what makes it) and what the message must say."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from imaging.dicom_samples import as_bytes, chest, compressed, deflated, frame, look_up_table, radiograph

STORED = chest()
GOOD = as_bytes(radiograph(STORED))
PIXELS = GOOD.index(b"\xe0\x7f\x10\x00OW")
NAME = GOOD.index(b"\x10\x00\x10\x00PN")
ITEM = struct.pack("<HH2sHIHHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)


def made(**elements: object) -> bytes:
    return as_bytes(radiograph(STORED, **elements))


def encapsulated(content: bytes, syntax: str, **elements: object) -> bytes:
    """A file whose compressed frame is these bytes."""
    dataset = radiograph(STORED, **elements)
    dataset.file_meta.TransferSyntaxUID = uid.UID(syntax)
    dataset.PixelData = encapsulate([content]) if content else b"\xfe\xff\x00\xe0" + bytes(4)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return as_bytes(dataset)


def element(group: int, number: int, vr: bytes, length: int) -> bytes:
    return struct.pack("<HH2sHI", group, number, vr, 0, length)


def long_elements(count: int) -> bytes:
    return b"".join(struct.pack("<HH2sH", 0x0099, 0x1010 + place % 0xE000, b"LO", 0) for place in range(count))


def deflate_bomb() -> bytes:
    """A private element of 160 MB of zeros: one compressed megabyte, 160 times."""
    whole = deflated(radiograph(STORED))
    start = 144 + int.from_bytes(whole[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = packer.compress(element(0x0009, 0x1010, b"OB", 160 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    megabyte = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return whole[:start] + head + megabyte * 160 + whole[start:]


def run_length_bomb() -> bytes:
    segment = b"\x81\0" * 2_000_000
    return encapsulated(struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13) + segment * 2, uid.RLELossless)


def j2k_with(start: int, change: bytes) -> bytes:
    stream = bytearray(frame(STORED, uid.JPEG2000Lossless, 12))
    stream[start : start + len(change)] = change
    return bytes(stream)


def small_precincts() -> bytes:
    stream = bytearray(frame(np.zeros((3000, 3000), np.uint16), uid.JPEG2000Lossless, 12))
    style = stream.index(b"\xff\x52")
    levels = stream[style + 9]
    stream[style + 4] |= 1
    stream[style + 14 : style + 14] = bytes([0x22]) * (levels + 1)
    stream[style + 3] += levels + 1
    return encapsulated(bytes(stream), uid.JPEG2000Lossless, Rows=3000, Columns=3000)


def in_two_sizes(syntax: str) -> bytes:
    """The frame says 64 x 48 pixels, the header 64 x 96."""
    return encapsulated(frame(STORED, syntax, 12), syntax, Rows=96)


def cut_frame(syntax: str) -> bytes:
    whole = frame(STORED, syntax, 12)
    return encapsulated(whole[: len(whole) * 3 // 4 & ~1], syntax)


def changed_pixels(content: bytes) -> bytes:
    """Everything before the pixels, then this."""
    return GOOD[:PIXELS] + content


Made = bytes | Callable[[], bytes]

FILES: dict[str, tuple[Made, str]] = {
    "dicom mark only": (bytes(128) + b"DICM", "header cut short"),
    "dicom cut in file header": (GOOD[:150], "header cut short"),
    "dicom cut in header": (GOOD[:600], "no pixel data: is it a report, or cut short?"),
    "dicom cut in pixels": (GOOD[: len(GOOD) - 2000], "cut short"),
    "dicom one byte short": (GOOD[:-1], "cut short: 6,143 bytes of pixels, 6,144 needed"),
    "dicom without file header": (GOOD[132:], "DICOM data without its file header"),
    "dicom without preamble": (GOOD[144 + int.from_bytes(GOOD[140:144], "little") :], "DICOM data without its file header"),
    "dicom of elements": (GOOD[:PIXELS] + long_elements(250_000) + GOOD[PIXELS:], "more than 50,000 header elements"),
    "dicom nested 20,000 deep": (GOOD[:NAME] + ITEM * 20_000, "damaged"),
    "dicom nested without end": (GOOD[:NAME] + ITEM * 50, "damaged"),
    "dicom of 2 GB by its header": (GOOD[:NAME] + element(0x0009, 0x1010, b"OB", 0x7FFFFFFE) + GOOD[NAME:], "no pixel data"),
    "dicom pixels of 4 GB by their header": (changed_pixels(element(0x7FE0, 0x0010, b"OW", 0xFFFFFFF0)), "no pixel data"),
    "dicom uncompressed without length": (
        changed_pixels(element(0x7FE0, 0x0010, b"OW", 0xFFFFFFFF) + GOOD[PIXELS + 12 :]),
        "DICOM data cut short",
    ),
    "dicom deflated cut": (deflated(radiograph(STORED))[:-100], "deflated DICOM data cut short"),
    "dicom deflated damage": (deflated(radiograph(STORED))[:400] + b"\xff" * 90, "damaged"),
    "dicom deflate bomb": (deflate_bomb, "deflated DICOM data of more than 134,217,728 bytes"),
    "dicom unknown transfer syntax": (encapsulated(b"ab", "1.2.3.4.5"), "transfer syntax 1.2.3.4.5; uncompressed"),
    "dicom video": (encapsulated(b"ab", uid.MPEG4HP41), "transfer syntax MPEG-4 AVC/H.264 High Profile"),
}

KINDS: dict[str, tuple[Made, str]] = {
    "dicom ct": (made(Modality="CT", SOPClassUID=uid.CTImageStorage), "CT Image Storage; radiographs are read"),
    "dicom mr": (made(Modality="MR"), "modality MR; radiographs are read (CR, DX"),
    "dicom mammogram": (made(Modality="MG"), "modality MG"),
    "dicom ultrasound": (made(Modality="US"), "modality US"),
    "dicom report": (made(SOPClassUID=uid.Comprehensive3DSRStorage, PixelData=None), "Comprehensive 3D SR Storage"),
    "dicom of no kind": (made(Modality=None, SOPClassUID=None), "neither SOP class nor modality"),
    "dicom hand": (made(BodyPartExamined="HAND"), "body part HAND; chest radiographs are read"),
    "dicom left foot": (made(BodyPartExamined="L_FOOT"), "body part L_FOOT"),
    "dicom skull": (made(BodyPartExamined="SKULL"), "body part SKULL"),
    "dicom left lateral": (made(ViewPosition="LL"), "lateral view (ViewPosition LL); frontal views"),
    "dicom right lateral": (made(ViewPosition="RL"), "lateral view"),
    "dicom lateral": (made(ViewPosition="LATERAL"), "lateral view"),
    "dicom oblique": (made(ViewPosition="RAO"), "oblique view (ViewPosition RAO)"),
    "dicom two frames": (made(NumberOfFrames=2), "2 frames; an image of one frame is read"),
    "dicom -1 frames": (made(NumberOfFrames=-1), "-1 frames"),
    "dicom 100,000 frames": (made(NumberOfFrames=100_000), "100000 frames"),
}

HEADERS: dict[str, tuple[Made, str]] = {
    "dicom no pixels": (made(PixelData=None), "no pixel data"),
    "dicom no rows": (made(Rows=None), "Rows is missing or no whole number"),
    "dicom 0 rows": (made(Rows=0), "64 x 0 pixels; at least 16"),
    "dicom 65,535 x 65,535": (made(Rows=65535, Columns=65535), "65535 x 65535 pixels; at most"),
    "dicom no bits allocated": (made(BitsAllocated=None), "BitsAllocated is missing"),
    "dicom 12 bits allocated": (made(BitsAllocated=12), "12 bits allocated; 8 or 16 are read"),
    "dicom 32 bits allocated": (made(BitsAllocated=32), "32 bits allocated"),
    "dicom 1 bit": (made(BitsAllocated=1, BitsStored=1, HighBit=0), "1 bits allocated"),
    "dicom 17 bits stored": (made(BitsStored=17), "17 bits stored of 16 allocated is impossible"),
    "dicom 0 bits stored": (made(BitsStored=0), "0 bits stored"),
    "dicom no photometric": (made(PhotometricInterpretation=None), "photometric interpretation missing with 1 samples"),
    "dicom palette": (made(PhotometricInterpretation="PALETTE COLOR"), "photometric interpretation PALETTE COLOR"),
    "dicom 3 samples of grey": (made(SamplesPerPixel=3), "MONOCHROME2 with 3 samples"),
    "dicom 4 samples": (made(SamplesPerPixel=4, PhotometricInterpretation="RGB"), "RGB with 4 samples"),
    "dicom slope nan": (made(RescaleSlope=b"nan", RescaleIntercept=b"0"), "RescaleSlope is no finite number"),
    "dicom slope text": (made(RescaleSlope=b"steep", RescaleIntercept=b"0"), "RescaleSlope is no finite number"),
    "dicom slope 1e308": (made(RescaleSlope=b"1e308", RescaleIntercept=b"0"), "no finite numbers"),
    "dicom slope 0": (made(RescaleSlope=0, RescaleIntercept=5), "blank"),
    "dicom blank": (as_bytes(radiograph(np.full((48, 64), 900, np.uint16))), "blank"),
    "dicom all padding": (as_bytes(radiograph(np.full((48, 64), 9, np.uint16), PixelPaddingValue=9)), "is padding"),
    "dicom empty modality table": (made(ModalityLUTSequence=[Dataset()]), "modality LUT is damaged"),
    "dicom short modality table": (
        made(ModalityLUTSequence=[look_up_table(0, [1, 2, 3], 12)]).replace(b"US\x06\0\x03\0", b"US\x06\0\x03\1"),
        "modality LUT is damaged",
    ),
    "dicom odd width in 4:2:2": (
        as_bytes(radiograph(np.zeros((48, 63, 3), np.uint8), PhotometricInterpretation="YBR_FULL_422")),
        "odd width",
    ),
    "dicom escape codes": (made(BodyPartExamined=b"\x1b[2JHAND"), "body part [2JHAND"),
}

FRAMES: dict[str, tuple[Made, str]] = {
    "dicom empty fragment": (encapsulated(b"\0\0", uid.JPEGBaseline8Bit), "JPEG"),
    "dicom no fragments": (encapsulated(b"", uid.JPEG2000Lossless), "compressed pixel data is empty"),
    "dicom says j2k, is raw": (encapsulated(STORED.tobytes(), uid.JPEG2000Lossless), "JPEG 2000 frame without a header"),
    "dicom says rle, is raw": (encapsulated(STORED.tobytes(), uid.RLELossless), "RLE frame of"),
    "dicom j2k of 16 million": (
        encapsulated(j2k_with(8, b"\0\xff\xff\xff" * 2), uid.JPEG2000Lossless),
        "tiles; at most 4,096",
    ),
    "dicom j2k of small precincts": (small_precincts, "pieces; at most 400,000"),
    "dicom rle bomb": (run_length_bomb, "damaged (ImcdError"),
    "dicom rle of 30,000": (encapsulated(b"\1" * 64, uid.RLELossless, Rows=30_000, Columns=30_000), "30000 x 30000 pixels"),
    "dicom color says grey": (
        encapsulated(frame(np.dstack([chest(bits=8)] * 3), uid.JPEGBaseline8Bit, 8), uid.JPEGBaseline8Bit),
        "with 3 channels in a file of 64 x 48 with 1",
    ),
    "dicom frame of 16 bits in a file of 8": (
        encapsulated(frame(STORED, uid.JPEGLosslessSV1, 12), uid.JPEGLosslessSV1, BitsAllocated=8, BitsStored=8, HighBit=7),
        "frame of 16-bit samples in a file of 8 bits",
    ),
    **{
        f"dicom {syntax.name} of another size": (in_two_sizes(syntax), "frame")
        for syntax in (uid.JPEGLosslessSV1, uid.JPEGExtended12Bit, uid.JPEGLSLossless, uid.JPEG2000, uid.RLELossless)
    },
    **{
        f"dicom {syntax.name} cut": (cut_frame(syntax), "")
        for syntax in (uid.JPEGLosslessSV1, uid.JPEGExtended12Bit, uid.JPEGLSLossless, uid.JPEG2000, uid.RLELossless)
    },
    "dicom compressed container cut": (as_bytes(compressed(radiograph(STORED), uid.JPEG2000Lossless))[:-60], "cut short"),
}

BAD_DICOMS: dict[str, tuple[Made, str]] = {**FILES, **KINDS, **HEADERS, **FRAMES}

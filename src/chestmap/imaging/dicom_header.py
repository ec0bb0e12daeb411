"""The header of a DICOM file, read within bounds: what a hostile or broken file costs is decided here, not by pydicom.

Damaged elements count as absent. Only the elements of `WANTED` are kept, so names and dates of a patient never get further.
"""

import io
import logging
import math
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence

from chestmap.errors import BadImage
from chestmap.imaging.grayscale import Lut
from chestmap.imaging.limits import Limits

MARK = 128
"""The offset of `DICM`, after a preamble that may hold anything."""

FAILURES = (
    ArithmeticError, AssertionError, AttributeError, BufferError, BytesLengthException, EOFError, InvalidDicomError,
    LookupError, MemoryError, NotImplementedError, OSError, RecursionError, RuntimeError, TypeError, ValueError, struct.error,
    zlib.error,
)  # fmt: skip
"""What pydicom and the decoders raise on damaged data; none of them promises a type."""

WANTED = (
    "SpecificCharacterSet", "SOPClassUID", "Modality", "PresentationIntentType", "Manufacturer", "ManufacturerModelName",
    "PatientID", "BodyPartExamined",
    "ViewPosition", "ViewCodeSequence", "ImagerPixelSpacing", "PixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio",
    "PatientOrientation", "BurnedInAnnotation", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept",
    "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "PresentationLUTShape", "PixelData",
)  # fmt: skip

READS = 50_000
"""Bound on elements and sequence items: an ordinary radiograph needs about 600 reads."""
VALUE_BYTES, SEQUENCE_BYTES = 1 << 16, 1 << 20
"""A longer value or sequence is damaged: it is not converted."""

_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}


@dataclass(eq=False)
class Header:
    """Typed access to a header; `None` or an empty text is an element that is absent, empty or damaged."""

    dataset: Dataset
    syntax: str
    done: list[str] = field(default_factory=list)

    def element(self, keyword: str, longest: int = VALUE_BYTES) -> DataElement | None:
        """One element of the header; none where it is missing, empty, too long or cannot be read."""
        tag = tag_for_keyword(keyword)
        if tag is None or tag not in self.dataset:
            return None
        try:
            raw = self.dataset.get_item(tag)
            if isinstance(raw, RawDataElement) and raw.length != 0xFFFFFFFF and raw.length > longest:
                return None
            element = self.dataset[tag]
        except FAILURES:
            return None
        return None if element.value is None or element.is_empty else element

    def values(self, keyword: str) -> list[object]:
        """All values of an element; a single one makes a list of one."""
        element = self.element(keyword)
        if element is None:
            return []
        return list(element.value) if element.VM > 1 else [element.value]

    def text(self, keyword: str, longest: int = 64) -> str:
        """The first value, without anything that could steer a terminal, a log or a page's lines."""
        value = next(iter(self.values(keyword)), "")
        return "".join(letter for letter in str(value)[:longest] if letter.isprintable()).strip()

    def whole(self, keyword: str) -> int | None:
        """A number without fraction: 2.5 rows are as good as none."""
        number = self.decimal(keyword)
        return int(number) if number is not None and number == int(number) else None

    def decimals(self, keyword: str) -> list[float]:
        """All values as finite numbers, or nothing where one of them is none."""
        numbers = [_number(value) for value in self.values(keyword)]
        return [number for number in numbers if number is not None] if None not in numbers else []

    def decimal(self, keyword: str) -> float | None:
        """The first value; the others of a damaged list do not matter."""
        return _number(next(iter(self.values(keyword)), None))

    def items(self, keyword: str) -> list[Dataset]:
        """The data sets of a sequence."""
        element = self.element(keyword, SEQUENCE_BYTES)
        return list(element.value) if element is not None and isinstance(element.value, Sequence) else []

    def lut(self, keyword: str) -> Lut | None:
        """The first look-up table of a sequence."""
        for item in self.items(keyword)[:1]:
            try:
                return _lut(Header(item, self.syntax))
            except FAILURES:
                return None
        return None


def _number(value: object) -> float | None:
    """DICOM writes numbers as text too; NaN and infinity are damage."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _lut(item: Header) -> Lut | None:
    """LUTDescriptor: count (0 means 65,536), first input, bits; eight-bit entries may be packed two to a word."""
    descriptor, data = item.element("LUTDescriptor"), item.element("LUTData", SEQUENCE_BYTES)
    if descriptor is None or data is None:
        return None
    order = ">" if item.syntax == uid.ExplicitVRBigEndian else "<"
    three = descriptor.value
    if isinstance(three, bytes):
        three = np.frombuffer(three, f"{order}u2", 3)
    count, first, bits = (int(number) for number in three)
    count = count % 65536 or 65536
    stored = data.value
    if isinstance(stored, bytes):
        words = np.frombuffer(stored, f"{order}u2" if len(stored) >= 2 * count else np.uint8)
    else:
        words = np.atleast_1d(np.asarray(stored, np.int64)) & 0xFFFF
        if len(words) < count <= 2 * len(words) and bits <= 8:
            words = words.astype("<u2").view(np.uint8)
    if len(words) < count or not 1 <= bits <= 16:
        return None
    return Lut(first, bits, words[:count].astype(np.int64))


def read_header(data: bytes, limits: Limits, wanted: tuple[str, ...] = WANTED) -> Header:
    """The wanted elements of a file with a `DICM` mark."""
    syntax, offset = _file_meta(data)
    done = []
    if not syntax:
        syntax = uid.ImplicitVRLittleEndian
        done.append("no transfer syntax: the default, Implicit VR Little Endian")
    if syntax not in uid.AllTransferSyntaxes and not syntax.replace(".", "").isdigit():
        raise BadImage("transfer syntax is no identifier: damaged, export it again")
    body, start = (_inflated(data, offset, limits), 0) if syntax == uid.DeflatedExplicitVRLittleEndian else (data, offset)
    stream = _Counted(body)
    stream.seek(start)
    tags = [tag for keyword in wanted if (tag := tag_for_keyword(keyword)) is not None]
    dataset = read_dataset(
        stream,
        is_implicit_VR=syntax == uid.ImplicitVRLittleEndian,
        is_little_endian=syntax != uid.ExplicitVRBigEndian,
        specific_tags=tags,  # pyright: ignore[reportArgumentType] - pydicom takes plain integers too
    )
    if not dataset:  # what pydicom leaves of a truncated data set
        raise BadImage("DICOM data cut short: copy or export it again")
    return Header(dataset, str(syntax), done)


class _Counted(io.BytesIO):
    """A file in memory that gives up after `READS` reads."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads, and refuses a header of more elements than any radiograph has."""
        self.reads += 1
        if self.reads > READS:
            raise BadImage(f"more than {READS:,} header elements; no radiograph has them: export it again")
        return super().read(size)


def _file_meta(data: bytes) -> tuple[str, int]:
    """Transfer syntax ("" where none is given) and where the data set starts: group 2 is Explicit VR Little Endian."""
    syntax, position = b"", MARK + 4
    while data[position : position + 2] == b"\x02\0":
        if len(data) < position + 12:
            raise BadImage("DICOM header cut short: copy or export it again")
        _, element, vr, short = struct.unpack_from("<HH2sH", data, position)
        if vr in _LONG_VRS:
            (length,), start = struct.unpack_from("<I", data, position + 8), position + 12
        elif vr.isalpha():
            length, start = short, position + 8
        else:
            (length,), start = struct.unpack_from("<I", data, position + 4), position + 8
        if element == 0x0010:
            syntax = data[start : start + min(length, 64)]
        position = start + length
    if position >= len(data):
        raise BadImage("DICOM header cut short: copy or export it again")
    return syntax.rstrip(b"\0 ").decode("ascii", "replace"), position


def _inflated(data: bytes, offset: int, limits: Limits) -> bytes:
    """Inflates no more than the file limit allows."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(memoryview(data)[offset:], limits.file_bytes + 1)
    if len(inflated) > limits.file_bytes:
        raise BadImage(f"deflated DICOM data of more than {limits.file_bytes:,} bytes: resize or compress the image")
    if not inflater.eof:
        raise BadImage("deflated DICOM data cut short: copy or export it again")
    return inflated


_quiet_lock = threading.Lock()
_quiet_state: list[warnings.catch_warnings] = []
_quiet_count = 0


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps pydicom's remarks on odd files from the user; `done` records what matters. Several threads may be inside.

    `warnings.catch_warnings` alone would leave the filters of whichever thread came last.
    """
    global _quiet_count  # noqa: PLW0603 - guarded by the lock
    logger = logging.getLogger("pydicom")
    with _quiet_lock:
        if _quiet_count == 0:
            caught = warnings.catch_warnings()
            caught.__enter__()
            warnings.simplefilter("ignore")
            _quiet_state.append(caught)
            logger.propagate = False
        _quiet_count += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_count -= 1
            if _quiet_count == 0:
                _quiet_state.pop().__exit__(None, None, None)
                logger.propagate = True

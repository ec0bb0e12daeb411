"""Small DICOM radiographs made in memory, for any test that needs one.

`radiograph(chest())` is a valid CR data set, `radiograph(chest(), Modality="CT")` one with an element changed (None removes it),
`compressed(dataset, uid)` the same in another transfer syntax, `as_bytes(dataset)` the file's content.
"""

import copy
import io
import warnings
import zlib

import imagecodecs
import numpy as np
import pydicom
from pydicom import uid
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import Tag

LOSSLESS = (
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.HTJ2KLossless,
    uid.RLELossless,
)
LOSSY = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless, uid.JPEG2000)
NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)


def chest(rows: int = 48, columns: int = 64, bits: int = 12) -> np.ndarray:
    """Two dark fields on a bright ground with a slope over all, from 0 to the largest value of so many bits."""
    y, x = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j]
    lungs = sum(np.exp(-((x - center) ** 2) / 0.02 - (y - 0.5) ** 2 / 0.08) for center in (0.28, 0.72))
    density = 1 - 0.8 * lungs + 0.1 * x + 0.05 * y
    scaled = (density - density.min()) / np.ptp(density)
    return np.rint(scaled * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def radiograph(stored: np.ndarray, **elements: object) -> Dataset:
    """A computed radiograph of these stored values, in Explicit VR Little Endian."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = uid.ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    dataset.SOPClassUID = uid.ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    dataset.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.2"
    dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.3"
    dataset.Modality = "CR"
    dataset.PatientID = "patient-7"
    dataset.PatientName = "Never^Shown"
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = "PA"
    dataset.ImagerPixelSpacing = [0.2, 0.2]
    dataset.Rows, dataset.Columns = stored.shape[:2]
    dataset.SamplesPerPixel = 1 if stored.ndim == 2 else stored.shape[2]
    dataset.PhotometricInterpretation = "MONOCHROME2" if stored.ndim == 2 else "RGB"
    if stored.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * stored.dtype.itemsize
    dataset.BitsStored = 12 if stored.dtype == np.uint16 else dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    raw = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    dataset.add_new("PixelData", "OB" if stored.dtype.itemsize == 1 else "OW", raw + b"\0" * (len(raw) % 2))
    for keyword, value in elements.items():
        put(dataset, keyword, value)
    return dataset


def put(dataset: Dataset, keyword: str, value: object) -> None:
    """Sets an element; None removes it, bytes are written as they are, however wrong."""
    tag = Tag(tag_for_keyword(keyword) or 0)
    if value is None:
        dataset.pop(tag, None)
    elif isinstance(value, bytes) and keyword != "PixelData":
        vr = dictionary_VR(tag).split(" ")[0]
        padded = value + b" " * (len(value) % 2)
        dataset._dict[tag] = RawDataElement(tag, vr, len(padded), padded, 0, False, True)
    elif "or" in (vr := dictionary_VR(tag)):
        signed = bool(dataset.PixelRepresentation)
        dataset.add_new(tag, ("SS" if signed else "US") if "SS" in vr else "OW", value)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the standard forbids is often the point
            setattr(dataset, keyword, value)


def look_up_table(first: int, entries: list[int], bits: int) -> Dataset:
    """An item of ModalityLUTSequence or VOILUTSequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    packed = len(entries) > 32_767  # more does not fit the length of a US element
    item.add_new("LUTData", "OW" if packed else "US", np.array(entries, "<u2").tobytes() if packed else entries)
    item.add_new("ModalityLUTType", "LO", "US")
    return item


def compressed(dataset: Dataset, syntax: str) -> Dataset:
    """The same data set in another transfer syntax; the values that lossy ones change are few and small."""
    changed = copy.deepcopy(dataset)
    changed.file_meta.TransferSyntaxUID = uid.UID(syntax)
    if syntax in NATIVE:
        if syntax == uid.ExplicitVRBigEndian and changed.BitsAllocated == 16:
            changed.PixelData = np.frombuffer(changed.PixelData, "<u2").astype(">u2").tobytes()
        return changed
    shape = (dataset.Rows, dataset.Columns) + ((dataset.SamplesPerPixel,) if dataset.SamplesPerPixel > 1 else ())
    stored = np.frombuffer(dataset.PixelData, f"<u{dataset.BitsAllocated // 8}", int(np.prod(shape))).reshape(shape)
    changed.PixelData = encapsulate([frame(stored, syntax, int(dataset.BitsStored))])
    changed["PixelData"].VR = "OB"
    changed["PixelData"].is_undefined_length = True
    return changed


def frame(stored: np.ndarray, syntax: str, bits: int) -> bytes:
    """One compressed frame of unsigned values."""
    stored = np.ascontiguousarray(stored)
    match syntax:
        case uid.JPEGBaseline8Bit | uid.JPEGExtended12Bit:
            return imagecodecs.jpeg8_encode(stored, level=98, bitspersample=bits)
        case uid.JPEGLossless | uid.JPEGLosslessSV1:
            predictor = 1 if syntax == uid.JPEGLosslessSV1 else 5
            return imagecodecs.jpeg8_encode(stored, lossless=True, predictor=predictor, bitspersample=bits)
        case uid.JPEGLSLossless | uid.JPEGLSNearLossless:
            return bytes(imagecodecs.jpegls_encode(stored, level=2 if syntax == uid.JPEGLSNearLossless else 0))
        case uid.JPEG2000Lossless | uid.JPEG2000:
            level = 0 if syntax == uid.JPEG2000Lossless else 50
            return imagecodecs.jpeg2k_encode(stored, level=level, codecformat="J2K", bitspersample=bits)
        case uid.HTJ2KLossless:
            return imagecodecs.htj2k_encode(stored, reversible=True)
        case uid.RLELossless:
            return run_lengths(stored)
    raise NotImplementedError(syntax)


def run_lengths(stored: np.ndarray) -> bytes:
    """PS3.5 annex G with literal runs only: valid, and no smaller than the pixels."""
    planes = stored[..., None] if stored.ndim == 2 else stored
    segments = []
    for sample in range(planes.shape[2]):
        words = np.ascontiguousarray(planes[..., sample]).astype(stored.dtype.newbyteorder(">")).view(np.uint8)
        for place in range(stored.dtype.itemsize):
            content = words.reshape(-1, stored.dtype.itemsize)[:, place].tobytes()
            runs = [content[start : start + 128] for start in range(0, len(content), 128)]
            segment = b"".join(bytes([len(run) - 1]) + run for run in runs)
            segments.append(segment + b"\0" * (len(segment) % 2))
    offsets = np.cumsum([64, *map(len, segments)])[:-1]
    header = np.zeros(16, "<u4")
    header[: len(offsets) + 1] = [len(offsets), *offsets]
    return header.tobytes() + b"".join(segments)


def as_bytes(dataset: Dataset) -> bytes:
    """The content of a DICOM file; nothing is corrected on the way."""
    syntax = dataset.file_meta.TransferSyntaxUID
    stream = io.BytesIO()
    implicit, big = syntax == uid.ImplicitVRLittleEndian, syntax == uid.ExplicitVRBigEndian
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        return deflated(dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(stream, dataset, implicit_vr=implicit, little_endian=not big, enforce_file_format=True)
    return stream.getvalue()


def deflated(dataset: Dataset) -> bytes:
    """The content of a deflated file."""
    plain = copy.deepcopy(dataset)
    plain.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    body = as_bytes(plain)
    start = 144 + int.from_bytes(body[140:144], "little")
    meta = copy.deepcopy(dataset.file_meta)
    meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    stream = io.BytesIO(b"\0" * 128 + b"DICM")
    stream.seek(132)
    write_file_meta_info(stream, meta)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return stream.getvalue() + packer.compress(body[start:]) + packer.flush()

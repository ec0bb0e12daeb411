"""From a file's content to its radiograph and every grey level it holds, as the service needs them."""

from chestmap.errors import BadImage
from chestmap.imaging.color import check_not_blank
from chestmap.imaging.pixel_depth import Depth, depth_of_grey
from chestmap.imaging.read import ReadSettings, radiograph_of
from chestmap.types import Radiograph

DICOM_MARK = (128, b"DICM")


def is_dicom(data: bytes) -> bool:
    """`DICM` follows a preamble that may look like anything but a PNG or JPEG."""
    offset, mark = DICOM_MARK
    return data[offset : offset + len(mark)] == mark and not data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))


def read_deep(data: bytes, settings: ReadSettings | None = None) -> tuple[Radiograph, Depth]:
    """The same radiograph as `read_radiograph` gives, without ids; the message of a `BadImage` does not name the file."""
    settings = settings or ReadSettings()
    if not is_dicom(data):
        try:
            radiograph = radiograph_of(data, "", settings)
        except BadImage as problem:
            raise BadImage(str(problem).removeprefix(": ")) from None
        return radiograph, depth_of_grey(radiograph.pixels)
    try:
        from chestmap.imaging.dicom import read_deep_dicom
    except ImportError as problem:
        raise BadImage(f'DICOM; reading it needs {problem.name}: pip install "chestmap[dicom]"') from None
    settings.limits.check_bytes(len(data))
    radiograph, depth = read_deep_dicom(data, settings.limits, any_view=settings.views == "any")
    check_not_blank(radiograph.pixels)
    return radiograph, depth()

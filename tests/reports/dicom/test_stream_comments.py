"""Comments leave every kind of compressed stream, and the pixels stay as they were."""

import imagecodecs
import numpy as np
import pytest

from chestmap.errors import BadImage
from chestmap.reports.dicom.stream_comments import without_comments

PLANTED = b"Planted^Person 1931"
PIXELS = (np.add.outer(np.arange(48), np.arange(40)) * 30 % 4096).astype(np.uint16)


def comment(marker, text=PLANTED):
    return marker + (len(text) + 2).to_bytes(2, "big") + text


def jpeg_ls():
    return imagecodecs.jpegls_encode(PIXELS)


def jpeg():
    return imagecodecs.jpeg8_encode((PIXELS >> 4).astype(np.uint8), level=100)


def jpeg_2000(**more):
    return imagecodecs.jpeg2k_encode(PIXELS, level=0, codecformat="j2k", reversible=True, **more)


def planted_in(stream, marker):
    """After the first two bytes, which begin every kind; JPEG 2000 wants its sizes before."""
    place = 2 if marker == b"\xff\xfe" else 4 + int.from_bytes(stream[4:6], "big")
    return stream[:place] + comment(marker) + stream[place:]


@pytest.mark.parametrize(
    ("stream", "marker", "decode"),
    [
        (jpeg_ls, b"\xff\xfe", imagecodecs.jpegls_decode),
        (jpeg, b"\xff\xfe", imagecodecs.jpeg8_decode),
        (jpeg, b"\xff\xe1", imagecodecs.jpeg8_decode),
        (jpeg_2000, b"\xff\x64", imagecodecs.jpeg2k_decode),
    ],
    ids=["JPEG-LS", "JPEG", "camera data", "JPEG 2000"],
)
def test_a_comment_in_the_header_is_gone(stream, marker, decode):
    plain = stream()
    with_comment = planted_in(plain, marker) + PLANTED
    assert np.array_equal(decode(with_comment), decode(plain))
    made = without_comments(with_comment)
    assert PLANTED not in made
    assert np.array_equal(decode(made), decode(plain))
    assert without_comments(made) == made


def with_tile_comment(plain):
    """In the header of the first tile-part, before its data, with its length corrected."""
    start = plain.index(b"\xff\x90")
    data, extra = plain.index(b"\xff\x93", start), comment(b"\xff\x64")
    size = int.from_bytes(plain[start + 6 : start + 10], "big")
    longer = (size + len(extra)).to_bytes(4, "big") if size else bytes(4)
    return plain[: start + 6] + longer + plain[start + 10 : data] + extra + plain[data:]


def test_a_comment_in_a_tile_is_gone_too():
    plain = jpeg_2000()
    made = without_comments(with_tile_comment(plain))
    assert PLANTED not in made
    assert np.array_equal(imagecodecs.jpeg2k_decode(made), PIXELS)


def test_boxes_around_a_stream_are_gone():
    wrapped = imagecodecs.jpeg2k_encode(PIXELS, level=0, codecformat="jp2", reversible=True)
    made = without_comments(wrapped)
    assert made.startswith(b"\xff\x4f\xff\x51")
    assert np.array_equal(imagecodecs.jpeg2k_decode(made), PIXELS)


@pytest.mark.parametrize("damage", [lambda one: one[:30], lambda one: one[:2] + b"\xff\x51\0\0" + one[6:]])
def test_a_stream_that_cannot_be_walked_is_refused(damage):
    with pytest.raises(BadImage, match="export it uncompressed"):
        without_comments(damage(jpeg_2000()))


def test_other_frames_stay():
    assert without_comments(b"\0\1RLE or native") == b"\0\1RLE or native"

import numpy as np
import pytest
from PIL import Image

from chestmap.errors import BadImage
from chestmap.imaging.size import size_of


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_header_gives_the_size(tmp_path, suffix) -> None:
    Image.fromarray(np.zeros((30, 50), np.uint8)).save(tmp_path / f"a.{suffix}")
    assert size_of(tmp_path / f"a.{suffix}") == (50.0, 30.0)


def test_a_jpeg_on_its_side_is_as_wide_as_it_stands(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((30, 50), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    assert size_of(tmp_path / "a.jpg") == (30.0, 50.0)


def test_dicom_has_rows_and_columns(shared_data) -> None:
    pydicom = pytest.importorskip("pydicom")
    for path in sorted(shared_data("dicom").glob("*.dcm")):
        known = pydicom.dcmread(path, stop_before_pixels=True)
        assert size_of(path) == (float(known.Columns), float(known.Rows))


def test_what_is_no_image_has_no_size(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(b"text")
    with pytest.raises(BadImage, match="not known"):
        size_of(tmp_path / "a.png")

"""The same files through dcmtk, which shares no code with us: 16-bit output, compared level by level."""

import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom import uid

from chestmap.imaging.read import read_radiograph
from imaging.dicom_samples import as_bytes, chest, compressed, look_up_table, radiograph

DCMTK = shutil.which("dcmj2pnm")
pytestmark = pytest.mark.skipif(DCMTK is None, reason="dcmtk is not installed (apt-get install dcmtk)")

STORED = chest()
SIGNED = (STORED.astype(np.int32) - 2048).astype(np.int16)
JUNK = STORED | (np.random.default_rng(0).integers(0, 16, STORED.shape).astype(np.uint16) << 12)
GAMMA = [round(4095 * (entry / 4095) ** 0.6) for entry in range(4096)]
WIDE = {"WindowCenter": 2048, "WindowWidth": 4096}
FIRST_WINDOW, FIRST_TABLE, RANGE = ["+Wi", "1"], ["+Wl", "1"], ["+Wm"]

KINDS = {
    "window": (radiograph(STORED, WindowCenter=1500, WindowWidth=1200), FIRST_WINDOW),
    "narrow window": (radiograph(STORED, WindowCenter=2000, WindowWidth=40), FIRST_WINDOW),
    "several windows": (radiograph(STORED, WindowCenter=[1000, 3000], WindowWidth=[900, 10]), FIRST_WINDOW),
    "sigmoid": (radiograph(STORED, WindowCenter=1800, WindowWidth=1500, VOILUTFunction="SIGMOID"), FIRST_WINDOW),
    "monochrome1": (radiograph(STORED, PhotometricInterpretation="MONOCHROME1", **WIDE), FIRST_WINDOW),
    "presentation inverse": (radiograph(STORED, PresentationLUTShape="INVERSE", **WIDE), FIRST_WINDOW),
    "rescale": (
        radiograph(STORED, RescaleSlope=0.5, RescaleIntercept=-300, WindowCenter=700, WindowWidth=1800), FIRST_WINDOW,
    ),
    "negative slope": (
        radiograph(STORED, RescaleSlope=-1, RescaleIntercept=4095, WindowCenter=1700, WindowWidth=2000), FIRST_WINDOW,
    ),
    "signed": (radiograph(SIGNED, BitsStored=12, HighBit=11, WindowCenter=-100, WindowWidth=3000), FIRST_WINDOW),
    "signed 16 bit": (radiograph(SIGNED, BitsStored=16, HighBit=15, WindowCenter=0, WindowWidth=4096), FIRST_WINDOW),
    "junk in high bits": (radiograph(JUNK, **WIDE), FIRST_WINDOW),
    "high bit": (radiograph(STORED << 3, HighBit=14, **WIDE), FIRST_WINDOW),
    "8 bit": (radiograph(chest(bits=8), WindowCenter=120, WindowWidth=150), FIRST_WINDOW),
    "8 bit without window": (radiograph(chest(bits=8)), []),
    "range": (radiograph(np.clip(STORED, 700, 3100)), RANGE),
    "range signed": (radiograph(SIGNED // 2, BitsStored=12, HighBit=11), RANGE),
    "voi table": (radiograph(STORED, VOILUTSequence=[look_up_table(0, GAMMA, 12)]), FIRST_TABLE),
    "voi table inside": (radiograph(STORED, VOILUTSequence=[look_up_table(1000, GAMMA[:2048], 12)]), FIRST_TABLE),
    "modality table": (
        radiograph(STORED, ModalityLUTSequence=[look_up_table(0, GAMMA, 12)], WindowCenter=2048, WindowWidth=4096), FIRST_WINDOW,
    ),
    "both tables": (
        radiograph(
            STORED,
            ModalityLUTSequence=[look_up_table(0, GAMMA, 12)],
            VOILUTSequence=[look_up_table(0, GAMMA, 12)],
            PhotometricInterpretation="MONOCHROME1",
        ),
        FIRST_TABLE,
    ),
    "grey color": (radiograph(np.dstack([chest(bits=8)] * 3)), []),
    "grey color by plane": (
        radiograph(np.dstack([chest(bits=8)] * 3), PlanarConfiguration=1, PixelData=chest(bits=8).tobytes() * 3), [],
    ),
}  # fmt: skip
SYNTAXES = (
    uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian, uid.RLELossless,
    uid.JPEGLossless, uid.JPEGLosslessSV1,
)  # fmt: skip
KINDS |= {syntax.name: (compressed(KINDS["window"][0], syntax), FIRST_WINDOW) for syntax in SYNTAXES}


def by_dcmtk(path: Path, options: list[str]) -> np.ndarray:
    out = path.with_suffix(".png")
    command = [str(DCMTK), "--quiet", "--no-overlays", *options, "--write-16-bit-png", str(path), str(out)]
    subprocess.run(command, check=True, timeout=60)
    picture = cv2.imread(str(out), cv2.IMREAD_UNCHANGED)
    return (picture if picture.ndim == 2 else picture[..., 0]) / np.iinfo(picture.dtype).max


COARSER = {
    "rescale": 1 / 1800,  # dcmtk rounds what comes out of a rescale to integers, here to steps of the window
    "both tables": 2 / 4096,  # and once more between two tables
    "8 bit without window": 1 / 255,  # it shows 255 as 255/256 of white
}


@pytest.mark.parametrize("name", KINDS)
def test_as_dcmtk_shows_it(name: str, tmp_path: Path) -> None:
    """Within one of 4096 grey levels, the depth of most samples."""
    dataset, options = KINDS[name]
    path = tmp_path / "sample.dcm"
    path.write_bytes(as_bytes(dataset))
    pixels = read_radiograph(path).pixels
    np.testing.assert_allclose(pixels, by_dcmtk(path, options), atol=COARSER.get(name, 1 / 4096))


@pytest.mark.parametrize(
    ("encoder", "options", "tolerance"),
    [
        ("dcmcjpeg", ["+e1"], 0),
        ("dcmcjpeg", ["+el", "+sv", "4"], 0),
        ("dcmcjpeg", ["+ee", "+q", "98"], 0.01),
        ("dcmcjpls", ["+el"], 0),
        ("dcmcjpls", ["+en"], 0.002),
        ("dcmcrle", [], 0),
    ],
)
def test_what_dcmtk_compresses_is_read(encoder: str, options: list[str], tolerance: float, tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain.dcm", tmp_path / "packed.dcm"
    plain.write_bytes(as_bytes(radiograph(STORED, StudyDate="20200101", **WIDE)))
    subprocess.run([encoder, *options, str(plain), str(packed)], check=True, timeout=60)
    np.testing.assert_allclose(read_radiograph(packed).pixels, read_radiograph(plain).pixels, atol=tolerance)

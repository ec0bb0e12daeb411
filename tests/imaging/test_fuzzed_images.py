"""Whatever a file holds, `read_radiograph` gives a radiograph or `BadImage`: nothing else comes out, and soon."""

import io
import time
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from jaxtyping import Float32
from PIL import Image
from pydicom import uid

from chestmap.errors import BadImage
from chestmap.imaging.read import read_radiograph
from imaging.dicom_samples import LOSSLESS, LOSSY, NATIVE, as_bytes, chest, compressed, radiograph

SECONDS = 10.0  # on a busy machine; alone it is milliseconds
PNG = b"\x89PNG"


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def samples() -> dict[str, bytes]:
    """One small good file of every kind that is read."""
    grey = Image.fromarray(chest(bits=8))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {f"png {mode}": saved(grey.convert(mode), "png") for mode in ("L", "LA", "RGB", "RGBA", "P", "1")}
    files["png 16 bit"] = saved(Image.fromarray(chest(bits=16)), "png")
    files["png with text"] = saved(grey, "png", exif=exif)
    files["jpeg grey"] = saved(grey, "jpeg", exif=exif)
    files["jpeg color"] = saved(grey.convert("RGB"), "jpeg")
    files["jpeg progressive"] = saved(grey.convert("RGB"), "jpeg", progressive=True)
    files["jpeg 12 bit"] = imagecodecs.jpeg8_encode(chest(), bitspersample=12)
    files["jpeg lossless"] = imagecodecs.jpeg8_encode(chest(), lossless=True, bitspersample=12)
    for syntax in (*NATIVE, *LOSSLESS, *LOSSY):
        stored = chest(bits=8 if syntax == uid.JPEGBaseline8Bit else 12)
        files[f"dicom {syntax.name}"] = as_bytes(compressed(radiograph(stored, WindowCenter=2000, WindowWidth=4000), syntax))
        if syntax != uid.JPEGExtended12Bit:
            color = radiograph(np.dstack([chest(bits=8)] * 3))
            files[f"dicom color {syntax.name}"] = as_bytes(compressed(color, syntax))
    return files


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """One to three of: a few bytes changed, a run overwritten, a part cut out, a part doubled, the end cut off."""
    data = bytearray(content)
    for _ in range(random.integers(1, 4)):
        start = (
            int(random.integers(0, len(data))) if random.random() < 0.5 else int(random.integers(0, min(len(data), 1500)))
        )
        end = min(start + int(random.integers(1, 64)), len(data))
        match int(random.integers(0, 6)):
            case 0 | 1:
                for place in random.integers(start, end, 3):
                    data[place] = int(random.integers(0, 256))
            case 2:
                data[start:end] = bytes([int(random.choice([0, 255, 128, 1]))]) * (end - start)
            case 3:
                del data[start:end]
            case 4:
                data[start:start] = data[start:end]
            case 5 if random.random() < 0.3:
                del data[start:]
        if not data:
            break
    if data[:4] == PNG and random.random() < 0.7:
        mend_checksums(data)
    return bytes(data)


def mend_checksums(data: bytearray) -> None:
    """Right checksums bring damage past the first door."""
    position = 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        data[end : end + 4] = zlib.crc32(data[position + 4 : end]).to_bytes(4, "big")
        position = end + 4


def attempt(path: Path) -> Float32[np.ndarray, "h w"] | str:
    """The pixels, or why there are none."""
    try:
        return read_radiograph(path).pixels
    except BadImage as problem:
        return str(problem)


def check_one(path: Path) -> bool:
    """Whether the file could be read; anything but a sound radiograph or a one-line refusal fails the test."""
    begun = time.perf_counter()
    result = attempt(path)
    assert time.perf_counter() - begun < SECONDS
    if isinstance(result, str):
        assert result.startswith(f"{path}: ")
        assert result.isprintable()
        return False
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1
    return True


def fuzz(folder: Path, rounds: int, seed: int) -> dict[str, tuple[int, int]]:
    random = np.random.default_rng(seed)
    counts = {}
    path = folder / "damaged"
    for name, content in samples().items():
        path.write_bytes(content)
        assert check_one(path), name
        read = 0
        tries = rounds if "JPEG-LS" not in name else 1 + rounds // 100  # each starts a child
        for _ in range(tries):
            path.write_bytes(damaged(content, random))
            read += check_one(path)
        counts[name] = (read, tries)
    return counts


def test_damage_is_refused_or_harmless(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    counts = fuzz(tmp_path, rounds=8, seed=5)
    refused = sum(rounds - read for read, rounds in counts.values())
    assert refused > 100


@pytest.mark.slow
def test_much_damage_is_refused_or_harmless(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fuzz(tmp_path, rounds=1500, seed=11)


@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.7, 0.95])
def test_a_file_cut_short_is_refused(tmp_path: Path, fraction: float) -> None:
    for name, content in samples().items():
        path = tmp_path / "cut"
        path.write_bytes(content[: int(len(content) * fraction)])
        with pytest.raises(BadImage) as problem:
            read_radiograph(path)
        assert str(path) in str(problem.value), name

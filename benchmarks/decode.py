"""Images per second from PNG to grey floats: `read_radiograph` (OpenCV inside) against Pillow alone, interleaved in one process.

    .venv/bin/python benchmarks/decode.py [rounds]

Reads the real images beside the repository (or in $CHESTMAP_SHARED_DATA) and prints a Markdown table.
"""

import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from chestmap.imaging.read import read_radiograph

SHARED = Path(os.environ.get("CHESTMAP_SHARED_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
COUNT = 60


def whole_by_pillow(path: Path) -> np.ndarray:
    """What a loader without chestmap does: grey floats, nothing checked."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"), np.float32) / 255


def whole_by_chestmap(path: Path) -> np.ndarray:
    return read_radiograph(path).pixels


def decode_by_pillow(path: Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())))


def decode_by_opencv(path: Path) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)


WAYS: dict[str, Callable[[Path], np.ndarray]] = {
    "Pillow, decode only": decode_by_pillow,
    "OpenCV, decode only": decode_by_opencv,
    "Pillow, to grey floats": whole_by_pillow,
    "read_radiograph": whole_by_chestmap,
}


def channels(path: Path) -> int:
    with Image.open(path) as picture:
        return len(picture.getbands())


def measured(paths: list[Path], rounds: int) -> dict[str, float]:
    """Images per second of processor time, from the median over rounds: other programs hardly matter then."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        spent = dict.fromkeys(WAYS, 0.0)
        for path in paths:
            for name, way in WAYS.items():
                begun = time.process_time()
                way(path)
                spent[name] += time.process_time() - begun
        for name in WAYS:
            seconds[name].append(spent[name])
    return {name: len(paths) / float(np.median(values)) for name, values in seconds.items()}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    cv2.setNumThreads(1)
    raw = sorted((SHARED / "raw").glob("*.png"))
    groups = {
        "1024 px grey": [path for path in raw if channels(path) == 1],
        "1024 px RGBA": [path for path in raw if channels(path) == 4],
        "512 px grey": sorted((SHARED / "nih" / "images").glob("*.png"))[:COUNT],
    }
    print(f"| images per second, one core | {' | '.join(WAYS)} |")
    print(f"|---|{'---:|' * len(WAYS)}")
    for name, paths in groups.items():
        if paths:
            speeds = measured(paths, rounds)
            print(f"| {name} ({len(paths)} images) | {' | '.join(f'{speeds[way]:.0f}' for way in WAYS)} |")
    print(f"\nOpenCV {cv2.__version__}, Pillow {Image.__version__}, median of {rounds} rounds, processor time.")


if __name__ == "__main__":
    main()

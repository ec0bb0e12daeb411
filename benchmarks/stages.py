"""What predicting costs an image besides the network: `python benchmarks/stages.py`, half a minute of one core.

Milliseconds of processor time and bytes, for large DICOM files in the transfer syntaxes that archives hold and for the predictions folder.
Prints Markdown for benchmarks/stages.md.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from pydicom import uid

from chestmap.imaging.canvas import CanvasSettings, on_canvas
from chestmap.imaging.read import radiograph_of
from chestmap.phantom import Case, draw
from chestmap.predictions.folder import Chunk, Header, OwnRule, PredictionsWriter
from chestmap.vocabulary import CHESTXRAY14

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "imaging"))
from dicom_samples import as_bytes, compressed, radiograph

SYNTAXES = {
    "uncompressed": uid.ExplicitVRLittleEndian,
    "JPEG lossless": uid.JPEGLosslessSV1,
    "JPEG-LS": uid.JPEGLSLossless,
    "JPEG 2000 lossless": uid.JPEG2000Lossless,
}
MAPS = {"HAM, stride 8 at 512 px": 64, "CAM, stride 32 at 512 px": 16}


def milliseconds(work: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median of processor and of wall time."""
    own, wall = [], []
    for _ in range(rounds):
        begun, began = time.process_time(), time.perf_counter()
        work()
        own.append(time.process_time() - begun)
        wall.append(time.perf_counter() - began)
    return 1000 * float(np.median(own)), 1000 * float(np.median(wall))


def decoding() -> None:
    """A phantom at 2,500 × 3,000 with the noise of a detector in its 12 bits, as noise is what compresses badly."""
    drawn = draw(Case(seed=1, patient=0, follow_up=0, sex="F", age=50, view="PA", findings=("Effusion",)), 1024).pixels
    large = cv2.resize(drawn.astype(np.float32), (2500, 3000), interpolation=cv2.INTER_CUBIC)
    large = 300 + 3400 * (large - large.min()) / np.ptp(large)
    noise = np.random.default_rng(0).normal(0, 1, large.shape) * np.sqrt(large) * 0.35
    dataset = radiograph(np.clip(large + noise, 0, 4095).astype(np.uint16))
    canvas = CanvasSettings(width=512, height=512)
    print("| 2,500 × 3,000 px, 12 bits | MB | decode to grey, ms | onto 512 px, ms |\n|---|---:|---:|---:|")
    for name, syntax in SYNTAXES.items():
        data = as_bytes(compressed(dataset, syntax))
        read = radiograph_of(data, "film.dcm")
        decode, onto = (
            milliseconds(work, 3)[0]
            for work in (lambda data=data: radiograph_of(data, "film.dcm"), lambda read=read: on_canvas(read, canvas))
        )
        print(f"| {name} | {len(data) / 1e6:.1f} | {decode:.0f} | {onto:.1f} |", flush=True)


def writing() -> None:
    """Parts of made scores and maps, as a killed job would find them: synced."""
    frame = on_canvas(
        radiograph_of(as_bytes(radiograph(np.arange(4096, dtype=np.uint16).reshape(64, 64))), "x"), CanvasSettings()
    )[1]
    random = np.random.default_rng(0)
    print("\n| predictions folder | images in a part | bytes an image | ms an image (processor) | ms a part on top (wall) |")
    print("|---|---:|---:|---:|---:|")
    for name, side in MAPS.items():
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
            header = Header(findings=CHESTXRAY14, canvas=(512, 512), model={}, own_rule=OwnRule(0.5), data="", part_size=0)
            writer, number = PredictionsWriter(Path(place) / "out", header), 0
            took = {}
            for images in (8, 512):
                names = tuple(f"image-{k:08d}" for k in range(8))
                maps = random.random((8, len(CHESTXRAY14), side, side)).astype(np.float16)
                scores = random.random((8, len(CHESTXRAY14))).astype(np.float32)
                chunk = Chunk(image_ids=names, patient_ids=names, frames=(frame,) * 8, scores=scores, maps=maps)

                def part(images: int = images, chunk: Chunk = chunk, writer: PredictionsWriter = writer) -> None:
                    nonlocal number
                    writer.write(number, images, iter([chunk] * (images // 8)))
                    number += 1

                took[images] = milliseconds(part, 7 if images == 8 else 3)
            each = (took[512][0] - took[8][0]) / 504
            folder = Path(place) / "out" / f"part-{number - 1:05d}"
            size = sum(path.stat().st_size for path in folder.iterdir()) / 512
            print(f"| {name} | 512 | {size:,.0f} | {each:.2f} | {took[8][1]:.0f} |", flush=True)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    decoding()
    writing()

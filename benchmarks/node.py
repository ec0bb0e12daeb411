"""The DICOM node under load: `python benchmarks/node.py --images 300`, two minutes on two free cores.

C-STORE alone, with every image synced to disk and in the database when it is acknowledged; then all the way, until an archive (an SCP
of pynetdicom, in this process) holds the last result of each image: as fast as it goes, and at half that rate for the latency.
Beside it the bare model in batches of the same size. The node is forked. Prints Markdown; benchmarks/node.md keeps the last one.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pynetdicom import AE, evt

from chestmap.models.predictor import load
from chestmap.serving.dicom.delivery import DeliverySettings
from chestmap.serving.dicom.destinations import c_store_of
from chestmap.serving.dicom.node import DEFAULT_KINDS, Node
from chestmap.serving.dicom.receiver import ListenOptions, allowed_of
from chestmap.serving.dicom.start import silence
from chestmap.serving.engine.prometheus import STAGES
from chestmap.serving.engine.served_model import ServedModel
from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import DicomSettings, ServeSettings
from chestmap.serving.store.store import Store
from serving import random_model

FORK = multiprocessing.get_context("fork")
SETTINGS = ServeSettings(precision=32, dicom=DicomSettings(free_bytes=0))
RESULTS = (uid.Comprehensive3DSRStorage, uid.GrayscaleSoftcopyPresentationStateStorage, uid.EnhancedSRStorage)


def film(number: int, side: int) -> Dataset:
    """A computed radiograph of 12 bits that no other number gives, in a study of its own."""
    random, one = np.random.default_rng(number), Dataset()
    grey = cv2.resize(random.random((12, 12), dtype=np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    root = f"1.2.826.0.1.3680043.8.498.78.{os.getpid()}"
    one.SOPClassUID, one.SOPInstanceUID = uid.ComputedRadiographyImageStorage, f"{root}.1.{number}"
    one.StudyInstanceUID, one.SeriesInstanceUID = f"{root}.2.{number}", f"{root}.3.{number}"
    one.PatientName, one.PatientID, one.Modality, one.BodyPartExamined = "Bench^Mark", str(number), "CR", "CHEST"
    one.ViewPosition, one.PhotometricInterpretation, one.SamplesPerPixel = "PA", "MONOCHROME2", 1
    one.Rows = one.Columns = side
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
    one.PixelSpacing = [0.4, 0.4]
    one.PixelData = np.rint(np.clip(grey, 0, 1) * 4095).astype("<u2").tobytes()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    return one


def service_of(store: Path, model: Path) -> Service:
    torch.set_num_threads(1)
    return Service([ServedModel(load(model))], Store(store), SETTINGS)


DOOR = ListenOptions(port=0, allowed=allowed_of(["BENCH"]))


def receive(store: Path, port: Any, ended: Any, model: Path) -> None:
    """A door that only takes in."""
    silence()
    node = Node(service_of(store, model), DOOR)
    port.value = node.start()
    ended.wait()
    os._exit(0)


def whole(store: Path, port: Any, ended: Any, model: Path, archive: str) -> None:
    silence()
    service = service_of(store, model)
    node = Node(
        service, DOOR, DeliverySettings(c_store_of(archive, "CHESTMAP", SETTINGS.dicom, None), DEFAULT_KINDS, keep=False)
    )
    service.start()
    port.value = node.start()
    ended.wait()
    node.stop()
    service.stop()
    value = service.metrics.registry.get_sample_value
    stages = {one: value("chestmap_stage_seconds_sum", {"stage": one}) for one in STAGES}
    print("seconds of the stages, threads added up: " + ", ".join(f"{one} {took:.1f}" for one, took in stages.items()), "\n")


class Running:
    """A forked process with its port; `memory` is sampled ten times a second."""

    def __init__(self, work: Any, *arguments: Any) -> None:
        self.ended, port, self.memory = FORK.Event(), FORK.Value("i", 0), []
        self.process = FORK.Process(target=work, args=(arguments[0], port, self.ended, *arguments[1:]))
        self.process.start()
        while not port.value:
            assert self.process.is_alive()
            time.sleep(0.05)
        self.port = port.value
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while not self.ended.is_set():
            try:
                text = Path(f"/proc/{self.process.pid}/status").read_text()
                self.memory.append(int(text.split("VmRSS:")[1].split()[0]) / 1024)
            except (OSError, IndexError):
                return
            time.sleep(0.1)

    def processor(self) -> float:
        """Seconds of it that the node and its readers have used: other work on the machine does not show in them."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        threads = Path(f"/proc/{self.process.pid}/task").iterdir()
        children += [one for thread in threads for one in (thread / "children").read_text().split()]
        ticks = 0
        for one in {str(self.process.pid), *children}:
            numbers = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(numbers[11]) + int(numbers[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.ended.set()
        self.process.join(120)
        if self.process.is_alive():
            self.process.kill()


class Archive:
    """When the last result of each study came, and how many came."""

    def __init__(self) -> None:
        self.times, self.objects, self._changed = dict[str, float](), list[str](), threading.Condition()
        entity = AE("ARCHIVE")
        for storage in RESULTS:
            entity.add_supported_context(storage)
        self.server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])
        assert self.server is not None
        self.name = f"ARCHIVE@127.0.0.1:{self.server.server_address[1]}"

    def _store(self, event: evt.Event) -> int:
        one = event.dataset
        with self._changed:
            self.times[one.StudyInstanceUID] = time.monotonic()
            self.objects.append(one.SOPInstanceUID)
            self._changed.notify_all()
        return 0

    def wait(self, studies: set[str], seconds: float = 600.0) -> None:
        """For the first result of each; the second follows in the same association."""
        with self._changed:
            assert self._changed.wait_for(lambda: studies <= self.times.keys(), seconds)
        time.sleep(0.5)


def send(port: int, films: list[Dataset], begun: dict[str, float], apart: float = 0.0) -> list[float]:
    """One association; the seconds of each C-STORE. `begun` learns when each study was sent."""
    sender, seconds = AE("BENCH"), []
    sender.add_requested_context(uid.ComputedRadiographyImageStorage, [uid.ExplicitVRLittleEndian])
    link = sender.associate("127.0.0.1", port, ae_title="CHESTMAP")
    for one in films:
        start = begun[one.StudyInstanceUID] = time.monotonic()
        assert link.send_c_store(one).Status == 0
        seconds.append(time.monotonic() - start)
        time.sleep(max(0.0, apart - seconds[-1]))
    link.release()
    return seconds


def send_all(port: int, films: list[Dataset], senders: int, begun: dict[str, float]) -> tuple[float, list[float]]:
    """Images a second, and the seconds of each."""
    start = time.monotonic()
    with ThreadPoolExecutor(senders) as pool:
        parts = [films[first::senders] for first in range(senders)]
        seconds = [one for part in pool.map(lambda part: send(port, part, begun), parts) for one in part]
    return len(films) / (time.monotonic() - start), seconds


def bare(model: Path, canvas: int, images: int) -> tuple[float, float]:
    """Images a second, and processor for each, of nothing but the network, in batches as the node makes them, with as many threads."""
    predictor, batch = load(model), SETTINGS.batch_size
    predictor.arrays(torch.zeros(batch, 1, canvas, canvas), ["x"] * batch)
    start, own = time.monotonic(), time.process_time()
    for _ in range(0, images, batch):
        predictor.arrays(torch.rand(batch, 1, canvas, canvas), ["x"] * batch)
    return images / (time.monotonic() - start), (time.process_time() - own) / images


def parts(seconds: list[float]) -> str:
    points = statistics.quantiles(seconds, n=20)
    return f"{statistics.median(seconds):.3f} s, {points[18]:.3f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--slow-images", type=int, default=40, help="sent at half the rate, for the latency")
    parser.add_argument("--senders", type=int, default=4, help="associations at a time")
    parser.add_argument("--side", type=int, default=1024, help="of the radiographs, 12 of 16 bits, uncompressed")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--canvas", type=int, default=128)
    arguments = parser.parse_args()
    silence()
    torch.set_num_threads(1)
    films = [film(number, arguments.side) for number in range(arguments.images + arguments.slow_images)]
    fast, slow = films[: arguments.images], films[arguments.images :]
    lines, load_before = {}, os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="node") as place:
        folder, archive = Path(place), Archive()
        random_model(folder / "model", arguments.backbone, arguments.canvas)
        only = Running(receive, folder / "only", folder / "model")
        rate, seconds = send_all(only.port, fast, arguments.senders, {})
        only.stop()
        lines["C-STORE alone, images a second"] = f"{rate:.1f} ({rate * arguments.side**2 * 2 / 1e6:.0f} MB/s)"
        lines["C-STORE alone, p50 and p95 of one image"] = parts(seconds)
        node, begun = Running(whole, folder / "node", folder / "model", archive.name), dict[str, float]()
        send(node.port, (warm := [film(1_000_000 + one, arguments.side) for one in range(4)]), {})
        archive.wait({one.StudyInstanceUID for one in warm})
        start, own = time.monotonic(), node.processor()
        node.memory.clear()
        rate, _ = send_all(node.port, fast, arguments.senders, begun)
        archive.wait({one.StudyInstanceUID for one in fast})
        whole_rate = arguments.images / (max(archive.times.values()) - start)
        memory, own = node.memory[:], (node.processor() - own) / arguments.images
        send(node.port, slow, begun, apart=2 / whole_rate)
        archive.wait({one.StudyInstanceUID for one in slow})
        node.stop()
        alone, alone_own = bare(folder / "model", arguments.canvas, arguments.images)
    third = max(1, len(memory) // 3)
    late = [archive.times[one.StudyInstanceUID] - begun[one.StudyInstanceUID] for one in slow]
    lines |= {
        "acknowledged while it predicts, images a second": f"{rate:.1f}",
        "all the way, images a second": f"{whole_rate:.1f}",
        "the bare model, images a second": f"{alone:.1f} ({whole_rate / alone:.0%} of it all the way)",
        "processor for each image: node and readers, bare model": f"{own * 1000:.0f} ms, {alone_own * 1000:.0f} ms",
        "from C-STORE to the last result, at half that rate: p50 and p95": parts(late),
        "results in the archive, of which twice": f"{len(archive.objects)}, {len(archive.objects) - len(set(archive.objects))}",
        "memory of the node: first third, last third, at most": f"{max(memory[:third]):.0f} MB, {max(memory[-third:]):.0f} MB",
    }
    report(arguments, lines, load_before)


def report(arguments: argparse.Namespace, lines: dict[str, str], load_before: float) -> None:
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load average {load_before:.1f} before "
        f"and {os.getloadavg()[0]:.1f} at the end\n"
    )
    print("| what | |\n|---|---:|")
    print(f"| images, associations | {arguments.images} of {arguments.side}², 12 bits; {arguments.senders} |")
    print(f"| model, canvas, batch | {arguments.backbone}, {arguments.canvas}², {SETTINGS.batch_size} |")
    for name, value in lines.items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()

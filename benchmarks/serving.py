"""The service under load, killed in the middle: `python benchmarks/serving.py --requests 10000 --clients 64`.

Every request is an image of its own. Clients try again where they get no answer; what they were told is safe must be there in
the end, with one result each that equals the model's own. Prints Markdown; benchmarks/serving.md keeps the last one.
"""

import argparse
import http.client
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue

import cv2
import numpy as np
import torch

from chestmap.imaging.canvas import on_canvas
from chestmap.imaging.read import radiograph_of
from chestmap.methods import METHODS
from chestmap.models.export import write_with_graph
from chestmap.models.predictor import Predictor, images_of, load
from chestmap.packs.build import PackSettings
from chestmap.training.train import Trained
from chestmap.vocabulary import CHESTXRAY14

NEAR = 1e-4
"""Largest difference of a score: images meet others in a batch than in the direct prediction."""


def picture(seed: int, side: int) -> bytes:
    random = np.random.default_rng(seed)
    grey = cv2.resize(random.integers(0, 256, (12, 12), dtype=np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".png", grey)[1].tobytes()


def random_model(folder: Path, backbone: str, side: int) -> None:
    torch.manual_seed(2)
    method = METHODS["cam"]
    tree = {"name": "cam", **method.tiny, "backbone": {**method.tiny["backbone"], "name": backbone}}
    settings, canvas = method.settings.model_validate(tree), PackSettings(width=side, height=side)
    network = method.build(settings, CHESTXRAY14, canvas.canvas)
    folder.mkdir()
    write_with_graph(  # as training leaves it
        folder,
        Trained(
            method=method,
            settings=settings,
            findings=CHESTXRAY14,
            canvas=canvas,
            network=network,
            data={"source": "none", "fingerprint": "0", "split": "none"},
        ),
    )


@dataclass
class Seen:
    """What the clients were told."""

    accepted: dict[int, str] = field(default_factory=dict)
    scores: dict[int, list[float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    unanswered: int = 0
    refused: int = 0
    strange: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Rates:
    """Images a second, and seconds of processor for each image: its own, and its clients'; `alone`: seconds of one image."""

    rate: float
    own: float
    clients: float = 0.0
    alone: float = 0.0


class Running:
    """The service as a process of its own; `memory` is sampled once a second."""

    def __init__(self, model: Path, store: Path, port: int, options: list[str]) -> None:
        words = ["serve", str(model), "--store", str(store), "--port", str(port), *options]
        self.command = [sys.executable, "-m", "chestmap", *words]
        self.port, self.memory = port, []
        self.starts: list[float] = []
        self.start()

    def start(self) -> None:
        begin = time.monotonic()
        self.process = subprocess.Popen(self.command, stderr=subprocess.DEVNULL)
        while self.ask("/readyz")[0] != 200:
            if self.process.poll() is not None:
                raise SystemExit(f"the service ended with {self.process.returncode}")
            time.sleep(0.1)
        self.starts.append(time.monotonic() - begin)

    def ask(self, path: str) -> tuple[int, bytes]:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            line.request("GET", path)
            answer = line.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 0, b""
        finally:
            line.close()

    def sample(self) -> None:
        try:
            text = Path(f"/proc/{self.process.pid}/status").read_text()
            self.memory.append(int(text.split("VmRSS:")[1].split()[0]) / 1024)
        except (OSError, IndexError):
            pass

    def processor(self) -> float:
        """Seconds of it that the service and its processes have used since its last start."""
        pid, ticks = self.process.pid, 0
        begun = (one.read_text().split() for one in Path(f"/proc/{pid}/task").glob("*/children"))  # by any of its threads
        for one in {str(pid), *(child for children in begun for child in children)}:
            numbers = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(numbers[11]) + int(numbers[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def body_of(content: bytes) -> bytes:
    head = b'--edge\r\nContent-Disposition: form-data; name="files"; filename="x.png"\r\nContent-Type: image/png\r\n\r\n'
    return head + content + b"\r\n--edge--\r\n"


def client(port: int, work: "Queue[int]", pictures: Path, seen: Seen, lock: threading.Lock) -> None:
    headers = {"X-Chestmap": "1", "Content-Type": "multipart/form-data; boundary=edge"}
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    while True:
        try:
            seed = work.get_nowait()
        except Empty:
            line.close()
            return
        body = body_of((pictures / str(seed)).read_bytes())
        while True:
            begin = time.monotonic()
            try:
                line.request("POST", "/v1/predict", body, headers)
                answer = line.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException):
                line.close()
                with lock:
                    seen.unanswered += 1
                time.sleep(0.5)
                continue
            if answer.status in {429, 503}:
                with lock:
                    seen.refused += 1
                time.sleep(min(float(answer.headers["Retry-After"]), 5))
                continue
            break
        with lock:
            if answer.status not in {200, 202}:
                seen.strange.append(f"{answer.status} {content[:200]!r}")
                continue
            study = json.loads(content)["studies"][0]
            seen.accepted[seed] = study["id"]
            seen.seconds.append(time.monotonic() - begin)
            if answer.status == 200:
                seen.scores[seed] = [one["score"] for one in study["results"][0]["findings"]]


def drive(service: Running, pictures: Path, arguments: argparse.Namespace) -> tuple[Seen, Rates]:
    """All requests, with a kill in the middle; the rate leaves out the time that the service was gone.

    The processor is counted from the kill, or from the first answers on, when the processes that decode have begun.
    """
    work: Queue[int] = Queue()
    for seed in range(arguments.requests):
        work.put(seed)
    seen, lock = Seen(), threading.Lock()
    threads = [
        threading.Thread(target=client, args=(service.port, work, pictures, seen, lock)) for _ in range(arguments.clients)
    ]
    begin, gone, killed = time.monotonic(), 0.0, arguments.no_kill
    own, since, mine = service.processor(), 0, time.process_time()
    warm = False
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.2)
        service.sample()
        if not warm and len(seen.accepted) >= arguments.requests // 10:
            warm, own, since, mine = True, service.processor(), len(seen.accepted), time.process_time()
        if not killed and len(seen.accepted) >= arguments.requests // 2:
            killed, start = True, time.monotonic()
            service.kill()
            service.memory.clear()
            service.start()
            gone = time.monotonic() - start
            own, since, mine = service.processor(), len(seen.accepted), time.process_time()
    rate = len(seen.accepted) / (time.monotonic() - begin - gone)
    images = len(seen.accepted) - since
    return seen, Rates(rate, (service.processor() - own) / images, (time.process_time() - mine) / images)


def bare(predictor: Predictor, folder: Path, arguments: argparse.Namespace) -> tuple[np.ndarray, Rates]:
    """The model's own scores, and how fast nothing but the model is in batches as the service makes them.

    Leaves the pictures in `folder`, so that clients have nothing to do but send them.
    """
    scores, seconds, own = [], 0.0, 0.0
    predictor.arrays(torch.zeros(8, 1, arguments.canvas, arguments.canvas), ["x"] * 8)  # the first takes longer
    for first in range(0, arguments.requests, 8):
        seeds = range(first, min(first + 8, arguments.requests))
        pictures = [picture(seed, arguments.image) for seed in seeds]
        for seed, one in zip(seeds, pictures, strict=True):
            (folder / str(seed)).write_bytes(one)
        canvases = [on_canvas(radiograph_of(one, "x"), predictor.model.canvas)[0] for one in pictures]
        images = images_of(np.stack(canvases))
        begin, before = time.monotonic(), time.process_time()
        scores.append(predictor.arrays(images, ["x"] * len(seeds))[0])
        seconds, own = seconds + time.monotonic() - begin, own + time.process_time() - before
    return np.concatenate(scores), Rates(
        arguments.requests / seconds, own / arguments.requests, alone=alone(predictor, images)
    )


def alone(predictor: Predictor, images: torch.Tensor) -> float:
    """Seconds of the network for one image, the median of 24: what an idle service cannot go below."""
    taken = []
    for row in range(25):
        begin = time.monotonic()
        one = row % len(images)
        predictor.arrays(images[one : one + 1], ["x"])
        taken.append(time.monotonic() - begin)
    return statistics.median(taken[1:])


def checked(service: Running, seen: Seen, expected: np.ndarray) -> tuple[int, int, int]:
    """Acknowledged studies that are lost, that have not exactly one result, and that have a wrong one."""
    while b"chestmap_queue_studies 0.0" not in service.ask("/metrics")[1]:
        time.sleep(0.5)
    lost = double = wrong = 0
    for seed, study_id in seen.accepted.items():
        status, content = service.ask(f"/v1/studies/{study_id}")
        if status != 200:
            lost += 1
            continue
        results = json.loads(content)["results"]
        double += len(results) != 1
        answers = [[one["score"] for one in result["findings"]] for result in results] + [seen.scores.get(seed)]
        wrong += any(one is not None and np.abs(np.array(one) - expected[seed]).max() > NEAR for one in answers)
    total = json.loads(service.ask("/v1/studies?limit=1")[1])["total"]
    print(f"{total:,} studies in the store", file=sys.stderr)
    return lost, double, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--canvas", type=int, default=256)
    parser.add_argument("--image", type=int, default=512, help="side of the PNGs that are sent")
    parser.add_argument("--no-kill", action="store_true")
    parser.add_argument("--serve", nargs="*", default=[], help="further options of `chestmap serve`")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="serving") as place, socket.create_server(("127.0.0.1", 0)) as free:
        port, folder = free.getsockname()[1], Path(place)
        free.close()
        random_model(folder / "model", arguments.backbone, arguments.canvas)
        (folder / "pictures").mkdir()
        expected, rate = bare(load(folder / "model"), folder / "pictures", arguments)
        service = Running(folder / "model", folder / "store", port, arguments.serve)
        try:
            seen, served = drive(service, folder / "pictures", arguments)
            lost, double, wrong = checked(service, seen, expected)
            report(arguments, service, seen, (lost, double, wrong), (served, rate))
        finally:
            service.kill()
    raise SystemExit(bool(lost or double or wrong or seen.strange))


def report(
    arguments: argparse.Namespace, service: Running, seen: Seen, bad: tuple[int, int, int], rates: tuple[Rates, Rates]
) -> None:
    quantiles = statistics.quantiles(seen.seconds, n=100)
    third = max(1, len(service.memory) // 3)
    early, late = max(service.memory[:third]), max(service.memory[-third:])
    lines = {
        "requests, clients": f"{arguments.requests:,}, {arguments.clients}",
        "model, canvas, images sent": f"{arguments.backbone}, {arguments.canvas}², PNG of {arguments.image}²",
        "acknowledged": f"{len(seen.accepted):,}",
        "acknowledged and lost": f"{bad[0]}",
        "with other than one result": f"{bad[1]}",
        f"wrong answers (a score off by more than {NEAR:g})": f"{bad[2]}",
        "tried again: no answer, refused with Retry-After": f"{seen.unanswered:,}, {seen.refused:,}",
        "other answers": f"{len(seen.strange)}",
        "latency p50, p95, p99": f"{quantiles[49]:.3f} s, {quantiles[94]:.3f} s, {quantiles[98]:.3f} s",
        "network alone, one image": f"{rates[1].alone * 1000:.1f} ms",
        "images a second: service, bare model": f"{rates[0].rate:.1f}, {rates[1].rate:.1f} ({rates[0].rate / rates[1].rate:.0%})",
        "processor for each image: service, clients, bare model": (
            f"{rates[0].own * 1000:.1f} ms, {rates[0].clients * 1000:.1f} ms, {rates[1].own * 1000:.1f} ms"
        ),
        "cores that service and clients, and the bare model, got": (
            f"{rates[0].rate * (rates[0].own + rates[0].clients):.2f}, {rates[1].rate * rates[1].own:.2f}"
        ),
        "start, and start after kill -9": ", ".join(f"{one:.1f} s" for one in service.starts),
        "memory after the kill: first third, last third, at most": f"{early:.0f} MB, {late:.0f} MB",
    }
    cores, load_average = os.cpu_count(), os.getloadavg()[0]
    print(
        f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, load average {load_average:.1f} at the end\n"
    )
    print("| what | |\n|---|---:|")
    for name, value in lines.items():
        print(f"| {name} | {value} |")
    for one in seen.strange[:5]:
        print(one)


if __name__ == "__main__":
    main()

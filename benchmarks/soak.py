"""The service with both doors for a long time: `python benchmarks/soak.py --minutes 30`.

Sends PNGs by HTTP and radiographs by C-STORE, reviews, exports, and deletes the oldest studies, so that nothing should grow. Samples
memory, descriptors, threads and the disk of the store of all processes of the service, and compares the second third of the run with
the last. Prints Markdown; benchmarks/soak.md keeps the last one.
"""

import argparse
import http.client
import json
import os
import platform
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

from node import Archive, film, send

from serving import body_of, picture, random_model

EXPORT_SECONDS = 60.0
SAMPLE_SECONDS = 5.0
TOKEN = secrets.token_hex(16)
HEADERS = {"X-Chestmap": "1", "Authorization": f"Bearer {TOKEN}"}


@dataclass
class Sample:
    """Of the service and the processes it started."""

    memory_mb: float
    descriptors: int
    threads: int
    disk_mb: float


@dataclass
class Counts:
    """What was asked, by kind, and what was answered otherwise than expected."""

    asked: Counter[str] = field(default_factory=Counter)
    strange: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found, parents = [pid], {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def sample(pid: int, store: Path) -> Sample:
    memory, descriptors, threads = 0.0, 0, 0
    for one in family(pid):
        try:
            status = Path(f"/proc/{one}/status").read_text()
            descriptors += sum(1 for _ in Path(f"/proc/{one}/fd").iterdir())
        except OSError:
            continue
        memory += int(status.split("VmRSS:")[1].split()[0]) / 1024
        threads += int(status.split("Threads:")[1].split()[0])
    disk = int(subprocess.run(["du", "-sk", store], capture_output=True, text=True, check=False).stdout.split()[0]) / 1024
    return Sample(memory, descriptors, threads, disk)


class Client:
    """One connection, opened again where it ended."""

    def __init__(self, port: int, counts: Counts) -> None:
        self.port, self.counts = port, counts

    def ask(self, kind: str, method: str, path: str, body: bytes = b"", expected: tuple[int, ...] = (200,), **headers: str):
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        begin = time.monotonic()
        try:
            line.request(method, path, body or None, HEADERS | headers)
            answer = line.getresponse()
            content = answer.read()
        finally:
            line.close()
        self.counts.asked[kind] += 1
        if answer.status not in expected:
            self.counts.strange[f"{kind}: {answer.status} {content[:120]!r}"] += 1
            return None
        if kind == "predict":
            self.counts.seconds.append(time.monotonic() - begin)
        return json.loads(content) if content and answer.headers["Content-Type"].startswith("application/json") else content


def ready(client: Client, process: subprocess.Popen[bytes]) -> None:
    while True:
        if process.poll() is not None:
            raise SystemExit(f"the service ended with {process.returncode}")
        try:
            client.ask("ready", "GET", "/readyz")
        except OSError:
            time.sleep(0.2)
            continue
        return


def review(client: Client, study_id: str, finding: str, number: int) -> None:
    """Rejects a finding, as a person would with one key."""
    body = {
        "base": 0,
        "state": "done" if number % 2 else "part",
        "note": f"{number}",
        "findings": {finding: {"verdict": "reject"}},
    }
    client.ask(
        "review", "PUT", f"/v1/studies/{study_id}/review", json.dumps(body).encode(), **{"Content-Type": "application/json"}
    )


def walk(
    client: Client, dicom_port: int, store: Path, arguments: argparse.Namespace, process: subprocess.Popen[bytes]
) -> list[Sample]:
    """One image after another, by both doors; returns the samples."""
    kept: deque[str] = deque()
    samples, begin, number = [], time.monotonic(), 0
    sampled = exported = begin
    form = {"Content-Type": "multipart/form-data; boundary=edge"}
    while (now := time.monotonic()) < begin + 60 * arguments.minutes:
        answer = client.ask("predict", "POST", "/v1/predict", body_of(picture(number, 512)), expected=(200, 202), **form)
        if isinstance(answer, dict):
            study = answer["studies"][0]
            kept.append(study["id"])
            review(client, study["id"], arguments.finding, number)
            for part in ("thumbnail", "pixels", "overlay"):
                client.ask(part, "GET", f"/v1/studies/{study['id']}/{part}", expected=(200, 404))
        if number % 4 == 0:
            send(dicom_port, [film(number, 512)], {})
            client.counts.asked["C-STORE"] += 1
        client.ask("worklist", "GET", "/v1/studies?limit=100")
        while len(kept) > arguments.keep:
            client.ask("delete", "DELETE", f"/v1/studies/{kept.popleft()}", expected=(204,))
        if now - exported > EXPORT_SECONDS:
            export(client, store)
            exported = now
        if now - sampled > SAMPLE_SECONDS:
            samples.append(sample(process.pid, store))
            sampled = now
        number += 1
        time.sleep(arguments.pause)
    return samples


def export(client: Client, store: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="soak") as place:
        words = ["data", "from-reviews", "--store", str(store), "--out", f"{place}/reviewed"]
        done = subprocess.run([sys.executable, "-m", "chestmap", *words], capture_output=True, text=True, check=False)
    client.counts.asked["export"] += 1
    if done.returncode:
        client.counts.strange[f"export: {done.returncode} {done.stderr[-120:]}"] += 1


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--keep", type=int, default=200, help="studies by HTTP that stay; older ones are deleted")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two images, on a machine with other work")
    parser.add_argument("--finding", default="Mass")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak") as place:
        folder, archive = Path(place), Archive()
        random_model(folder / "model", "resnet18", 64)
        (folder / "tokens").touch(0o600)
        (folder / "tokens").write_text(f"bench {TOKEN} admin\n")
        port, dicom_port = free_port(), free_port()
        words = ["serve", str(folder / "model"), "--store", str(folder / "store"), "--port", str(port)]
        words += [
            "--token-file",
            str(folder / "tokens"),
            "--dicom",
            str(dicom_port),
            "--allow",
            "BENCH",
            "--to",
            archive.name,
        ]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-m", "chestmap", *words], stderr=log)
        counts = Counts()
        client = Client(port, counts)
        try:
            ready(client, process)
            samples = walk(client, dicom_port, folder / "store", arguments, process)
        finally:
            process.terminate()
            code = process.wait(60)
        report(arguments, samples, counts, archive, (folder / "log").read_text())
    raise SystemExit(bool(counts.strange or code))


def report(arguments: argparse.Namespace, samples: list[Sample], counts: Counts, archive: Archive, log: str) -> None:
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[-third:]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {arguments.minutes:g} minutes\n"
    )
    print("| what | second third | last third |\n|---|---:|---:|")
    for name in ("memory_mb", "descriptors", "threads", "disk_mb"):
        values = [statistics.median(getattr(one, name) for one in part) for part in (middle, last)]
        print(f"| {name}, median | {values[0]:,.0f} | {values[1]:,.0f} |")
    print(f"\nAsked: {', '.join(f'{kind} {count:,}' for kind, count in sorted(counts.asked.items()))}.")
    print(
        f"Objects in the archive: {len(archive.objects):,}, of which twice {len(archive.objects) - len(set(archive.objects)):,}."
    )
    print(
        f"Latency of an upload until its scores: p50 {statistics.median(counts.seconds):.2f} s, most {max(counts.seconds):.2f} s."
    )
    print(f"Lines of the log: {len(log.splitlines()):,}, tracebacks {log.count('Traceback'):,}.")
    for kind, count in counts.strange.most_common(10):
        print(f"Other answers: {count:,} x {kind}")


if __name__ == "__main__":
    main()

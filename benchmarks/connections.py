"""Authenticated requests while idle connections fill the service: `python benchmarks/connections.py --idle 2000`.

The connections come from several addresses of the loopback, hold no token, and are opened again where the service closed them. Blocks of
requests without and with them alternate, so that other work on the machine falls on both. Prints Markdown; faults.md keeps the last one.
"""

import argparse
import http.client
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from soak import HEADERS, TOKEN, Client, Counts, free_port, ready

from serving import random_model

PATHS = ("/v1/studies?limit=100", "/v1/models", "/healthz", "/readyz")


class Crowd:
    """Idle connections of eight addresses."""

    def __init__(self, port: int, count: int) -> None:
        self.port = port
        self.lines = [self._line(f"127.0.0.{2 + number % 8}") for number in range(count)]

    def _line(self, address: str) -> socket.socket:
        line = socket.create_connection(("127.0.0.1", self.port), timeout=60, source_address=(address, 0))
        line.settimeout(0)
        return line

    def renew(self) -> int:
        """Opens again what was closed; returns how many there were."""
        closed = 0
        for place, line in enumerate(self.lines):
            with suppress(BlockingIOError):
                try:
                    ended = not line.recv(4096)
                except ConnectionError:
                    ended = True
                if ended:
                    address = line.getsockname()[0]
                    line.close()
                    self.lines[place] = self._line(address)
                    closed += 1
        return closed

    def close(self) -> None:
        for line in self.lines:
            line.close()


def asked(port: int, path: str) -> tuple[int, float]:
    """Status and seconds of a request on a connection of its own."""
    begin = time.monotonic()
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        line.request("GET", path, headers=HEADERS)
        answer = line.getresponse()
        answer.read()
    finally:
        line.close()
    return answer.status, time.monotonic() - begin


def compared(port: int, arguments: argparse.Namespace) -> None:
    alone: dict[str, list[float]] = {path: [] for path in PATHS}
    crowded: dict[str, list[float]] = {path: [] for path in PATHS}
    refused = renewed = 0
    for _ in range(arguments.blocks):
        crowd = None
        for seconds in (alone, crowded):
            if seconds is crowded:
                crowd = Crowd(port, arguments.idle)
            for number in range(arguments.requests):
                if crowd and number % 5 == 0:
                    renewed += crowd.renew()
                for path in PATHS:
                    status, took = asked(port, path)
                    refused += status != http.client.OK
                    seconds[path].append(took)
        if crowd:
            crowd.close()
    count = arguments.blocks * arguments.requests
    print(
        f"{arguments.idle:,} idle connections, {renewed:,} opened again; {count:,} requests of each kind alone and as many among them\n"
    )
    print("| request | alone, median | among idle ones, median | ratio |\n| --- | ---: | ---: | ---: |")
    for path in PATHS:
        one, other = statistics.median(alone[path]), statistics.median(crowded[path])
        print(f"| `{path}` | {1000 * one:.1f} ms | {1000 * other:.1f} ms | {other / one:.2f} |")
    print(f"\nAnswers other than 200: {refused}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idle", type=int, default=2000)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--requests", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="connections") as place:
        folder, port = Path(place), free_port()
        random_model(folder / "model", "resnet18", 64)
        (folder / "tokens").touch(0o600)
        (folder / "tokens").write_text(f"bench {TOKEN} admin\n")
        words = ["serve", str(folder / "model"), "--store", str(folder / "store"), "--port", str(port)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "chestmap", *words, "--token-file", str(folder / "tokens")], stderr=log
            )
        try:
            ready(Client(port, Counts()), process)
            compared(port, arguments)
        finally:
            process.terminate()
            process.wait(60)
        lines = (folder / "log").read_text()
        print(f"Lines of the log: {len(lines.splitlines()):,}, tracebacks {lines.count('Traceback')}.")


if __name__ == "__main__":
    main()

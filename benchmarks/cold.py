"""What one film costs from nothing: `python benchmarks/cold.py MODEL film.png`, half a minute.

Processor seconds (user and system) and the most memory of `chestmap predict` with one image, printed and into a folder, and of
`chestmap serve` until it listens: the least of some tries, with the engines that are asked for. Files of compiled Python are kept, as
after an installation. On a busy machine processor seconds grow, too: the row of Python with numpy says by how much. Prints Markdown.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

PREDICT = [sys.executable, "-m", "chestmap", "predict"]
SERVE = [sys.executable, "-m", "chestmap", "serve"]
PORT = 8765


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("film", type=Path)
    parser.add_argument("--engines", nargs="+", default=["auto", "openvino", "torch"])
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--no-serve", action="store_true")
    chosen = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    print("| what | engine | processor, s | memory, MB |\n|---|---|---|---|")
    tell(
        "Python that imports numpy", "", [used(started([sys.executable, "-c", "import numpy"])) for _ in range(chosen.tries)]
    )
    for engine in chosen.engines:
        found = [predicted(chosen.model, chosen.film, engine) for _ in range(chosen.tries)]
        tell("one film, printed", engine, found)
        found = [predicted(chosen.model, chosen.film, engine, keep=True) for _ in range(chosen.tries)]
        tell("one film into a folder", engine, found)
        if not chosen.no_serve:
            tell("the service, until it listens", engine, [served(chosen.model, engine) for _ in range(chosen.tries)])


def tell(what: str, engine: str, found: list[tuple[float, float]]) -> None:
    seconds, megabytes = min(one for one, _ in found), min(one for _, one in found)
    print(f"| {what} | {engine} | {seconds:.2f} | {megabytes:.0f} |", flush=True)


def predicted(model: Path, film: Path, engine: str, *, keep: bool = False) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        where = ["--out", f"{folder}/out", "--workers", "0"] if keep else []
        return used(started([*PREDICT, model, film, "--engine", engine, *where]))


def started(command: list[object]) -> subprocess.Popen:
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def served(model: Path, engine: str) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [*SERVE, model, "--store", f"{folder}/store", "--port", PORT, "--serve-set", f"engine={engine}"]
        process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
        while not listens():
            if process.poll() is not None:
                raise SystemExit("the service ended before it listened")
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        return used(process)


def listens() -> bool:
    try:
        return urlopen(f"http://127.0.0.1:{PORT}/v1/models", timeout=1).status == 200
    except (URLError, OSError):
        return False


def used(process: subprocess.Popen) -> tuple[float, float]:
    """Processor seconds and megabytes of a process with its children."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, -signal.SIGTERM):
        raise SystemExit(f"{process.args}: exit code {process.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()

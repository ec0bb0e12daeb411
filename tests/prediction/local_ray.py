"""A Ray of this machine for one test: everything that it starts carries a mark in its environment, and only that is ended."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

TESTS = Path(__file__).parents[1]


class LocalRay:
    def __init__(self, cpus: int) -> None:
        self.mark, self.cpus, self.address = f"CHESTMAP_RAY_MARK={token_hex(8)}", cpus, ""
        name, value = self.mark.split("=")
        self.folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: sockets lie in it
        self.environment = {
            **os.environ,
            name: value,
            "PYTHONPATH": f"{TESTS.parent / 'src'}{os.pathsep}{TESTS}",
            "CHESTMAP_KEY": "of the tests",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }

    def start(self) -> None:
        ray = str(Path(sys.executable).with_name("ray"))
        command = [
            ray, "start", "--head", "--port=0", f"--num-cpus={self.cpus}", f"--temp-dir={self.folder}",
            "--include-dashboard=false", "--object-store-memory=200000000", "--disable-usage-stats",
        ]  # fmt: skip
        for _ in range(4):  # Ray gives its own processes 30 s, which a busy machine may not keep
            done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=300)
            if done.returncode == 0:
                break
            self.kill()
        assert done.returncode == 0, done.stdout + done.stderr
        self.address = Path(self.folder, "ray_current_cluster").read_text().strip()

    def processes(self, words: str = "") -> list[int]:
        """Pids of what carries the mark and has the words in its command line."""
        found = []
        for place in Path("/proc").iterdir():
            try:
                if place.name.isdecimal() and int(place.name) != os.getpid():
                    marked = self.mark.encode() in (place / "environ").read_bytes()
                    if marked and words in (place / "cmdline").read_bytes().decode("latin-1"):
                        found.append(int(place.name))
            except OSError:
                continue
        return found

    def kill(self) -> None:
        for _ in range(50):
            left = self.processes()
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if not left:
                break
            time.sleep(0.2)

    def end(self) -> None:
        self.kill()
        subprocess.run(["rm", "-rf", self.folder], check=False)


@contextmanager
def local_ray(cpus: int = 4):
    ray = LocalRay(cpus)
    try:
        ray.start()
        yield ray
    finally:
        ray.end()

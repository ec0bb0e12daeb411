"""Records what a run was made with: versions, machine, commit. It appends at every start."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from chestmap.training.run_folder import read_json, write_json

PACKAGES = ("chestmap", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "opencv-python-headless", "polars")


def record_start(folder: Path, device: torch.device, settings: dict[str, Any]) -> None:
    """Appends versions, machine and commit of this start to `environment.json`; earlier starts stay."""
    earlier = read_json(folder / "environment.json") or {"starts": []}
    start = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions(), "machine": _machine(device)}
    write_json(folder / "environment.json", {"starts": [*earlier["starts"], start | {"git": commit(), "run": settings}]})


def versions() -> dict[str, str]:
    """Versions of Python and of the packages in `PACKAGES`."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _machine(device: torch.device) -> dict[str, Any]:
    """Describes system, processor and GPU, without the name of the machine."""
    machine: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processor": _processor(),
    }
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        machine |= {"gpu": found.name, "gpu_memory_gb": round(found.total_memory / 1e9, 1), "cuda": torch.version.cuda}
    return machine


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


@cache
def commit() -> dict[str, Any] | None:
    """Of the source tree, where chestmap runs from one."""
    source = Path(sys.modules["chestmap"].__file__ or ".").parent

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(source), *words]  # or `status` cut short leaves index.lock behind
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()  # noqa: S603

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--", str(source)))}
    except (OSError, subprocess.SubprocessError):
        return None

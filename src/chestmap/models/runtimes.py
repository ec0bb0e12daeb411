"""Runs a graph with onnxruntime or OpenVINO on the CPU; without torch."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from chestmap.errors import BadInput

BUSY = "passive"
"""Value of OMP_WAIT_POLICY with which threads sleep while they wait."""


def is_installed(name: str) -> bool:
    """Look for a library without importing it."""
    try:
        return find_spec(name) is not None
    except ValueError:  # blocked
        return False


def needed(name: str, extra: str = "export") -> Any:
    """Import an optional library, or say how to get it."""
    try:
        return __import__(name)
    except ImportError:
        raise BadInput(f'{name} is not installed; pip install "chestmap[{extra}]"') from None


def compiled_by_openvino(path: Path, hints: dict[str, Any]) -> Any:
    """The graph at `path` made ready for the CPU, in a thread that ends with it.

    OpenVINO replaces the calling thread's alternate signal stack and, when several models are dropped out of order, leaves it
    pointing at memory that is no longer there: the next signal that Python handles ends the process without a word.
    """
    openvino = needed("openvino", "infer")
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: openvino.Core().compile_model(path, "CPU", hints)).result()


def threads() -> int:
    """What torch uses where it is loaded; else OMP_NUM_THREADS, or the cores that this process may use."""
    if torch := sys.modules.get("torch"):
        return torch.get_num_threads()
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if asked.isdigit() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def session_of(path: Path, count: int | None = None) -> Any:
    """The graph at `path` in onnxruntime, in fp32, with `count` threads or all."""
    runtime = needed("onnxruntime", "infer")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = count or threads()
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # a plan of memory for each batch size holds it twice, and gains no time
    if os.environ.get("OMP_WAIT_POLICY") == BUSY:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def request_of(path: Path, precision: str, cache: Path, count: int | None = None) -> Any:
    """The graph at `path` in OpenVINO; without a hint it would take bf16 wherever the processor knows it."""
    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": count or threads(),
        "CACHE_DIR": str(cache),
    }
    return compiled_by_openvino(path, hints).create_infer_request()

"""Saves weights (safetensors) and the state from which a killed step goes on, never half written.

A resume file carries its own digest in its name, and the one before is kept: a file damaged by a full or failing disk is
noticed and passed over.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from chestmap.errors import BadModel
from chestmap.storage.atomic import write_bytes

KEPT = 2
PICKLES = (b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
"""How a pickle, or torch's archive of one, begins."""


@dataclass(kw_only=True)
class Position:
    """Records how far a step has come; `batch` counts those done in `epoch`, always at an optimizer step.

    Every resume file holds one. `seconds` and `images` add up over all starts of the step.
    """

    epoch: int = 0
    batch: int = 0
    update: int = 0
    images: int = 0
    seconds: float = 0.0
    best: float | None = None  # greater is better: an AUC, or minus a loss
    best_epoch: int = 0
    best_sha256: str = ""
    stale: int = 0  # validations since the best one
    logged: int = 0  # rows in log.csv


def save_weights(module: nn.Module, path: Path) -> str:
    """Writes the whole state of `module` as safetensors; returns the file's sha256.

    Tensors are copied to the CPU first. Tied weights are written once per name.
    """
    tensors = {
        name: value.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        for name, value in module.state_dict().items()
    }
    content = safetensors.torch.save(tensors)
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def read_weights(path: Path, sha256: str = "") -> dict[str, Tensor]:
    """Refuses a missing, changed or damaged file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadModel(
            f"{path}: cannot be read ({error.__class__.__name__}); expected the weights of a trained network"
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if sha256 and found != sha256:
        raise BadModel(
            f"{path}: sha256 {found[:12]}… instead of {sha256[:12]}…; the file was changed or cut, fetch it again"
        )
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        pickled = "a pickle, which could run code and is never opened" if content[:2] in PICKLES else error
        raise BadModel(f"{path}: no safetensors file ({pickled}); expected weights that chestmap wrote") from None


def load_weights(module: nn.Module, path: Path, sha256: str = "") -> None:
    """Loads safetensors into a module; another hash, or weights of another network, are refused."""
    state = read_weights(path, sha256)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise BadModel(f"{path}: weights of another network: {' '.join(str(error).split())[:300]}") from None


def save_resume(folder: Path, epoch: int, batch: int, state: dict[str, Any]) -> None:
    """Writes the state from which a killed step goes on, then deletes all but the newest few."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    name = f"resume-{epoch:05d}-{batch:08d}-{_digest(buffer.getbuffer())}.pt"
    write_bytes(folder / name, buffer.getbuffer())
    for old in resume_files(folder)[KEPT:]:
        old.unlink()


def load_resume(folder: Path, tell: Callable[[str], None]) -> dict[str, Any] | None:
    """Loads the newest undamaged state; None where there is none.

    A file is damaged where its content does not give the digest in its name; `tell` gets a line for each of them. Only
    tensors and plain values are unpickled, so that a file runs no code.
    """
    for path in resume_files(folder):
        content = path.read_bytes()
        if _digest(content) == path.stem.rpartition("-")[2]:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        tell(f"{path}: damaged, passed over; going on from the state before it")
    return None


def resume_files(folder: Path) -> list[Path]:
    """Lists the resume files of a step, newest first: names begin with epoch and batch."""
    return sorted(folder.glob("resume-*.pt"), reverse=True)


def _digest(content: bytes | memoryview) -> str:
    """Computes the eight bytes that a resume file carries in its name, to notice damage by."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()

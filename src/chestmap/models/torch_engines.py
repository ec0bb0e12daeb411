"""Runs a network with torch: eager, or compiled."""

from __future__ import annotations

import os
import shutil
from typing import Any

import numpy as np
import torch
from torch import nn

from chestmap.errors import BadInput
from chestmap.models.engines import Arrays, Compute, Precision
from chestmap.models.graph import Graph
from chestmap.settings import cache_folder


def eager(network: nn.Module, on: str, precision: Precision) -> Compute:
    """Channels-last pays in bf16 and on CUDA; in fp32 on a CPU it costs a little."""
    device, half = torch.device(on), precision == "bf16"
    kind = torch.channels_last if half or device.type == "cuda" else torch.contiguous_format
    graph = Graph(network).to(device).to(memory_format=kind)  # pyright: ignore[reportCallIssue] -- not typed

    def compute(images: Any) -> Arrays:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits, maps = graph(torch.as_tensor(images).to(device, non_blocking=True).contiguous(memory_format=kind))
        return logits.float().cpu().numpy(), maps.float().cpu().numpy()

    return compute


def compiled(network: nn.Module, on: str, precision: Precision) -> Compute:
    """One size of batch, so that nothing is compiled twice: single images on a CPU, where that costs nothing; else the first."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++")):
        raise BadInput('engine "compile" needs a C++ compiler, which was not found; install g++, or use another engine')
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    device, half = torch.device(on), precision == "bf16"
    size = 1 if device.type == "cpu" else 0
    graph = Graph(network).to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    faster = torch.compile(graph, dynamic=False, options={"freezing": True})

    def compute(images: Any) -> Arrays:
        nonlocal size
        size = size or len(images)
        found: list[Arrays] = []
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            for some in torch.as_tensor(images).split(size):
                filled = torch.cat([some, some.new_zeros(size - len(some), *some.shape[1:])])
                logits, maps = faster(filled.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last))
                found.append((logits[: len(some)].float().cpu().numpy(), maps[: len(some)].float().cpu().numpy()))
        return np.concatenate([logits for logits, _ in found]), np.concatenate([maps for _, maps in found])

    return compute

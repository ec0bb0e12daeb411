"""Connects to a Ray cluster or starts one on this machine, and tells how many actors it holds. No torch here.

Only `--cluster` comes here. Ray is imported when it is asked for; without it the user reads which extra to install.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from secrets import token_hex
from typing import Any

from pydantic import Field

from chestmap.errors import BadInput, ChestmapError
from chestmap.settings import Settings


class ClusterSettings(Settings):
    """`address` is auto (a Ray that runs already), local (start one here) or host:port. `gpus` may be a part of one."""

    address: str = "auto"
    actors: int | None = Field(default=None, ge=1)  # by default as many as the cluster holds
    cpus: float = Field(default=1, ge=0)  # of each actor; threads of its network
    gpus: float | None = Field(default=None, ge=0)  # of each actor; by default 1 where the cluster has any, else 0


def ray_or_told() -> Any:
    """Imports Ray, or answers in one line which extra installs it."""
    try:
        ray = import_module("ray")
    except ImportError:
        raise BadInput('--cluster needs Ray: pip install "chestmap[cluster]"') from None
    return ray


def got(ray: Any, reference: Any) -> Any:
    """A result, or our own error as it was raised in the actor."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ChestmapError | OSError):
            raise error.cause from None
        raise


@contextmanager
def connected(address: str, tell: Callable[[str], None]) -> Iterator[Any]:
    """Ray as it runs; only "local" starts one, which ends with this process."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = ray_or_told()
    if ray.is_initialized():
        yield ray
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    if address == "local":
        tell(
            "this Ray listens on all addresses of the machine until the call ends, guarded by a token; "
            "keep its ports behind a firewall"
        )
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", token_hex(32))
        quiet |= {"include_dashboard": False}
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise BadInput(
            f'--cluster {address}: no Ray to work with ({said}); start one with "ray start --head", or give --cluster local'
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def shape(ray: Any, settings: ClusterSettings) -> tuple[int, float, bool]:
    """How many actors, GPUs of each, and whether processors are left that decode: without them tasks would wait for ever."""
    there = ray.cluster_resources()
    cpus, all_gpus = there.get("CPU", 0.0), there.get("GPU", 0.0)
    gpus = settings.gpus if settings.gpus is not None else float(all_gpus > 0)
    by_gpu = int(all_gpus / gpus) if gpus else 1 << 20
    by_cpu = int(cpus / settings.cpus) if settings.cpus else 1 << 20
    most = min(by_gpu, by_cpu)
    if most < 1:
        raise BadInput(
            f"an actor needs {settings.cpus:g} CPU and {gpus:g} GPU, the cluster has {cpus:g} and {all_gpus:g}; ask for less"
        )
    wished = settings.actors or (by_gpu if gpus else max(1, int(cpus / (settings.cpus + 1))))
    if settings.actors and wished > most:
        raise BadInput(f"--actors {wished}: the cluster has room for {most} of {settings.cpus:g} CPU and {gpus:g} GPU")
    actors = min(wished, most)
    return actors, gpus, cpus - actors * settings.cpus >= 1

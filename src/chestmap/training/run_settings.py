"""Defines how a run uses its machine. Seed, precision and, through batch norm, `images_at_once` change what it learns."""

from __future__ import annotations

import os
from typing import Literal

import torch
from pydantic import Field

from chestmap.errors import BadSettings
from chestmap.settings import Settings
from chestmap.storage.freed_memory import keep_memory_of_steps
from chestmap.training.trackers import TrackerName

RESULT = ("seed", "precision", "images_at_once")
"""The fields that decide a step's result; the others may differ when a run goes on."""


class RunSettings(Settings):
    """Under torchrun, or srun with a task for each process, the number of processes is theirs; `devices` and `nodes` are not read."""

    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # mps, a Mac's GPU, only where it is asked for
    devices: int = Field(default=1, ge=1)  # processes on each machine, one per GPU
    nodes: int = Field(default=1, ge=1)  # machines
    rendezvous: str = ""  # host:port where several machines meet; from Slurm where it runs
    restarts: int = Field(default=0, ge=0)  # of all processes after one died, from the last checkpoint, before the job fails
    images_at_once: int | None = Field(default=None, ge=1)  # of a process; more are cut into pieces, and gradients add up
    sync_batch_norm: bool = True  # statistics of training batches over all processes
    precision: Literal[32, "bf16", "fp16"] = 32  # of the network's arithmetic; weights stay in 32 bits
    tf32: bool = True  # 19-bit products in 32-bit arithmetic on CUDA
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = False  # the same bits on CUDA too, slower; on the CPU they always are
    workers: int = Field(default=2, ge=0)  # loading processes per training process
    checkpoint_minutes: float = Field(default=10.0, ge=0)  # inside an epoch; 0: after every optimizer step
    log_every: int = Field(default=20, ge=1)  # optimizer steps
    tensorboard: bool = True
    trackers: tuple[TrackerName, ...] = ()  # wandb, mlflow: what log.csv gets goes there, too
    accept_code_change: bool = False  # go on with steps that earlier code made

    def accelerator(self) -> Literal["cpu", "cuda", "mps"]:
        """The device for Fabric. A device that torch does not find, or fp16 on a CPU, is refused."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise BadSettings('run.device: "cuda" was asked for but torch finds no CUDA device; use "auto" or "cpu"')
        if self.device == "mps" and not torch.backends.mps.is_available():
            raise BadSettings('run.device: "mps" was asked for but torch finds no such device; use "auto" or "cpu"')
        if self.device == "mps":
            return "mps"
        found = "cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu"
        if found == "cpu" and self.precision == "fp16":
            raise BadSettings('run.precision: "fp16" needs a CUDA device; on a CPU use "bf16" or 32')
        return found

    def processes(self) -> tuple[int, int]:
        """Processes on each machine, and machines."""
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))  # set by torchrun
        return (local, int(os.environ["WORLD_SIZE"]) // local) if local else (self.devices, self.nodes)

    def apply(self) -> None:
        """Switches of the whole process."""
        if self.accelerator() == "cpu":
            keep_memory_of_steps()
        if self.accelerator() == "cuda":
            torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = self.tf32
            torch.backends.cudnn.benchmark = not self.deterministic
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(mode=True)

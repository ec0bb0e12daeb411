"""Translates Slurm's description of the processes of `srun` into torchrun's variables."""

from __future__ import annotations

import os
import re

from chestmap.errors import BadSettings

FIRST_PORT = 15000  # the last four digits of the job's number are added, so that two jobs on a machine do not meet


def tasks() -> tuple[int, int]:
    """Processes and machines of this `srun`; (1, 1) elsewhere, also in the batch script itself, which is no step of its own."""
    count = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    return (count, int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))) if count > 1 else (1, 1)


def first_host() -> str:
    """Of the job's machines: `gpu[07-09,12],login1` begins with gpu07."""
    names = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "127.0.0.1")
    found = re.match(r"([^\[,]*)(?:\[([^\]]*)\]([^,]*))?", names)
    assert found is not None
    before, numbers, after = found.groups()
    return before + re.split(r"[-,]", numbers)[0] + (after or "") if numbers else before


def port() -> int:
    """A port for the processes of this job; two jobs on one machine rarely get the same."""
    return FIRST_PORT + int(os.environ.get("SLURM_JOB_ID", "0")[-4:])


def adopt_slurm(devices: int, nodes: int) -> None:
    """Where each task of `srun` is one process of the training, set what torchrun would set; nothing elsewhere."""
    count, machines = tasks()
    if count == 1 or "RANK" in os.environ:
        return
    if devices * nodes not in {1, count}:
        raise BadSettings(
            f"run.devices, run.nodes: srun started {count} tasks on {machines} machines for {devices} x {nodes} processes; "
            f"start one task for each process, or one for each machine (--ntasks-per-node=1)"
        )
    if count % machines:
        raise BadSettings(f"srun: {count} tasks on {machines} machines; give every machine as many (--ntasks-per-node)")
    os.environ |= {
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "GROUP_RANK": os.environ.get("SLURM_NODEID", "0"),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count // machines),
        "MASTER_ADDR": os.environ.get("MASTER_ADDR", first_host()),
        "MASTER_PORT": os.environ.get("MASTER_PORT", str(port())),
    }

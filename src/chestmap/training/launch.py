"""Starts the processes of a training on this machine, through the agent that is behind torchrun.

The agent ends all of them when one dies; Fabric's own launcher leaves the others waiting.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from chestmap.errors import BadSettings, ProcessDied
from chestmap.training import slurm
from chestmap.training.run_settings import RunSettings

RENDEZVOUS_PORT = 29400
LAST_LINES = 12  # of what a dead process wrote to stderr
TO_SAVE = 120  # seconds that processes have for their last checkpoint after a signal


def is_launcher(settings: RunSettings) -> bool:
    """Whether this process starts the others, rather than being one of them."""
    if "RANK" in os.environ or settings.devices * settings.nodes == 1:
        return False
    tasks, _ = slurm.tasks()
    return tasks == 1 or (tasks == settings.nodes and settings.devices > 1)


def launch(settings: RunSettings, command: Sequence[str]) -> None:
    """Run Python with `command` (a script or `-m` and a module, and arguments) in `settings.devices` processes here, and wait for them.

    Raises `ProcessDied` with the rank, the exit code and the last words of the first that failed, after all have ended; a signal
    reaches every process, and becomes KeyboardInterrupt.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // settings.devices)))
    folder = Path(tempfile.mkdtemp(prefix="chestmap-ranks-"))
    here = dict.fromkeys(range(1, settings.devices), Std.ERR)  # the first rank speaks for all
    config = LaunchConfig(
        min_nodes=settings.nodes,
        max_nodes=settings.nodes,
        nproc_per_node=settings.devices,
        run_id=os.environ.get("SLURM_JOB_ID", "chestmap"),
        rdzv_backend="c10d",
        rdzv_endpoint=rendezvous(settings),
        rdzv_configs=_hosting(),
        max_restarts=settings.restarts,
        monitor_interval=0.5,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder), redirects=here),
        shutdown_timeout=TO_SAVE,
    )
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as error:
        raise _died(error, folder) from None
    except SignalException as error:
        raise KeyboardInterrupt(str(error)) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rendezvous(settings: RunSettings) -> str:
    """Host and port where the machines meet; on one machine a free port of its own."""
    if settings.nodes == 1:
        return "localhost:0"
    if settings.rendezvous:
        return settings.rendezvous if ":" in settings.rendezvous else f"{settings.rendezvous}:{RENDEZVOUS_PORT}"
    if slurm.tasks()[0] > 1:
        return f"{slurm.first_host()}:{slurm.port()}"
    raise BadSettings(
        f"run.nodes: {settings.nodes} machines must know where to meet; name the first of them on all with --rendezvous HOST:PORT"
    )


def _hosting() -> dict[str, bool]:
    """Whether the meeting point is here, where scheduler numbers its machines; else torch compares names."""
    number = os.environ.get("JOB_COMPLETION_INDEX") or (os.environ.get("SLURM_NODEID") if slurm.tasks()[0] > 1 else None)
    return {} if number is None else {"is_host": number == "0"}


def _died(error: Exception, folder: Path) -> ProcessDied:
    """Tells which process died first, how, and its last lines; the others ended because of it."""
    rank, failure = error.get_first_failure()  # pyright: ignore[reportAttributeAccessIssue]
    code = failure.exitcode
    how = f"was killed by {signal.Signals(-code).name} (signal {-code})" if code < 0 else f"ended with exit code {code}"
    words = [
        line
        for path in sorted(folder.glob(f"*/attempt_*/{failure.local_rank}/stderr.log"))[-1:]
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
    ]
    said = [f"rank {rank}: {line}" for line in words]
    line = (
        f"rank {rank} (process {failure.pid} on {socket.gethostname()}) {how}; all processes were ended; "
        "the same command goes on from the last checkpoint, also with other --devices and --nodes"
    )
    return ProcessDied("\n".join([*said, line]), exit_code=code if code in (1, 2) else 1)

"""Processes with the environment that torchrun gives them."""

import multiprocessing
import os
import socket
from collections.abc import Callable

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([
    "chestmap.training.optimization.loop", "chestmap.training.process_group", "chestmap.datasets.folder", "chestmap.packs.build",
])  # fmt: skip


def launched(count: int, target: Callable, *arguments: object, **options: object) -> list:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    processes = []
    for rank in map(str, range(count)):
        own = shared | {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
        processes.append(FORKS.Process(target=in_environment, args=(own, target, arguments, options)))
        processes[-1].start()
    return processes


def in_environment(environment: dict[str, str], target: Callable, arguments: tuple, options: dict) -> None:
    os.environ.update(environment)
    target(*arguments, **options)


def finished(*processes, code: int = 0) -> None:
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [code] * len(processes)

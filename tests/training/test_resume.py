"""A run that is killed at any moment ends with the same bits as one that was not."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from chestmap.errors import BadModel, StepChanged
from chestmap.training.run_folder import read_done
from training.several import FORKS, launched
from training.small import train_small


def start(dataset: Path, folder: Path, *overrides: str, epochs: int = 3):
    process = FORKS.Process(target=train_small, args=(str(dataset), str(folder), *overrides), kwargs={"epochs": epochs})
    process.start()
    return process


def finished(process, code: int = 0) -> None:
    process.join(120)
    assert process.exitcode == code


def bits(folder: Path) -> dict[str, bytes]:
    return {step: (folder / step / "weights.safetensors").read_bytes() for step in ("1-teach", "3-learn")}


def logged(folder: Path) -> list[str]:
    """Without times and speeds."""
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    return [",".join(row[:3] + row[4:]) for row in rows if row[4] not in {"images_per_second", "memory_gb"}]


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    finished(start(dataset, folder))
    return folder


def killed_and_resumed(dataset: Path, folder: Path, moments: random.Random, most: int, *overrides: str) -> list[str]:
    """Kill -9 at random moments after the run has begun, until it ends; returns the newest state at each kill."""
    struck, lock = [], folder / "run.lock"
    while len(struck) < most:
        process = start(dataset, folder, *overrides)
        while process.is_alive() and (not lock.exists() or lock.read_text() != str(process.pid)):
            time.sleep(0.002)
        process.join(moments.uniform(0, 0.9))
        if not process.is_alive():
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        struck.append(max((str(path.relative_to(folder)) for path in folder.glob("*/resume-*.pt")), default="none"))
    finished(start(dataset, folder, *overrides))
    return struck


def test_killed_three_times_ends_with_the_same_bits(dataset, whole, tmp_path):
    killed_and_resumed(dataset, tmp_path / "run", random.Random(1), 3)
    assert bits(tmp_path / "run") == bits(whole)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_twenty_times_ends_with_the_same_bits(dataset, whole, tmp_path, workers):
    moments, struck = random.Random(workers), []
    while len(struck) < 20 or not {place.split("-")[0] for place in struck} >= {"1", "3"}:  # until both steps were hit
        assert len(struck) < 100, struck
        folder = tmp_path / f"run-{len(struck)}"
        struck += killed_and_resumed(dataset, folder, moments, max(1, 20 - len(struck)), f"workers={workers}")
        assert bits(folder) == bits(whole)
        assert logged(folder) == logged(whole)


def test_a_signal_saves_and_stops_and_the_run_goes_on(dataset, whole, tmp_path):
    process = start(dataset, tmp_path / "run", "checkpoint_minutes=60")
    log = tmp_path / "run" / "log.csv"
    while process.is_alive() and not (log.exists() and len(log.read_text().splitlines()) > 1):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGTERM)
    finished(process, 1)  # KeyboardInterrupt; the command line makes it 130
    saved = list((tmp_path / "run").glob("*/resume-*.pt")) + list((tmp_path / "run").glob("*/done.json"))
    assert saved
    finished(start(dataset, tmp_path / "run"))
    assert bits(tmp_path / "run") == bits(whole)


def test_a_damaged_state_is_passed_over(dataset, whole, tmp_path):
    """The newest state is cut as a full disk would; the one before it leads to the same end."""
    folder = tmp_path / "run"
    process = start(dataset, folder)
    while process.is_alive() and len(list((folder / "3-learn").glob("resume-*.pt"))) < 2:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    newest = max((folder / "3-learn").glob("resume-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-200])
    finished(start(dataset, folder))
    assert bits(folder) == bits(whole)


def test_two_processes_train_together_and_resume(dataset, tmp_path):
    for process in launched(2, train_small, str(dataset), str(tmp_path / "whole"), epochs=2):
        finished(process)
    folder = tmp_path / "run"
    processes = launched(2, train_small, str(dataset), str(folder), epochs=2)
    while processes[0].is_alive() and not list((folder / "3-learn").glob("resume-*.pt")):
        time.sleep(0.001)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    for process in launched(2, train_small, str(dataset), str(folder), epochs=2):
        finished(process)
    assert bits(folder) == bits(tmp_path / "whole")
    done = json.loads((folder / "1-teach" / "done.json").read_text())
    assert done["epochs"] == 2
    assert done["score"] > 0


def test_another_number_of_processes_goes_on_and_is_recorded(dataset, tmp_path):
    folder = tmp_path / "run"
    process = start(dataset, folder)
    while process.is_alive() and not list(folder.glob("1-teach/resume-*.pt")):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    for process in launched(2, train_small, str(dataset), str(folder)):
        finished(process)
    starts = json.loads((folder / "environment.json").read_text())["starts"]
    assert [start["run"]["processes"] for start in starts] == [1, 2]
    (change,) = starts[1]["goes_on"]
    assert (change["step"], change["processes_before"], change["processes"]) == ("1-teach", 1, 2)
    assert (folder / "3-learn" / "done.json").exists()


def test_refusals_name_what_differs(dataset, whole):
    with pytest.raises(StepChanged, match=r"1-teach: was made differently: run.seed was 0, is 1; train in a new folder"):
        train_small(str(dataset), str(whole), "seed=1")


def test_a_bit_of_a_finished_step_is_not_overlooked(whole, tmp_path):
    """Whichever bit flips in the marker: damaged, or another spelling of the same."""
    marker = (whole / "1-teach" / "done.json").read_bytes()
    done = read_done(whole / "1-teach")
    shutil.copy(whole / "1-teach" / "SHA256SUMS", tmp_path)
    for place in range(8 * len(marker)):
        flipped = bytearray(marker)
        flipped[place // 8] ^= 1 << place % 8
        (tmp_path / "done.json").write_bytes(flipped)
        try:
            found = read_done(tmp_path)
        except BadModel as error:
            assert "delete its folder to make the step anew" in str(error)  # noqa: PT017 - it need not be raised
        else:
            assert found == done

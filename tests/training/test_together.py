"""Several processes learn what one learns from the same batches."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import tomli_w
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from chestmap.errors import ProcessDied
from chestmap.training import Run, RunSettings, Task
from chestmap.training.launch import launch
from chestmap.training.train import train
from conformance.watched import tiny_config
from training import small
from training.several import FORKS, finished, launched
from training.small import EVEN, run_settings, train_even

MACHINE = {"images_per_second", "memory_gb"}


def curve(folder) -> dict[tuple[str, ...], float]:
    """Every logged number by (step, epoch, update, name)."""
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()[1:]]
    return {(*row[:3], row[4]): float(row[5]) for row in rows if row[4] not in MACHINE}


def assert_same_training(one, other) -> None:
    mine, theirs = curve(one), curve(other)
    assert mine.keys() == theirs.keys()
    assert len(mine) > 30
    for place, value in mine.items():
        assert theirs[place] == pytest.approx(value, rel=2e-5, abs=2e-6), place
    weights = [load_file(folder / "1-learn" / "weights.safetensors") for folder in (one, other)]
    for name, value in weights[0].items():
        assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture(scope="module")
def alone(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    finished(*launched(1, train_even, str(dataset), str(folder)))
    return folder


def test_two_processes_learn_what_one_learns(dataset, alone, tmp_path):
    finished(*launched(2, train_even, str(dataset), str(tmp_path)))
    assert_same_training(alone, tmp_path)


def seen(folder, processes: int) -> Counter[tuple[int, str]]:
    """How often each image was learned from, by optimizer step."""
    lines = [line.split() for path in folder.glob(f"seen-{processes}-*.txt") for line in path.read_text().splitlines()]
    return Counter((int(step), name) for step, name in lines)


def pids(marker: str) -> dict[int, int]:
    """Living processes whose environment holds the marker, and the ranks of those that have one."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if marker in environment:
            ranks = [line.removeprefix("RANK=") for line in environment if line.startswith("RANK=")]
            found[int(entry.name)] = int(ranks[0]) if ranks else -1
    return found


def killing(rank: int, marker: str, folder: Path) -> threading.Thread:
    """Kill -9 of a rank as soon as the run has saved twice."""

    def wait() -> None:
        until = time.monotonic() + 600
        while time.monotonic() < until and len(list((folder / "1-learn").glob("resume-*.pt"))) < 2:
            time.sleep(0.01)
        for pid, its in pids(marker).items():
            if its == rank:
                os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def launching(marker: str, said: Path, dataset: Path, folder: Path) -> None:
    """As the command line does it, for a smaller program."""
    os.environ |= {"PYTHONPATH": str(Path(small.__file__).parents[1]), marker.partition("=")[0]: marker.partition("=")[2]}
    program = "import sys; from training.small import train_even; train_even(*sys.argv[1:])"
    try:
        launch(RunSettings(devices=2), ["-c", program, str(dataset), str(folder), "workers=1"])
    except ProcessDied as error:
        said.write_text(str(error))
        raise SystemExit(error.exit_code) from None


def test_a_killed_rank_ends_the_job_and_another_number_of_processes_finishes_it(dataset, alone, tmp_path):
    folder, marker = tmp_path / "run", f"CHESTMAP_TEST={tmp_path.name}-{os.getpid()}"
    killer = killing(1, marker, folder)
    launcher = FORKS.Process(target=launching, args=(marker, tmp_path / "said.txt", dataset, folder))
    launcher.start()
    finished(launcher, code=1)
    killer.join()
    assert re.search(
        r"rank 1 \(process \d+ on .*\) was killed by SIGKILL \(signal 9\); .* goes on from the last checkpoint",
        (tmp_path / "said.txt").read_text(),
    )
    until = time.monotonic() + 120
    while pids(marker) and time.monotonic() < until:
        time.sleep(0.1)
    assert not pids(marker)
    finished(*launched(1, train_even, str(dataset), str(folder)))
    assert_same_training(alone, folder)
    before, after, whole = seen(folder, 2), seen(folder, 1), seen(alone, 1)
    first = min(step for step, _ in after)
    assert first > 0
    assert Counter({place: count for place, count in before.items() if place[0] < first}) + after == whole


def test_a_share_computed_in_pieces_adds_up(data, tmp_path):
    """Without batch norm, which would see each piece by itself; 7 images as 3 + 3 + 1."""
    networks = []
    for name, override in {"whole": "images_at_once=7", "pieces": "images_at_once=3"}.items():
        with Run(tmp_path / name, run_settings("log_every=1", override), progress=False) as run:
            schedule = EVEN.model_copy(update={"batch_size": 7, "boxed_share": None})
            networks.append(run.fit("learn", Square(small.Net(norm=False, dropout=0.0)), data.train, schedule).network)
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-6)
    one, other = curve(tmp_path / "whole"), curve(tmp_path / "pieces")
    assert one == pytest.approx(other, rel=1e-5)


class Square(Task):
    """A mean over images."""

    def forward(self, batch):
        return {"square": (self.network(batch.images).logits - batch.labels.nan_to_num()).square().mean()}


@pytest.mark.slow
def test_four_processes_learn_what_one_learns(dataset, alone, tmp_path):
    finished(*launched(4, train_even, str(dataset), str(tmp_path)))
    assert_same_training(alone, tmp_path)
    assert seen(tmp_path, 4) == seen(alone, 1)


@pytest.mark.slow
def test_statistics_of_each_process_alone_are_another_training(dataset, alone, tmp_path):
    finished(*launched(2, train_even, str(dataset), str(tmp_path), "sync_batch_norm=false"))
    with pytest.raises(AssertionError):
        assert_same_training(alone, tmp_path)


def train_tiny(name: str, dataset: str, folder: str) -> None:
    torch.set_num_threads(1)
    still = {"dropout": 0.0} if name == "ham" else {}  # each process draws its own
    train(tiny_config(name, Path(dataset), **still), Path(folder), progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cam", "ham", "patch_mil"])
def test_two_processes_train_a_method_as_one_does(name, dataset, tmp_path):
    """Over the first epoch; later Adam makes rounding visible."""
    for count in (1, 2):
        finished(*launched(count, train_tiny, name, str(dataset), str(tmp_path / str(count))))
    one, other = curve(tmp_path / "1"), curve(tmp_path / "2")
    assert one.keys() == other.keys()
    for place, value in one.items():
        assert other[place] == pytest.approx(value, rel=1e-3, abs=1e-4), place


@pytest.mark.slow
@pytest.mark.parametrize("form", ["devices", "torchrun"])
def test_the_command_line_stops_at_a_signal_and_goes_on_alone(form, dataset, tmp_path):
    """SIGTERM to the launcher: all save, exit code 130 of chestmap's own launcher; the rest is trained by one process."""
    path, folder, marker = tmp_path / "x.toml", tmp_path / "run", f"CHESTMAP_TEST={tmp_path.name}-{os.getpid()}"
    tree = tiny_config("cam", dataset, classify={"epochs": 30, "batch_size": 4}).tree
    tree["run"]["workers"] = 1
    path.write_text(tomli_w.dumps(tree))
    words = ["-m", "chestmap", "train", str(path), "--out", str(folder)]
    start = [*words, "--devices", "2"]
    if form == "torchrun":
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    environment = os.environ | {"CHESTMAP_TEST": marker.partition("=")[2], "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *start], env=environment, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < until and len(list(folder.glob("1-*/resume-*.pt"))) < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 130 if form == "devices" else process.returncode, said
    until = time.monotonic() + 120
    while pids(marker) and time.monotonic() < until:
        time.sleep(0.1)
    assert not pids(marker)
    assert "DataLoader worker" not in said
    assert list(folder.glob("1-*/resume-*.pt"))
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "begun with 2 processes, goes on with 1 process" in " ".join(done.stderr.split())
    assert (folder / "model" / "model.json").exists()

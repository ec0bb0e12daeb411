"""Small cases of prediction beside what the simulated cluster says of them: `python benchmarks/killed.py`, two minutes.

One process; then two, of which one is killed in the middle and started again. The network only sleeps, and processes are forked with
torch in them, so that two cores are enough for two workers and other work on the machine shows little. What an image and a part take
is fitted to two runs of one process; the other runs are foretold. Prints Markdown for benchmarks/cluster.md.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cluster import Cluster, simulate

from chestmap.models.predictor import load
from chestmap.prediction.job import JobSettings, predict_all
from serving import picture, random_model

SLEEP = 0.2
BATCH = 4
FORK = multiprocessing.get_context("fork")


def child(model: Path, images: str, out: Path, part_size: int) -> None:
    """A process of prediction; tells when its first image begins, and each image that the network has seen."""
    predictor = load(model)
    logits, maps = predictor.forward(torch.zeros(1, 1, 64, 64))

    class Sleeping:
        first = True

        def __call__(self, batch: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
            if self.first:
                with (out.parent / f"{out.name}.ready").open("a") as file:
                    file.write(f"{time.time()}\n")
            self.first = False
            time.sleep(SLEEP * len(batch))
            with (out.parent / f"{out.name}.seen").open("a") as file:
                file.write("x" * len(batch))
            return np.repeat(logits, len(batch), 0), np.repeat(maps, len(batch), 0)

    predictor.forward = Sleeping()
    settings = JobSettings(batch_size=BATCH, workers=0, part_size=part_size)
    predict_all(predictor, [images], out, settings, progress=False)


@dataclass(frozen=True)
class Measured:
    """`start_s` is the mean of its processes, from being started to its first image."""

    makespan_s: float
    start_s: float
    seen: int


def measure(place: Path, lists: Sequence[str], part_size: int, kill_s: float | None = None) -> Measured:
    """One process for each list; the first is killed `kill_s` after its first image began, and started again at once."""
    outs = [place / f"out-{number}" for number in range(len(lists))]
    begun = time.time()
    orders = [(place.parent / "model", one, out, part_size) for one, out in zip(lists, outs, strict=True)]
    started = [[begun] for _ in lists]
    running = [FORK.Process(target=child, args=order) for order in orders]
    for one in running:
        one.start()
    try:
        if kill_s is not None:
            while not (ready := _times(outs[0])):
                time.sleep(0.01)
            time.sleep(max(0, ready[0] + kill_s - time.time()))
            running[0].kill()
            running[0].join()
            started[0].append(time.time())
            running[0] = FORK.Process(target=child, args=orders[0])
            running[0].start()
        for one in running:
            one.join()
    finally:
        for one in running:
            one.kill()
    if any(one.exitcode for one in running):
        raise SystemExit("a process failed")
    starts = [
        ready - start
        for out, each in zip(outs, started, strict=True)
        for ready, start in zip(_times(out), each, strict=True)
    ]
    seen = sum(len((place / f"{out.name}.seen").read_text()) for out in outs)
    return Measured(time.time() - begun, float(np.mean(starts)), seen)


def _times(out: Path) -> list[float]:
    path = out.parent / f"{out.name}.ready"
    return [float(line) for line in path.read_text().splitlines()] if path.exists() else []


def lists_of(folder: Path, count: int, workers: int) -> list[str]:
    """A list of files for each worker."""
    paths = sorted((folder / "images").glob("*.png"))[:count]
    names = []
    for worker in range(workers):
        names.append(str(folder / f"list-{count}-{workers}-{worker}.txt"))
        Path(names[-1]).write_text("".join(f"{path}\n" for path in paths[worker::workers]))
    return names


def main() -> None:
    torch.set_num_threads(1)  # before processes are forked
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        random_model(folder / "model", "test_resnet", 64)
        (folder / "images").mkdir()
        for seed in range(160):
            (folder / "images" / f"{seed:04d}.png").write_bytes(picture(seed, 96))

        def run(name: str, count: int, part_size: int, workers: int = 1, kill_s: float | None = None) -> Measured:
            (folder / name).mkdir()
            return measure(folder / name, lists_of(folder, count, workers), part_size, kill_s)

        fitted = {(60, 4): run("fit-4", 60, 4), (60, 60): run("fit-60", 60, 60)}
        rows = np.array([[count, count / size] for count, size in fitted])
        image_s, shard_s = np.linalg.solve(rows, [one.makespan_s - one.start_s for one in fitted.values()])
        print(f"An image {image_s * 1e3:.1f} ms ({SLEEP * 1e3:.0f} of them asleep), a part {shard_s * 1e3:.0f} ms on top.\n")
        print(
            "| case | measured s | foretold s | of it start | images seen twice | foretold |\n|---|---:|---:|---:|---:|---:|"
        )
        cases = (
            ("one process, 120 images, parts of 20", 120, 20, 1, None),
            ("two processes, 120 images, parts of 20", 120, 20, 2, None),
            ("the same, one killed 6.5 s after its first image", 120, 20, 2, 6.5),
            ("two processes, 160 images, parts of 40, one killed after 5 s", 160, 40, 2, 5.0),
        )
        for number, (name, count, size, workers, kill_s) in enumerate(cases):
            found = run(f"case-{number}", count, size, workers, kill_s)
            kills = () if kill_s is None else ((found.start_s + kill_s, 0),)
            plan = Cluster(count, size, workers, image_s, shard_s, found.start_s, hand_out="array", kills=kills)
            said = simulate(plan, 0)
            print(
                f"| {name} | {found.makespan_s:.1f} | {said.makespan_s:.1f} | {found.start_s:.1f} | {found.seen - count} "
                f"| {said.twice_s / image_s:.0f} |"
            )


if __name__ == "__main__":
    main()

"""What Ray costs beside the loop of one process: `python benchmarks/ray_overhead.py [IMAGES]`, eight minutes, mostly asleep.

A small network that sleeps 0.1 s an image predicts two lists, so that what is paid once (actors that start and open the model) and
what is paid for each image come apart. One process, then a Ray started here with one actor and with two. Needs chestmap[cluster].
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1] / "tests")  # not this folder, whose inference.py would stand for theirs

from chestmap.models.folder import write_model
from chestmap.prediction.job import JobSettings, predict_all
from chestmap.training.config import config_of
from chestmap.training.train import train
from prediction.cluster_small import SIZES, slow_predictor
from prediction.local_ray import TESTS, local_ray
from training.small import METHODS, small_tree, write_dataset

PAUSE = 0.1


def main(count: int = 900) -> None:
    few = count // 9
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = write_dataset(place / "data")
        train(config_of(small_tree(data), METHODS, name="small.toml"), place / "run", write_model, progress=False)
        model, lists = (
            place / "run" / "model",
            {one: write_dataset(place / f"list-{one}", count=one, side=64) for one in (few, count)},
        )
        print(
            "| what | seconds for "
            + " | for ".join(f"{one} images" for one in lists)
            + " | ms an image | over one process |\n|---|---:|---:|---:|---:|"
        )
        alone = tell(
            "one process", [in_process(model, one, place / f"one-{number}") for number, one in lists.items()], (few, count)
        )
        with local_ray() as ray:
            for actors in (1, 2):
                took = [on_ray(ray, model, one, place / f"ray-{actors}-{number}", actors) for number, one in lists.items()]
                tell(f"Ray, {actors} actors", took, (few, count), alone / actors)


def tell(name: str, seconds: list[float], images: tuple[int, int], ideal: float = 0) -> float:
    each = (seconds[1] - seconds[0]) / (images[1] - images[0])
    over = f"{each / ideal - 1:+.1%}" if ideal else ""
    print(f"| {name} | {seconds[0]:.1f} | {seconds[1]:.1f} | {each * 1000:.1f} | {over} |", flush=True)
    return each


def in_process(model: Path, films: Path, out: Path) -> float:
    predictor, start = slow_predictor(model, PAUSE), time.perf_counter()
    predict_all(predictor, [str(films)], out, JobSettings(**SIZES, workers=0), progress=False)
    return time.perf_counter() - start


def on_ray(ray, model: Path, films: Path, out: Path, actors: int) -> float:
    command = [str(one) for one in (model, films, out, ray.address, actors, PAUSE)]
    script = str(TESTS / "prediction" / "cluster_small.py")
    done = subprocess.run(
        [sys.executable, script, *command], env=ray.environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return float(done.stdout.splitlines()[-1].split()[3])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

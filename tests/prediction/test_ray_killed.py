"""3,000 images on a Ray of two actors: a worker is killed, the driver is killed, and both; the folder is that of one process."""

import os
import signal
import subprocess
import sys
import time

import pytest

from chestmap.prediction.job import JobSettings, predict_all
from chestmap.predictions.folder import open_predictions
from prediction.cluster_small import SIZES
from prediction.local_ray import TESTS, local_ray
from prediction.predict_small import small_predictor
from prediction.test_stream import same
from training.small import write_dataset

pytestmark = pytest.mark.slow
pytest.importorskip("ray", reason="Ray is not installed: pip install 'chestmap[cluster]'")

COUNT = int(os.environ.get("CHESTMAP_CLUSTER_IMAGES", "3000"))
PATIENCE = 600


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("cluster") / "films", count=COUNT, side=64)


@pytest.fixture(scope="module")
def whole(run_folder, films, tmp_path_factory):
    os.environ["CHESTMAP_KEY"] = "of the tests"
    out = tmp_path_factory.mktemp("cluster") / "whole"
    settings = JobSettings(**SIZES, workers=0)
    predict_all(small_predictor(run_folder / "model"), [str(films)], out, settings, progress=False)
    return out


@pytest.fixture(scope="module")
def ray():
    with local_ray() as found:
        yield found


class Driver:
    def __init__(self, ray, model, films, out):
        command = [sys.executable, str(TESTS / "prediction" / "cluster_small.py")]
        command += [str(one) for one in (model, films, out, ray.address, 2, 0.005)]
        self.ray, self.out = ray, out
        self.process = subprocess.Popen(
            command, env=ray.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def parts(self) -> int:
        return len(list(self.out.glob("part-?????")))

    def wait_for(self, parts: int) -> None:
        end = time.monotonic() + PATIENCE
        while self.parts() < parts:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)

    def kill_worker(self) -> None:
        os.kill(self.ray.processes("ray::PartActor")[0], signal.SIGKILL)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def finish(self) -> None:
        said, errors = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, errors
        assert said.splitlines()[-1].split()[:3] == [str(COUNT), "0", "0"], errors


def checked(out, whole):
    same(out, whole)
    ids = open_predictions(out).image_ids
    assert len(ids) == len(set(ids)) == COUNT
    assert not list(out.glob("*making*"))


def test_a_worker_is_killed(ray, run_folder, films, whole, tmp_path):
    driver = Driver(ray, run_folder / "model", films, tmp_path / "out")
    driver.wait_for(3)
    driver.kill_worker()
    driver.finish()
    checked(tmp_path / "out", whole)


def test_the_driver_is_killed(ray, run_folder, films, whole, tmp_path):
    driver = Driver(ray, run_folder / "model", films, tmp_path / "out")
    driver.wait_for(3)
    driver.kill()
    before = driver.parts()
    assert before < COUNT // SIZES["part_size"]
    again = Driver(ray, run_folder / "model", films, tmp_path / "out")
    again.finish()
    checked(tmp_path / "out", whole)


def test_both_are_killed(ray, run_folder, films, whole, tmp_path):
    driver = Driver(ray, run_folder / "model", films, tmp_path / "out")
    driver.wait_for(3)
    driver.kill_worker()
    driver.wait_for(5)
    driver.kill_worker()
    driver.kill()
    again = Driver(ray, run_folder / "model", films, tmp_path / "out")
    again.wait_for(driver.parts() + 2)
    again.kill_worker()
    again.finish()
    checked(tmp_path / "out", whole)

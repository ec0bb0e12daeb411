"""Who starts whom, as the environment of torchrun and Slurm says; nothing is started here."""

import pytest

from chestmap.errors import BadSettings
from chestmap.training import RunSettings, Schedule
from chestmap.training.launch import is_launcher, rendezvous
from chestmap.training.slurm import adopt_slurm, first_host

NAMES = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def environment(monkeypatch):
    """Sets Slurm's words of one task; what the code sets itself is taken back."""

    def of(**words: object) -> None:
        for name in NAMES:
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        for name, value in words.items():
            monkeypatch.setenv(name, str(value))

    return of


STEP = {
    "SLURM_STEP_NUM_TASKS": 8, "SLURM_STEP_NUM_NODES": 2, "SLURM_PROCID": 5, "SLURM_LOCALID": 1, "SLURM_NODEID": 1,
    "SLURM_STEP_NODELIST": "gpu[07-09,12]", "SLURM_JOB_ID": 1234567,
}  # fmt: skip


def test_a_task_of_srun_is_a_process_of_the_training(environment):
    environment(**STEP)
    adopt_slurm(1, 1)
    assert RunSettings().processes() == (4, 2)
    import os

    assert [os.environ[name] for name in NAMES] == ["5", "1", "1", "8", "4", "gpu07", "19567"]
    assert not is_launcher(RunSettings(devices=4, nodes=2))


def test_a_task_for_each_machine_starts_the_others(environment):
    environment(**STEP | {"SLURM_STEP_NUM_TASKS": 2})
    settings = RunSettings(devices=4, nodes=2)
    assert is_launcher(settings)
    assert rendezvous(settings) == "gpu07:19567"
    environment(**STEP)
    assert not is_launcher(settings)  # eight tasks are the eight processes
    with pytest.raises(BadSettings, match="srun started 8 tasks on 2 machines for 3 x 2 processes"):
        adopt_slurm(3, 2)


def test_under_torchrun_nothing_is_started(environment):
    environment(RANK=0, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2)
    assert not is_launcher(RunSettings(devices=2))
    assert RunSettings(devices=8).processes() == (2, 1)


def test_where_machines_meet(environment):
    environment()
    assert rendezvous(RunSettings(devices=2)) == "localhost:0"
    assert rendezvous(RunSettings(nodes=2, rendezvous="one:2000")) == "one:2000"
    assert rendezvous(RunSettings(nodes=2, rendezvous="one")) == "one:29400"
    with pytest.raises(BadSettings, match="2 machines must know where to meet"):
        rendezvous(RunSettings(nodes=2))


@pytest.mark.parametrize(
    ("names", "first"),
    [("one", "one"), ("a1,b2", "a1"), ("n[3,5-9]", "n3"), ("n[03-09],m1", "n03"), ("r[1-2]-x,q", "r1-x")],
)
def test_the_first_machine_of_a_list(environment, names, first):
    environment(SLURM_STEP_NODELIST=names)
    assert first_host() == first


def test_one_that_was_started_alone_is_no_many(environment, tmp_path):
    from chestmap.training import Run

    environment()
    with pytest.raises(BadSettings, match="4 processes are asked for, but this one was started alone"):
        Run(tmp_path, RunSettings(devices=2, nodes=2, device="cpu"), progress=False)


def test_a_batch_is_of_all_processes():
    assert Schedule(batch_size=24).share(8, "classify") == 3
    with pytest.raises(
        BadSettings, match=r"classify.batch_size: 24 images cannot be shared out evenly over 5 processes.*4 or 6"
    ):
        Schedule(batch_size=24).share(5, "classify")

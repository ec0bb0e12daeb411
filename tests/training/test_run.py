"""What a run promises about its steps."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from chestmap.errors import BadInput, BadSettings, Diverged, Refused, StepChanged
from chestmap.training import Run, Schedule, Task
from chestmap.training import run as run_module
from training.small import SCHEDULE, Classify, Net, recipe, run_settings

ONE = SCHEDULE.model_copy(update={"epochs": 1, "warmup": 0})
PLAIN = Schedule(epochs=2, batch_size=4, optimizer="sgd", momentum=0.0, learning_rate=0.1, select="last", augment=False)


def opened(folder, *overrides, **options):
    return Run(folder, run_settings(*overrides), progress=False, **options)


def weights(folder):
    return load_file(folder / "weights.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def log_of(folder, name):
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()[1:]]
    return [(int(row[1]), int(row[2]), float(row[5])) for row in rows if row[4] == name]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "whole"
    with opened(folder) as run:
        recipe(run, data)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def test_the_folder_holds_what_was_promised(whole):
    files = {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()}
    step = {"done.json", "step.json", "weights.safetensors", "SHA256SUMS"}
    expected = {f"{name}/{file}" for name in ("1-teach", "3-learn") for file in step}
    expected |= {f"2-notes/{file}" for file in ("note.txt", "step.json", "SHA256SUMS")}
    assert files == expected | {"environment.json", "log.csv", "run.lock"}
    start = json.loads((whole / "environment.json").read_text())["starts"][0]
    assert start["run"]["seed"] == 0
    assert start["versions"]["torch"].startswith(torch.__version__.split("+")[0])


def test_a_finished_step_is_loaded_not_trained(copy, data):
    before = (copy / "log.csv").read_text()
    with opened(copy) as run:
        network = recipe(run, data)
    assert (copy / "log.csv").read_text() == before
    assert all(step.earlier for step in run.steps)
    assert not network.training
    saved = weights(copy / "3-learn")
    assert all(torch.equal(value, saved[f"network.{name}"]) for name, value in network.state_dict().items())


def test_a_step_made_anew_after_loaded_ones_is_the_same(copy, whole, data):
    """Random numbers do not depend on which steps were loaded."""
    shutil.rmtree(copy / "3-learn")
    with opened(copy) as run:
        recipe(run, data)
    assert same(weights(copy / "3-learn"), weights(whole / "3-learn"))


def test_the_seed_changes_the_result(whole, data, tmp_path):
    with opened(tmp_path, "seed=1") as run:
        recipe(run, data)
    assert not same(weights(tmp_path / "3-learn"), weights(whole / "3-learn"))


def test_the_kept_weights_are_those_of_the_best_validation(whole):
    scores = [value for _, _, value in log_of(whole, "validation_auc")]
    assert len(scores) == 3
    done = json.loads((whole / "1-teach" / "done.json").read_text())
    assert done["score"] == pytest.approx(max(scores), abs=1e-6)
    assert done["measure"] == "auc"
    losses = [value for _, _, value in log_of(whole, "validation_loss")]
    assert json.loads((whole / "3-learn" / "done.json").read_text())["score"] == pytest.approx(min(losses), abs=1e-6)


def test_terms_learning_rate_speed_and_memory_are_logged(whole):
    for name in ("classify", "quiet", "images_per_second", "memory_gb"):
        assert log_of(whole, name), name
    rates = {update: value for epoch, update, value in log_of(whole, "learning_rate")[:7]}
    assert rates[2] == pytest.approx(1e-2 * 2 / 6)  # the second of five warm-up steps
    assert rates[10] == pytest.approx(SCHEDULE.rate(9, 5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.5}, r"1-teach: was made differently: schedule.learning_rate was 0.01, is 0.5; train in a new"),
        ({"epochs": 9}, r"schedule.epochs was 3, is 9"),
    ],
)
def test_a_changed_schedule_is_refused(copy, data, change, message):
    with opened(copy) as run, pytest.raises(StepChanged, match=message):
        recipe(run, data, SCHEDULE.model_copy(update=change))


def test_changed_data_are_refused(copy, data):
    with opened(copy) as run, pytest.raises(StepChanged, match=r"train was \w+, is \w+"):
        run.fit("teach", Classify(Net()), data.train.select(np.arange(12)), SCHEDULE, data.validation)


def test_changed_settings_of_the_method_are_refused(copy, data):
    with opened(copy, method={"width": 8}) as run, pytest.raises(StepChanged, match=r"method\.width was not set, is 8"):
        recipe(run, data)


def test_another_step_under_the_same_number_is_refused(copy, data):
    with opened(copy) as run, pytest.raises(StepChanged, match="step 1 was 1-teach and would now be 1-begin"):
        run.fit("begin", Classify(Net()), data.train, SCHEDULE)


def test_a_step_after_one_that_was_made_anew_is_refused(copy, data):
    shutil.rmtree(copy / "1-teach")
    other = SCHEDULE.model_copy(update={"learning_rate": 0.02})
    with (
        opened(copy) as run,
        pytest.raises(StepChanged, match="2-notes: was made differently: a step before it was made anew"),
    ):
        recipe(run, data, other)


def test_settings_of_the_machine_may_change(copy, data):
    with opened(copy, "workers=1", "log_every=7", "checkpoint_minutes=3") as run:
        recipe(run, data)


def test_changed_code_is_refused_until_it_is_accepted(copy, data, monkeypatch):
    truth = run_module.code_of
    monkeypatch.setattr(
        run_module, "code_of", lambda module: truth(module) | {"chestmap.training.optimization.loop": "other"}
    )
    with (
        opened(copy) as run,
        pytest.raises(StepChanged, match=r"other code \(chestmap.training.optimization.loop\).*accept_code_change"),
    ):
        recipe(run, data)
    with opened(copy, "accept_code_change=true") as run:
        recipe(run, data)
    assert json.loads((copy / "1-teach" / "step.json").read_text())["code_before"]
    with opened(copy) as run:  # what was accepted once needs no further word
        recipe(run, data)


def test_changed_weights_are_noticed(copy, data):
    path = copy / "1-teach" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with opened(copy) as run, pytest.raises(BadInput, match="the file was changed or cut"):
        recipe(run, data)


def test_one_training_at_a_time(tmp_path):
    with opened(tmp_path), pytest.raises(Refused, match="another training runs here"):
        opened(tmp_path)
    with opened(tmp_path):
        pass


def test_a_written_folder_is_whole_or_absent(data, tmp_path):
    calls = []

    def make(folder):
        calls.append(folder.name)
        (folder / "a.txt").write_text("a")
        if len(calls) == 1:
            raise OSError("full")

    with opened(tmp_path) as run, pytest.raises(OSError, match="full"):
        run.write("masks", make)
    assert not (tmp_path / "1-masks").exists()
    for _ in range(2):
        with opened(tmp_path) as run:
            folder = run.write("masks", make, of=data.train)
    assert len(calls) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["SHA256SUMS", "a.txt", "step.json"]


def test_accumulated_batches_equal_a_large_one(data, tmp_path):
    nets = {}
    for name, change in {"small": {"accumulate": 2, "batches": 4}, "large": {"batch_size": 8, "batches": 2}}.items():
        with opened(tmp_path / name) as run:
            task = Classify(Net(norm=False, dropout=0.0))
            nets[name] = run.fit("learn", Only(task.network), data.train, PLAIN.model_copy(update=change)).network
    for one, other in zip(nets["small"].parameters(), nets["large"].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


class Only(Classify):
    """A mean over images, which halves of a batch share equally."""

    def forward(self, batch):
        logits = self.network(batch.images).logits
        return {"square": (logits - batch.labels.nan_to_num()).square().mean()}


def test_a_remainder_of_accumulated_batches_is_a_step_of_its_own(data, tmp_path):
    """Five batches in groups of two: two whole steps and one of a single batch, by hand."""
    with opened(tmp_path) as run:
        start = Net(norm=False, dropout=0.0)
        task = Only(start)
        by_hand = Only(Net(norm=False, dropout=0.0))
        by_hand.load_state_dict(task.state_dict())
        schedule = PLAIN.model_copy(update={"accumulate": 2, "epochs": 1})
        trained = run.fit("learn", task, data.train, schedule)
        order = run.number("order", "1-learn")
    loader = run_loader(data.train, order)
    batches = list(loader.epoch(0))
    assert len(batches) == 5
    for group in (batches[:2], batches[2:4], batches[4:]):
        loss = sum(by_hand(batch)["square"] for batch in group) / len(group)
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(by_hand.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
    for one, other in zip(trained.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def run_loader(part, seed):
    from chestmap.packs.loader import Loader, LoaderSettings

    return Loader(part=part, settings=LoaderSettings(batch_size=4), seed=seed)


class Poisoned(Classify):
    def forward(self, batch):
        terms = super().forward(batch)
        return terms | {"quiet": terms["quiet"] * (torch.nan if self.bad in batch.ids else 1.0)}


def test_a_loss_that_is_not_finite_names_step_batch_images_and_term(data, tmp_path):
    task = Poisoned(Net())
    task.bad = data.train.ids[7]
    with opened(tmp_path) as run, pytest.raises(Diverged) as caught:
        run.fit("learn", task, data.train, ONE)
    assert "1-learn, epoch 1, batch " in str(caught.value)
    assert 'loss term "quiet" is nan' in str(caught.value)
    assert task.bad in str(caught.value)


class Constant(Classify):
    def predict(self, batch):
        output = self.network(batch.images)
        return type(output)(output.logits * 0, output.maps)


def test_training_stops_when_validation_no_longer_improves(data, tmp_path):
    schedule = ONE.model_copy(update={"epochs": 10, "patience": 2})
    with opened(tmp_path) as run:
        run.fit("learn", Constant(Net()), data.train, schedule, data.validation)
    assert run.steps[0].epochs == 3
    assert run.steps[0].score == 0.5


def test_frozen_parts_do_not_move_nor_their_statistics(data, tmp_path):
    task = Classify(Net())
    task.freeze(task.network.body)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    with opened(tmp_path) as run:
        trained = run.fit("learn", task, data.train, ONE)
    moved = {name for name, value in trained.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"network.head.weight", "network.head.bias"}


def test_a_task_without_anything_to_train_is_refused(data, tmp_path):
    task = Classify(Net())
    task.freeze(task.network)
    with opened(tmp_path) as run, pytest.raises(BadSettings, match="every parameter is frozen"):
        run.fit("learn", task, data.train, ONE)


class Following(Task):
    def __init__(self):
        super().__init__(Net())
        self.steps = 0

    def forward(self, batch):
        return {"mean": self.network(batch.images).logits.square().mean()}

    def after_step(self):
        self.steps += 1


def test_after_step_follows_every_optimizer_step(data, tmp_path):
    with opened(tmp_path) as run:
        task = run.fit("learn", Following(), data.train, ONE.model_copy(update={"accumulate": 2}))
    assert task.steps == 3


def test_clipping_bounds_the_step(data, tmp_path):
    """SGD with rate 1: the weights move by the gradient, whose norm is bounded."""
    schedule = PLAIN.model_copy(update={"epochs": 1, "batches": 1, "clip": 0.01, "learning_rate": 1.0})
    with opened(tmp_path) as run:
        task = Only(Net(norm=False, dropout=0.0))
        before = nn.utils.parameters_to_vector(task.parameters()).clone()
        task = run.fit("learn", task, data.train, schedule)
    moved = nn.utils.parameters_to_vector(task.parameters()) - before
    assert float(moved.detach().norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("override", ["precision=bf16", "channels_last=false", "tensorboard=true"])
def test_other_ways_to_run(data, tmp_path, override):
    with opened(tmp_path, override) as run:
        run.fit("learn", Classify(Net()), data.train, ONE, data.validation)
    assert all(value.dtype in {torch.float32, torch.int64} for value in weights(tmp_path / "1-learn").values())
    assert bool(list(tmp_path.glob("tensorboard/1-learn/events*"))) == (override == "tensorboard=true")


def test_fp16_and_cuda_are_refused_where_there_is_no_gpu(tmp_path):
    with pytest.raises(BadSettings, match='"fp16" needs a CUDA device'):
        opened(tmp_path, "precision=fp16")
    if not torch.cuda.is_available():
        with pytest.raises(BadSettings, match="torch finds no CUDA device"):
            opened(tmp_path, "device=cuda")


def test_a_finished_step_of_another_run_is_taken_where_the_same_is_to_be_made(whole, data, tmp_path):
    """Settings that a step does not read may differ; others, and a step that is not finished, are made anew."""
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    with opened(first, method={"width": 8, "steps": 1}) as run:
        run.fit("teach", Classify(Net()), data.train, ONE, data.validation, reads=("width",))
        run.write("notes", lambda folder: (folder / "note.txt").write_text("seen") and None, of=data.train)
    before = (first / "1-teach" / "done.json").stat().st_mtime_ns
    with opened(second, method={"width": 8, "steps": 2}) as run:
        run.others = [first]
        run.fit("teach", Classify(Net()), data.train, ONE, data.validation, reads=("width",))
        run.write("notes", lambda folder: (folder / "note.txt").write_text("other") and None, of=data.train)
        assert [step.earlier for step in run.steps] == [True, False]
    assert (second / "1-teach" / "done.json").stat().st_mtime_ns == before
    assert same(weights(second / "1-teach"), weights(first / "1-teach"))
    assert (second / "2-notes" / "note.txt").read_text() == "other"  # it reads all settings, and steps differ
    with opened(third, method={"width": 16, "steps": 1}) as run:
        run.others = [first, second]
        run.fit("teach", Classify(Net()), data.train, ONE, data.validation, reads=("width",))
        assert not run.steps[0].earlier
    (second / "1-teach" / "done.json").unlink()
    with opened(tmp_path / "fourth", method={"width": 8}) as run:
        run.others = [second]
        run.fit("teach", Classify(Net()), data.train, ONE, data.validation, reads=("width",))
        assert not run.steps[0].earlier


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are asked for on Linux alone")
def test_steps_on_a_cpu_take_large_tensors_in_huge_pages():
    ways = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not ways.is_file() or "[never]" in ways.read_text():
        pytest.skip("this kernel has no transparent huge pages, or they are switched off")
    script = """if True:
        import resource, torch
        from chestmap.training.run_settings import RunSettings
        RunSettings(device="cpu").apply()
        begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.zeros(64 << 20)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun)"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert int(done.stdout) < (256 << 20) // 4096 / 4  # pages of 4 KiB would be 65,536 faults

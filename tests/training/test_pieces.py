"""What is learned from a batch depends neither on how many images are computed at once nor on the number of processes."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributed

from chestmap.errors import BadSettings
from chestmap.methods import METHODS, attention_mining, ham
from chestmap.packs.loader import Loader, LoaderSettings
from chestmap.tensors import Batch
from chestmap.training import Run, Task
from chestmap.training.optimization.loop import Loop
from chestmap.types import Box, Findings
from conformance.watched import stilled, taught
from training.several import finished, launched
from training.small import EVEN, FINDINGS, run_settings, small_data

PIECES = {1: None, 2: 6, 4: 3, 12: 1}
"""Images at once by the number of pieces of a batch of twelve."""


def batch_of(dataset: Path) -> Batch:
    """Twelve images; one alone is boxed, others know little, so that every piece counts something else."""
    batch = next(Loader(part=small_data(dataset).train, settings=LoaderSettings(batch_size=12), shuffle=False).epoch(0))
    labels = batch.labels.clone()
    labels[2:5, 0], labels[0, 1], labels[7] = math.nan, 0.0, math.nan
    labels[8, :2] = 1.0
    box = Box(batch.findings.names[0], 2, 20, 10, 28)
    boxes = [(box,) if row == 8 else () for row in range(12)]
    return replace(batch, labels=labels, boxes=tuple(boxes))


def ham_task(**changes: object) -> Task:
    settings = ham.HamSettings.model_validate({**METHODS["ham"].tiny, "dropout": 0.0, **changes})
    torch.manual_seed(0)
    return ham.Attend(ham.Ham(settings, 3), settings, Findings(FINDINGS))


def mine_task(**changes: object) -> Task:
    settings = attention_mining.AttentionMiningSettings.model_validate(
        {**METHODS["attention_mining"].tiny, "share": 0.25, **changes}
    )
    torch.manual_seed(0)
    networks = [attention_mining.Branches(settings, 3) for _ in range(3)]
    return attention_mining.Mine(networks[0], settings, networks[1], networks[2:])


TASKS = {
    "ham": ham_task,
    "ham, authors without boxes": lambda: ham_task(reading="authors", box_weight=0.0),
    "ham, mse": lambda: ham_task(box_loss="mse"),
    "mining": mine_task,
    "mining of boxed images": lambda: mine_task(mined="boxed"),
    "mining without preservation": lambda: mine_task(preservation="none"),
}


def assert_alike(found: torch.Tensor, wanted: torch.Tensor, where: str) -> None:
    """To rounding: single images take other roads through a convolution than many."""
    apart = (found - wanted).abs().max().item()
    assert apart <= 2e-4 * wanted.abs().max().item() + 1e-7, (
        f"{where}: {apart:g} apart, at most {wanted.abs().max().item():g}"
    )


@pytest.mark.parametrize("name", list(TASKS))
def test_losses_and_gradients_do_not_depend_on_the_pieces(name, dataset):
    batch, task = batch_of(dataset), stilled(TASKS[name]())
    terms, gradients = taught(task, batch, None)
    for count, images_at_once in PIECES.items():
        some, others = taught(task, batch, images_at_once)
        assert some == pytest.approx(terms, rel=1e-5, abs=1e-7), count
        for place, value in gradients.items():
            assert_alike(others[place], value, f"{count} pieces, {place}")


def test_the_box_loss_of_one_boxed_image_among_many_is_that_of_the_image(dataset):
    """A quarter of it with four pieces, and a twelfth with twelve, were each piece to count by itself."""
    batch, task = batch_of(dataset), stilled(ham_task())
    alone = taught(task, batch.pieces(1)[8].of.pieces(12)[0], None)[0]["boxes"]
    assert alone > 0.1
    assert taught(task, batch, 1)[0]["boxes"] == pytest.approx(alone, rel=1e-5)


def test_mining_takes_its_share_of_the_whole_batch_and_not_one_image_of_each_piece(dataset):
    batch, task, mined = batch_of(dataset), mine_task(), []
    for piece in batch.pieces(1):
        mined += [row for row in task.rows(piece.whole) if row == piece.first]
    assert mined == [0, 1, 2]


TOGETHER = ("ham", "mining", "mining of boxed images")


def taught_together(dataset: str, folder: str) -> None:
    """Gradients of this process's share, averaged over processes as the loop has them."""
    torch.set_num_threads(1)
    with Run(Path(folder) / "run", run_settings(), progress=False) as run:
        rank, world = run.fabric.global_rank, run.fabric.world_size
        batch = batch_of(Path(dataset))
        share = replace(batch.pieces(len(batch) // world)[rank], of=None, first=0)
        for name, images_at_once in [(name, count) for name in TOGETHER for count in (None, 2)] + [("ham, authors", None)]:
            terms, gradients = taught(stilled(ALL[name]()), share, images_at_once, world)
            values = {**{key: torch.tensor(value) for key, value in terms.items()}, **gradients}
            for value in values.values():
                distributed.all_reduce(value)
                value /= world
            if rank == 0:
                torch.save(values, Path(folder) / f"{name} {images_at_once}.pt")


ALL = TASKS | {"ham, authors": lambda: ham_task(reading="authors")}


def test_two_processes_and_pieces_teach_what_one_process_does(dataset, tmp_path):
    finished(*launched(2, taught_together, str(dataset), str(tmp_path)))
    found = sorted(tmp_path.glob("*.pt"))
    assert len(found) == 2 * len(TOGETHER) + 1
    for path in found:
        terms, gradients = taught(stilled(ALL[path.stem.rpartition(" ")[0]]()), batch_of(dataset), None)
        values = torch.load(path, weights_only=True)
        for place, value in {**{key: torch.tensor(term) for key, term in terms.items()}, **gradients}.items():
            assert_alike(values[place], value, f"{path.stem}: {place}")


def test_a_loss_that_is_no_mean_is_refused_in_pieces_before_anything_is_trained(data, tmp_path):
    task = ham_task(reading="authors")
    with (
        Run(tmp_path, run_settings("images_at_once=2"), progress=False) as run,
        pytest.raises(
            BadSettings, match=r'run\.images_at_once: 1-learn .* method\.reading\.mean = "findings" .* or set it to 4'
        ),
    ):
        run.fit("learn", task, data.train, EVEN)
    assert not (tmp_path / "log.csv").exists()


def test_the_pieces_are_part_of_a_steps_record(data, tmp_path):
    with Run(tmp_path, run_settings("images_at_once=2"), progress=False) as run:
        assert run._record({}, {}, None).settings["run.images_at_once"] == 2


def test_the_loop_gives_every_piece_the_counts_of_its_batch(data, tmp_path, monkeypatch):
    wholes = []
    real = Loop._piece
    monkeypatch.setattr(
        Loop,
        "_piece",
        lambda loop, piece, *more, **options: (wholes.append(len(piece.whole)), real(loop, piece, *more, **options)),
    )
    with Run(tmp_path, run_settings("images_at_once=2"), progress=False) as run:
        run.fit("learn", ham_task(), data.train, EVEN.model_copy(update={"epochs": 1, "batches": 2}))
    assert set(wholes) == {4}

"""The loader: what an epoch holds, in which order, whoever reads it."""

import itertools
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chestmap.datasets.nih import NihSettings, read_nih
from chestmap.errors import BadInput, BadModel, Refused
from chestmap.packs.augment import AugmentSettings, draw
from chestmap.packs.build import PackSettings, make_pack
from chestmap.packs.loader import Loader, LoaderSettings, Part
from chestmap.tensors import Batch
from chestmap.types import Box
from datasets.toys import source_in

AUGMENT = AugmentSettings(translate=0.1, rotate_degrees=10, brightness=0.1)
COUNT = 23


@pytest.fixture(scope="module")
def part(tmp_path_factory) -> Part:
    root = tmp_path_factory.mktemp("loader")
    source = source_in(root / "images", COUNT, space=1024.0)
    labels = np.arange(COUNT, dtype=np.int8)[:, None] % 3 - 1
    boxes = {source.ids[row]: (Box("Mass", 100, 200, 300, 500),) for row in (2, 11, 17)}
    source = replace(source, labels=labels, boxes=boxes)
    pack = make_pack(source, root / "pack", PackSettings(width=32, height=32), progress=False)
    return Part.of(source, pack, source.ids, "toy")


def loader(part: Part, batch_size: int = 4, workers: int = 0, boxed_share: float | None = None, **more) -> Loader:
    return Loader(
        part=part, settings=LoaderSettings(batch_size=batch_size, workers=workers, boxed_share=boxed_share), **more
    )


def ids_of(batches) -> list[tuple[str, ...]]:
    return [batch.ids for batch in batches]


def same(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(one.images, other.images)
        and torch.equal(one.labels.nan_to_num(-1), other.labels.nan_to_num(-1))
        and (one.ids, one.frames, one.boxes) == (other.ids, other.frames, other.boxes)
    )


def test_a_batch_holds_what_source_and_pack_say(part):
    batches = list(loader(part, shuffle=False).epoch(0))
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 3]
    assert sum(ids_of(batches), ()) == part.ids
    for batch in batches:
        for row, image_id in enumerate(batch.ids):
            place = part.ids.index(image_id)
            pixels = part.pack.images[part.pack_rows[place]].astype(np.float32) / 255
            assert (batch.images[row, 0].numpy() == pixels).all()
            label = part.source.labels[place, 0]
            assert batch.labels[row, 0] == label if label >= 0 else batch.labels[row, 0].isnan()
            assert batch.boxes[row] == part.source.boxes.get(image_id, ())
            assert batch.frames[row] == part.base_frame(image_id)


def test_the_frame_carries_the_augmentation_and_stored_maps_can_follow(part):
    augmenting = loader(part, seed=5, augment=AUGMENT)
    for batch in augmenting.epoch(3):
        for image_id, frame in zip(batch.ids, batch.frames, strict=True):
            matrix = draw(AUGMENT, (32, 32), 5, (3, 0), image_id).matrix
            assert frame == part.base_frame(image_id).then(matrix)


@pytest.mark.parametrize("augment", [None, AUGMENT])
def test_workers_batch_size_and_rank_do_not_change_an_image(part, augment):
    settings = {"seed": 1, "augment": augment}
    alone = list(loader(part, **settings).epoch(2))
    with_workers = loader(part, workers=2, **settings)
    assert all(map(same, alone, with_workers.epoch(2)))
    assert all(map(same, loader(part, **settings).epoch(3), with_workers.epoch(3)))  # the same processes, another epoch

    def pixels(batches) -> dict[str, torch.Tensor]:
        return {image_id: image for batch in batches for image_id, image in zip(batch.ids, batch.images, strict=True)}

    expected = pixels(alone)
    for other in (loader(part, batch_size=7, **settings), loader(part, rank=1, world=2, batch_size=4, **settings)):
        found = pixels(other.epoch(2))
        assert set(found) <= set(part.ids)
        assert all(torch.equal(image, expected[image_id]) for image_id, image in found.items() if image_id in expected)


def test_the_order_is_a_function_of_seed_and_epoch(part):
    first = ids_of(loader(part, seed=1).epoch(0))
    assert first == ids_of(loader(part, seed=1).epoch(0))
    assert first != ids_of(loader(part, seed=1).epoch(1))
    assert first != ids_of(loader(part, seed=2).epoch(0))
    assert ids_of(loader(part, shuffle=False).epoch(0)) == ids_of(loader(part, seed=9, shuffle=False).epoch(4))


@pytest.mark.parametrize("workers", [0, 2])
def test_it_goes_on_in_the_middle_without_reading_what_came_before(part, workers, monkeypatch):
    whole = list(loader(part, seed=1, augment=AUGMENT).epoch(2))
    going_on = loader(part, seed=1, augment=AUGMENT, workers=workers)
    read = []
    picks = going_on.picks
    monkeypatch.setattr(going_on, "picks", lambda epoch: read.append(epoch) or picks(epoch))
    rest = list(going_on.epoch(2, start=3))
    assert len(rest) == 2
    assert all(map(same, whole[3:], rest))
    assert list(going_on.epoch(2, start=5)) == []
    assert read == [2, 2]


def test_an_epoch_left_early_does_not_spoil_the_next(part):
    leaving = loader(part, seed=1, workers=2)
    left = leaving.epoch(0)
    next(left)
    assert ids_of(leaving.epoch(1)) == ids_of(loader(part, seed=1).epoch(1))
    with pytest.raises(Refused, match="another epoch of this loader was begun"):
        list(left)


@given(st.integers(1, 23), st.integers(1, 9), st.integers(1, 4), st.booleans(), st.integers(0, 3))
def test_every_image_once_over_all_ranks(part, count, share, world, shuffle, epoch):
    batch_size, some = share * world, part.select(np.arange(count))
    if shuffle and count < world:
        with pytest.raises(BadInput, match=f"{count} images for {world} processes"):
            loader(some, batch_size, world=world)
        return
    loaders = [loader(some, batch_size, world=world, rank=rank, shuffle=shuffle) for rank in range(world)]
    shares = [[pick.positions for pick in one.picks(epoch)] for one in loaders]
    seen = list(itertools.chain(*itertools.chain(*shares)))
    assert len(seen) == len(set(seen))
    assert [len(one) for one in loaders] == [len(share) for share in shares]
    assert all(0 < len(batch) <= share for picked in shares for batch in picked)
    if shuffle:
        assert len({len(share) for share in shares}) == 1  # or one process would wait for the others
        assert len(seen) >= min(count - count % world, count // batch_size * batch_size)
        assert len(shares[0]) >= 1
    else:
        assert sorted(seen) == list(range(count))


@pytest.mark.parametrize("world", [2, 3, 6])
@pytest.mark.parametrize("boxed_share", [None, 0.2])
def test_ranks_together_see_the_batches_of_one(part, world, boxed_share):
    options = {"batch_size": 6, "seed": 3, "boxed_share": boxed_share}
    together = loader(part, **options)
    ranks = [loader(part, rank=rank, world=world, **options) for rank in range(world)]
    assert [sum(shares, ()) for shares in zip(*(ids_of(rank.epoch(1)) for rank in ranks), strict=True)] == ids_of(
        together.epoch(1)
    )
    repeats = [sum((pick.repeats for pick in picks), ()) for picks in zip(*(rank.picks(1) for rank in ranks), strict=True)]
    assert repeats == [pick.repeats for pick in together.picks(1)]


def test_a_share_of_each_batch_carries_boxes(part):
    sharing = loader(part, batch_size=5, boxed_share=0.4, seed=1, augment=AUGMENT)
    boxed = {part.ids[row] for row in (2, 11, 17)}
    batches = list(sharing.epoch(0))
    assert len(sharing) == len(batches) == 6  # 20 images without boxes, 3 in each batch; the last 2 are dropped
    assert [sum(image_id in boxed for image_id in batch.ids) for batch in batches] == [2] * 6
    counts = Counter(image_id for batch in batches for image_id in batch.ids)
    assert {counts[image_id] for image_id in boxed} == {4}
    assert {count for image_id, count in counts.items() if image_id not in boxed} == {1}
    frames = [
        frame for batch in batches for image_id, frame in zip(batch.ids, batch.frames, strict=True) if image_id in boxed
    ]
    assert len(set(frames)) == 12  # an image that comes again is augmented anew
    assert ids_of(loader(part, batch_size=5, boxed_share=0.4, seed=1).epoch(0)) == ids_of(batches)
    assert len({place for batch in batches for place, image_id in enumerate(batch.ids) if image_id in boxed}) > 2


def test_a_share_that_is_met_anyway_or_cannot_be(part):
    plain = ids_of(loader(part, seed=1).epoch(0))
    assert ids_of(loader(part, seed=1, boxed_share=0.1).epoch(0)) == plain  # 3 of 23 carry boxes
    assert ids_of(loader(part, seed=1, boxed_share=0.0).epoch(0)) == plain
    only = loader(part, batch_size=3, boxed_share=1.0, seed=1)
    assert [set(batch.ids) for batch in only.epoch(0)] == [{part.ids[row] for row in (2, 11, 17)}]
    without = part.select(~part.boxed.any(axis=1))
    with pytest.raises(BadInput, match=r"toy: boxed_share 0.5, but no image has a box; leave it out"):
        loader(without, boxed_share=0.5)


def test_boxed_images_that_are_too_many_come_in_part(part):
    """One in each batch, another in the next epoch; where every image is boxed there is nothing to mix them with."""
    boxed = {part.ids[row] for row in (2, 11, 17)}
    few = Loader(part=part, settings=LoaderSettings(batch_size=10, most_boxed=0.1), seed=1)
    epochs = [[image_id for batch in few.epoch(epoch) for image_id in batch.ids if image_id in boxed] for epoch in range(6)]
    assert [len(one) for one in epochs] == [2] * 6
    assert {image_id for one in epochs for image_id in one} == boxed
    enough = Loader(part=part, settings=LoaderSettings(batch_size=10, most_boxed=0.5), seed=1)
    assert ids_of(enough.epoch(0)) == ids_of(Loader(part=part, settings=LoaderSettings(batch_size=10), seed=1).epoch(0))
    with pytest.raises(BadInput, match=r"toy: most_boxed 0\.5, but every image has a box; leave it out"):
        Loader(part=part.select(part.boxed.any(axis=1)), settings=LoaderSettings(batch_size=2, most_boxed=0.5))


def test_a_part_chooses_and_is_known_by_what_it_holds(part):
    assert part.boxed.nonzero()[0].tolist() == [2, 11, 17]
    chosen = part.select(part.boxed.any(axis=1))
    assert chosen.ids == tuple(part.ids[row] for row in (2, 11, 17))
    assert part.select(np.array([17, 2])).ids == (part.ids[17], part.ids[2])
    assert len({part.fingerprint, chosen.fingerprint}) == 2
    assert part.select(np.arange(COUNT)).fingerprint == part.fingerprint
    relabelled = replace(part.source, labels=np.zeros_like(part.source.labels))
    assert Part(source=relabelled, pack=part.pack, rows=part.rows).fingerprint != part.fingerprint
    with pytest.raises(BadInput, match="a mask of 3 cannot choose from 23 images"):
        part.select(np.ones(3, dtype=bool))
    assert pickle.loads(pickle.dumps(part)).fingerprint == part.fingerprint


def test_a_pack_of_something_else_is_refused(part, tmp_path):
    with pytest.raises(BadModel, match="holds images of toy, not of nih"):
        Part(source=replace(part.source, name="nih"), pack=part.pack, rows=part.rows)
    with pytest.raises(
        BadModel, match=r"00000 was packed as \[1024. 1024.\] pixels, toy says \[512. 512.\]; pack the source again"
    ):
        Part(source=source_in(tmp_path, COUNT, space=512.0), pack=part.pack, rows=part.rows)
    with pytest.raises(BadModel, match="1 of 24 images have no pixels, the first is 00023"):
        Part(source=source_in(tmp_path, COUNT + 1, space=1024.0), pack=part.pack, rows=np.arange(COUNT + 1))


def test_what_processes_must_not_do(part):
    with pytest.raises(BadInput, match="rank 2 of 2 processes: expected 0 to 1"):
        loader(part, rank=2, world=2)
    with pytest.raises(BadInput, match="a batch of 4 images cannot be shared out evenly over 3 processes"):
        loader(part, world=3)
    with pytest.raises(Refused, match="one would wait for the others"):
        loader(part, world=2, drop_last=False)


def test_real_boxes_lie_where_the_pixels_are(shared_data, tmp_path):
    source = read_nih(NihSettings(root=shared_data("nih")))
    source = source.select(source.rows(sorted(source.boxes)[:12]))
    pack = make_pack(source, tmp_path, PackSettings(width=128, height=128), progress=False)
    (batch,) = loader(Part.of(source, pack, source.ids), batch_size=12, shuffle=False).epoch(0)
    assert batch.images.shape == (12, 1, 128, 128)
    for frame, boxes, mask in zip(batch.frames, batch.boxes, batch.masks(128, 128), strict=True):
        assert frame.matrix == (0.125, 0, 0, 0, 0.125, 0)  # 1024 to 128, though the files hold 512 pixels
        for box in boxes:
            assert mask[source.findings.index(box.finding)].sum() > 0.5 * box.area / 64

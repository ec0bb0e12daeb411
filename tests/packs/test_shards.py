"""A pack in shards: the same bytes and batches as the local one, from a store, through a cache that stays within its limit."""

import json
import multiprocessing
import pickle
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from chestmap.cli.data import app
from chestmap.errors import BadInput, BadModel, BadSettings
from chestmap.packs.augment import AugmentSettings
from chestmap.packs.build import Pack, PackSettings, make_pack
from chestmap.packs.loader import Loader, LoaderSettings, Part
from chestmap.packs.shards import ShardSettings, open_shards, read_index, write_shards
from chestmap.settings import checked
from chestmap.storage import stores
from chestmap.training.training_data import open_data
from datasets.toys import source_in, write_png
from training.small import data_settings, small_data, write_dataset

SIDE, COUNT, ROWS = 32, 50, 4
MEGABYTES = ROWS * SIDE * SIDE / 1e6
SHARD = 128 + ROWS * SIDE * SIDE  # bytes: .npy files have a header of 128


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Part:
    root = tmp_path_factory.mktemp("shards")
    source = source_in(root / "images", COUNT)
    source.path(9).write_bytes(b"not a PNG")
    pack = make_pack(source, root / "pack", PackSettings(width=SIDE, height=SIDE), progress=False)
    return Part.of(source, pack, source.ids, "toy")


@pytest.fixture(scope="module")
def address(local, tmp_path_factory) -> str:
    at = f"file://{tmp_path_factory.mktemp('store')}/toy"
    write_shards(local.pack, at, MEGABYTES, progress=False)
    return at


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(stores, "WAIT", 0.0)


def part_of(local: Part, address: str, cache: Path, **more) -> Part:
    pack = open_shards(ShardSettings(address=address, **more), cache, local.source, local.pack.settings)
    return Part.of(local.source, pack, local.source.ids, "toy")


def loader(part: Part, workers: int = 0, batch_size: int = 8, **more) -> Loader:
    return Loader(part=part, settings=LoaderSettings(batch_size=batch_size, workers=workers), seed=3, **more)


def held(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.glob("shards-*/*") if path.is_file())


def fetched(monkeypatch) -> list[str]:
    """Names of what is fetched from now on, by this process."""
    names, really = [], fsspec.get_filesystem_class("file").get_file

    def get_file(self, remote, beside, **more):
        names.append(Path(remote).name)
        return really(self, remote, beside, **more)

    monkeypatch.setattr(fsspec.get_filesystem_class("file"), "get_file", get_file)
    return names


# ---- publishing


def test_the_store_holds_npy_files_that_numpy_reads_without_us(local, address):
    index = read_index(address)
    at = Path(address.removeprefix("file://"))
    stored = [np.load(at / shard.name) for shard in index.shards]
    assert [len(images) for images in stored] == [ROWS] * 12 + [2]
    images = np.concatenate(stored)
    good = [row for row in range(COUNT) if row != 9]
    assert (images[good] == local.pack.images[good]).all()
    assert not images[9].any()
    assert (index.fingerprint, index.source) == (local.pack.fingerprint, "toy")


def test_publishing_again_sends_only_what_changed(tmp_path, monkeypatch):
    source = source_in(tmp_path / "images", 10)
    at = str(tmp_path / "store")

    def publish() -> tuple[Pack, list[str]]:
        pack, sent = make_pack(source, tmp_path / "pack", PackSettings(width=SIDE, height=SIDE), progress=False), []
        really = fsspec.get_filesystem_class("file").pipe_file
        with monkeypatch.context() as patch:
            patch.setattr(
                fsspec.get_filesystem_class("file"), "pipe_file",
                lambda self, path, value, **more: sent.append(Path(path).name) or really(self, path, value, **more),
            )  # fmt: skip
            write_shards(pack, at, MEGABYTES, progress=False)
        return pack, sorted(name.split("-")[0] for name in sent)

    assert publish()[1] == ["000000", "000001", "000002", "ids", "set_aside", "shards.json.part", "state"]
    older = open_shards(ShardSettings(address=at), tmp_path / "older", source)
    before = older.images[5].copy()
    assert publish()[1] == ["shards.json.part"]
    write_png(source.path(5), 99)
    pack, sent = publish()
    assert sent == ["000001", "shards.json.part", "state"]
    newer = open_shards(ShardSettings(address=at), tmp_path / "newer", source)
    assert (newer.images[[5, 2]] == pack.images[[5, 2]]).all()
    assert (older.images[5] == before).all()  # who reads the older index is not given newer pixels
    assert newer.fingerprint == pack.fingerprint != older.fingerprint


# ---- reading


def test_rows_are_those_of_the_local_pack_in_any_order(local, address, tmp_path):
    pack = part_of(local, address, tmp_path).pack
    assert (pack.ids, pack.set_aside, pack.fingerprint) == (local.pack.ids, local.pack.set_aside, local.pack.fingerprint)
    rows = np.array([49, 0, 3, 4, 0, 48, 17])
    assert (pack.images[rows] == local.pack.images[rows]).all()
    assert (pack.images[np.int64(7)] == local.pack.images[7]).all()
    assert pack.images[np.array([], np.int64)].shape == (0, SIDE, SIDE)
    assert pack.damaged() == []
    assert pack.frame(7) == local.pack.frame(7)
    again = pickle.loads(pickle.dumps(pack))
    assert (again.images[rows] == local.pack.images[rows]).all()
    with pytest.raises(BadModel, match="00009"):
        pack.rows(["00009"])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_equal_those_of_the_local_pack_though_the_cache_holds_two_shards(local, address, tmp_path, workers):
    limit = 2.5 * SHARD + 4000
    part = part_of(local, address, tmp_path, cache_gb=limit / 1e9)
    augment = AugmentSettings(rotate_degrees=5)
    for one, other in zip(
        loader(local, augment=augment).epoch(1), loader(part, workers, augment=augment).epoch(1), strict=True
    ):
        assert torch.equal(one.images, other.images)
        assert (one.ids, one.frames) == (other.ids, other.frames)
    assert held(tmp_path) <= limit + workers * SHARD
    assert part.fingerprint == local.fingerprint


def test_two_updates_have_the_same_losses_from_memory_as_from_the_local_pack(local, tmp_path):
    write_shards(local.pack, "memory://toy", MEGABYTES, progress=False)

    def losses(part: Part) -> list[float]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
        weights, found = list(network.parameters()), []
        for batch, _ in zip(loader(part).epoch(0), range(2), strict=False):
            loss = nn.functional.binary_cross_entropy_with_logits(network(batch.images), batch.labels)
            with torch.no_grad():
                for weight, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                    weight -= 0.1 * slope
            found.append(loss.item())
        return [*found, *(value.item() for value in network[0].weight.detach().flatten())]

    assert losses(local) == losses(part_of(local, "memory://toy", tmp_path))


# ---- the walk


@pytest.mark.parametrize(("window", "streams"), [(2, 1), (3, 2), (2, 4)])
def test_a_walk_takes_every_image_once_whatever_ranks_read_it(local, address, tmp_path, window, streams):
    part = part_of(local, address, tmp_path, window=window, streams=streams)

    def epoch(number: int, world: int) -> list[tuple[int, ...]]:
        ranks = [loader(part, rank=rank, world=world).picks(number) for rank in range(world)]
        return [sum((pick.positions for pick in picks), ()) for picks in zip(*ranks, strict=True)]

    batches = epoch(5, 1)
    assert batches == epoch(5, 2) == epoch(5, 4)  # of the same joint batch size
    assert batches != epoch(6, 1)
    assert max(Counter(sum(batches, ())).values()) == 1
    assert len(batches) == 49 // 8
    whole = loader(part, drop_last=False).picks(5)
    assert sorted(position for pick in whole for position in pick.positions) == list(range(49))
    assert part.fingerprint != local.fingerprint  # another order is another training
    assert loader(part).picks(5)[4:] == loader(part).picks(5)[4:]


def test_a_walk_fetches_each_shard_once_where_mixing_all_fetches_again_and_again(local, address, tmp_path, monkeypatch):
    room = (5 * SHARD + 6000) / 1e9  # the records, too
    names, counts = fetched(monkeypatch), []
    for window in (2, 0):
        part = part_of(local, address, tmp_path / str(window), window=window, cache_gb=room)
        names.clear()
        for _ in loader(part, drop_last=False).epoch(0):
            assert held(tmp_path) <= 2 * room * 1e9
        counts.append(len(names))
    assert counts[0] == len(read_index(address).shards) == 13
    assert counts[1] > 2 * counts[0]


def test_each_rank_reads_shards_of_its_own_where_there_are_as_many_streams(local, address, tmp_path):
    part = part_of(local, address, tmp_path, window=1, streams=2)
    shards = [
        {
            part.pack_rows[position] // ROWS
            for pick in loader(part, rank=rank, world=2).picks(0)
            for position in pick.positions
        }
        for rank in (0, 1)
    ]
    assert len(shards[0] & shards[1]) <= 1  # the one in the middle


# ---- several processes, damage and mistakes


def _sums(arguments) -> list[int]:
    settings, cache, order = arguments
    images = open_shards(settings, cache).images
    return [int(images[row].sum()) for row in order]


def test_processes_share_one_small_cache(local, address, tmp_path):
    settings = ShardSettings(address=address, cache_gb=(3 * SHARD + 4000) / 1e9)
    rows = np.array([row for row in range(COUNT) if row != 9])
    orders = [np.random.default_rng(seed).permutation(rows) for seed in range(3)]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        sums = pool.map(_sums, [(settings, tmp_path, order) for order in orders], chunksize=1)
    expected = local.pack.images.sum(axis=(1, 2), dtype=np.int64)
    assert all((expected[order] == found).all() for order, found in zip(orders, sums, strict=True))
    assert held(tmp_path) <= 6 * SHARD + 4000
    assert not list(tmp_path.glob("*/*.part"))


def test_what_is_damaged_in_the_store_is_refused_and_in_the_cache_fetched_again(local, tmp_path):
    at = tmp_path / "store"
    write_shards(local.pack, str(at), MEGABYTES, progress=False)
    pack = part_of(local, str(at), tmp_path / "cache").pack
    first, second = read_index(str(at)).shards[:2]
    whole = (at / first.name).read_bytes()
    (at / first.name).write_bytes(b"x" * first.bytes)
    with pytest.raises(BadModel, match=f"{first.name}: its content is not what was published"):
        pack.images[0]
    write_shards(local.pack, str(at), MEGABYTES, progress=False)
    assert (at / first.name).read_bytes() == whole
    assert (pack.images[5] == local.pack.images[5]).all()
    cached = pack.folder / second.name
    cached.write_bytes(cached.read_bytes()[:1000])  # a disk that was full
    assert (pack.images[6] == local.pack.images[6]).all()
    (at / first.name).unlink()
    with pytest.raises(BadModel, match="no such file"):
        pack.images[0]
    write_shards(local.pack, str(at), MEGABYTES, progress=False)
    assert (pack.images[0] == local.pack.images[0]).all()


def test_a_network_that_fails_for_a_while_is_asked_again(local, address, tmp_path, monkeypatch):
    part, failures = part_of(local, address, tmp_path), [OSError("reset"), LookupError("no credentials yet")]
    monkeypatch.setitem(sys.modules, "botocore.exceptions", SimpleNamespace(BotoCoreError=LookupError))  # no OSError there
    names, really = [], fsspec.get_filesystem_class("file").get_file

    def get_file(self, remote, beside, **more):
        names.append(remote)
        if failures:
            raise failures.pop()
        return really(self, remote, beside, **more)

    monkeypatch.setattr(fsspec.get_filesystem_class("file"), "get_file", get_file)
    assert (part.pack.images[0] == local.pack.images[0]).all()
    assert len(names) == 3


def test_mistakes_are_said_in_one_line(local, address, tmp_path, monkeypatch):
    def refusal(kind: type[Exception], address: str, **more) -> str:
        with pytest.raises(kind) as caught:
            part_of(local, address, tmp_path / "cache", **more).pack.images[0]
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "chestmap data pack" in refusal(BadModel, str(tmp_path / "nothing"))
    assert "expected a folder, or an address" in refusal(BadInput, "nowhere://bucket/toy")
    assert "raise data.shards.cache_gb" in refusal(BadInput, address, cache_gb=1e-6)
    with pytest.raises(BadSettings, match="streams = 2 without a window"):
        checked(ShardSettings, {"address": address, "streams": 2}, name="config")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert "s3fs" in refusal(BadInput, "s3://bucket/toy")
    with pytest.raises(BadModel, match="choose another folder for this canvas"):
        open_shards(ShardSettings(address=address), tmp_path, local.source, PackSettings(width=64, height=64))

    index = json.loads(Path(address.removeprefix("file://"), "shards.json").read_text())
    for change, said in (
        ({"form": 2}, "form 2"),
        ({"shards": [{"name": "../../etc-" + "0" * 32 + ".npy", "bytes": 1}]}, "not usable"),
        ({"fingerprint": "0"}, "records and fingerprint disagree"),
    ):
        at = tmp_path / said.replace(" ", "")
        at.mkdir()
        for path in Path(address.removeprefix("file://")).iterdir():
            (at / path.name).write_bytes(path.read_bytes())
        (at / "shards.json").write_text(json.dumps(index | change))
        assert said in refusal(BadModel, str(at))


# ---- from the command line to a config


def test_a_config_trains_from_shards_without_the_images(tmp_path):
    root = write_dataset(tmp_path / "data", count=12)
    at = f"file://{tmp_path}/store"
    command = ["pack", "folder", str(root), "--out", str(tmp_path / "pack"), "--width", "32", "--height", "32"]
    command += ["--set", "labels=labels.csv", "--set", "boxes=boxes.csv", "--shards", at, "--shard-mb", "0.004"]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.output
    expected = small_data(root).train
    for path in root.glob("*.png"):
        path.unlink()
    settings = data_settings(root, cache=tmp_path / "cache", shards=ShardSettings(address=at))
    found = open_data(settings, progress=False).train
    assert found.fingerprint == expected.fingerprint  # a run goes on from one with the other
    assert (found.pack.images[found.pack_rows] == expected.pack.images[expected.pack_rows]).all()
    assert len(list((tmp_path / "store").glob("*.npy"))) == 3

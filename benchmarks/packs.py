"""Forms of sharded packs, as Markdown: `python benchmarks/packs.py PHANTOM [FOLDER [PACK]]`, some two minutes.

PHANTOM is what `chestmap data phantom PHANTOM --images 2000 --side 256` drew. A form whose library is absent is left out; they
are no dependencies of the package: webdataset, mosaicml-streaming, litdata, pyarrow. Rounds are interleaved; ratios within one
run are what counts.
"""

import io
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import fsspec
import numpy as np

from chestmap.datasets.nih import NihSettings, read_nih
from chestmap.packs.build import PackSettings, make_pack
from chestmap.packs.loader import Loader, LoaderSettings, Part
from chestmap.packs.shards import ShardSettings, open_shards, write_shards

SIDE = 256
SHARD = 8 * 2**20  # bytes: 128 images
ROUNDS = 3
Images = np.ndarray
Read = Callable[[int], np.ndarray]


class Form(NamedTuple):
    """`open` gives a reader of one image, or None where there is none, and the images in stored and in shuffled order."""

    write: Callable[[Images, Path], object]
    open: Callable[[Path], tuple[Read | None, Callable[[], Iterator[np.ndarray]], Callable[[], Iterator[np.ndarray]]]]


def in_order(read: Read, order: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: (read(int(row)) for row in order)


def random_access(read: Read, count: int) -> tuple[Read, Callable[[], Iterator[Any]], Callable[[], Iterator[Any]]]:
    return read, in_order(read, np.arange(count)), in_order(read, np.random.default_rng(0).permutation(count))


def image_of(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8).reshape(SIDE, SIDE)


def flat() -> Form:
    def open_flat(folder: Path) -> Any:
        images = np.memmap(folder / "images.bin", np.uint8, "r").reshape(-1, SIDE, SIDE)
        return random_access(lambda row: images[row], len(images))

    return Form(lambda images, folder: images.tofile(folder / "images.bin"), open_flat)


def shards() -> Form:
    each = SHARD // SIDE**2

    def write(images: Images, folder: Path) -> None:
        for number, first in enumerate(range(0, len(images), each)):
            np.save(folder / f"{number:05d}.npy", images[first : first + each])

    def open_shards(folder: Path) -> Any:
        stored = [np.load(path, mmap_mode="r") for path in sorted(folder.iterdir())]
        return random_access(lambda row: stored[row // each][row % each], sum(map(len, stored)))

    return Form(write, open_shards)


def parquet() -> Form:
    import pyarrow as pa
    import pyarrow.parquet as pq

    each = SHARD // SIDE**2

    def write(images: Images, folder: Path) -> None:
        table = pa.table({"pixels": [image.tobytes() for image in images]})
        pq.write_table(table, folder / "images.parquet", row_group_size=each, compression="zstd", use_dictionary=False)

    def open_parquet(folder: Path) -> Any:
        file = pq.ParquetFile(folder / "images.parquet")

        def read(row: int) -> np.ndarray:
            return image_of(file.read_row_group(row // each)["pixels"][row % each].as_py())

        def sequence() -> Iterator[np.ndarray]:
            for group in range(file.num_row_groups):
                yield from (image_of(one.as_py()) for one in file.read_row_group(group)["pixels"])

        some = np.random.default_rng(0).permutation(file.metadata.num_rows)[:100]  # a whole row group is read for each
        return read, sequence, in_order(read, some)

    return Form(write, open_parquet)


def webdataset() -> Form:
    import webdataset as wds

    each = SHARD // SIDE**2

    def write(images: Images, folder: Path) -> None:
        for first in range(0, len(images), each):
            with tarfile.open(folder / f"{first // each:05d}.tar", "w") as tar:
                for row, image in enumerate(images[first : first + each], first):
                    info = tarfile.TarInfo(f"{row:07d}.bin")
                    info.size = image.nbytes
                    tar.addfile(info, io.BytesIO(image.tobytes()))

    def open_tar(folder: Path) -> Any:
        def images(buffer: int) -> Iterator[np.ndarray]:
            paths = [str(path) for path in sorted(folder.iterdir())]
            stored = wds.WebDataset(paths, shardshuffle=len(paths) if buffer else False, empty_check=False)
            for sample in stored.shuffle(buffer) if buffer else stored:
                yield image_of(sample["bin"])

        return None, lambda: images(0), lambda: images(512)

    return Form(write, open_tar)


def mosaic(compression: str | None = None) -> Callable[[], Form]:
    def form() -> Form:
        from streaming import MDSWriter, StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        def write(images: Images, folder: Path) -> None:
            with MDSWriter(
                out=str(folder), columns={"pixels": "bytes"}, size_limit=SHARD, hashes=["sha1"], compression=compression
            ) as out:
                for image in images:
                    out.write({"pixels": image.tobytes()})

        def open_mosaic(folder: Path) -> Any:
            clean_stale_shared_memory()
            stored = StreamingDataset(local=str(folder), shuffle=False, batch_size=16)

            def read(row: int) -> np.ndarray:
                return image_of(stored[row]["pixels"])

            return random_access(read, len(stored))

        return Form(write, open_mosaic)

    return form


def litdata() -> Form:
    from litdata import StreamingDataset
    from litdata.streaming.cache import Cache

    def write(images: Images, folder: Path) -> None:
        cache = Cache(str(folder), chunk_bytes=SHARD)
        for row, image in enumerate(images):
            cache[row] = image.tobytes()
        cache.done()
        cache.merge()

    def open_litdata(folder: Path) -> Any:
        stored = StreamingDataset(str(folder), shuffle=False)
        mixed = StreamingDataset(str(folder), shuffle=True, seed=0)
        return (
            lambda row: image_of(stored[row]),
            lambda: (image_of(one) for one in stored),
            lambda: (image_of(one) for one in mixed),
        )

    return Form(write, open_litdata)


FORMS: dict[str, Callable[[], Form]] = {
    "one memory map (the local pack)": flat,
    "`.npy` shards": shards,
    "WebDataset tar, raw bytes": webdataset,
    "MosaicML MDS": mosaic(),
    "MosaicML MDS, zstd": mosaic("zstd"),
    "litdata": litdata,
    "Parquet, zstd": parquet,
}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def rate(images: Iterator[np.ndarray]) -> float:
    """Images a second, copied into a batch as a loader does."""
    batch, count, start = np.empty((16, SIDE, SIDE), np.uint8), 0, time.perf_counter()
    for count, image in enumerate(images, 1):
        batch[count % 16] = image
    return count / (time.perf_counter() - start)


def seen(images: Iterator[np.ndarray]) -> int:
    """The sum of all pixels, whatever the order."""
    return sum(int(image.sum()) for image in images)


def one_round(form: Form, folder: Path, rows: np.ndarray) -> dict[str, float]:
    (read, sequence, shuffled), opening = timed(lambda: form.open(folder))
    _, first = timed(lambda: next(shuffled()))
    found = {"first": 1000 * (opening + first), "sequence": rate(sequence()), "shuffled": rate(shuffled())}
    if read is not None:
        found["random"] = 1e6 / rate(read(int(row)) for row in rows)
    return found


def epoch_of(part: Part) -> Callable[[], Iterator[np.ndarray]]:
    """The pixels of an epoch's batches, one image after another."""
    picks = Loader(part=part, settings=LoaderSettings(batch_size=16), drop_last=False).picks(0)
    return lambda: (image for pick in picks for image in part.pack.images[part.pack_rows[list(pick.positions)]])


def ours_through_caches(part: Part, at: Path, place: Path) -> Iterator[tuple[str, float, int]]:
    """What, images a second, files fetched; the store is a folder, so that its network costs nothing."""
    write_shards(part.pack, str(at), SHARD / 1e6, progress=False)
    files = fsspec.get_filesystem_class("file")
    really, fetched = files.get_file, [0]

    def get_file(*arguments: Any, **more: Any) -> None:
        fetched[0] += 1
        really(*arguments, **more)

    files.get_file = get_file

    def run(what: str, images: Callable[[], Iterator[np.ndarray]], first: int | None = None) -> tuple[str, float, int]:
        fetched[0] = 0
        return what, rate(islice(images(), first)), fetched[0]

    yield run("local pack, all mixed", epoch_of(part))
    for what, window, shards in (("all mixed", 0, 100), ("all mixed", 0, 6), ("windows of 2 shards", 2, 6)):
        cache = place / f"{window}-{shards}"
        settings = ShardSettings(address=str(at), window=window, cache_gb=(shards * SHARD + 3e5) / 1e9)
        sharded = replace(part, pack=open_shards(settings, cache))
        room = "all" if shards == 100 else str(shards)
        if window or shards == 100:
            yield run(f"ours, {what}, cache of {room} shards, cold", epoch_of(sharded))
            yield run(f"ours, {what}, cache of {room} shards, again", epoch_of(sharded))
        else:
            yield run(f"ours, {what}, cache of {room} shards, the first 160 images", epoch_of(sharded), 160)
    files.get_file = really


def mosaic_through_caches(at: Path, place: Path) -> Iterator[tuple[str, float]]:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    for shards in (100, 6):
        clean_stale_shared_memory()
        local = str(place / f"mosaic-{shards}")
        stored = StreamingDataset(
            remote=str(at), local=local, shuffle=True, batch_size=16, cache_limit=None if shards == 100 else shards * (SHARD + 2**16)
        )  # fmt: skip
        room = "all" if shards == 100 else str(shards)
        for turn in ("cold", "again"):
            yield (
                f"MosaicML MDS, its own shuffle, cache of {room} shards, {turn}",
                rate(image_of(one["pixels"]) for one in stored),
            )


def main() -> None:
    source = read_nih(NihSettings(root=Path(sys.argv[1])))
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as place:
        folder = Path(place)
        packed = Path(sys.argv[3]) if len(sys.argv) > 3 else folder / "pack"
        pack = make_pack(source, packed, PackSettings(width=SIDE, height=SIDE), workers=2)
        images = np.asarray(pack.images)
        rows = np.random.default_rng(1).permutation(len(images))[:50]
        forms, lines, rounds = {}, {}, {}
        for name, make in FORMS.items():
            try:
                form = make()
            except ImportError as error:
                print(f"{name}: left out, {error}", file=sys.stderr)
                continue
            at = folder / str(len(forms))
            at.mkdir()
            _, seconds = timed(lambda form=form, at=at: form.write(images, at))
            size = sum(path.stat().st_size for path in at.rglob("*") if path.is_file())
            same = seen(form.open(at)[1]()) == int(images.sum(dtype=np.int64))
            if not same:
                raise SystemExit(f"{name}: other pixels")
            forms[name], lines[name], rounds[name] = (form, at), (seconds, size / 2**20), []
        for _ in range(ROUNDS):
            for name, (form, at) in forms.items():
                rounds[name].append(one_round(form, at, rows))
        print(
            "| form | MB | written, s | open and first image, ms | in order, images/s | shuffled, images/s | one at random, µs |"
        )
        print("|---|---:|---:|---:|---:|---:|---:|")
        for name, found in rounds.items():
            middle = {key: median(one[key] for one in found) for key in found[0]}
            seconds, size = lines[name]
            cells = f"{middle['first']:.1f} | {middle['sequence']:,.0f} | {middle['shuffled']:,.0f}"
            print(f"| {name} | {size:.0f} | {seconds:.1f} | {cells} | {middle.get('random', float('nan')):,.0f} |")
        print("\n| through a cache | images/s | files fetched |\n|---|---:|---:|")
        part = Part.of(source, pack, source.ids)
        for what, speed, fetched in ours_through_caches(part, folder / "store", folder / "caches"):
            print(f"| {what} | {speed:,.0f} | {fetched} |")
        if "MosaicML MDS" in forms:
            for what, speed in mosaic_through_caches(forms["MosaicML MDS"][1], folder / "caches"):
                print(f"| {what} | {speed:,.0f} | |")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

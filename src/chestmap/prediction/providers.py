"""Gives a prediction job its inputs and their pixels: from files, wherever they lie, or from a dataset that is packed first.

A `Provider` lists inputs, says what each holds now, and decodes them. Jobs know nothing else of where images come from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from itertools import islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Protocol, runtime_checkable

import numpy as np
import polars as pl

from chestmap.datasets.source import Source
from chestmap.errors import BadInput
from chestmap.imaging.canvas import CanvasSettings
from chestmap.packs.build import PackSettings, cores, make_pack, pack_place
from chestmap.packs.pack import Pack
from chestmap.packs.part import Part
from chestmap.prediction.decoding import AHEAD, Decoded, DecodeSettings, Failed, Identity, Input, current_content, decode_all
from chestmap.prediction.input_lists import ROWS, TABLES, frames_of, named
from chestmap.prediction.input_names import name_and_path, plain_name
from chestmap.prediction.inputs import Inputs
from chestmap.prediction.remote_inputs import list_at, told_as
from chestmap.predictions.image_set import image_set_of
from chestmap.storage.addresses import is_address, plain_path, without_scheme

COLUMNS = {"name": pl.String, "path": pl.String, "member": pl.Int64, "problem": pl.String, "given": pl.Boolean}
"""Of the inputs of a plan."""

WORTH_A_PROCESS = 32
"""With fewer images for each, processes that decode cost more time to start than they save."""

LOOKS = 16
"""Files that are looked at together for changes: on a network disk, or in a store, each look is a wait."""

Results = Iterator[tuple[Input, Decoded | Failed]]


@runtime_checkable
class Provider(Protocol):
    """What a job is of. `asked` must be the same in all processes that share it, `hides` tells whether names may tell of patients."""

    asked: str
    hides: bool
    passed_over: int
    dataset: dict[str, Any]  # `ImageSet` of a dataset, else nothing

    def frames(self) -> Iterator[pl.DataFrame]:
        """All inputs, in order, as tables of `COLUMNS`."""
        ...

    def decode(self, inputs: Iterable[Input], reading: DecodeSettings, workers: int | None, count: int) -> Results:
        """Each input with its canvas or its failure, in order; `count` is how many there are."""
        ...

    def contents(self, inputs: Sequence[Input], known: Sequence[Identity]) -> list[str]:
        """The content hashes of the inputs as they are now, where `known` is what an earlier call found."""
        ...

    def record(self, source: Input) -> tuple[str, float, float] | None:
        """Patient, width and height, where a table gives them."""
        ...


class FileProvider:
    """Files, folders, patterns, archives and lists, here or at addresses."""

    hides = True

    def __init__(self, given: Sequence[str]) -> None:
        self.given, self.passed_over = list(given), 0
        self.dataset: dict[str, Any] = {}
        self._inputs = Inputs(self.given)  # refused here where nothing is there, before a folder is made
        self.asked = "\0".join(text if "://" in text else str(Path(text).absolute()) for text in self.given)

    def frames(self) -> Iterator[pl.DataFrame]:
        """One list that is a table is streamed as a table; anything else is walked."""
        text = without_scheme(self.given[0]) if self.given else ""
        if len(self.given) == 1 and PurePosixPath(plain_path(text) if is_address(text) else text).suffix.lower() in TABLES:
            if is_address(text):
                with TemporaryDirectory() as passing:
                    path, base = list_at(text, Path(passing)), text.rpartition("/")[0]
                    with told_as(text, path):
                        yield from (
                            named(frame, base, partial(name_and_path, base=base), plain_name) for frame in frames_of(path)
                        )
                return
            if (path := Path(text)).is_file():
                folder = path.parent.absolute()
                yield from (
                    named(frame, folder, partial(name_and_path, base=folder), plain_name) for frame in frames_of(path)
                )
                return
        walk = iter(self._inputs)
        while sources := list(islice(walk, ROWS)):
            yield pl.DataFrame([[getattr(one, name) for name in COLUMNS] for one in sources], COLUMNS, orient="row")
        self.passed_over = self._inputs.passed_over

    def decode(self, inputs: Iterable[Input], reading: DecodeSettings, workers: int | None, count: int) -> Results:
        """Decodes files in up to eight processes, in the order of the inputs; few files are decoded in this process."""
        return decode_all(inputs, reading, min(cores(), 8, count // WORTH_A_PROCESS) if workers is None else workers)

    def contents(self, inputs: Sequence[Input], known: Sequence[Identity]) -> list[str]:
        """Identifies what each input holds now. A file whose size and time did not change is not read again."""
        with ThreadPoolExecutor(LOOKS) as pool:
            return list(pool.map(current_content, inputs, known))

    def record(self, source: Input) -> None:  # noqa: ARG002
        """Files have no row in a pack, so nothing is known before they are decoded."""
        return


class DatasetProvider:
    """Images of a dataset, under its own ids, from a pack: decoded once for all models that see the same canvas."""

    hides = False
    passed_over = 0

    def __init__(self, source: Source, ids: Iterable[str], pack: Pack) -> None:
        self.source, self.ids, self.pack = source, list(ids), pack
        self.asked = "\0".join([source.name, *self.ids])
        if not self.ids:
            raise BadInput(f"{source.name}: no image to predict")
        readable = Part.of(source, pack, self.ids).ids  # refused where image space is another one
        self.dataset = image_set_of(source, readable).as_dict()

    @classmethod
    def packed(cls, source: Source, ids: Iterable[str], canvas: CanvasSettings, cache: Path) -> DatasetProvider:
        """Packs the images at the model's canvas, unless a pack is there, and provides them."""
        settings = PackSettings(**canvas.model_dump())
        return cls(source, ids, make_pack(source, pack_place(cache, source, settings), settings))

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {image_id: row for row, image_id in enumerate(self.pack.ids)}

    def frames(self) -> Iterator[pl.DataFrame]:
        """Yields the plan's rows of all images, some thousands at a time."""
        for first in range(0, len(self.ids), ROWS):
            ids = self.ids[first : first + ROWS]
            rows = [(one, self._path(one), None, "", True) for one in ids]
            yield pl.DataFrame(rows, COLUMNS, orient="row")

    def _path(self, image_id: str) -> str:
        return str(self.source.path(self.source.row_of[image_id]))

    def decode(self, inputs: Iterable[Input], reading: DecodeSettings, workers: int | None, count: int) -> Results:  # noqa: ARG002
        """Reads canvases from the pack, checked against their hashes.

        A pack of another canvas than the model's is refused.
        """
        canvas, packed = reading.canvas, self.pack.settings
        if (canvas.width, canvas.height, canvas.fit) != (packed.width, packed.height, packed.fit):
            raise BadInput(
                f"the model sees {canvas.width}×{canvas.height} {canvas.fit}, the pack {self.pack.folder} is "
                f"{packed.width}×{packed.height} {packed.fit}; pack the images for this model"
            )
        with ThreadPoolExecutor(1) as pool:  # pixels are compared with their hashes while the network runs
            waiting: deque[tuple[Input, Future[Decoded | Failed]]] = deque()
            for source in inputs:
                waiting.append((source, pool.submit(self._decoded, source)))
                if len(waiting) > AHEAD:
                    done, found = waiting.popleft()
                    yield done, found.result()
            for done, found in waiting:
                yield done, found.result()

    def _decoded(self, source: Input) -> Decoded | Failed:
        """Reads one canvas of the pack; an image that the pack set aside keeps its reason."""
        row = self._row_of[source.name]
        state = self.pack.state[row]
        identity = Identity(self._content(source), int(state["bytes"]), int(state["mtime"]))
        if source.name not in self.pack.row_of:
            reason = self.pack.set_aside.get(source.name, "it is not in the pack")
            return Failed(source.name, reason.removeprefix(f"{self._path(source.name)}: "), identity=identity)
        return Decoded(
            canvas=self.pack.pixels(np.array([row]))[0],
            frame=self.pack.frame(row),
            image_id=source.name,
            patient_id=self._patients[source.name],
            identity=identity,
        )

    def contents(self, inputs: Sequence[Input], known: Sequence[Identity]) -> list[str]:  # noqa: ARG002
        """Identifies each image by the hash that the pack keeps of its pixels."""
        return [self._content(source) for source in inputs]

    def _content(self, source: Input) -> str:
        found = self.pack.state[self._row_of[source.name]]["content"].tobytes()
        return found.hex() if any(found) else ""

    @cached_property
    def _patients(self) -> dict[str, str]:
        return dict(zip(self.source.images["image_id"], self.source.images["patient_id"], strict=True))

    def record(self, source: Input) -> tuple[str, float, float] | None:
        """Gives patient, width and height of a packed image, and nothing for one that the pack set aside."""
        row = self.pack.row_of.get(source.name)
        if row is None:
            return None
        return self._patients[source.name], float(self.pack.state["width"][row]), float(self.pack.state["height"][row])

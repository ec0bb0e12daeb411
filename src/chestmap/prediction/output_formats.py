"""Writes what `chestmap predict --write` asks for: boxes, tables, overlays, DICOM results and a page.

Each finished part is worked on by a thread while the network is at the next. What is there already of an earlier call is kept, and
tables are made at the end, from all parts.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any

import polars as pl

from chestmap.errors import BadImage, BadInput, did_you_mean
from chestmap.imaging.canvas import on_canvas
from chestmap.models.folder import measured_points
from chestmap.models.largest_box import boxes_of
from chestmap.models.predictor import Predictor
from chestmap.packs.build import cores
from chestmap.prediction.decoding import DecodeSettings, Failed, Input, content, content_hash, read_input
from chestmap.prediction.part_inputs import read_inputs
from chestmap.predictions.folder import read_part
from chestmap.progress import progress_of
from chestmap.reports.formats import WRITERS, Facts
from chestmap.storage.atomic import making_folder, replacing
from chestmap.storage.manifest import extend, sums_of, verified_bytes
from chestmap.types import Box, Frame, Prediction

if TYPE_CHECKING:
    from chestmap.reports.contact_page import Card
    from chestmap.reports.dicom import Kind as DicomKind

OBJECTS: dict[str, tuple[DicomKind, ...]] = {
    "dicom": ("sr", "gsps", "sc"), "scores": ("scores",), "seg": ("seg",), "pmap": ("pmap",)
}  # fmt: skip
"""DICOM objects of each kind, in a folder of that name."""
OWN_KINDS = ("predictions", "overlays", *OBJECTS, "report")
"""What is made of more than predictions; the other kinds are `WRITERS`."""

SHOWN = 180
"""Images of the page: those with the highest scores."""

CERTAIN_ENOUGH = 0.5
"""Where a model has no operating point, a finding is called present from this score on."""

CORNERS = ("x0", "y0", "x1", "y1")
BOXES = {"row": pl.Int64, "finding": pl.String, **dict.fromkeys((*CORNERS, "score"), pl.Float64)}


def checked_kinds(names: Sequence[str]) -> frozenset[str]:
    """Names as the option has them, repeated or joined by commas."""
    found = [name.strip() for text in names for name in text.split(",") if name.strip()] or ["predictions"]
    for name in found:
        if name not in OWN_KINDS and name not in WRITERS:
            kinds = (*OWN_KINDS, *WRITERS)
            raise BadInput(f"--write {name}: allowed: {', '.join(kinds)}{did_you_mean(name, kinds)}")
    return frozenset(found)


@dataclass(eq=False, kw_only=True)
class Outputs:
    """`failed` are images with results that could not be written; `without_dicom` counts inputs that are no DICOM.

    `files` are paths of images that are not called by them, for other programs. With a `key`, DICOM results refer to the image as `chestmap data deidentify` writes it with the same key.
    """

    out: Path
    predictor: Predictor
    reading: DecodeSettings
    kinds: frozenset[str]
    key: bytes | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    failed: list[Failed] = field(default_factory=list)
    without_dicom: int = 0
    _best: list[tuple[float, str, Path, int, Input]] = field(default_factory=list)
    _waiting: list[Future[None]] = field(default_factory=list)
    _room: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(2))

    def __post_init__(self) -> None:
        self._turns = ThreadPoolExecutor(1)
        self._hands = ThreadPoolExecutor(min(cores(), 4))

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, *_: object) -> None:
        self._turns.shutdown(wait=True, cancel_futures=True)
        self._hands.shutdown(wait=True, cancel_futures=True)

    @property
    def is_asked_for(self) -> bool:
        """Whether anything is to be written next to the predictions folder's own files."""
        return bool(self.kinds - {"predictions"})

    def on_part(self, folder: Path, inputs: Sequence[Input]) -> None:
        """Waits where two parts wait already, so that memory stays bounded."""
        if not self.is_asked_for:
            return
        self._room.acquire()
        self._waiting.append(self._turns.submit(self._of_part, folder, inputs))
        self._waiting = [future for future in self._waiting if not (future.done() and future.result() is None)]

    def finish(self) -> None:
        """After the last part; errors of all that was handed in come up here."""
        with progress_of("write results", len(self._waiting), show=self.is_asked_for, unit="parts") as advance:
            for future in self._waiting:
                future.result()
                advance(1)
        if self.kinds - set(OWN_KINDS):
            self._write_tables()
        if "report" in self.kinds:
            self._write_page()

    def _of_part(self, folder: Path, inputs: Sequence[Input]) -> None:
        """Writes what belongs to single images of a part, in several threads; frees its place for the next part."""
        try:
            write_boxes(folder, self.predictor, self._hands.map)
            if self.kinds & {"overlays", *OBJECTS}:
                predictions = list(self._of_folder(folder))
                contents = read_inputs(folder.parent, int(folder.name[5:])).filter(pl.col("row").is_not_null()).sort("row")
                list(self._hands.map(self._of_image, predictions, inputs, contents["content"]))
            if "report" in self.kinds:
                self._note_best(folder, inputs)
        finally:
            self._room.release()

    def _of_image(self, prediction: Prediction, source: Input, predicted: str) -> None:
        """A file that is gone, changed or cannot carry results is set aside; the others go on."""
        try:
            data = content(source)
            if content_hash(data) != predicted:
                raise BadImage("is another image than the one that was predicted: call again, it is predicted anew")
            if "overlays" in self.kinds:
                self._write_overlay(prediction, source, data)
            if self.kinds & set(OBJECTS):
                self._write_dicom(prediction, data)
        except BadImage as problem:
            name = prediction.image_id
            self.failed.append(Failed(name, str(problem).removeprefix(f"{source.name}: ").removeprefix(f"{name}: ")))

    def _write_overlay(self, prediction: Prediction, source: Input, data: bytes) -> None:
        """Draws the overlay of an image, unless an earlier call did."""
        ending = "" if prediction.image_id.lower().endswith(".png") else ".png"
        path = self.out / "overlays" / f"{prediction.image_id}{ending}"
        if not path.exists():
            from chestmap.reports.overlay import OverlayStyle, overlay, write_overlay

            path.parent.mkdir(parents=True, exist_ok=True)
            style = OverlayStyle(rule=self.predictor.model.own_rule)
            write_overlay(path, overlay(read_input(source, self.reading, data), prediction, style))

    def _write_dicom(self, prediction: Prediction, data: bytes) -> None:
        """In a folder for each image, which counts as done when it has its name; of the very file that was predicted."""
        if data[128:132] != b"DICM":
            self.without_dicom += 1
            return
        wanted = {kind: self.out / kind / prediction.image_id for kind in OBJECTS if kind in self.kinds}
        missing = {kind: final for kind, final in wanted.items() if not final.is_dir()}
        if not missing:
            return
        from pydicom import dcmread

        from chestmap.reports.dicom import Provenance, write_dicom
        from chestmap.reports.dicom.deidentify import deidentified

        model = self.predictor.model
        about = Provenance(
            name=model.about.get("title", model.method.title),
            sha256=model.sha256,
            operating_points=self.predictor.operating_points,
            levels=self.predictor.rule.levels,
            rule=model.own_rule,
            calibrated=tuple(model.about.get("calibration") or ()),
            measured=measured_points(model.about),
        )
        dataset = dcmread(BytesIO(data))
        dataset = dataset if self.key is None else deidentified(dataset, self.key)
        for kind, final in missing.items():
            with making_folder(final) as made:
                write_dicom(dataset, prediction, about, made, OBJECTS[kind])

    def _note_best(self, folder: Path, inputs: Sequence[Input]) -> None:
        table, _ = read_part(folder, self.predictor.findings.names)
        highest = table.select(pl.max_horizontal(self.predictor.findings.names).alias("score"))["score"]
        for row, (score, image_id) in enumerate(zip(highest, table["image_id"], strict=True)):
            heapq.heappush(self._best, (float(score), image_id, folder, row, inputs[row]))
            if len(self._best) > SHOWN:
                heapq.heappop(self._best)

    def _of_folder(self, folder: Path) -> Iterator[Prediction]:
        """The predictions of a part, with their boxes; maps stay on disk until they are used."""
        findings = self.predictor.findings
        table, found = read_part(folder, findings.names)
        maps = found[:]
        scores = table.select(findings.names).to_numpy()
        boxes: dict[int, list[Box]] = {}
        for row, finding, *numbers in read_boxes(folder).iter_rows():
            boxes.setdefault(row, []).append(Box(finding, *numbers))
        for row, (image_id, patient_id, frame) in enumerate(table.select("image_id", "patient_id", "frame").iter_rows()):
            place = Frame.from_list(frame)
            yield Prediction(image_id, patient_id, findings, scores[row], maps[row], place, tuple(boxes.get(row, ())))

    def _write_tables(self) -> None:
        """Writes the tables of all images from the finished folder, in one pass for all formats."""
        model, findings = self.predictor.model, self.predictor.findings
        about: dict[str, Any] = {
            "title": model.about.get("title", ""),
            "method": model.method.name,
            "sha256": model.sha256,
            "findings": list(findings.names),
            "calibrated": sorted(model.about.get("calibration") or ()),
            "present_from": self.predictor.operating_points,
        }
        facts = Facts(findings, about, self.files)
        with ExitStack() as stack:
            kinds = [kind for kind in WRITERS if kind in self.kinds]
            writers = [stack.enter_context(WRITERS[kind].open(self.out, facts)) for kind in kinds]
            for folder in sorted(self.out.glob("part-?????")):
                for prediction in self._of_folder(folder):
                    for writer in writers:
                        writer.write(prediction)

    def _write_page(self) -> None:
        """The images with the highest scores, as a page that opens offline."""
        from chestmap.reports.contact_page import write_contact_page

        cards = []
        for _, _, folder, row, source in sorted(self._best, key=lambda one: (-one[0], one[1])):
            prediction = next(one for place, one in enumerate(self._of_folder(folder)) if place == row)
            cards.append(self._card(prediction, source))
        facts = {"Model": self.predictor.model.about.get("title", ""), "Images": f"{len(cards)} with the highest scores"}
        if cards:
            write_contact_page(self.out / "report.html", "chestmap predict", facts, cards)

    def _card(self, prediction: Prediction, source: Input) -> Card:
        """Makes the image's card for the page: its canvas, and the boxes of findings that are called present."""
        from chestmap.reports.contact_page import Card

        points = self.predictor.operating_points
        present = {
            name: float(score)
            for name, score in zip(prediction.findings, prediction.scores, strict=True)
            if score >= points.get(name, CERTAIN_ENOUGH)
        }
        canvas, frame = on_canvas(read_input(source, self.reading, content(source)), self.reading.canvas)
        boxes = frame.to_canvas([box for box in prediction.boxes if box.finding in present])
        notes = ", ".join(f"{name} {score:.2f}" for name, score in sorted(present.items(), key=lambda one: -one[1]))
        return Card(image=canvas, title=prediction.image_id, findings=tuple(present), boxes=boxes, notes=notes)


def read_boxes(folder: Path) -> pl.DataFrame:
    """Reads the boxes of a part that an earlier call wrote; a damaged file is refused."""
    return pl.read_parquet(BytesIO(verified_bytes(folder, "boxes.parquet", "delete it and call again")))


def write_boxes(folder: Path, predictor: Predictor, each: Callable[..., Iterator[tuple[Box, ...]]] = map) -> Path:
    """boxes.parquet of a part, from its scores and maps; what is there is kept. `each` is how rows are gone through."""
    path = folder / "boxes.parquet"
    if path.exists() and path.name in sums_of(folder):
        return path
    table, found = read_part(folder, predictor.findings.names)
    maps = found[:]
    scores = table.select(predictor.findings.names).to_numpy()
    frames = [Frame.from_list(numbers) for numbers in table["frame"].to_list()]

    def boxes(row: int) -> tuple[Box, ...]:
        return boxes_of(predictor.findings, scores[row], maps[row], frames[row], predictor.rule)

    rows = [
        (row, box.finding, *box.corners, box.score)
        for row, found in enumerate(each(boxes, range(len(table))))
        for box in found
    ]
    with replacing(path) as made:
        pl.DataFrame(rows, schema=BOXES, orient="row").write_parquet(made)
    extend(folder, path.name)
    return path

"""`chestmap predict`: predict images from files, datasets and addresses.

The verb turns its options into a `Request` of `prediction.request`, or prints a single image's findings where no `--out` is
given. Options are checked before a model is opened.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chestmap.cli.options import JsonOption, KindOption, RootOption, Set, SplitOption, named
from chestmap.cli.predict_many import (
    ActorsOption,
    ClusterOption,
    CpusOption,
    GpusOption,
    ShardOption,
    on_cluster,
    tell_share,
)
from chestmap.cli.predict_printed import PrintSettings, print_predictions
from chestmap.reports.formats import WRITERS

if TYPE_CHECKING:
    from chestmap.api.subject import DatasetNames, Subject
    from chestmap.datasets.source import Source
    from chestmap.prediction.completing import Share
    from chestmap.prediction.output_formats import Outputs
    from chestmap.prediction.request import Dataset, Request

InputsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT",
        help="Files, folders, 'patterns/*.dcm', a DICOMDIR, a ZIP archive, a CSV, Parquet or TXT list of paths; addresses of files, "
        "folders and lists (s3://…); or nothing, and a dataset with --source and --root.",
    ),
]
WriteOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND",
        help=f"What to write besides the predictions: {WRITERS.in_help}, overlays, dicom, scores, seg, pmap, report; repeatable, or with commas.",
    ),
]

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A run folder, a model folder, a known name, or hf://OWNER/NAME.")
]
OutOption = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER|ADDRESS",
        help="The predictions folder, here or in an object store (s3://bucket/folder); a half-made one there is finished. "
        "By default predictions/ of the run, for its own images; of other images boxes are printed, and nothing is kept.",
    ),
]
PartOption = Annotated[
    list[str] | None, typer.Option(help="Parts of the split, by default validation and test; repeatable.")
]
CacheOption = Annotated[Path, typer.Option(help="Where a dataset's images are packed for the model's canvas.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
PrecisionOption = Annotated[str, typer.Option(help="32, bf16, or auto: bf16 where the machine is made for it.")]
EngineOption = Annotated[str, typer.Option(help="auto, torch, compile, onnx or openvino.")]
BatchSizeOption = Annotated[int | None, typer.Option(min=1, help="Images at once; chosen by canvas and memory.")]
WorkersOption = Annotated[int | None, typer.Option(min=0, help="Processes that decode; chosen by cores and images.")]
AnyViewOption = Annotated[bool, typer.Option("--any-view", help="Also take lateral and oblique DICOM images.")]
ShowPatientOption = Annotated[
    bool, typer.Option("--show-patient", help="Write patient ids, and file names that tell of a patient, as they are.")
]
DeidentifyOption = Annotated[
    bool, typer.Option("--deidentify", help="DICOM results without name, date and id, as of `chestmap data deidentify`.")
]
ScratchOption = Annotated[
    Path | None,
    typer.Option(help="Where parts for an ADDRESS are made before they are sent; by default where temporary files go."),
]

SHOWN = 3
"""Inputs that were set aside, whose reasons are printed; all are in errors.csv."""


HELP = """Scores, maps and boxes of images, in a folder that evaluation, reports and the service read.

Killed, it goes on where it stopped when it is called again. What cannot be read is listed in errors.csv, and the exit
code is 1. Patients appear under pseudonyms; DICOM results alone carry the header that joins them to their study, unless
--deidentify is given: then they join the images that `chestmap data deidentify` writes.

Example: `chestmap predict starter film.png`

Example: `chestmap predict runs/ham/model films/ --out results --write csv,overlays`

Example: `chestmap predict runs/ham`

Example: `chestmap predict runs/ham/model list.parquet --out results --shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT`

Example: `chestmap predict runs/ham/model s3://bucket/list.parquet --out s3://bucket/results --shard 0/64`

Example: `chestmap predict runs/ham/model --source nih --root /data/nih --split official --out predictions/ham`
"""


def add_to(app: typer.Typer) -> None:
    app.command(help=HELP)(predict)


def predict(
    model: ModelArgument,
    out: OutOption = None,
    inputs: InputsArgument = None,
    write: WriteOption = None,
    kind: KindOption = None,
    root: RootOption = None,
    split: SplitOption = None,
    part: PartOption = None,
    cache: CacheOption = Path("cache"),
    device: DeviceOption = "auto",
    precision: PrecisionOption = "32",
    engine: EngineOption = "auto",
    batch_size: BatchSizeOption = None,
    workers: WorkersOption = None,
    any_view: AnyViewOption = False,
    show_patient: ShowPatientOption = False,
    deidentify: DeidentifyOption = False,
    scratch: ScratchOption = None,
    shard: ShardOption = None,
    cluster: ClusterOption = None,
    actors: ActorsOption = None,
    cpus: CpusOption = 1,
    gpus: GpusOption = None,
    as_json: JsonOption = False,
    overrides: Set = None,
) -> None:
    """Predict images, with the options of the command line."""
    from chestmap.api.model_names import model_folder

    kind, root, given = _dataset_of(kind, root, list(inputs or []))
    forward = {"engine": engine, "device": device, "precision": 32 if precision == "32" else precision}
    views = "any" if any_view else "frontal"
    if out is None and given:
        _check_without_folder(write or deidentify, shard, cluster)
        printed = PrintSettings(views=views, show_patient=show_patient, as_json=as_json)
        print_predictions(model_folder(model), given, forward, printed)
        return
    _check_with_folder(as_json=as_json)
    from chestmap.prediction.request import Request

    kinds = _kinds(write or [], deidentify=deidentify)
    folder, about = model_folder(model), named(kind, root, split, overrides)
    subject, out = _subject(folder, about, given, out)
    dataset = _dataset(folder, about, part, cache) if subject else None
    request = Request(
        model=folder, out=out, given=tuple(given), kinds=kinds, scratch=scratch, deidentify=deidentify, dataset=dataset,
        forward=forward,
        settings={"batch_size": batch_size, "workers": workers, "show_patient": show_patient, "views": views},
    )  # fmt: skip
    if cluster is not None:
        _refuse_both(shard)
        tell_share(on_cluster(request, {"address": cluster, "actors": actors, "cpus": cpus, "gpus": gpus}), out)
    else:
        _run(request, shard, subject)


def _check_without_folder(*asked: object) -> None:
    from chestmap.errors import BadInput

    if any(one not in (None, False) for one in asked):
        raise BadInput("--write, --deidentify, --shard and --cluster need --out FOLDER; without one boxes are printed")


def _check_with_folder(*, as_json: bool) -> None:
    from chestmap.errors import BadInput

    if as_json:
        raise BadInput("--json is for what is printed: leave --out away, or ask for a file with --write json")


def _kinds(write: list[str], *, deidentify: bool) -> frozenset[str]:
    """Check what is to be written, and that the extras and options for it are there."""
    from chestmap.errors import BadInput
    from chestmap.extras import needs
    from chestmap.prediction.output_formats import checked_kinds

    kinds, dicom = checked_kinds(write), {"dicom", "scores", "seg", "pmap"}
    if kinds & dicom:
        needs("dicom", what="--write dicom")
    elif deidentify:
        raise BadInput("--deidentify is for DICOM results: add --write dicom; whatever else is written has pseudonyms alone")
    return kinds


def _dataset_of(kind: str | None, root: Path | None, given: list[str]) -> tuple[str | None, Path | None, list[str]]:
    """Take `MODEL nih ROOT` for a dataset; refuse a dataset together with other inputs."""
    from chestmap.errors import BadInput

    if kind is None and root is None and _is_dataset(given):
        return given[0], Path(given[1]), []
    if given and (kind is not None or root is not None):
        raise BadInput(
            "a dataset is named by --source KIND and --root ROOT, without further inputs; images are inputs alone"
        )
    return kind, root, given


def _subject(folder: Path, about: "DatasetNames", given: list[str], out: str | None) -> "tuple[Subject | None, str]":
    """The dataset that is predicted, None for files; and where predictions go."""
    from chestmap.api.subject import subject_of
    from chestmap.errors import BadInput

    subject = None if given else subject_of(folder, about)
    if out is None and (subject is None or subject.run is None or about.kind is not None):
        raise BadInput("--out FOLDER: say where the predictions go; only the own images of a run go into the run by default")
    return subject, out or str(subject.run / "predictions" if subject and subject.run else "")


def _dataset(folder: Path, about: "DatasetNames", parts: list[str] | None, cache: Path) -> "Dataset":
    from chestmap.prediction.request import Dataset

    return Dataset(opened=partial(_images, folder, about, tuple(parts or ("validation", "test"))), cache=cache)


def _refuse_both(shard: str | None) -> None:
    from chestmap.errors import BadInput

    if shard is not None:
        raise BadInput("--shard or --cluster, not both")


def _run(request: "Request", shard: str | None, subject: "Subject | None") -> None:
    """Predict on this machine, all or one share, and print what became of it."""
    from chestmap.prediction.job import Shard

    chosen = Shard.parse(shard) if shard is not None else None
    share, outputs = request.run(chosen, partial(_write_report, subject) if subject else None)
    if chosen is not None:
        tell_share(share, str(request.out))
    else:
        _print_summary(request, share, outputs)


def _print_summary(request: "Request", share: "Share", outputs: "Outputs") -> None:
    failed, out = [*share.failed, *outputs.failed], request.out
    over = f"; {share.passed_over:,} files that are no images were passed over" if share.passed_over else ""
    anew = f"; {share.changed:,} of them changed since an earlier call, and were predicted anew" if share.changed else ""
    if why := getattr(outputs.predictor.forward, "why", ""):
        typer.echo(why, err=True)
    typer.echo(f"{share.images:,} images{anew}{over}", err=True)
    if outputs.without_dicom:
        typer.echo(f"{outputs.without_dicom:,} images are no DICOM, so they have no DICOM results", err=True)
    typer.echo(out)
    for one in failed[:SHOWN]:
        typer.echo(f"{one.name}: {one.reason}", err=True)
    if failed:
        typer.echo(f"{len(failed):,} inputs were set aside; their reasons are in {out.rstrip('/')}/errors.csv", err=True)
        raise typer.Exit(1)


def _write_report(subject: "Subject", folder: Path) -> None:
    from chestmap.api.reporting import ReportSettings, report_of

    report_of(replace(subject, run=None, predictions=folder), ReportSettings(out=folder / "report.html"))


def _is_dataset(given: list[str]) -> bool:
    """`MODEL nih ROOT`, as long as no file is called nih."""
    from chestmap.datasets.registry import SOURCES

    return len(given) == 2 and given[0] in SOURCES and not Path(given[0]).exists()


def _images(folder: Path, about: "DatasetNames", parts: tuple[str, ...]) -> "tuple[Source, list[str]]":
    """A dataset and the images of it that are meant; each process of a job opens it."""
    from chestmap.api.subject import subject_of
    from chestmap.errors import BadInput, did_you_mean

    subject = subject_of(folder, about)
    allowed = subject.split.parts if subject.split else {}
    for name in parts:
        if allowed and name not in allowed:
            raise BadInput(f"--part {name}: allowed: {', '.join(allowed)}{did_you_mean(name, allowed)}")
    return subject.source, subject.part_ids(parts)

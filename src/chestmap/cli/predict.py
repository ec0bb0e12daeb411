"""`chestmap predict`: what a model says of images, wherever they come from."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chestmap.cli.options import READERS, Set, SplitOption, named
from chestmap.cli.predict_many import ActorsOption, ClusterOption, CpusOption, GpusOption, Many, ShardOption, tell
from chestmap.reports.formats import WRITERS

if TYPE_CHECKING:
    from chestmap.api.subject import Subject
    from chestmap.models.predictor import Predictor
    from chestmap.prediction.decoding import Failed
    from chestmap.prediction.output_formats import Outputs
    from chestmap.storage.results_folder import Place

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
        help=f"What to write beside the predictions: {', '.join(WRITERS)}, overlays, dicom, scores, seg, pmap, report; repeatable, or with commas.",
    ),
]


def add_to(app: typer.Typer) -> None:
    app.command()(predict)


def predict(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run folder, a model folder, a known name, or hf://OWNER/NAME.")
    ],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|ADDRESS",
            help="The predictions folder, here or in an object store (s3://bucket/folder); a half-made one there is finished. "
            "By default predictions/ of the run, for its own images.",
        ),
    ] = None,
    inputs: InputsArgument = None,
    write: WriteOption = None,
    kind: Annotated[str | None, typer.Option("--source", metavar="KIND", help=f"Who laid a dataset out: {READERS}.")] = None,
    root: Annotated[Path | None, typer.Option("--root", metavar="ROOT", help="The dataset's folder.")] = None,
    split: SplitOption = None,
    part: Annotated[
        list[str] | None, typer.Option(help="Parts of the split, by default validation and test; repeatable.")
    ] = None,
    cache: Annotated[Path, typer.Option(help="Where a dataset's images are packed for the model's canvas.")] = Path("cache"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="32, bf16, or auto: bf16 where the machine is made for it.")] = "32",
    engine: Annotated[str, typer.Option(help="auto, torch, compile, onnx or openvino.")] = "auto",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at once; chosen by canvas and memory.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode; chosen by cores and images.")] = None,
    any_view: Annotated[bool, typer.Option("--any-view", help="Also take lateral and oblique DICOM images.")] = False,
    show_patient: Annotated[
        bool, typer.Option("--show-patient", help="Write patient ids, and file names that tell of a patient, as they are.")
    ] = False,
    deidentify: Annotated[
        bool, typer.Option("--deidentify", help="DICOM results without name, date and id, as of `chestmap data deidentify`.")
    ] = False,
    scratch: Annotated[
        Path | None,
        typer.Option(help="Where parts for an ADDRESS are made before they are sent; by default where temporary files go."),
    ] = None,
    shard: ShardOption = None,
    cluster: ClusterOption = None,
    actors: ActorsOption = None,
    cpus: CpusOption = 1,
    gpus: GpusOption = None,
    overrides: Set = None,
) -> None:
    """Scores, maps and boxes of images, in a folder that evaluation, reports and the service read.

    Killed, it goes on where it stopped when it is called again. What cannot be read is listed in errors.csv, and the exit
    code is 1. Patients appear under pseudonyms; DICOM results alone carry the header that joins them to their study, unless
    --deidentify is given: then they join the images that `chestmap data deidentify` writes.

    Example: `chestmap predict runs/ham/model films/ --out results --write csv,overlays`

    Example: `chestmap predict runs/ham`

    Example: `chestmap predict runs/ham/model list.parquet --out results --shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT`

    Example: `chestmap predict runs/ham/model s3://bucket/list.parquet --out s3://bucket/results --shard 0/64`

    Example: `chestmap predict runs/ham/model --source nih --root /data/nih --split official --out predictions/ham`
    """
    from chestmap.api.model_names import model_folder
    from chestmap.api.subject import subject_of
    from chestmap.errors import BadInput
    from chestmap.extras import needs
    from chestmap.prediction.output_formats import checked_kinds
    from chestmap.storage.results_folder import place_of

    kinds = checked_kinds(write or [])
    if kinds & {"dicom", "scores", "seg", "pmap"}:
        needs("dicom", what="--write dicom")
    given = list(inputs or [])
    if kind is None and root is None and _is_dataset(given):
        kind, root, given = given[0], Path(given[1]), []
    if given and (kind is not None or root is not None):
        raise BadInput(
            "a dataset is named by --source KIND and --root ROOT, without further inputs; images are inputs alone"
        )
    folder = model_folder(model)
    several = shard is not None or cluster is not None
    subject = None if given or several else subject_of(folder, named(kind, root, split, overrides))
    if out is None and (subject is None or subject.run is None or kind is not None):
        raise BadInput("--out FOLDER: say where the predictions go; only the own images of a run go into the run by default")
    out = out or str(subject.run / "predictions" if subject and subject.run else "")
    chosen = {"engine": engine, "device": device, "precision": 32 if precision == "32" else precision}
    if deidentify and not kinds & {"dicom", "scores", "seg", "pmap"}:
        raise BadInput("--deidentify is for DICOM results: add --write dicom; whatever else is written has pseudonyms alone")
    if several:
        if kind is not None or deidentify or (shard and cluster):
            raise BadInput("--shard or --cluster, not both, take files, folders and lists: no --source, and no --deidentify")
        sizes = {"batch_size": batch_size, "workers": workers, "show_patient": show_patient}
        many = Many(folder, given, (out, scratch), kinds, chosen, {**sizes, "views": "any" if any_view else "frontal"})
        place = {"address": cluster, "actors": actors, "cpus": cpus, "gpus": gpus}
        tell(many.in_shard(shard) if shard is not None else many.on_cluster(place), out)
        typer.echo(out)
        return
    where = place_of(out, scratch, whole=subject is not None or kinds != {"predictions"})
    order = _Order(folder, where, kinds, chosen, {"batch_size": batch_size, "workers": workers}, deidentify)
    if subject is not None:
        failed = order.of_source(subject, _ids(subject, part or ["validation", "test"]), cache)
    else:
        failed = order.of_files(given, show_patient=show_patient, views="any" if any_view else "frontal")
    typer.echo(out)
    if failed:
        typer.echo(f"{len(failed):,} inputs were set aside; their reasons are in {out.rstrip('/')}/errors.csv", err=True)
        raise typer.Exit(1)


def _is_dataset(given: list[str]) -> bool:
    """`MODEL nih ROOT`, as long as no file is called nih."""
    from chestmap.datasets.registry import SOURCES

    return len(given) == 2 and given[0] in SOURCES and not Path(given[0]).exists()


@dataclass(frozen=True)
class _Order:
    """What is asked for, wherever the images come from."""

    model: Path
    place: "Place"
    kinds: frozenset[str]
    forward: dict[str, Any]
    sizes: dict[str, int | None]
    deidentify: bool = False

    @property
    def out(self) -> Path:
        """On this machine."""
        return self.place.folder

    @property
    def _key(self) -> bytes | None:
        from chestmap.prediction.pseudonym import own_key

        return own_key() if self.deidentify else None

    def _predictor(self) -> "Predictor":
        from chestmap.models.engines import ForwardSettings
        from chestmap.models.predictor import load
        from chestmap.settings import checked

        predictor = load(self.model, checked(ForwardSettings, self.forward, name="options"))
        if why := getattr(predictor.forward, "why", ""):
            typer.echo(why, err=True)
        return predictor

    def of_files(self, given: list[str], **settings: Any) -> "list[Failed]":
        from chestmap.prediction.inputs import Inputs
        from chestmap.prediction.output_formats import Outputs
        from chestmap.prediction.stream import StreamSettings, predict_inputs, reading_for, write_errors
        from chestmap.settings import checked

        inputs, how = Inputs(given), checked(StreamSettings, {**self.sizes, **settings}, name="options")
        predictor = self._predictor()
        with Outputs(self.out, predictor, reading_for(predictor, how), self.kinds, self._key) as outputs:
            outcome = predict_inputs(predictor, inputs, self.place, how, on_part=outputs.on_part)
            outputs.finish()
        failed = [*outcome.failed, *outputs.failed]
        write_errors(self.out / "errors.csv", failed)
        self.place.send("errors.csv")
        self.place.send_rest()
        over = f"; {outcome.passed_over:,} files that are no images were passed over" if outcome.passed_over else ""
        typer.echo(f"{outcome.images:,} images{over}", err=True)
        _tell_of_dicom(outputs)
        return failed

    def of_source(self, subject: "Subject", ids: list[str], cache: Path) -> "list[Failed]":
        """Names and ids are the dataset's own: whoever publishes it has seen to them."""
        from chestmap.prediction.decoding import Failed, Input
        from chestmap.prediction.from_pack import PredictSettings, predict_source
        from chestmap.prediction.output_formats import Outputs
        from chestmap.prediction.stream import StreamSettings, reading_for, write_errors
        from chestmap.predictions.folder import open_predictions
        from chestmap.settings import checked

        source = subject.source
        sizes = {"batch_size": size} if (size := self.sizes["batch_size"]) else {}
        how = checked(PredictSettings, {**self.forward, **sizes}, name="options")
        predictor = self._predictor()
        predictions, aside = predict_source(predictor.model, source, ids, self.place, how, cache)
        failed = [
            Failed(image_id, reason.removeprefix(f"{source.path(source.row_of[image_id])}: "))
            for image_id, reason in aside.items()
        ]
        tables = self.kinds - {"report"}
        reading = reading_for(predictor, StreamSettings(show_patient=True))
        files = dict(source.images.select("image_id", "path").iter_rows())
        with Outputs(self.out, predictor, reading, tables, self._key, files) as outputs:
            first = 0
            for number, maps in enumerate(open_predictions(self.out).parts if outputs.wanted else ()):
                names = predictions.image_ids[first : first + len(maps)]
                inputs = [Input(name, str(source.path(source.row_of[name])), given=True) for name in names]
                outputs.on_part(self.out / f"part-{number:05d}", inputs)
                first += len(maps)
            outputs.finish()
        failed += outputs.failed
        write_errors(self.out / "errors.csv", failed)
        typer.echo(f"{len(predictions):,} images", err=True)
        _tell_of_dicom(outputs)
        if "report" in self.kinds:
            from chestmap.api.reporting import ReportSettings, report_of

            report_of(replace(subject, run=None, predictions=self.out), ReportSettings(out=self.out / "report.html"))
        self.place.send("errors.csv")
        self.place.send_rest()
        return failed


def _tell_of_dicom(outputs: "Outputs") -> None:
    if outputs.without_dicom:
        typer.echo(f"{outputs.without_dicom:,} images are no DICOM, so they have no DICOM results", err=True)


def _ids(subject: "Subject", parts: list[str]) -> list[str]:
    from chestmap.errors import BadInput, did_you_mean

    allowed = subject.split.parts if subject.split else {}
    for name in parts:
        if allowed and name not in allowed:
            raise BadInput(f"--part {name}: allowed: {', '.join(allowed)}{did_you_mean(name, allowed)}")
    return subject.part_ids(parts)

"""`chestmap predict` where many processes or machines share the inputs: `--shard`, `--cluster`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from chestmap.models.predictor import Predictor
    from chestmap.prediction.completing import Share
    from chestmap.prediction.stream import StreamSettings

ShardOption = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Make every N-th part only, from part I (0 to N-1): one task of a Slurm array or an indexed Kubernetes job. The "
        "last to finish completes the folder. 0/1 makes whatever is missing.",
    ),
]

ClusterOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Predict on Ray: auto (one that runs), host:port, or local (start one here). All nodes see the same paths, or give addresses.",
    ),
]
ActorsOption = Annotated[int | None, typer.Option(min=1, help="With --cluster: how many hold the model; as many as fit.")]
CpusOption = Annotated[float, typer.Option("--cpus-per-actor", min=0, help="With --cluster: threads of each network.")]
GpusOption = Annotated[
    float | None,
    typer.Option("--gpus-per-actor", min=0, help="With --cluster: 0.5 puts two on each GPU; 1 where there are any."),
]

WHOLE = {"csv", "json", "coco", "report"}
"""Made from all parts."""


@dataclass(frozen=True)
class Many:
    """What is asked for; inputs are lists, files or folders that every process sees under the same path."""

    model: Path
    given: list[str]
    where: tuple[str, Path | None]  # a folder or an address, and where parts for the latter are made
    kinds: frozenset[str]
    forward: dict[str, Any]
    settings: dict[str, Any]

    def in_shard(self, text: str) -> "Share":
        from chestmap.errors import BadInput
        from chestmap.prediction.output_formats import Outputs
        from chestmap.prediction.shard import Shard, open_job, predict_shard
        from chestmap.storage.results_folder import place_of

        shard = Shard.parse(text)
        if shard.count > 1 and (whole := sorted(self.kinds & WHOLE)):
            raise BadInput(
                f"--write {','.join(whole)} needs all parts: leave it out of --shard {text}, and call with --shard 0/1 at the end"
            )
        more = self.kinds - {"predictions"}
        place = place_of(*self.where, whole=bool(more))
        if more and shard.count > 1 and place.afar:
            raise BadInput(
                f"--write {','.join(sorted(more))}: for an address leave it out of --shard {text}, and call with --shard 0/1 at the end"
            )
        how, predictor = self._settings(), self._predictor()
        job = open_job(predictor, self.given, place, how, shard.count)
        with Outputs(place.folder, predictor, job.reading, self.kinds) as outputs:
            share = predict_shard(job, shard, how.workers, on_part=outputs.on_part if outputs.wanted else None)
            outputs.finish()
        if more:
            place.send_rest()
        return share

    def on_cluster(self, cluster: dict[str, Any]) -> "Share":
        from functools import partial

        from chestmap.errors import BadInput
        from chestmap.prediction.ray import ClusterSettings, Work, opened, predict_on_cluster
        from chestmap.settings import checked
        from chestmap.storage.addresses import is_address, without_scheme

        if more := sorted(self.kinds - {"predictions"}):
            raise BadInput(f"--write {','.join(more)}: leave it out of --cluster, and call with --shard 0/1 afterwards")
        if not self.model.is_dir():
            raise BadInput(f"{self.model}: no such folder; expected a model folder, such as model/ of a finished run")
        settings = {key: value for key, value in self.settings.items() if value is not None and key != "workers"}
        given = [text if is_address(text) else str(Path(text).absolute()) for text in self.given]
        out, scratch = without_scheme(self.where[0]), self.where[1]
        there = out if is_address(out) else Path(out).absolute()
        work = Work(partial(opened, str(self.model.absolute()), self.forward), given, there, settings, scratch)
        return predict_on_cluster(work, checked(ClusterSettings, cluster, name="options"), _say)

    def _settings(self) -> "StreamSettings":
        from chestmap.prediction.stream import StreamSettings
        from chestmap.settings import checked

        return checked(StreamSettings, self.settings, name="options")

    def _predictor(self) -> "Predictor":
        from chestmap.models.engines import ForwardSettings
        from chestmap.models.predictor import load
        from chestmap.settings import checked

        return load(self.model, checked(ForwardSettings, self.forward, name="options"))


def _say(text: str) -> None:
    typer.echo(text, err=True)


def tell(share: "Share", out: str) -> None:
    """Inputs that were set aside are no failure of a task: a scheduler would start it again for nothing."""
    aside = f", {share.failed:,} inputs set aside" if share.failed else ""
    if share.left:
        typer.echo(f"{share.images:,} images of this shard{aside}; {share.left:,} parts are left to other shards", err=True)
    else:
        where = f" ({out.rstrip('/')}/errors.csv)" if share.failed else ""
        typer.echo(f"{share.images:,} images{aside}{where}; the folder is complete", err=True)

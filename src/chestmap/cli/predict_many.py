"""Shares the inputs of `chestmap predict` among processes or machines: `--shard`, `--cluster`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from chestmap.prediction.completing import Share
    from chestmap.prediction.request import Request

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


def on_cluster(request: "Request", cluster: dict[str, Any]) -> "Share":
    """Runs the request on a Ray cluster, with absolute paths, since workers start in folders of their own."""
    from chestmap.errors import BadInput
    from chestmap.prediction.ray import ClusterSettings, predict_on_cluster
    from chestmap.prediction.ray_session import ray_or_told
    from chestmap.settings import checked
    from chestmap.storage.addresses import is_address, without_scheme

    if request.outputs:
        raise BadInput(
            f"--write {','.join(request.outputs)}: leave it out of --cluster, and call with --shard 0/1 afterwards"
        )
    ray_or_told()
    if not request.model.is_dir():
        raise BadInput(f"{request.model}: no such folder; expected a model folder, such as model/ of a finished run")
    given = tuple(text if is_address(text) else str(Path(text).absolute()) for text in request.given)
    out = without_scheme(request.out)
    there = out if is_address(out) else str(Path(out).absolute())
    settings = {key: value for key, value in request.settings.items() if value is not None and key != "workers"}
    work = replace(request, model=request.model.absolute(), given=given, out=there, settings=settings)
    if work.dataset is not None:
        work = replace(work, dataset=replace(work.dataset, cache=work.dataset.cache.absolute()))
    return predict_on_cluster(work, checked(ClusterSettings, cluster, name="options"), _say)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def tell_share(share: "Share", out: str) -> None:
    """Inputs that were set aside are no failure of a task: a scheduler would start it again for nothing."""
    failed = len(share.failed)
    aside = f", {failed:,} inputs set aside" if failed else ""
    anew = f"; {share.changed:,} inputs changed since an earlier call, and were predicted anew" if share.changed else ""
    if share.left:
        typer.echo(
            f"{share.images:,} images of this shard{aside}{anew}; {share.left:,} parts are left to other shards", err=True
        )
    else:
        where = f" ({out.rstrip('/')}/errors.csv)" if failed else ""
        typer.echo(f"{share.images:,} images{aside}{where}{anew}; the folder is complete", err=True)
    typer.echo(out)

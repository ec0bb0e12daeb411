"""`chestmap node`: a model as a DICOM node of a hospital's network."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from chestmap.serving.dicom.destinations import Destination
    from chestmap.serving.dicom.run import Security
    from chestmap.serving.dicom.settings import NodeSettings

Folder = Annotated[Path | None, typer.Option(help="The folder that keeps what was received until it is delivered.")]


def add_to(app: typer.Typer) -> None:
    app.command()(node)


def node(
    model: Annotated[Path | None, typer.Argument(metavar="MODEL", help="A model folder, such as runs/NAME/model.")] = None,
    store: Folder = None,
    to: Annotated[
        str | None, typer.Option(metavar="TITLE@HOST:PORT", help="The archive that takes results by C-STORE.")
    ] = None,
    stow: Annotated[str | None, typer.Option(metavar="URL", help="Or the one that takes them by STOW-RS.")] = None,
    title: Annotated[str, typer.Option(help="The node's own AE title.")] = "CHESTMAP",
    host: Annotated[str, typer.Option(help="Address to listen on; other than loopback it needs --allow.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 11112,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="TITLE[@ADDRESS]", help="Who may send, such as PACS@10.1.2.3; repeatable.")
    ] = None,
    write: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="Results: sr, gsps (these by default), sc, scores, seg, pmap.")
    ] = None,
    pull: Annotated[
        str | None, typer.Option(metavar="URL", help="Also fetch new radiographs from this DICOMweb server.")
    ] = None,
    every: Annotated[float, typer.Option(min=1, help="Seconds between looks at --pull.")] = 60,
    credentials: Annotated[
        Path | None, typer.Option(help="For DICOMweb: a file with NAME:PASSWORD or Bearer TOKEN, its owner's only.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM file: listen with TLS, and show it when sending.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's key.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="PEM file: senders need a certificate of one of these authorities.")
    ] = None,
    archive_ca: Annotated[
        Path | None, typer.Option(help="PEM file: send with TLS, to an archive with a certificate of these.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="[ADDRESS:]PORT", help="Tell Prometheus how it goes; on the loopback by default.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep images and results after they were delivered.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--node-set", metavar="KEY=VALUE", help="Such as batch_size=16; see docs/node.md.")
    ] = None,
    status: Annotated[Path | None, typer.Option(metavar="DIR", help="Print the queue of a node's folder, and end.")] = None,
    retry_dead: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Send the dead letters of a node's folder again, and end.")
    ] = None,
    retry_failed: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Predict images that failed, and are still there, again, and end.")
    ] = None,
) -> None:
    """Receive chest radiographs by C-STORE, or pull them, and send results to the archive. Stops without losing anything.

    Example: `chestmap node runs/ham/model --store /srv/node --to PACS@10.1.2.3:104 --host 0.0.0.0 --allow PACS@10.1.2.3`

    Example: `chestmap node --status /srv/node`
    """
    from chestmap.errors import BadInput
    from chestmap.extras import needs

    needs("dicom", what="chestmap node")
    if status or retry_dead or retry_failed:
        typer.echo(_told(status, retry_dead, retry_failed))
        return
    if model is None or store is None:
        raise BadInput("chestmap node: expected MODEL and --store, or one of --status, --retry-dead and --retry-failed")
    from chestmap.serving.dicom.metrics import address_of
    from chestmap.serving.dicom.node import Node
    from chestmap.serving.dicom.run import Security, duty_of, run
    from chestmap.serving.dicom.settings import NodeSettings
    from chestmap.serving.dicom.spool import Spool
    from chestmap.settings import checked, with_overrides

    how = checked(NodeSettings, with_overrides({}, settings or []), name="--node-set")
    page = address_of(metrics) if metrics else None
    security = Security(certificate, key, client_ca, archive_ca, credentials)
    door = security.door(title, host, port, allow or [])
    destination = _destination(to, stow or (None if to else pull), title, security, how)
    pulling = security.pull(pull, every, how)
    spool = Spool(store, keep=keep)
    duty = duty_of(model, destination, write or [], how)
    run(Node(duty, spool, how, pull=pulling(spool) if pulling else None), door, page)


def _told(status: Path | None, dead: Path | None, failed: Path | None) -> str:
    """Of a node's folder, also while the node runs."""
    from chestmap.serving.dicom import queue

    if status:
        return queue.status(status)
    if dead:
        return f"{queue.retry_dead(dead)} dead letters are sent again"
    from chestmap.serving.dicom.spool import retry_failed

    return f"{retry_failed(failed or Path())} images are predicted again"


def _destination(to: str | None, stow: str | None, title: str, security: "Security", how: "NodeSettings") -> "Destination":
    """Where images are pulled from is where results go, unless something else is said."""
    from chestmap.errors import BadInput
    from chestmap.serving.dicom.destinations import Stow, c_store_of

    if bool(to) == bool(stow):
        raise BadInput("results go to one archive: give --to TITLE@HOST:PORT or --stow URL")
    if to:
        return c_store_of(to, title, how, security.sending())
    return Stow(security.web_client(stow or "", how))

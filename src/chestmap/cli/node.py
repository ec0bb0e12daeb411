"""`chestmap node`: run a model as a DICOM node of a hospital's network.

The verb turns its options into `DicomOptions` and starts the service of `serving.dicom.start`, without the page. It stops
without losing an image that was acknowledged.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from chestmap.serving.engine.settings import ServeSettings

Folder = Annotated[Path | None, typer.Option(help="The folder that keeps what was received until it is delivered.")]
Title = Annotated[str, typer.Option(help="The AE title under which images are received.")]
Allow = Annotated[
    list[str] | None, typer.Option(metavar="TITLE[@ADDRESS]", help="Who may send, such as PACS@10.1.2.3; repeatable.")
]
To = Annotated[str | None, typer.Option(metavar="TITLE@HOST:PORT", help="The archive that takes results by C-STORE.")]
Stow = Annotated[str | None, typer.Option(metavar="URL", help="Or the one that takes them by STOW-RS.")]
Write = Annotated[
    list[str] | None, typer.Option(metavar="KIND", help="Results: sr, gsps (these by default), sc, scores, seg, pmap.")
]
PullFrom = Annotated[str | None, typer.Option(metavar="URL", help="Also fetch new radiographs from this DICOMweb server.")]
Every = Annotated[float, typer.Option(min=1, help="Seconds between looks at --pull.")]
Credentials = Annotated[
    Path | None, typer.Option(help="For DICOMweb: a file with NAME:PASSWORD or Bearer TOKEN, its owner's only.")
]
ClientCa = Annotated[
    Path | None, typer.Option(help="PEM file: senders of DICOM need a certificate of one of these authorities.")
]
ArchiveCa = Annotated[Path | None, typer.Option(help="PEM file: send with TLS, to an archive with a certificate of these.")]
Database = Annotated[str | None, typer.Option(metavar="URL", help="PostgreSQL instead of SQLite in the store.")]

ModelsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="MODEL...", help="One or more model folders, run folders or known names.")
]
HostOption = Annotated[str, typer.Option(help="Address to listen on; other than loopback it needs --allow.")]
PortOption = Annotated[int, typer.Option(min=0, max=65535)]
CertificateOption = Annotated[Path | None, typer.Option(help="PEM file: listen with TLS, and show it when sending.")]
KeyOption = Annotated[Path | None, typer.Option(help="PEM file of the certificate's key.")]
MetricsOption = Annotated[
    str | None, typer.Option(metavar="[ADDRESS:]PORT", help="Serve Prometheus metrics here; on the loopback by default.")
]
KeepOption = Annotated[bool, typer.Option("--keep", help="Keep images and results after they were delivered.")]
SettingsOption = Annotated[
    list[str] | None, typer.Option("--node-set", metavar="KEY=VALUE", help="Such as batch_size=16; see docs/node.md.")
]
StatusOption = Annotated[Path | None, typer.Option(metavar="DIR", help="Count the images of a store by state, and end.")]
RetryDeadOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Send the dead letters of a store again, and end.")
]
RetryFailedOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Predict images of a store that failed again, and end.")
]


def add_to(app: typer.Typer) -> None:
    app.command()(node)


def node(
    models: ModelsArgument = None,
    store: Folder = None,
    to: To = None,
    stow: Stow = None,
    title: Title = "CHESTMAP",
    host: HostOption = "127.0.0.1",
    port: PortOption = 11112,
    allow: Allow = None,
    write: Write = None,
    pull: PullFrom = None,
    every: Every = 60,
    credentials: Credentials = None,
    database: Database = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    client_ca: ClientCa = None,
    archive_ca: ArchiveCa = None,
    metrics: MetricsOption = None,
    keep: KeepOption = False,
    settings: SettingsOption = None,
    status: StatusOption = None,
    retry_dead: RetryDeadOption = None,
    retry_failed: RetryFailedOption = None,
) -> None:
    """Receive chest radiographs by C-STORE, or pull them, and send results to the archive. Stops without losing anything.

    It is `chestmap serve --dicom` without the page, and removes images that were delivered.

    Example: `chestmap node runs/ham/model --store /srv/node --to PACS@10.1.2.3:104 --host 0.0.0.0 --allow PACS@10.1.2.3`

    Example: `chestmap node --status /srv/node`
    """
    from chestmap.errors import BadInput
    from chestmap.extras import needs

    needs("dicom", what="chestmap node")
    if asked := status or retry_dead or retry_failed:
        typer.echo(_answered(asked, database, "status" if status else "dead" if retry_dead else "failed"))
        return
    if not models or store is None:
        raise BadInput("chestmap node: expected MODEL and --store, or one of --status, --retry-dead and --retry-failed")
    from chestmap.api.model_names import model_folder
    from chestmap.serving.dicom.prometheus import address_of
    from chestmap.serving.dicom.start import DicomOptions, TlsFiles, run
    from chestmap.serving.engine.open_service import open_service

    how = _settings(settings or [], database)
    page = address_of(metrics) if metrics else None
    options = DicomOptions(
        port=port, title=title, host=host, allow=allow or (), archive=to, stow=stow, pull=pull, every=every,
        kinds=write or (), keep=keep, security=TlsFiles(certificate=certificate, key=key, client_ca=client_ca, archive_ca=archive_ca, credentials=credentials),
    )  # fmt: skip
    if not (to or stow or pull):
        raise BadInput("results go to one archive: give --to TITLE@HOST:PORT or --stow URL")
    options.check(how)
    service = open_service([model_folder(one) for one in models], store, how)
    run(service, options.node(service), page)


def _settings(overrides: list[str], database: str | None) -> "ServeSettings":
    """Settings of the door may be given without their table's name."""
    from chestmap.serving.engine.settings import Bounds, DicomSettings, ServeSettings
    from chestmap.settings import checked, with_overrides

    tables = {"dicom": DicomSettings.model_fields, "bounds": Bounds.model_fields}
    named = []
    for text in overrides:
        word = text.partition("=")[0].strip()
        table = next((name for name, fields in tables.items() if word in fields), None)
        named.append(f"{table}.{text}" if table else text)
    tree = {"precision": 32, "database": database} if database else {"precision": 32}
    return checked(ServeSettings, with_overrides(tree, named), name="--node-set")


def _answered(folder: Path, database: str | None, verb: str) -> str:
    """Of a store, also while its service runs."""
    from chestmap.serving.store import arrivals, deliveries
    from chestmap.serving.store.store import Store, existing

    store: Store = existing(folder, database)
    try:
        if verb == "status":
            return deliveries.status(store, f"chestmap node --retry-dead {folder}")
        if verb == "dead":
            return f"{deliveries.retry_dead(store)} dead letters are sent again"
        return f"{arrivals.retry_failed(store)} images are predicted again"
    finally:
        store.close()

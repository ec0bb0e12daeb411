"""`chestmap serve`: models behind HTTP, with a store and a review page."""

from pathlib import Path
from typing import Annotated

import typer

from chestmap.cli.node import Allow, ArchiveCa, ClientCa, Credentials, Database, Every, PullFrom, Stow, Title, To, Write

ModelFolders = Annotated[list[Path], typer.Argument(metavar="MODEL...", help="One or more model folders, or known names.")]


def add_to(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    models: ModelFolders,
    store: Annotated[Path, typer.Option(help="The folder that keeps images, results and reviews.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than loopback it needs --token-file.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    database: Database = None,
    token_file: Annotated[Path | None, typer.Option(help="Lines of NAME TOKEN [admin]; only its owner may read it.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM file, for TLS.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's key.")] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name by which clients call the service; repeatable.")
    ] = None,
    trust_proxy_header: Annotated[
        str | None, typer.Option(metavar="HEADER", help="A reverse proxy's header that names who asks; see docs/serving.md.")
    ] = None,
    proxy: Annotated[list[str] | None, typer.Option(help="Addresses whose header is believed; loopback by default.")] = None,
    show_patient: Annotated[bool, typer.Option(help="Show patients' names in the worklist.")] = False,
    dicom: Annotated[
        int | None, typer.Option(min=0, max=65535, metavar="PORT", help="Also receive images by DICOM on this port.")
    ] = None,
    dicom_host: Annotated[
        str, typer.Option(help="Address to listen on for DICOM; other than loopback it needs --allow.")
    ] = "127.0.0.1",
    title: Title = "CHESTMAP",
    allow: Allow = None,
    to: To = None,
    stow: Stow = None,
    write: Write = None,
    pull: PullFrom = None,
    every: Every = 60,
    credentials: Credentials = None,
    client_ca: ClientCa = None,
    archive_ca: ArchiveCa = None,
    settings: Annotated[
        list[str] | None, typer.Option("--serve-set", metavar="KEY=VALUE", help="Such as batch_size=16 or queue=1000.")
    ] = None,
) -> None:
    """Predict what is uploaded or sent, keep it, and show it for review in the browser. Stops without losing anything.

    Example: `chestmap serve runs/ham/model runs/cam/model --store /srv/chestmap`

    Example: `chestmap serve runs/ham/model --store /srv/chestmap --dicom 11112 --to PACS@10.1.2.3:104`
    """
    from chestmap.errors import BadInput, Refused
    from chestmap.extras import needs

    needs("serve", what="chestmap serve")
    from chestmap.api.model_names import model_folder
    from chestmap.serving.engine.settings import ServeSettings
    from chestmap.serving.http.access import is_loopback, read_tokens
    from chestmap.settings import checked, with_overrides

    how = checked(ServeSettings, with_overrides({}, settings or []), name="--serve-set")
    shown, url = show_patient or how.show_patient, database or how.database
    how = how.model_copy(update={"show_patient": shown, "database": url})
    if bool(certificate) != bool(key):
        raise BadInput("--certificate and --key belong together; give both")
    if not is_loopback(host) and not (token_file or trust_proxy_header):
        raise Refused(f"--host {host}: anybody who reaches it could read images of patients; give --token-file")
    tokens = read_tokens(token_file) if token_file else {}
    from chestmap.serving.engine.open_service import open_service
    from chestmap.serving.http.server import ListenAddress
    from chestmap.serving.http.start import HttpOptions, run

    other = None
    if dicom is not None:
        from chestmap.serving.dicom.start import DicomOptions, TlsFiles, silence

        options = DicomOptions(
            port=dicom, title=title, host=dicom_host, allow=allow or (), archive=to, stow=stow, pull=pull, every=every,
            kinds=write or (), security=TlsFiles(certificate=certificate, key=key, client_ca=client_ca, archive_ca=archive_ca, credentials=credentials),
        )  # fmt: skip
        options.check(how)
        silence()
        other = options.node
    elif named := [name for name, given in {"--to": to, "--stow": stow, "--pull": pull, "--allow": allow}.items() if given]:
        raise BadInput(f"{named[0]} belongs to the DICOM door; give --dicom PORT as well")
    door = HttpOptions(tokens, trust_proxy_header or "", tuple(proxy or ("127.0.0.1", "::1")), tuple(allow_host or ()))
    run(
        open_service([model_folder(one) for one in models], store, how),
        ListenAddress(host, port, certificate, key),
        door,
        other=other,
    )

"""`chestmap serve`: serve models over HTTP, with a store and a review page.

The verb opens models and store, then starts HTTP and, with `--dicom`, the DICOM door. Only loopback is open without a token
file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chestmap.cli.node import Allow, ArchiveCa, ClientCa, Credentials, Database, Every, PullFrom, Stow, Title, To, Write

if TYPE_CHECKING:
    from chestmap.serving.engine.settings import ServeSettings
    from chestmap.serving.http.server import ListenAddress

ModelFolders = Annotated[
    list[str],
    typer.Argument(metavar="MODEL...", help="One or more model folders, run folders, known names or hf://OWNER/NAME."),
]

StoreOption = Annotated[Path, typer.Option(help="The folder that keeps images, results and reviews.")]
HostOption = Annotated[str, typer.Option(help="Address to listen on; other than loopback it needs --token-file.")]
PortOption = Annotated[int, typer.Option(min=0, max=65535)]
TokenFileOption = Annotated[Path | None, typer.Option(help="Lines of NAME TOKEN [admin]; only its owner may read it.")]
CertificateOption = Annotated[Path | None, typer.Option(help="PEM file, for TLS.")]
KeyOption = Annotated[Path | None, typer.Option(help="PEM file of the certificate's key.")]
AllowHostOption = Annotated[list[str] | None, typer.Option(help="A name by which clients call the service; repeatable.")]
TrustProxyHeaderOption = Annotated[
    str | None, typer.Option(metavar="HEADER", help="A reverse proxy's header that names who asks; see docs/serving.md.")
]
ProxyOption = Annotated[
    list[str] | None, typer.Option(help="Addresses with a header that is believed; loopback by default.")
]
ShowPatientOption = Annotated[bool, typer.Option(help="Show patients' names in the worklist.")]
DicomOption = Annotated[
    int | None, typer.Option(min=0, max=65535, metavar="PORT", help="Also receive images by DICOM on this port.")
]
DicomHostOption = Annotated[str, typer.Option(help="Address to listen on for DICOM; other than loopback it needs --allow.")]
SettingsOption = Annotated[
    list[str] | None, typer.Option("--serve-set", metavar="KEY=VALUE", help="Such as batch_size=16 or queue=1000.")
]


def add_to(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    models: ModelFolders,
    store: StoreOption,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    database: Database = None,
    token_file: TokenFileOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    allow_host: AllowHostOption = None,
    trust_proxy_header: TrustProxyHeaderOption = None,
    proxy: ProxyOption = None,
    show_patient: ShowPatientOption = False,
    dicom: DicomOption = None,
    dicom_host: DicomHostOption = "127.0.0.1",
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
    settings: SettingsOption = None,
) -> None:
    """Predict what is uploaded or sent, keep it, and show it for review in the browser. Stops without losing anything.

    Example: `chestmap serve runs/ham/model runs/cam/model --store /srv/chestmap`

    Example: `chestmap serve runs/ham/model --store /srv/chestmap --dicom 11112 --to PACS@10.1.2.3:104`
    """
    from chestmap.extras import needs

    needs("serve", what="chestmap serve")
    from chestmap.api.model_names import model_folder
    from chestmap.serving.engine.open_service import open_service
    from chestmap.serving.http.access import read_tokens
    from chestmap.serving.http.server import ListenAddress
    from chestmap.serving.http.start import HttpOptions, run

    how = _settings(settings or [], database, show_patient=show_patient)
    address = _address(ListenAddress(host, port, certificate, key), guarded=bool(token_file or trust_proxy_header))
    tokens = read_tokens(token_file) if token_file else {}
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
    else:
        _refuse_dicom_options({"--to": to, "--stow": stow, "--pull": pull, "--allow": allow})
    door = HttpOptions(tokens, trust_proxy_header or "", tuple(proxy or ("127.0.0.1", "::1")), tuple(allow_host or ()))
    run(open_service([model_folder(one) for one in models], store, how), address, door, other=other)


def _settings(overrides: list[str], database: str | None, *, show_patient: bool) -> "ServeSettings":
    """Combine `--serve-set` with the options that have names of their own."""
    from chestmap.serving.engine.settings import ServeSettings
    from chestmap.settings import checked, with_overrides

    how = checked(ServeSettings, with_overrides({}, overrides), name="--serve-set")
    return how.model_copy(update={"show_patient": show_patient or how.show_patient, "database": database or how.database})


def _address(address: "ListenAddress", *, guarded: bool) -> "ListenAddress":
    """Refuse half a certificate, and an open address without tokens or a trusted proxy."""
    from chestmap.errors import BadInput, Refused
    from chestmap.serving.http.access import is_loopback

    if bool(address.certificate) != bool(address.key):
        raise BadInput("--certificate and --key belong together; give both")
    if not is_loopback(address.host) and not guarded:
        raise Refused(f"--host {address.host}: anybody who reaches it could read images of patients; give --token-file")
    return address


def _refuse_dicom_options(options: Mapping[str, object]) -> None:
    """Refuse options of the DICOM door where `--dicom` is not given."""
    from chestmap.errors import BadInput

    for name, value in options.items():
        if value:
            raise BadInput(f"{name} belongs to the DICOM door; give --dicom PORT as well")

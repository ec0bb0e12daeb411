"""Sets up TLS for listening and for sending."""

from __future__ import annotations

import ssl
from pathlib import Path

from chestmap.errors import BadInput


def listening(certificate: Path, key: Path, clients: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer. With `clients`, the authorities of senders' certificates, a sender without one is refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _prepare(context, certificate, key, clients)
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def sending(authorities: Path, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """The archive's certificate is checked by name; ours is shown where it asks for one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _prepare(context, certificate, key, authorities)
    return context


def _prepare(context: ssl.SSLContext, certificate: Path | None, key: Path | None, authorities: Path | None) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate:
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise _unusable(certificate, error, "a PEM certificate and its key") from None
    if authorities:
        try:
            context.load_verify_locations(authorities)
        except (OSError, ssl.SSLError) as error:
            raise _unusable(authorities, error, "PEM certificates of authorities") from None


def _unusable(path: Path, error: OSError, expected: str) -> BadInput:
    return BadInput(f"{path}: {error.strerror or type(error).__name__}; expected {expected}")

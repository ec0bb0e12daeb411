"""Opens the file system of an address, and repeats what fails there."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from chestmap.errors import BadInput

TRIES = 3
WAIT = 1.0
"""Seconds before the second try, twice as long before each further one."""


def store(address: str) -> tuple[Any, str]:
    """The file system of an fsspec address (`s3://`, `gs://`, `file://`, a path), and the path in it.

    Call it wherever it is used: a connection does not live on in a forked process, and fsspec keeps one for each.
    """
    from fsspec.core import url_to_fs

    try:
        file_system, path = url_to_fs(address)
    except ImportError as error:
        raise BadInput(
            f"{address}: this kind of address needs a package that is absent: {error}; install it with pip"
        ) from None
    except ValueError as error:
        raise BadInput(f"{address}: {error}; expected a folder, or an address such as s3://bucket/folder") from None
    return file_system, path.rstrip("/")


def failures() -> tuple[type[Exception], ...]:
    """What a store may raise: OSError, and the own errors of those packages behind fsspec that are loaded."""
    kinds = {
        "botocore.exceptions": "BotoCoreError", "aiohttp": "ClientError", "google.auth.exceptions": "GoogleAuthError",
        "azure.core.exceptions": "AzureError",
    }  # fmt: skip
    return OSError, *(getattr(sys.modules[module], kind) for module, kind in kinds.items() if module in sys.modules)


def attempts() -> Iterator[int]:
    """Count the tries of something that may fail, with a pause before each but the first."""
    for attempt in range(TRIES):
        time.sleep(WAIT * 2 ** (attempt - 1) if attempt else 0)
        yield attempt

"""Files by address (`s3://`, `gs://`, `https://`, whatever fsspec reaches): content, lists, copies, and who is at fault for a failure.

An address differs from a path by its "://". Reasons never repeat an address, as names of files may identify a patient.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeVar

from chestmap.errors import BadImage, BadInput, BadModel, Unreachable
from chestmap.storage.stores import TRIES, attempts, failures, store

LOCAL = ("file://", "local://")
HOPELESS = {"BotoCoreError", "GoogleAuthError", "ClientAuthenticationError"}
"""No credentials, or no way to the store: what is asked for next would fail alike."""

ODD = (ValueError, TypeError, LookupError, AttributeError, RuntimeError)
"""What file systems of fsspec raise for an address that they cannot make sense of."""

TOGETHER = 64
"""Files that are fetched at once."""

Found = TypeVar("Found")


def is_address(text: str) -> bool:
    """Tells an address (`s3://…`) from a path of this machine."""
    return "://" in text


def without_scheme(text: str) -> str:
    """The path behind `file://`; any other text as it is."""
    start = next((start for start in LOCAL if text.startswith(start)), "")
    return text.removeprefix(start)


def site(address: str) -> str:
    """Which store it is, without what leads to a file in it, and without passwords."""
    scheme, place, _ = _parts(address)
    return f"{scheme}://{place}"


def plain_path(address: str) -> str:
    """Store and path as one path, to name a file by: nothing of a query, a signature or a password."""
    _, place, path = _parts(address)
    return f"{place}/{path.lstrip('/')}".strip("/")


def _parts(address: str) -> tuple[str, str, str]:
    """Scheme, store without a password, and path of the last of a chain of addresses, even where it is no sound address."""
    last = address.rsplit("::", 1)[-1]
    scheme, _, rest = last.rpartition("://")
    place, slash, path = rest.partition("/")
    if scheme in {"http", "https"}:
        place, slash, path = re.match(r"([^/?#]*)(/?)([^?#]*)", rest).groups()  # pyright: ignore[reportOptionalMemberAccess] -- of any text
    return scheme, place.rsplit("@", 1)[-1], slash + path


class StoreFailed(BadImage):
    """A store did not give a file that may well be there: denied, or without an answer."""


def content_at(address: str, first: int) -> bytes:
    """The first bytes of a file; a `BadImage` where it cannot be had, `Unreachable` where nothing can."""
    said = ""
    for _ in attempts():
        try:
            file_system, path = store(address)
            return file_system.cat_file(path, start=0, end=first)
        except BadInput as problem:
            if isinstance(problem.__context__, ImportError):
                raise Unreachable(f"{site(address)}: {str(problem).removeprefix(f'{address}: ')}") from None
            raise BadImage(f"no address that can be read ({site(address)}): check the list") from None
        except (FileNotFoundError, IsADirectoryError):
            raise BadImage("there is no such file: check the address") from None
        except PermissionError as error:
            raise StoreFailed(f"access is denied ({reason(error, address)}): check address and credentials") from None
        except failures() as error:
            said = reason(error, address)
            if HOPELESS & {kind.__name__ for kind in type(error).__mro__}:
                raise Unreachable(f"{site(address)}: {said}; check credentials and network, then call again") from None
        except ODD as error:
            raise BadImage(f"cannot be read ({reason(error, address)}): check the address") from None
    raise StoreFailed(f"cannot be fetched ({said}): tried {TRIES} times")


def reason(error: BaseException, address: str) -> str:
    """An error's text in one line, without the file's own name."""
    said = " ".join(str(error).split())
    path = address.split("://", 1)[-1]
    for text in (address, path, path.partition("/")[2], path.rsplit("/", 1)[-1]):
        said = said.replace(text, "…") if len(text) > 3 else said
    return f"{type(error).__name__}: {said[:200]}" if said else type(error).__name__


def tried(address: str, action: Callable[[Any, str], Found], *, sending: bool = False) -> Found:
    """Done with the file system and the path of an address, again where it fails; what goes on failing is reported in one line.

    A missing file raises FileNotFoundError, except when sending: then the bucket is missing.
    """
    said = ""
    for _ in attempts():
        try:
            return action(*store(address))
        except PermissionError as error:
            said = reason(error, "")
            break
        except failures() as error:
            if isinstance(error, FileNotFoundError) and not sending:
                raise
            said = reason(error, "")
    raise BadInput(f"{address}: {said}; check address, credentials and network, then call again: what is there is kept")


def address_state(address: str) -> tuple[int, int]:
    """Gives the size of a file, and a number that changes with whatever else the store reports of it.

    Decoding takes both as the state of an input, as it takes size and time of a file on this machine.
    """
    entry = tried(address, lambda store, path: store.info(path))
    facts = repr(sorted((key, str(value)) for key, value in entry.items())).encode()
    return int(entry.get("size") or 0), int.from_bytes(blake2b(facts, digest_size=7).digest())


def listed(address: str, start: str = "") -> dict[str, dict[str, Any]]:
    """Names below an address that begin so, with the store's entry of each; in order. Nothing there: none."""

    def found(store: Any, path: str) -> dict[str, dict[str, Any]]:
        store.invalidate_cache()
        folder, _, rest = start.rpartition("/")
        place = f"{path}/{folder}" if folder else path
        try:
            more = {"prefix": rest} if rest else {}  # stores with flat names list these alone
            entries = store.find(place, detail=True, **more)
        except FileNotFoundError:
            return {}
        below = {name.removeprefix(path).lstrip("/"): entry for name, entry in entries.items()}
        return {name: below[name] for name in sorted(below) if name and name.startswith(start)}

    return tried(address, found)


def fetched(address: str, names: Sequence[str], folder: Path) -> Iterator[str]:
    """Copies files of an address into a folder, each written atomically; yields the names of those that are whole.

    At most `TOGETHER` are fetched at once. A name that contains `..` refuses all, since it would lead out of the
    folder.
    """
    if odd := [name for name in names if ".." in name.split("/")]:
        raise BadModel(f"{address}: holds {odd[0]!r}, a name that leads out of it; nothing is fetched")
    for first in range(0, len(names), TOGETHER):
        some = names[first : first + TOGETHER]
        beside = [folder / f".{token_hex(8)}" for _ in some]
        pairs = [f"/{name}" for name in some], [str(one) for one in beside]
        tried(address, lambda store, path, pairs=pairs: store.get([path + name for name in pairs[0]], pairs[1]))
        for name, file in zip(some, beside, strict=True):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
            yield name

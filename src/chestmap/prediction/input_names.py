"""Names inputs by a path from the folder that they share, printable and the same in the next call."""

from __future__ import annotations

import os
import posixpath
from hashlib import blake2b
from pathlib import Path

from chestmap.storage.addresses import is_address, plain_path, without_scheme

LONGEST_NAME = 1000


def name_and_path(text: str, base: Path | str) -> tuple[str, str]:
    """Name and place of a path or an address; a relative path begins at `base`, a folder or the address of one."""
    text = without_scheme(text)
    if is_address(text):
        path = plain_path(text)
        return plain_name(posixpath.relpath(path, plain_path(base) or ".") if isinstance(base, str) else path), text
    if isinstance(base, str) and not text.startswith("/"):
        return name_and_path(joined(base, text), base)
    folder = Path("/") if isinstance(base, str) else base
    whole = os.path.abspath(folder / text)  # noqa: PTH100 -- a link stays what it is called
    return plain_name(os.path.relpath(whole, folder).replace(os.sep, "/")), whole


def joined(folder: str, text: str) -> str:
    """A path below the address of a folder, or next to it."""
    scheme, _, path = folder.partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(path, text))}"


def plain_name(name: str) -> str:
    """Printable, without a part that climbs, and not longer than a file system or a table can hold."""
    letters = "".join(letter if letter.isprintable() else "?" for letter in name)
    parts = [part for part in letters.split("/") if part not in {"", ".", ".."}]
    plain = "/".join(part if len(part) <= 200 else f"{part[:180]}~{digest(part).hex()}" for part in parts)
    return (plain or "?") if len(plain) <= LONGEST_NAME else f"…{plain[-LONGEST_NAME:]}"


def digest(text: str) -> bytes:
    """Shortens a text to 8 bytes, to compare names by; lone surrogates of odd file names are allowed."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()

"""Reads JSON that chestmap kept, or that a store gave: a tree, or one line that names the remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chestmap.errors import BadModel, ChestmapError


def json_of(content: str | bytes, where: object, remedy: str, error: type[ChestmapError] = BadModel) -> Any:
    """Parses JSON, or raises `error` in one line with the place and what to do."""
    try:
        return json.loads(content)
    except RecursionError:
        raise error(f"{where}: nested too deeply; {remedy}") from None
    except ValueError as problem:
        raise error(f"{where}: cannot be read as JSON ({' '.join(str(problem).split())[:120]}); {remedy}") from None


def read_json(path: Path, remedy: str, error: type[ChestmapError] = BadModel) -> Any:
    """Reads a JSON file; FileNotFoundError where there is none, `error` for all else.

    Only the caller knows whether a missing file is a fault, so it gets no remedy.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror}); {remedy}") from None
    return json_of(content, path, remedy, error)

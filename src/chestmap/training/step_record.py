"""Records what a step was made from, so that a run never mixes settings, data or code.

Code means the module of the step's task and what it imports of `methods` and `nn`, however deep, and the few modules that
decide every step (`ALWAYS`). Docstrings, comments and layout do not count.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from chestmap.errors import StepChanged

ALWAYS = tuple(
    "chestmap." + name
    for name in (
        "types", "geometry", "tensors", "packs.augment", "packs.loader",
        "training.optimization.balance", "training.optimization.loop", "training.optimization.schedule",
        "training.optimization.weight_average", "training.task",
    )
)  # fmt: skip
FOLLOWED = ("chestmap.methods.", "chestmap.nn.")


@dataclass(frozen=True)
class Record:
    """`settings` are flat ("schedule.learning_rate"); `after` identifies the steps before this one."""

    settings: Mapping[str, Any]
    data: Mapping[str, str]
    code: Mapping[str, str]
    after: str

    @property
    def identity(self) -> str:
        """Of the step and, through `after`, of all before it; the code is compared by itself."""
        text = json.dumps([dict(self.settings), dict(self.data), self.after], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        """Plain values for `step.json`, as a later call reads them."""
        return json.loads(json.dumps(asdict(self)))


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {above + key: value}
    return found


def check_same(folder: Path, recorded: Mapping[str, Any], now: Record, *, accept_code: bool) -> None:
    """Refuse to go on with what was made from something else."""
    current = now.as_json()
    changes = [
        f"{key} was {before.get(key, 'not set')}, is {after.get(key, 'not set')}"
        for before, after in ((recorded[part], current[part]) for part in ("settings", "data"))
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]
    if recorded["after"] != current["after"]:
        changes.append("a step before it was made anew")
    remedy = f"train in a new folder, or delete {folder} and the steps after it to make them anew"
    if changes:
        raise StepChanged(f"{folder}: was made differently: {'; '.join(changes)}; {remedy}")
    files = [
        name for name in {**recorded["code"], **current["code"]} if recorded["code"].get(name) != current["code"].get(name)
    ]
    if files and not accept_code:
        raise StepChanged(
            f"{folder}: was made by other code ({', '.join(sorted(files))}); {remedy}, "
            "or go on with --set run.accept_code_change=true"
        )


def code_of(module: str | None) -> dict[str, str]:
    """Hashes by module name, for the step with its task (or maker) in `module`."""
    waiting, found = [*ALWAYS, *([module] if module else [])], {}
    while waiting:
        name = waiting.pop()
        path = None if name in found else _file(name)
        if path is None:
            continue
        found[name], imports = _read(path)
        if name == module or name.startswith(FOLLOWED):
            waiting += [imported for imported in imports if imported.startswith(FOLLOWED)]
    return found


@cache  # what a process runs is what it read first
def _read(path: str) -> tuple[str, tuple[str, ...]]:
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    return hashlib.sha256(_text(tree).encode()).hexdigest()[:16], tuple(_imports(tree))


def _file(module: str) -> str | None:
    """None for a name inside a module, which an import may also mean."""
    if module in sys.modules:
        return getattr(sys.modules[module], "__file__", None)
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return None
    return spec.origin if spec else None


def _imports(tree: ast.Module) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def _text(node: object) -> str:
    """The tree as text without docstrings, in a form that does not depend on the Python version."""
    if isinstance(node, list):
        return "[" + ",".join(_text(item) for item in node if not _is_docstring(item)) + "]"
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
        return f"{type(node).__name__}({','.join(f'{name}={_text(value)}' for name, value in fields)})"
    return repr(node)


def _is_docstring(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)

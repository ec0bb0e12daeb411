"""Reads the one TOML file of a training: `[run]`, `[data]`, `[method]`, wrappers in `[around]`, and `[search]`.

`chestmap train` and `chestmap.train` read configs here. Relative paths count from the TOML; a path of `--set` counts from
where the command runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import create_model

from chestmap.errors import BadSettings, did_you_mean
from chestmap.named_configs import configs_folder
from chestmap.settings import Settings, Tree, checked, read_toml, with_overrides
from chestmap.storage.atomic import write_toml
from chestmap.training.method import Method
from chestmap.training.optimization.schedule import Schedule
from chestmap.training.run_settings import RunSettings
from chestmap.training.search_settings import SearchSettings
from chestmap.training.training_data import DataSettings
from chestmap.training.wrapper_settings import AroundSettings, refusals


@dataclass(frozen=True, kw_only=True)
class Config:
    """`settings` are those of the method; `tree` is what was read, before defaults, for the trials of a search."""

    run: RunSettings
    data: DataSettings
    method: Method
    settings: Any
    around: AroundSettings | None
    search: SearchSettings | None
    tree: Tree
    name: str
    table: Settings

    def write(self, path: Path) -> None:
        """With every default spelled out."""
        write_toml(path, self.table)

    def without_places(self) -> Tree:
        """Effective, for a model folder that goes elsewhere: where data and caches lay is left out, of other paths only the name."""
        tree = self.table.model_dump(
            mode="json",
            exclude_none=True,
            exclude={"search": True, "data": {"cache": True, "shards": {"address", "cache_gb"}}},
        )
        tree["data"]["source"].pop("root", None)
        return _named(tree)

    @property
    def lasting(self) -> dict[str, Any]:
        """The settings of the method and around it, without schedules: what every step of a run is recorded with."""
        schedules = {key for key in type(self.settings).model_fields if isinstance(getattr(self.settings, key), Schedule)}
        around = self.around.of_steps if self.around else {}
        return self.settings.model_dump(mode="json", exclude=schedules) | ({"around": around} if around else {})


def _named(tree: Tree) -> Tree:
    """Absolute paths cut to their last part."""
    return {
        key: _named(value) if isinstance(value, dict)
        else Path(value).name if isinstance(value, str) and Path(value).is_absolute()
        else value
        for key, value in tree.items()
    }  # fmt: skip


def read_config(path: Path, overrides: Sequence[str], methods: Mapping[str, Method]) -> Config:
    """Every mistake of the file and of `--set` in one message.

    A relative folder of the file begins at the file, one of `--set` at the working folder.
    """
    return config_of(with_overrides(_placed(read_toml(path), path), overrides), methods, name=path.name)


PLACES = (
    ("data", "source", "root"),
    ("data", "source", "original_sizes"),
    ("data", "cache"),
    ("around", "teacher", "predictions"),
)


def _placed(tree: Tree, path: Path) -> Tree:
    """The tree with its folders made absolute. A shipped config does not know where data lie, so it is left as it is."""
    if configs_folder() in path.absolute().parents:
        return tree
    for *above, key in PLACES:
        table: Any = tree
        for name in above:
            table = table.get(name) if isinstance(table, dict) else None
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = str(path.absolute().parent / table[key])
    return tree


def config_of(tree: Tree, methods: Mapping[str, Method], *, name: str) -> Config:
    """Each mistake is prefixed with `name`."""
    asked = tree.get("method")
    kind = asked.get("name") if isinstance(asked, dict) else asked
    method = methods.get(kind) if isinstance(kind, str) else None
    fields: dict[str, Any] = {
        "run": (RunSettings, RunSettings()),
        "data": (DataSettings, ...),
        "around": (AroundSettings | None, None),
        "search": (SearchSettings | None, None),
    }
    mistakes: list[str] = []
    if method is None:
        hint = did_you_mean(str(kind), methods)
        mistakes.append(f"{name}: method.name: allowed: {', '.join(methods)} (got {kind!r}){hint}")
    else:
        fields["method"] = (method.settings, ...)
    model = create_model("Config", __base__=Settings, **fields)
    rest = tree if method else {key: value for key, value in tree.items() if key != "method"}
    table: Any = None
    try:
        table = checked(model, rest, name=name)
    except BadSettings as error:
        mistakes.append(str(error))
    if method and table and table.around:
        mistakes += [f"{name}: {line}" for line in refusals(method, table.method, table.around)]
    if mistakes or method is None:
        raise BadSettings("\n".join(mistakes))
    return Config(
        run=table.run,
        data=table.data,
        method=method,
        settings=table.method,
        around=table.around,
        search=table.search,
        tree=tree,
        name=name,
        table=table,
    )

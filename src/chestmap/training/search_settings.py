"""Defines what a search of settings tries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from chestmap.datasets.split import SplitSettings
from chestmap.settings import Settings, Tree


class Range(Settings):
    """Drawn between `low` and `high`, evenly or, with `log`, evenly in the exponent; whole numbers where both are."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"{self.low:g} to {self.high:g}: expected low < high, and low above 0 with log")
        return self


class SearchSettings(Settings):
    """Trials on a split of their own, by default 20 % of the training and validation patients; the best validation score wins.

    `space` names settings as `--set` does: a table of `low`, `high` and `log`, or a list of values.

        [search.space]
        method.bound_weight = { low = 1e-4, high = 1e-1, log = true }
        method.foreground = ["both", "channel"]
    """

    trials: int = Field(default=20, ge=1)
    prune: bool | Literal["median", "halving"] = False  # stop trials that fall behind: the median, or all but a quarter
    storage: str = ""  # a database for many machines, postgresql://…; by default search.db in the folder
    study: str = "search"  # its name in the database
    seed: int = Field(default=0, ge=0)
    split: SplitSettings = SplitSettings(name="search")
    space: dict[str, Any]

    @field_validator("space", mode="before")
    @classmethod
    def _read(cls, value: object) -> Tree:
        if not isinstance(value, Mapping) or not value:
            raise ValueError("expected a table of settings to try")
        return {key: _choices(key, one) for key, one in _flattened(value).items()}


def _choices(key: str, value: object) -> Range | list[Any]:
    """Reads what a setting may be: a list of values, or a range with `low`, `high` and `log`."""
    if isinstance(value, list) and value and all(isinstance(one, bool | int | float | str) for one in value):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}: expected a list of plain values or {{ low, high, log }} (got {value!r})")  # noqa: TRY004 -- pydantic's way
    try:
        return Range.model_validate(value)
    except ValidationError as error:
        raise ValueError(f"{key}: {'; '.join(one['msg'].removeprefix('Value error, ') for one in error.errors())}") from None


def _flattened(tree: Mapping[str, Any], above: str = "") -> Tree:
    """Tables become dotted keys, down to ranges and lists."""
    found: Tree = {}
    for key, value in tree.items():
        is_range = isinstance(value, Mapping) and set(value) <= set(Range.model_fields)
        found |= _flattened(value, f"{above}{key}.") if isinstance(value, Mapping) and not is_range else {above + key: value}
    return found

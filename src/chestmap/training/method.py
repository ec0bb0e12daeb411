"""Describes a method: one published system as the rest of the package sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from chestmap.predictions.folder import OwnRule
from chestmap.settings import Settings
from chestmap.types import Findings

if TYPE_CHECKING:
    from chestmap.training.run import Run
    from chestmap.training.training_data import Data


@dataclass(frozen=True, kw_only=True)
class Method:
    """Made once at the end of a method's file as `METHOD` and listed in `methods/__init__.py`.

    `refuses` names the wrappers that make no sense around it ("alignment", "masks", "erasing"), and why.
    `build(settings, findings, canvas)` gives an untrained network; its `forward(images)` returns an `Output`; canvas is
    (width, height). `recipe(run, data, settings)` gives the trained one. `tiny` are settings (a table as in TOML) with which
    the conformance suite trains in seconds. `earlier` are settings by name: what one means in a model folder that was written
    before there was such a setting.
    """

    name: str
    title: str
    paper: str
    settings: type[Settings]
    build: Callable[[Any, Findings, tuple[int, int]], nn.Module]
    recipe: Callable[[Run, Data, Any], nn.Module]
    own_rule: Callable[[Any], OwnRule]
    refuses: Mapping[str, str] = field(default_factory=dict, hash=False)
    tiny: Mapping[str, Any] = field(default_factory=dict, hash=False)
    earlier: Mapping[str, Any] = field(default_factory=dict, hash=False)

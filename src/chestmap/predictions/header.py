"""Describes a predictions folder in predictions.json: findings, canvas, model, and how a method cuts its maps.

predictions.json is small and read first. It names the model by hash and the dataset by digest, so that scores are never
compared with another set by mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from chestmap.settings import Settings
from chestmap.types import Findings

GREATEST = 65504.0
"""Of float16, as which maps are kept."""

FORMAT = 1


@dataclass(frozen=True)
class OwnRule:
    """How a method itself turns a map into a mask: map >= threshold, after scaling each map to [0, 1] where `normalize`."""

    threshold: float
    normalize: bool = True


class _Rule(Settings):
    threshold: float = Field(ge=0, allow_inf_nan=False)
    normalize: bool = True

    @model_validator(mode="after")
    def _reachable(self) -> _Rule:
        if self.normalize and self.threshold > 1:
            raise ValueError(f"threshold {self.threshold:g}: expected a number in [0, 1], as each map is scaled to it")
        return self


@dataclass(frozen=True, kw_only=True)
class Header:
    """What holds for all parts. `model` and `data` identify what made them (hash of the weights, fingerprint of the images)."""

    findings: Findings
    canvas: tuple[int, int]  # (width, height)
    model: Mapping[str, Any] = field(hash=False)
    own_rule: OwnRule
    data: str = ""
    part_size: int = 0  # images in each part but the last; inputs, readable or not, where several processes made it
    dataset: Mapping[str, Any] = field(default_factory=dict, hash=False)  # image_set.ImageSet, where a dataset was predicted

    def as_json(self, *, complete: bool, parts: int = 0) -> dict[str, Any]:
        """Give the content of predictions.json."""
        return {
            "format": FORMAT,
            "complete": complete,
            "parts": parts,
            "findings": list(self.findings.names),
            "canvas": list(self.canvas),
            "model": dict(self.model),
            "own_rule": asdict(self.own_rule),
            "data": self.data,
            "part_size": self.part_size,
            **({"dataset": dict(self.dataset)} if self.dataset else {}),
        }


class HeaderFile(Settings):
    """What predictions.json holds, and of which kind each value is."""

    model_config = ConfigDict(strict=True)

    format: int
    complete: bool
    findings: list[str] = Field(min_length=1)
    canvas: list[int] = Field(min_length=2, max_length=2)
    model: dict[str, Any]
    own_rule: _Rule
    data: str
    part_size: int = Field(ge=0)
    parts: int = Field(default=0, ge=0)
    dataset: dict[str, Any] = Field(default_factory=dict)

    @field_validator("canvas")
    @classmethod
    def _has_area(cls, canvas: list[int]) -> list[int]:
        if min(canvas) < 1:
            raise ValueError(f"{canvas}: expected width and height of at least 1")
        return canvas

"""Keeps results of models from a reader who reads first without them, until that reader has committed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated

from fastapi import HTTPException, Query

from chestmap.errors import BadInput
from chestmap.serving.engine.service import Service
from chestmap.serving.http.access import Person
from chestmap.serving.store import independent_reads

Blind = Annotated[bool, Query(description="Read blind: without results of models, until you have committed")]


def withheld_of(service: Service, person: Person, study_ids: Collection[str], *, blind: bool = False) -> set[str]:
    """Studies of these with results that are not given to `person` yet."""
    return independent_reads.withheld(service.store, study_ids, person.name, blind=blind or service.settings.blind)


def refuse_results(service: Service, person: Person, study_id: str) -> None:
    """For answers that hold nothing but results."""
    if withheld_of(service, person, [study_id]):
        raise HTTPException(403, "results are withheld until you commit: write a version of your read with stage open")


def asks_for_results(filters: Mapping[str, object]) -> None:
    """Which studies a filter by results leaves would tell what models say."""
    if asked := [name for name, value in filters.items() if value not in {"", None} and value != "readers"]:
        raise BadInput(f"{', '.join(asked)}: tells what models say, and is not answered in blind reading; leave it out")

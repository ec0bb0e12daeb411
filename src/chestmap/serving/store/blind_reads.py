"""Finds studies with results that are kept from a reader, who reads first without any model and then commits."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from sqlalchemy import select

from chestmap.serving.store.database_tables import Read, Review

if TYPE_CHECKING:
    from chestmap.serving.store.store import Store


def withheld(store: Store, study_ids: Collection[str], reader: str, *, blind: bool) -> set[str]:
    """Studies of these with results that `reader` may not see yet.

    A version with results in sight, of the shared review or of an own read, ends that. `blind`: the reader reads blind
    everywhere; else only where a blind version of the reader waits to be committed.
    """
    stages: dict[str, set[str]] = {}
    with store.reading() as session:
        for table, name in ((Review, Review.by), (Read, Read.reader)):
            wanted = select(table.study_id, table.stage).where(name == reader, table.study_id.in_(study_ids)).distinct()
            for study_id, stage in session.execute(wanted):
                stages.setdefault(study_id, set()).add(stage)
    committed = {study_id for study_id, said in stages.items() if "open" in said}
    return (set(study_ids) if blind else set(stages)) - committed

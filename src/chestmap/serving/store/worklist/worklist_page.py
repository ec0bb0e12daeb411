"""Gives one page of the worklist in a bounded time, however many studies there are.

Studies are counted up to `COUNTED` beyond the page. Where more match, the index of the order is walked until the page is full; where fewer match, the
filters' indexes find them, and they are sorted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from chestmap.serving.store.database_tables import Score, Study
from chestmap.serving.store.worklist.active_learning_order import TEACHING, most_teaching
from chestmap.serving.store.worklist.text_index import answers, is_there
from chestmap.serving.store.worklist.worklist_filters import Query, filtered, within

COUNTED = 5_000
FEW = 20_000
"""So many studies are looked through for a finding; among more, the finding's scores are gone through."""
ORDERS = {"suspicion": Study.suspicion.desc(), "received": Study.received.desc(), "teaches": Study.teaches.desc()}


def most_counted(query: Query) -> int:
    """The largest exact total for this page: a greater one tells only that there are more."""
    return query.offset + query.limit + COUNTED


def page_of(session: Session, query: Query) -> tuple[int, list[Study]]:
    """Counts the studies that match, and gives those of one page; ties go to the newest.

    The first `TEACHING` in the order `teaches` are chosen by `most_teaching`, those after them by worth alone.
    """
    most = most_counted(query)
    ids = _ids(session, query).limit(most + 1).correlate(None)
    total = _count(session, ids)
    rows = filtered(select(Study), query, walk=True) if total > most else select(Study).where(Study.id.in_(ids))
    rows = rows.order_by(ORDERS[query.order], Study.received.desc(), Study.id)
    if query.order == "teaches" and query.offset < TEACHING:
        return total, most_teaching(session, rows, query.offset, query.limit)
    return total, list(session.scalars(rows.offset(query.offset).limit(query.limit)))


def _ids(session: Session, query: Query) -> Select[Any]:
    """Selects the ids of the studies that match, by whatever leaves fewer rows to look at."""
    connection = session.connection()
    index = answers(
        query.search, lite=connection.dialect.name == "sqlite", there=bool(query.search) and is_there(connection)
    )
    others = replace(query, finding="", least=None, most=None)
    alone = query.finding and not others.filters  # a page of all studies was counted for nothing
    if not alone and (
        not query.finding or _count(session, filtered(select(Study.id), others, text_index=index).limit(FEW + 1)) <= FEW
    ):
        return filtered(select(Study.id), query, text_index=index)
    mine = filtered(select(Study.id).where(Study.id == Score.study_id).correlate(Score), others, walk=True)
    return select(Score.study_id).distinct().where(Score.finding == query.finding, *within(query), mine.exists())


def _count(session: Session, rows: Select[Any]) -> int:
    return session.scalar(select(func.count()).select_from(rows.subquery())) or 0

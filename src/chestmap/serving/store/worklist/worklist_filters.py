"""Turns filters of the worklist into conditions that indexes answer.

A query comes from the URL of the worklist; every condition is a bound parameter, and each has an index that answers it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from sqlalchemy import Select, exists, select

from chestmap.serving.store.database_tables import SHOWN, Assignment, Review, Score, Study
from chestmap.serving.store.worklist.text_index import matching


@dataclass(frozen=True, kw_only=True)
class Query:
    """What the worklist is asked for; what is empty or None does not filter.

    `since` and `until` are days of the film, as it is shown: `true_dates` tells which. `least` and `most` bound the score of
    `finding`, or the suspicion where no finding is named. `assigned` is a reader with an independent read to make.
    """

    order: str = "suspicion"
    state: str = ""
    finding: str = ""
    reviewed: str = ""
    search: str = ""
    offset: int = 0
    limit: int = 50
    view: str = ""
    sex: str = ""
    reader: str = ""
    assigned: str = ""
    since: date | None = None
    until: date | None = None
    least: float | None = None
    most: float | None = None
    disagreement: int = 0
    true_dates: bool = False

    @property
    def filters(self) -> bool:
        """Whether anything is asked for but an order and a page."""
        page = {"order": self.order, "offset": self.offset, "limit": self.limit, "true_dates": self.true_dates}
        return self != Query(**page)


def filtered(chosen: Select[Any], query: Query, *, walk: bool = False, text_index: bool = False) -> Select[Any]:
    """Adds the conditions of a query to a selection of studies; deleted and replaced studies never show.

    A finding is looked up study by study. `walk`: every condition is, so that no index but that of the order is of use.
    `text_index`: the searched text is looked up first, in SQLite's table of texts, and no other index is of use.
    """
    if query.search:
        chosen = chosen.where(*matching(query.search, index=text_index))
    walk = walk or (text_index and bool(query.search))
    column = _unindexed if walk else _itself
    by_state = _unindexed(Study.state).in_(SHOWN)  # nearly all
    chosen = chosen.where(column(Study.state) == query.state if query.state else by_state)
    equal = {
        Study.review_state: query.reviewed,
        Study.sex: query.sex,
        Study.view: "" if query.view == "unknown" else query.view,
    }
    chosen = chosen.where(*(column(one) == value for one, value in equal.items() if value))
    if query.view == "unknown":
        chosen = chosen.where(column(Study.view) == "")
    if query.reader:
        chosen = chosen.where(_among(Review.study_id, [column(Review.by) == query.reader], walk=walk))
    if query.assigned:
        mine = [column(Assignment.reader) == query.assigned, Assignment.done == ""]
        chosen = chosen.where(_among(Assignment.study_id, mine, walk=walk))
    if query.disagreement:
        chosen = chosen.where(Study.disagreement.bitwise_and(query.disagreement) != 0)
        chosen = chosen if walk else chosen.where(Study.disagreement > 0)
    ordered = query.order == "suspicion" and not text_index
    return chosen.where(*_scores(query, walk=walk, ordered=ordered), *_dates(query, column))


def _itself(column: Any) -> Any:
    return column


def _unindexed(column: Any) -> Any:
    """Gives the same text as an expression, which no index answers."""
    return column.concat("")


def _among(study_id: Any, wanted: list[Any], *, walk: bool) -> Any:
    """Asks for studies with such a row in another table: looked up study by study, or listed first."""
    if walk:
        return exists().where(study_id == Study.id, *wanted)
    return Study.id.in_(select(study_id).where(*wanted))


def _bounds(query: Query, column: Any) -> list[Any]:
    bounds = [(query.least, "__ge__"), (query.most, "__le__")]
    return [getattr(column, how)(value) for value, how in bounds if value is not None]


def within(query: Query) -> list[Any]:
    """Scores within the query's bounds, of any finding; without bounds, those that a model calls."""
    return _bounds(query, Score.score) or [Score.over.is_(True)]


def _scores(query: Query, *, walk: bool, ordered: bool) -> list[Any]:
    """`ordered`: the index of the suspicion gives the order, so that a walk may use it."""
    if not query.finding:
        return _bounds(query, Study.suspicion + 0.0 if walk and not ordered else Study.suspicion)
    return [exists().where(Score.study_id == Study.id, _unindexed(Score.finding) == query.finding, *within(query))]


def _dates(query: Query, indexed: Callable[[Any], Any]) -> list[Any]:
    """Text that begins with a date sorts as dates do."""
    column, form = (Study.taken, "%Y%m%d") if query.true_dates else (Study.shown_taken, "%Y-%m-%d")
    column = indexed(column)
    wanted = [column >= query.since.strftime(form)] if query.since else []
    if query.until:
        wanted += [column < (query.until + timedelta(days=1)).strftime(form), column != ""]
    return wanted

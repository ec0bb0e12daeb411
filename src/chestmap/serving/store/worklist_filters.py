"""Turns filters of the worklist into conditions that indexes answer.

A query comes from the URL of the worklist; every condition is a bound parameter, and each has an index that answers it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from sqlalchemy import Select, and_, or_, select

from chestmap.serving.store.database_tables import SHOWN, Assignment, Review, Score, Study


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


def filtered(chosen: Select[Any], query: Query) -> Select[Any]:
    """Adds the conditions of a query to a selection of studies; deleted and replaced studies never show."""
    chosen = chosen.where(Study.state == query.state if query.state else Study.state.in_(SHOWN))
    equal = {
        Study.review_state: query.reviewed,
        Study.sex: query.sex,
        Study.view: "" if query.view == "unknown" else query.view,
    }
    chosen = chosen.where(*(column == value for column, value in equal.items() if value))
    if query.view == "unknown":
        chosen = chosen.where(Study.view == "")
    if query.reader:
        chosen = chosen.where(Study.id.in_(select(Review.study_id).where(Review.by == query.reader)))
    if query.assigned:
        mine = select(Assignment.study_id).where(Assignment.reader == query.assigned, Assignment.done == "")
        chosen = chosen.where(Study.id.in_(mine))
    if query.disagreement:
        chosen = chosen.where(Study.disagreement.bitwise_and(query.disagreement) != 0, Study.disagreement > 0)
    chosen = chosen.where(*_scores(query), *_dates(query))
    if query.search:
        columns = (Study.name, Study.id, Study.patient, Study.shown_patient)
        chosen = chosen.where(or_(*(column.icontains(query.search, autoescape=True) for column in columns)))
    return chosen


def _scores(query: Query) -> list[Any]:
    """Of a finding any model's; without bounds, one that a model calls."""
    bounds = [(query.least, "__ge__"), (query.most, "__le__")]
    column = Score.score if query.finding else Study.suspicion
    wanted = [getattr(column, how)(value) for value, how in bounds if value is not None]
    if not query.finding:
        return wanted
    which = and_(*wanted) if wanted else Score.over.is_(True)
    return [Study.id.in_(select(Score.study_id).where(Score.finding == query.finding, which))]


def _dates(query: Query) -> list[Any]:
    """Text that begins with a date sorts as dates do."""
    column, form = (Study.taken, "%Y%m%d") if query.true_dates else (Study.shown_taken, "%Y-%m-%d")
    wanted = [column >= query.since.strftime(form)] if query.since else []
    if query.until:
        wanted += [column < (query.until + timedelta(days=1)).strftime(form), column != ""]
    return wanted

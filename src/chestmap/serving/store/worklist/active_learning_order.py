"""Lists the worklist in the order of `store.active_learning`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from chestmap.serving.store.active_learning import in_order, scores_of
from chestmap.serving.store.database_tables import Result, Study

TEACHING = 200
"""So many of the greatest worth are ordered by diversity too, against so many reviewed last; further down worth alone counts."""


def most_teaching(session: Session, rows: Select[Any], offset: int, limit: int) -> list[Study]:
    """One page of `rows`, which come by worth."""
    pool = list(session.scalars(rows.limit(TEACHING)))
    ids = [one.id for one in pool]
    reviewed = select(Study.id).where(Study.review_state != "no", Study.id.not_in(ids)).order_by(Study.review_at.desc())
    known = list(session.scalars(reviewed.limit(TEACHING)))
    places = _mean_scores(session, [*ids, *known])
    order = in_order(np.array([one.teaches for one in pool]), places[: len(ids)], places[len(ids) :])
    page = [pool[place] for place in order][offset : offset + limit]
    if len(page) < limit:
        page += session.scalars(rows.offset(TEACHING).limit(limit - len(page)))
    return page


def _mean_scores(session: Session, ids: Sequence[str]) -> Float[np.ndarray, "study finding"]:
    """Each study's mean scaled scores; a half, as at the operating point, where no model knows a finding."""
    results: dict[str, list[list[dict[str, Any]]]] = {one: [] for one in ids}
    wanted = select(Result.study_id, Result.findings).where(Result.study_id.in_(ids), Result.state == "done")
    for study_id, findings in session.execute(wanted):
        results[study_id].append(findings)
    scores = [scores_of(one) for one in results.values()]
    names = sorted({name for one in scores for name in one}) or [""]
    rows = [[float(np.mean(one.get(name, [0.5]))) for name in names] for one in scores]
    return np.array(rows).reshape(len(ids), len(names))

"""Turns rows of the store into answers of the API."""

from __future__ import annotations

from typing import Any

from chestmap.serving.engine.service import Service
from chestmap.serving.store.database_tables import Result, Study
from chestmap.serving.store.film_dates import days_between, shown_date
from chestmap.serving.store.independent_reads import Reads, is_unread, reads_for
from chestmap.serving.store.reviews import NOTHING, current


def row_of(service: Service, study: Study, *, hidden: bool = False) -> dict[str, Any]:
    """A line of the worklist; a patient's name and true dates are in it only where --show-patient asked for them.

    `hidden`: without what models say.
    """
    shown = study.shown_patient if service.settings.show_patient else None
    true = service.settings.show_patient
    taken = shown_date(study.taken, study.patient, b"", true=True) if true else study.shown_taken
    kept = study.name if shown is not None or study.shown_patient is None else study.id
    return {
        "id": study.id, "received": study.received, "name": shown or kept, "patient": study.patient, "view": study.view,
        "taken": taken or None, "shifted": not true,
        "age": study.age, "sex": study.sex, "exam": study.exam, "position": study.position,
        "accession": study.accession if true else "", "indication": study.indication if true else "",
        "state": study.state, "error": study.error, "suspicion": None if hidden else study.suspicion, "top": [] if hidden else study.top,
        "review": {
            "version": study.review_version, "state": study.review_state, "by": study.review_by, "at": study.review_at,
        },
    }  # fmt: skip


def study_of(
    service: Service, study: Study, results: list[Result], reader: str = "", *, hidden: bool = False
) -> dict[str, Any]:
    """A row with image, results, review and priors. `reader` is who asks; `hidden`: without what models say."""
    priors = service.store.priors(study)
    unread = is_unread(service.store, study.id)
    reads = Reads([]) if unread else reads_for(service.store, study.id, reader)
    own = reads.mine is not None and not reads.complete
    done = [one for one in results if one.state == "done"]
    return {
        **row_of(service, study, hidden=hidden),
        "image": study.image,
        "results": [] if hidden else [_result(one) for one in done],
        "findings": sorted({name for one in done for name in one.maps["order"]}),
        "review": NOTHING if unread else reads.mine if own else current(service.store, study.id),
        "independent": own,
        "withheld": hidden,
        "readers": reads.assigned,
        "reads": list(reads.reads),
        "prior": priors[0][0] if priors else None,
        "priors": [study_id for study_id, _ in priors],
        "earlier": [{"id": study_id, "days": days_between(taken, study.taken)} for study_id, taken in priors],
        "exam_images": service.store.exam_images(study),
    }


def _result(result: Result) -> dict[str, Any]:
    grid = {key: result.maps[key] for key in ("width", "height", "order", "matrix")}
    return {"model": result.model_id, "findings": result.findings, "maps": grid}

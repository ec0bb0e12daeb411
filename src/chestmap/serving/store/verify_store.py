"""Verifies a service's store, running or not: files against their hashes, rows against their digests.

`chestmap check` calls it. It only reads, also while the service runs, and names studies by their id.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from chestmap.errors import ChestmapError
from chestmap.packs.verify_folder import FolderCheck
from chestmap.progress import Report, progress_of
from chestmap.serving.store.database import open_read_only
from chestmap.serving.store.database_tables import OVER, File, Read, Result, Review, Score, Study
from chestmap.serving.store.row_digests import checked
from chestmap.serving.store.store_files import digest

NAME = "store.sqlite"
RESTORE = "restore it from a backup, or send the image again"


def verify_store(root: Path, url: str | None = None, *, progress: bool | Report = True) -> FolderCheck:
    """One problem a line, by study; nothing of a patient is in it."""
    engine = open_read_only(root, url)
    try:
        with Session(engine) as session:
            files = list(session.execute(select(File.study_id, File.kind, File.path, File.sha256).order_by(File.path)))
            problems, rows = _damaged_rows(session)
    finally:
        engine.dispose()
    with progress_of("check", len(files), show=progress, unit="files") as advance:
        for study_id, kind, path, sha in files:
            problem = _damaged_file(root / path, sha)
            if problem and _is_there_still(root, url, study_id, kind):
                problems.append(f"{root / path}: {problem}; {RESTORE}")
            advance(1)
    return FolderCheck(len(files) + rows, tuple(problems))


def _damaged_file(path: Path, sha: str) -> str:
    try:
        return "" if digest(path) == sha else "changed after it was written"
    except OSError as error:
        return error.strerror or type(error).__name__


def _is_there_still(root: Path, url: str | None, study_id: str, kind: str) -> bool:
    """The service may have deleted the study, or replaced its image, since the list was read."""
    engine = open_read_only(root, url)
    try:
        with Session(engine) as session:
            return session.get(File, (study_id, kind)) is not None
    finally:
        engine.dispose()


def _damaged_rows(session: Session) -> tuple[list[str], int]:
    """Compares every row that matters with its digest; gives the problems, and how many rows there are."""
    problems, count = [], 0
    wanted = (
        select(Study).where(Study.state.not_in(OVER)), select(Result).where(Result.state == "done"), select(Review), select(Read),
    )  # fmt: skip
    for rows in wanted:
        for row in session.scalars(rows.execution_options(yield_per=500)):
            count += 1
            problems += _said(lambda row=row: checked(row))
    return problems + _stray_scores(session), count


def _said(action: Callable[[], object]) -> list[str]:
    try:
        action()
    except ChestmapError as problem:
        return [str(problem)]
    return []


def _stray_scores(session: Session) -> list[str]:
    """Scores by which the worklist filters, where they are not those of the results."""
    found: dict[tuple[str, str], set[tuple[str, float, bool]]] = {}
    for score in session.scalars(select(Score).execution_options(yield_per=500)):
        found.setdefault((score.study_id, score.model_sha), set()).add((score.finding, score.score, score.over))
    problems = []
    for row in session.scalars(select(Result).where(Result.state == "done").execution_options(yield_per=500)):
        expected = {(one["name"], one["score"], bool(one.get("over"))) for one in row.findings}
        if found.get((row.study_id, row.model_sha), set()) != expected:
            problems.append(
                f"the scores of {row.model_id} for study {row.study_id} are not those of its result; predict it again"
            )
    return problems

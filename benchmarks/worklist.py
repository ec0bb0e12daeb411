"""Times every filter of the worklist on a synthetic store: `python benchmarks/worklist.py --studies 1000000`.

Rows are made by SQL, with made-up scores; nothing is decoded or predicted. Each query is asked as the page asks it, its count and its first 50 rows.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

from sqlalchemy import Connection, Index, text

from chestmap.serving.store.database import open_database
from chestmap.serving.store.database_tables import Base, Review, Score, Study
from chestmap.serving.store.store import Store
from chestmap.serving.store.worklist import text_index
from chestmap.serving.store.worklist.worklist_filters import Query

FINDINGS = ("Atelectasis", "Effusion", "Mass", "Nodule")
DRAW = "(abs(({0} + 1) * 2654435761 * {1}) % 1000003) / 1000003.0"
"""An even number from 0 to 1 for each row: the same in each run."""
MONTHS = "printf('%04d-%02d-%02d', 2015 + n % 10, 1 + (n / 10) % 12, 1 + (n / 120) % 28)"
STUDIES = f"""
WITH RECURSIVE number(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < :count)
INSERT INTO study (id, sha256, received, name, patient, taken, shown_taken, instance, exam, sex, view, image, state, suspicion, teaches, top,
                   review_version, review_state, review_by, disagreement)
SELECT printf('s-%024x', n), printf('%064x', n), '2025-01-01T00:' || printf('%08d', n * 7919 % 99999989), 'film-' || n, printf('p%08x', n / 3),
       {MONTHS}, {MONTHS}, printf('%032x', n), printf('e%08x', n / 2), CASE n % 2 WHEN 0 THEN 'F' ELSE 'M' END,
       CASE n % 10 WHEN 0 THEN '' WHEN 1 THEN 'LATERAL' WHEN 2 THEN 'AP' ELSE 'PA' END, '{{"width": 2048, "height": 2048}}',
       CASE WHEN n % 1000 = 0 THEN 'failed' WHEN n % 500 = 1 THEN 'queued' ELSE 'done' END, {DRAW.format("n", 3)}, {DRAW.format("n", 7)}, '[]',
       n % 20 = 0, CASE WHEN n % 20 = 0 THEN 'done' WHEN n % 400 = 7 THEN 'draft' ELSE 'no' END, CASE WHEN n % 20 = 0 THEN 'anna' ELSE '' END,
       CASE WHEN n % 50 = 0 THEN 2 ELSE 0 END
FROM number
"""
SCORES = f"""
INSERT INTO score (study_id, model_sha, finding, score, over)
SELECT id, 'm', :finding, {DRAW.format("rowid", "(:place + 11)")}, {DRAW.format("rowid", "(:place + 11)")} > 1 - 0.05 * (:place + 1) FROM study
"""
SUSPICION = "UPDATE study SET suspicion = (SELECT max(score) FROM score WHERE study_id = study.id)"
"""As the service has it: a study is as suspicious as its most suspicious finding."""
REVIEWS = """
INSERT INTO review (study_id, version, state, by, at, findings, note)
SELECT id, 1, 'done', 'anna', received, '{}', '' FROM study WHERE review_version > 0
"""
QUERIES = {
    "no filter, by suspicion": Query(),
    "no filter, by time": Query(order="received"),
    "no filter, by worth": Query(order="teaches"),
    "no filter, row 10,000": Query(offset=10_000),
    "state queued": Query(state="queued"),
    "state done": Query(state="done"),
    "reviewed": Query(reviewed="done"),
    "not reviewed": Query(reviewed="no"),
    "in work": Query(reviewed="draft"),
    "sex": Query(sex="F"),
    "view PA": Query(view="PA"),
    "view unknown": Query(view="unknown"),
    "reader": Query(reader="anna"),
    "reader without reads": Query(reader="bert"),
    "to read by": Query(assigned="anna"),
    "disagreement": Query(disagreement=2),
    "a finding called in 5 %": Query(finding="Atelectasis"),
    "a finding called in 20 %": Query(finding="Nodule"),
    "a finding's score from .999": Query(finding="Nodule", least=0.999),
    "a finding's score from .5": Query(finding="Nodule", least=0.5),
    "suspicion from .999": Query(least=0.999),
    "suspicion from .5": Query(least=0.5),
    "one month": Query(since=date(2020, 3, 1), until=date(2020, 3, 31)),
    "five years": Query(since=date(2018, 1, 1), until=date(2022, 12, 31)),
    "not reviewed, PA, finding": Query(reviewed="no", view="PA", finding="Nodule"),
    "search, one film": Query(search="film-777777"),
    "search, 100 films": Query(search="film-7777"),
    "search, all films": Query(search="film-"),
    "search, two letters": Query(search="77"),
    "search, a finding": Query(search="film-77", finding="Nodule"),
    "search, none": Query(search="nothing like this"),
}


def fill(connection: Connection, count: int) -> None:
    """Fills the tables without their indexes, and makes these afterwards: much faster."""
    indexes: list[Index] = [
        one for table in (Study, Score, Review) for one in Base.metadata.tables[table.__tablename__].indexes
    ]
    text_index.drop(connection)
    for one in indexes:
        one.drop(connection)
    connection.execute(text(STUDIES), {"count": count})
    for place, finding in enumerate(FINDINGS):
        connection.execute(text(SCORES), {"finding": finding, "place": place})
    connection.execute(text(SUSPICION))
    connection.execute(text(REVIEWS))
    for one in indexes:
        one.create(connection)
    begin = time.monotonic()
    text_index.ensure(connection)
    print(f"the index of texts in {time.monotonic() - begin:.0f} s of it", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", type=Path, help="folder of a store made before, or where to make one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="worklist") as place:
        folder = arguments.store or Path(place)
        if not (folder / "store.sqlite").exists():
            folder.mkdir(exist_ok=True)
            engine, begin = open_database(folder), time.monotonic()
            with engine.begin() as connection:
                fill(connection, arguments.studies)
            engine.dispose()
            print(
                f"made in {time.monotonic() - begin:.0f} s, {(folder / 'store.sqlite').stat().st_size / 1e9:.2f} GB",
                flush=True,
            )
        store = Store(folder)
        print("| filter | studies | processor, ms: median, most |\n|---|---:|---:|")
        for name, query in QUERIES.items():
            taken, total = [], 0
            for _ in range(arguments.rounds):
                before = time.process_time()
                total, _ = store.page(query)
                taken.append((time.process_time() - before) * 1000)
            print(f"| {name} | {total:,} | {statistics.median(taken):.0f}, {max(taken):.0f} |", flush=True)
        store.close()


if __name__ == "__main__":
    main()

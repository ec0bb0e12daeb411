"""What reviewers cost the service: `python benchmarks/reviews.py [--studies 1000 100000 1000000]`, some minutes.

The store alone with so many made-up studies, then a service over HTTP, asked as the review page asks. What counts is processor time:
the service is one process in which Python runs on one core, so the inverse of a request's time is the most it can answer in a second.
Prints Markdown for benchmarks/reviews.md.
"""

import argparse
import http.client
import json
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from sqlalchemy import text

from chestmap.serving.store.review_schema import NewReview
from chestmap.serving.store.reviews import put_review
from chestmap.serving.store.store import Query, Store
from chestmap.vocabulary import CHESTXRAY14
from serving import Running, random_model

ID = "printf('s-%024x', n)"
SHA = "printf('%064x', n)"
NUMBERS = "WITH RECURSIVE k(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM k WHERE n < :studies)"
IMAGE = json.dumps({"width": 2500, "height": 3000, "bits": 16, "low": 0, "high": 4095, "source": "png",
                    "window": {"center": 2048, "width": 4096}, "spacing": None})  # fmt: skip
TOP = json.dumps([{"finding": name, "score": 0.5} for name in ("Effusion", "Mass", "Nodule")])
FOUND = json.dumps([{"name": name, "score": 0.412, "threshold": 0.4, "over": True,
                     "boxes": [{"x0": 812.5, "y0": 903.25, "x1": 1220.5, "y1": 1411.75, "score": 0.31}]}
                    for name in CHESTXRAY14])  # fmt: skip
MAPS = json.dumps({"width": 64, "height": 64, "order": list(CHESTXRAY14), "matrix": [0.02, 0, 0, 0, 0.02, 0]})
REVIEW = {"state": "part", "note": "", "findings": {
    "Effusion": {"verdict": "correct", "boxes": [{"x0": 800, "y0": 900, "x1": 1200, "y1": 1400}]},
    "Mass": {"verdict": "reject", "boxes": []}}}  # fmt: skip


def fill(folder: Path, studies: int, *, whole: bool) -> float:
    """Made-up studies; `whole` with results, scores and files. Gives bytes of the database for each."""
    store = Store(folder)
    rows = [
        f"INSERT INTO study (id, sha256, received, name, patient, shown_patient, taken, instance, view, image, state, error, "
        "suspicion, teaches, top, review_version, review_state, review_by, review_at) "
        f"SELECT {ID}, {SHA}, strftime('%Y-%m-%dT%H:%M:%f', n, 'unixepoch'), 'film-' || n || '.dcm', "
        f"printf('p-%012x', n / 3), NULL, '', '1.2.826.' || n, 'PA', :image, 'done', NULL, (n * 7919 % 99991) / 99991.0, "
        f"(n * 104729 % 99991) / 99991.0, :top, 0, 'no', '', NULL FROM k"
    ]
    if whole:
        rows += [
            "INSERT INTO result (study_id, model_sha, model_id, state, number, deaths, error, at, findings, maps) "
            f"SELECT {ID}, :model, 'ham-0123abcd', 'done', n, 0, NULL, '2026-01-01', :found, :maps FROM k",
            "INSERT INTO score (study_id, model_sha, finding, score, over) "
            f"SELECT {ID}, :model, f.value, 0.412, n % 10 = 0 FROM k, json_each(:names) f",
            "INSERT INTO file (study_id, kind, path, sha256, bytes) "
            f"SELECT {ID}, f.value, printf('studies/%02x/s-%024x/', n % 256, n) || f.value, {SHA}, n "
            'FROM k, json_each(\'["original", "pixels", "thumbnail", "maps-ham-0123abcd"]\') f',
        ]
    values = {"studies": studies, "image": IMAGE, "top": TOP, "found": FOUND, "maps": MAPS, "model": "a" * 64,
              "names": json.dumps(list(CHESTXRAY14))}  # fmt: skip
    with store.writing() as session:
        for one in rows:
            session.execute(text(one.replace("SELECT", f"{NUMBERS} SELECT", 1)), values)
    with store.engine.connect() as connection:
        size = connection.exec_driver_sql("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").scalar()
    store.close()
    return size / studies


def ask(service: Running, ways: Iterator[tuple[str, str, bytes]], requests: int, clients: int) -> tuple[float, ...]:
    """Requests a second, p50, p95 and p99 in ms, processor ms of the service for each."""
    lock, seconds, wrong = threading.Lock(), [], []

    def client() -> None:
        line = http.client.HTTPConnection("127.0.0.1", service.port, timeout=300)
        while True:
            with lock:
                if len(seconds) >= requests:
                    return
                seconds.append(0.0)
                mine, (verb, path, body) = len(seconds) - 1, next(ways)
            begin = time.monotonic()
            line.request(verb, path, body or None, {"X-Chestmap": "1", "Content-Type": "application/json"})
            answer = line.getresponse()
            said = answer.read()
            if answer.status != 200:
                wrong.append(f"{verb} {path}: {answer.status} {said[:200]!r}")
            seconds[mine] = time.monotonic() - begin

    begin, own = time.monotonic(), service.processor()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    if wrong:
        raise SystemExit(wrong[0])
    wall, own = time.monotonic() - begin, service.processor() - own
    cuts = statistics.quantiles(seconds, n=100)
    return requests / wall, *(cuts[k] * 1000 for k in (49, 94, 98)), own / requests * 1000


def of_service(service: Running, studies: int, clients: int) -> None:
    """Requests over HTTP, as the page makes them."""
    turn, versions = count(1), [0] * (studies + 1)

    def study() -> int:
        return next(turn) * 7919 % studies + 1

    def put() -> tuple[str, str, bytes]:
        number = study()
        body = json.dumps({"base": versions[number], **REVIEW}).encode()
        versions[number] += 1
        return "PUT", f"/v1/studies/s-{number:024x}/review", body

    page = "/v1/studies?order=suspicion&reviewed=no&offset=0&limit=40"
    kinds: dict[str, Callable[[], tuple[str, str, bytes]]] = {
        "save a review": put,
        "open a study": lambda: ("GET", f"/v1/studies/s-{study():024x}", b""),
        "worklist": lambda: ("GET", page, b""),
    }
    print("| request | clients | a second | p50 ms | p95 | p99 | processor ms | most a second |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, way in kinds.items():
        for connections in (1, clients):
            found = ask(service, iter(way, None), 300, connections)
            cells = " | ".join(f"{value:,.1f}" for value in found)
            print(f"| {name} | {connections} | {cells} | {1000 / found[-1]:,.0f} |", flush=True)


def of_store(folder: Path, studies: int) -> str:
    """Processor ms of each operation of the store, without HTTP."""
    store, turn = Store(folder), count(1)
    try:

        def study() -> str:
            return f"s-{next(turn) * 7919 % studies + 1:024x}"

        kinds: dict[str, tuple[Callable[[], object], int]] = {
            "save": (lambda: put_review(store, study(), "nobody", NewReview(base=0, **REVIEW)), 100),
            "open": (lambda: store.study(study()), 100),
            "list": (lambda: store.page(Query(reviewed="no", limit=40)), 3),
            "finding": (lambda: store.page(Query(reviewed="no", finding="Effusion", limit=40)), 3),
            "search": (lambda: store.page(Query(search="film-77", limit=40)), 3),
        }
        cells = []
        for work, rounds in kinds.values():
            took = []
            for _ in range(rounds):
                begun = time.process_time()
                work()
                took.append(time.process_time() - begun)
            cells.append(f"{1000 * statistics.median(took):,.1f}")
        return " | ".join(cells)
    finally:
        store.close()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--studies", type=int, nargs="+", default=[1_000, 100_000, 1_000_000], help="in a store without HTTP"
    )
    options.add_argument("--clients", type=int, default=16)
    options.add_argument(
        "--whole", type=int, default=100_000, help="stores of up to so many studies have results and scores"
    )
    options.add_argument("--no-service", action="store_true")
    asked = options.parse_args()
    print("| studies | save | open | worklist | of one finding | search | bytes of database each |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for studies in asked.studies:
        with tempfile.TemporaryDirectory() as place:
            size = fill(Path(place) / "store", studies, whole=studies <= asked.whole)
            print(f"| {studies:,} | {of_store(Path(place) / 'store', studies)} | {size:,.0f} |", flush=True)
    if asked.no_service:
        return
    with tempfile.TemporaryDirectory() as place, socket.create_server(("127.0.0.1", 0)) as free:
        port, folder = free.getsockname()[1], Path(place)
        free.close()
        random_model(folder / "model", "test_resnet", 64)
        fill(folder / "store", 1_000, whole=True)
        service = Running(folder / "model", folder / "store", port, [])
        try:
            of_service(service, 1_000, asked.clients)
        finally:
            service.kill()


if __name__ == "__main__":
    main()

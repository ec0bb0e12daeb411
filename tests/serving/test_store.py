"""The store against crashes, two writers and two databases."""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect
from sqlalchemy.orm import Session

from chestmap.errors import BadInput, Refused
from chestmap.serving.engine.batches import under_way
from chestmap.serving.store import database, independent_reads, reviews
from chestmap.serving.store.database import open_database, open_read_only
from chestmap.serving.store.database_tables import Base, Study
from chestmap.serving.store.results import MOST_DEATHS, ModelAnswer, NewFile, PendingResult, answer, ask, resume
from chestmap.serving.store.review_schema import NewReview
from chestmap.serving.store.store import NewStudy, Query, Store
from chestmap.serving.store.worklist import text_index, worklist_page

MODELS = {"a" * 64: "one-aaaa", "b" * 64: "two-bbbb"}
FIRST, SECOND = MODELS
IMAGE = {"width": 80, "height": 96}


@pytest.fixture(scope="session")
def postgres():
    """The URL of a server that lives as long as the tests."""
    program = shutil.which("pg_ctl")
    if program is None or find_spec("psycopg") is None:
        pytest.skip("PostgreSQL or its driver psycopg is absent")
    user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="postgres"))
    try:
        shutil.chown(folder, user or os.getuid())
    except LookupError:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")

    def control(*words):
        subprocess.run(
            [program, *words, "-D", folder / "data"], check=True, stdout=subprocess.DEVNULL, user=user, cwd=folder
        )

    control("init", "-o", "-A trust -U test")
    control("start", "-w", "-o", f"-k {folder} -h '' -c fsync=off", "-l", folder / "log")
    yield f"postgresql+psycopg://test@/postgres?host={folder}"
    control("stop", "-m", "immediate")
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    url = request.getfixturevalue("postgres") if request.param == "postgresql" else os.environ.get("CHESTMAP_TEST_DATABASE")
    made = Store(tmp_path / "store", url)
    yield made
    if made.engine.dialect.name != "sqlite":
        Base.metadata.drop_all(made.engine)
        with made.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE alembic_version")
    made.close()


def add(store, word, models=MODELS, **more):
    sha = sha256(word.encode()).hexdigest()
    received = store.folders.new()
    (received / "original").write_text(word)
    (received / "canvas-8x8").write_text("x")
    files = (NewFile("original", "original", sha, len(word)),)
    study = NewStudy(**{"id": f"s-{sha[:24]}", "sha256": sha, "name": word, "image": IMAGE, "files": files, **more})
    return study.id, store.add(study, received, models)


def said(study_id, sha, score=0.7, **more):
    findings = [{"name": "Mass", "score": score, "threshold": 0.5, "over": score >= 0.5, "boxes": []}]
    return ModelAnswer(
        study_id=study_id, model_sha=sha, findings=findings, maps={"order": ["Mass"]}, suspicion=score, **more
    )


def of_tables(thing, name, kind, *_):
    """The index of texts is made when a store opens, and not by migrations."""
    return not (kind in {"table", "index"} and name.removeprefix("ix_").startswith(text_index.TABLE))


def test_the_migrations_make_the_tables(store):
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_object": of_tables})
        assert compare_metadata(context, Base.metadata) == []


def test_a_store_that_is_up_to_date_opens_without_alembic(tmp_path):
    """It takes half a second to import."""
    Store(tmp_path).close()
    assert database.head() == ScriptDirectory.from_config(database._config()).get_current_head()
    look = "import sys; from pathlib import Path; from chestmap.serving.store.store import Store; from chestmap.serving.engine import service; "
    tell = f"Store(Path({str(tmp_path)!r})).close(); print([one for one in ('alembic', 'polars') if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", look + tell], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def shape(engine):
    """Columns with types and defaults, keys and indexes of every table."""
    found = inspect(engine)
    return {
        table: (
            [(one["name"], str(one["type"]), one["nullable"], one["default"]) for one in by_name(found.get_columns(table))],
            found.get_pk_constraint(table)["constrained_columns"],
            found.get_foreign_keys(table),
            [(one["name"], one["column_names"], one["unique"]) for one in by_name(found.get_indexes(table))],
        )
        for table in found.get_table_names()
        if not table.startswith(text_index.TABLE)
    }


def by_name(rows):
    return sorted(rows, key=lambda one: one["name"])


NAMES = (
    "film-1.png",
    'a "quoted" film',
    "50% _ film",
    "it's AND film OR *",
    "FILM-12.png",
    "Müller",
    "x",
    "a/b\\c film",
    "(id:)",
)


def searched(store):
    """Names that each search finds, for parts of every name and for texts that are none."""
    parts = {name[first : first + length] for name in NAMES for first in range(3) for length in (1, 3, 5, 40)}
    texts = [*parts, "s-", "p-1", "nothing like this", "film-1\0", '"', "id:", "MÜLLER"]
    return {one: sorted(row.name for row in store.page(Query(search=one))[1]) for one in texts if one}


def test_a_search_finds_the_same_with_and_without_its_index(store):
    for number, name in enumerate(NAMES):
        add(store, f"film {number}", name=name, patient=f"p-{number}")
    with store.engine.begin() as connection:
        assert text_index.is_there(connection)
    found = searched(store)
    assert sorted(found["film-"]) == ["FILM-12.png", "film-1.png"]
    assert found['a "qu'] == ['a "quoted" film']
    assert (found["nothing like this"], found["p-1"], len(found["s-"])) == ([], [NAMES[1]], len(NAMES))
    with store.engine.begin() as connection:
        text_index.drop(connection)
    without = searched(store)
    if store.engine.dialect.name == "sqlite":
        assert without.pop("MÜLLER") == []  # its lower knows English letters alone
    assert without.items() <= found.items()
    with store.engine.begin() as connection:
        text_index.ensure(connection)  # as an older store gets it when it opens
        text_index.ensure(connection)
    assert searched(store) == found


def test_a_search_follows_what_studies_become(store):
    kept, _ = add(store, "one", name="first name", patient="p-one")
    gone, _ = add(store, "two", name="second name", patient="p-two")
    with store.writing() as session:
        session.get(Study, kept).name = "another word"
        session.get(Study, kept).state = "done"
    store.delete(gone)
    found = {
        text: [row.id for row in store.page(Query(search=text))[1]]
        for text in ("first", "second", "name", "other wo", "p-one")
    }
    assert found == {"first": [], "second": [], "name": [], "other wo": [kept], "p-one": [kept]}


def test_a_search_reads_no_other_row(tmp_path):
    store = Store(tmp_path)
    statement = worklist_page._ids(Session(store.engine), Query(search="film-1", sex="F", state="done", least=0.5))
    text = str(statement.compile(store.engine, compile_kwargs={"literal_binds": True}))
    with store.engine.connect() as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")]
    assert [line.split(" VIRTUAL")[0] for line in plan] == [
        "SCAN study_text",
        "SEARCH study USING INDEX sqlite_autoindex_study_1 (id=?)",
    ]
    store.close()


def test_new_tables_are_those_of_the_migrations(tmp_path):
    """A new store is made without Alembic, which takes half a second to import."""
    made = open_database(tmp_path)
    (tmp_path / "old").mkdir()
    engine = database._engine(database._url(tmp_path / "old", None))
    with engine.begin() as connection:
        database._upgrade(connection, tmp_path / "old", None)
        assert database._revision(connection) == database.head()
    assert shape(made) == shape(engine)
    made.dispose()
    engine.dispose()


def test_a_study_is_added_once(store):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: add(store, "film"), range(4)))
    assert sorted(new for _, new in found) == [False, False, False, True]
    study_id = found[0][0]
    assert store.file(study_id, "original").read_text() == "film"
    assert resume(store, MODELS) == [PendingResult(study_id, FIRST), PendingResult(study_id, SECOND)]
    assert store.queued() == 1


def test_results_are_written_once_and_settle_the_study(store):
    study_id, _ = add(store, "film")
    answer(store, [said(study_id, FIRST, 0.7)])
    assert store.study(study_id)[0].state == "queued"
    answer(store, [said(study_id, SECOND, 0.2), said(study_id, SECOND, 0.9), said("s-" + "0" * 24, FIRST)])
    answer(store, [said(study_id, FIRST, 0.1)])
    study, results = store.study(study_id)
    assert (study.state, study.suspicion) == ("done", 0.7)
    assert [one.findings[0]["score"] for one in results] == [0.7, 0.2]
    assert study.top == [{"finding": "Mass", "score": 0.7, "over": True}]
    assert resume(store, MODELS) == []
    assert store.page(Query(finding="Mass"))[0] == 1
    assert store.delete(study_id)
    assert store.page(Query())[0] == 0


def test_a_model_that_is_not_served_any_more_waits_for_its_return(store):
    study_id, _ = add(store, "film")
    answer(store, [said(study_id, FIRST)])
    assert resume(store, {FIRST: MODELS[FIRST]}) == []
    assert store.study(study_id)[0].state == "done"
    assert resume(store, MODELS) == [PendingResult(study_id, SECOND)]
    assert store.study(study_id)[0].state == "queued"


def test_an_image_that_stops_the_service_is_given_up_and_no_other(store):
    bad, _ = add(store, "bad", {FIRST: "one"})
    good, _ = add(store, "good", {FIRST: "one"})
    for _ in range(MOST_DEATHS - 1):
        assert len(resume(store, {FIRST: "one"}, [PendingResult(bad, FIRST)])) == 2
    assert resume(store, {FIRST: "one"}, [PendingResult(bad, FIRST)]) == [PendingResult(good, FIRST)]
    assert store.study(bad)[0].state == "failed"
    assert "each time" in store.study(bad)[0].error
    assert ask(store, bad, {FIRST: "one"}) == [PendingResult(bad, FIRST)]  # uploaded again


def test_a_sweep_leaves_what_was_promised(store):
    study_id, _ = add(store, "film")
    orphan = store.folders.folder_of("s-" + "1" * 24)
    orphan.mkdir(parents=True)
    half = store.folders.new()
    assert (store.folders.folder_of(study_id) / "canvas-8x8").exists()
    assert store.folders.sweep(store.known_ids(with_files=True)) == 1
    assert not orphan.exists()
    assert len(list((store.folders.root / "orphans").iterdir())) == 1
    assert not half.exists()
    assert (store.folders.folder_of(study_id) / "original").exists()
    assert not (store.folders.folder_of(study_id) / "canvas-8x8").exists()


def test_a_kill_between_row_and_files_of_a_deletion_leaves_nothing(store, monkeypatch):
    """And where the kill came before the row was gone, the study stays."""
    study_id, _ = add(store, "film")
    kept, _ = add(store, "kept")
    store.folders.doom(kept)
    with monkeypatch.context() as patched:
        patched.setattr(store.folders, "remove", lambda _: None)
        assert store.delete(study_id)
    assert store.folders.folder_of(study_id).exists()
    left = store.folders.folder_of(kept) / "maps-one.npy.12345678.part"
    left.write_bytes(b"half")
    assert store.folders.sweep(store.known_ids(with_files=True)) == 0
    assert not store.folders.folder_of(study_id).exists()
    assert not (store.folders.root / "orphans").exists()
    assert store.file(kept, "original")
    assert not left.exists()
    assert not list(store.folders.folder_of(kept).glob("being*"))


def test_reviewers_at_once_never_overwrite(store):
    study_id, _ = add(store, "film")

    def write(number):
        try:
            return reviews.put_review(store, study_id, f"r{number}", NewReview(base=0, state="part")).by
        except reviews.StaleReview:
            return None

    with ThreadPoolExecutor(6) as pool:
        won = [one for one in pool.map(write, range(6)) if one]
    assert len(won) == 1
    assert [(one.version, one.by) for one in reviews.history(store, study_id)] == [(1, won[0])]


def test_one_service_for_each_folder(tmp_path):
    first, second = Store(tmp_path), Store(tmp_path)
    first.folders.lock()
    with pytest.raises(Refused, match="another service"):
        second.folders.lock()
    first.close()
    second.folders.lock()
    second.close()


def test_the_folder_is_for_nobody_else(tmp_path):
    store = Store(tmp_path / "store")
    key = store.folders.key()
    assert Store(tmp_path / "store").folders.key() == key
    assert (tmp_path / "store").stat().st_mode & 0o077 == 0
    assert (tmp_path / "store" / "key").stat().st_mode & 0o077 == 0
    (tmp_path / "store" / "under-way").write_text("[[")
    assert under_way(store) == []
    store.close()


@pytest.mark.parametrize("url", ["mysql://x", "not a url", "postgresql+nothing://x"])
def test_other_databases_are_refused(tmp_path, url):
    with pytest.raises(BadInput, match="--database"):
        Store(tmp_path, url)


def test_newer_tables_are_refused(tmp_path):
    store = Store(tmp_path)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    with pytest.raises(BadInput, match="newer than this version"):
        Store(tmp_path)


def test_no_id_becomes_another_path(tmp_path):
    store = Store(tmp_path)
    for word in ("../x", "s-" + "0" * 23 + "/", "s-" + "g" * 24, ""):
        with pytest.raises(BadInput):
            store.folders.folder_of(word)
    assert isinstance(store.folders.folder_of("s-" + "0" * 24), Path)
    store.close()


@pytest.mark.parametrize("left", [0.1, 0.5, 0.9])
def test_a_database_cut_short_is_told_in_one_line(tmp_path, left):
    made = Store(tmp_path / "store")
    add(made, "film")
    made.close()
    path = tmp_path / "store" / "store.sqlite"
    path.write_bytes(path.read_bytes()[: round(path.stat().st_size * left)])
    for opening in (open_database, open_read_only):
        with pytest.raises(BadInput, match=r"malformed|not a database|disk image|schema"):
            opening(tmp_path / "store").dispose()


def test_a_folder_that_was_open_to_all_is_closed(tmp_path):
    for name in ("store", "store/studies", "store/incoming"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    Store(tmp_path / "store").close()
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("store", "store/studies", "store/incoming")] == [0o700] * 3


FILTERS = (
    {}, {"order": "received"}, {"finding": "Mass"}, {"finding": "Mass", "least": 0.2}, {"least": 0.35}, {"most": 0.45, "order": "received"},
    {"view": "PA"}, {"view": "unknown"}, {"sex": "F", "finding": "Mass"}, {"reviewed": "no"}, {"reviewed": "done"}, {"reader": "anna"},
    {"state": "queued"}, {"disagreement": 1}, {"assigned": "anna"}, {"search": "film-1"}, {"search": "FILM", "sex": "F", "least": 0.35}, {"search": "ilm", "finding": "Mass"}, {"search": "fi"}, {"offset": 3}, {"order": "teaches"},
)  # fmt: skip


def test_a_page_is_the_same_however_its_studies_are_found(store, monkeypatch):
    """By the filters' indexes and a sort, by the index of the order, or by the scores of a finding."""
    for number in range(9):
        study_id, _ = add(store, f"film-{number}", view=("PA", "AP", "")[number % 3], sex="FM"[number % 2])
        if number:
            answer(store, [said(study_id, FIRST, 0.1 * number), said(study_id, SECOND, 0.7 - 0.1 * number)])
    reviews.put_review(store, study_id, "anna", NewReview(base=0, state="done"))
    independent_reads.assign(store, store.page(Query())[1][0].id, ["anna"], "bert")

    queries = [Query(**one, limit=4) for one in FILTERS]

    def found():
        pages = [store.page(query) for query in queries]
        return [[row.id for row in rows] for _, rows in pages], [total for total, _ in pages]

    sorted_rows, totals = found()
    assert totals[0] == 9
    assert all(sorted_rows)
    for few, counted in ((0, 5_000), (20_000, 0), (0, 0), (0, -4)):
        monkeypatch.setattr(worklist_page, "FEW", few)
        monkeypatch.setattr(worklist_page, "COUNTED", counted)
        rows, bounded = found()
        assert rows == sorted_rows
        most = [worklist_page.most_counted(query) + 1 for query in queries]
        assert bounded == [min(*one) for one in zip(totals, most, strict=True)]

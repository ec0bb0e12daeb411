"""What the store keeps is what was written: no damaged file or row is used, and an older store is brought up to date."""

from contextlib import closing
from hashlib import sha256

import numpy as np
import pytest
import typer
from alembic import command
from sqlalchemy import delete, select
from typer.testing import CliRunner

from chestmap.cli import check
from chestmap.serving.store import database, reviews, row_digests, store_files
from chestmap.serving.store.database_tables import File, Result, Review, Score, Study
from chestmap.serving.store.export_reviews import read_reviews
from chestmap.serving.store.results import ModelAnswer, NewFile, answer
from chestmap.serving.store.review_schema import FindingReview, NewReview
from chestmap.serving.store.store import NewStudy, Query, Store
from chestmap.serving.store.store_files import DamagedFile
from chestmap.serving.store.verify_store import verify_store

MODEL = "a" * 64
FLIPS = 500
FINDINGS = [{"name": "Mass", "score": 0.1 + 0.2, "threshold": 0.5, "over": False, "boxes": []}]


@pytest.fixture
def store(tmp_path):
    """A study with every kind of file, and a result."""
    random = np.random.default_rng(1)
    contents = {name: random.bytes(3000) for name in ("original", "pixels.u16", "thumbnail.png")}
    with closing(Store(tmp_path / "store")) as made:
        received, sha = made.folders.new(), sha256(contents["original"]).hexdigest()
        files = []
        for name, content in contents.items():
            (received / name).write_bytes(content)
            files.append(NewFile(name.split(".")[0], name, sha256(content).hexdigest(), len(content)))
        made.study_id = f"s-{sha[:24]}"
        made.add(
            NewStudy(
                id=made.study_id,
                sha256=sha,
                name="film",
                image={"width": 8, "height": 8, "source": "png"},
                files=tuple(files),
            ),
            received,
            {MODEL: "one"},
        )
        maps = random.bytes(3000)
        (made.folders.folder_of(made.study_id) / "maps-one.npy").write_bytes(maps)
        kept = NewFile("maps-one", "maps-one.npy", sha256(maps).hexdigest(), len(maps))
        answer(
            made,
            [
                ModelAnswer(
                    study_id=made.study_id,
                    model_sha=MODEL,
                    findings=FINDINGS,
                    maps={"order": ["Mass"]},
                    file=kept,
                    suspicion=0.2,
                )
            ],
        )
        yield made


@pytest.mark.parametrize("kind", ["original", "pixels", "thumbnail", "maps-one"])
def test_no_single_flipped_bit_of_a_file_is_used(store, kind):
    path = store.file(store.study_id, kind)
    content, random = path.read_bytes(), np.random.default_rng(2)
    for place in random.integers(0, 8 * len(content), FLIPS // 4):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(DamagedFile, match=r"is damaged: restore it from a backup, or send the image again$"):
            store.file(store.study_id, kind)
    path.write_bytes(content)
    assert store.file(store.study_id, kind) == path
    path.unlink()
    assert store.file(store.study_id, kind) is None


def test_a_file_is_hashed_once_while_it_stays_as_it_is(store, monkeypatch):
    hashed, real = [], store_files.digest
    monkeypatch.setattr(store_files, "digest", lambda path: (hashed.append(path), real(path))[1])
    for _ in range(3):
        store.file(store.study_id, "pixels")
    assert len(hashed) == 1


def test_no_changed_row_of_a_result_is_used(store):
    assert store.result(store.study_id, "one").findings == FINDINGS
    changed = [{**FINDINGS[0], "score": 0.8}], [{**FINDINGS[0], "name": "Nodule"}], [{**FINDINGS[0], "over": True}], []
    for findings in changed:
        with store.writing() as session:
            session.get(Result, (store.study_id, MODEL)).findings = findings
        for read in (lambda: store.result(store.study_id, "one"), lambda: store.study(store.study_id)):
            with pytest.raises(DamagedFile, match="the result of one for study"):
                read()


ROWS = {
    "study": (
        Study,
        {"patient": "p-2", "image": {"width": 9, "height": 8}, "exam": "e", "top": [], "suspicion": 0.9, "name": "other"},
    ),
    "review": (Review, {"by": "Bo", "findings": {}, "note": "no", "state": "part"}),
}


@pytest.mark.parametrize(("kind", "column"), [(kind, column) for kind, (_, columns) in ROWS.items() for column in columns])
def test_no_changed_row_of_a_study_or_review_is_used(store, kind, column):
    review = NewReview(base=0, state="done", findings={"Mass": FindingReview(verdict="accept")})
    reviews.put_review(store, store.study_id, "Ana", review)
    table, values = ROWS[kind]
    assert store.page(Query())[1][0].error is None
    assert verify_store(store.folders.root, progress=False).problems == ()
    with store.writing() as session:
        setattr(session.scalars(select(table)).one(), column, values[column])
    if kind == "study":
        (line,) = store.page(Query(state=""))[1]
        assert (line.state, line.patient, line.top) == ("failed", "", [])
        assert "is damaged" in line.error
        ways = [lambda: store.study(store.study_id), lambda: store.images([store.study_id])]
    else:
        ways = [lambda: reviews.current(store, store.study_id), lambda: reviews.history(store, store.study_id)]
    ways += [
        lambda: reviews.put_review(store, store.study_id, "Bo", review.model_copy(update={"base": 1})),
        lambda: read_reviews(store.folders.root),
    ]
    for read in ways:
        with pytest.raises(DamagedFile, match="is damaged: restore the database from a backup"):
            read()
    (problem,) = verify_store(store.folders.root, progress=False).problems
    assert problem.startswith({"study": "the row of study s-", "review": "version 1 of the review of study s-"}[kind])


def test_a_result_that_comes_later_does_not_hide_a_damaged_row(store):
    with store.writing() as session:
        session.get(Study, store.study_id).patient = "p-2"
        session.get(Result, (store.study_id, MODEL)).state = "queued"
        session.execute(delete(Score))
        session.execute(delete(File).where(File.kind == "maps-one"))
    again = ModelAnswer(study_id=store.study_id, model_sha=MODEL, findings=FINDINGS, maps={"order": ["Mass"]}, suspicion=0.2)
    answer(store, [again])
    with pytest.raises(DamagedFile, match="the row of study"):
        store.study(store.study_id)


def test_check_knows_a_store(store, tmp_path):
    """Files and rows, a line each, with the store at work; what is elsewhere below the folder is checked, too."""
    app = typer.Typer()
    check.add_to(app)
    done = CliRunner().invoke(app, [str(tmp_path)])
    assert (done.exit_code, done.stdout) == (0, "")
    assert "6 files and rows are as they were written" in done.stderr
    path = store.file(store.study_id, "pixels")
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    store.file(store.study_id, "thumbnail").unlink()
    with store.writing() as session:
        session.get(Score, (store.study_id, MODEL, "Mass")).over = True
    done = CliRunner().invoke(app, [str(tmp_path)])
    assert done.exit_code == 1
    assert sorted(line.rpartition("/")[2].partition(":")[0] for line in done.stdout.splitlines()) == [
        "pixels.u16", f"the scores of one for study {store.study_id} are not those of its result; predict it again", "thumbnail.png",
    ]  # fmt: skip


def test_a_store_of_the_first_tables_is_brought_up_to_date(tmp_path):
    """Identifiers of images become keyed hashes, results get their digest, and nothing that refers to a study is lost."""
    engine, config = database._engine(database._url(tmp_path, None)), database._config()
    with engine.begin() as connection:
        config.attributes |= {"connection": connection}
        command.upgrade(config, "0001")
        study = "'s-1', 'abc', '2020', 'film', 'p-1', '2019', '1.2.3', 'PA', 'done', NULL, NULL, '{\"width\": 8}', '[]', 0.5, 0.1, 0"
        names = "id, sha256, received, name, patient, taken, sop_uid, view, state, shown_patient, error, image, top, suspicion, teaches"
        connection.exec_driver_sql(
            f"INSERT INTO study ({names}, review_version, review_state, review_by) VALUES ({study}, 'no', '')"
        )
        result = f"'s-1', '{MODEL}', 'one', 'done', 1, 0, NULL, '2020', '[{{\"name\": \"Mass\", \"score\": 0.25}}]', '{{}}'"
        columns = "study_id, model_sha, model_id, state, number, deaths, error, at, findings, maps"
        connection.exec_driver_sql(f"INSERT INTO result ({columns}) VALUES ({result})")
    engine.dispose()
    with closing(Store(tmp_path)) as store:
        with store.reading() as session:
            row = session.scalars(select(Study)).one()
        assert (row.instance, row.origin, row.deliver) == (store.folders.instance_of("1.2.3"), "http", False)
        assert store.result("s-1", "one").findings == [{"name": "Mass", "score": 0.25}]
        assert row.digest == row_digests.digest_of(row)

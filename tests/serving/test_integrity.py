"""What the store keeps is what was written: no damaged file or row is used, and an older store is brought up to date."""

from contextlib import closing
from hashlib import sha256

import numpy as np
import pytest
from alembic import command
from sqlalchemy import select

from chestmap.serving.store import database, store_files
from chestmap.serving.store.database_tables import Result, Study
from chestmap.serving.store.results import ModelAnswer, NewFile, answer
from chestmap.serving.store.store import NewStudy, Store
from chestmap.serving.store.store_files import DamagedFile

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
            NewStudy(id=made.study_id, sha256=sha, name="film", image={"width": 8, "height": 8}, files=tuple(files)),
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

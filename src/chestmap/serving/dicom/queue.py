"""What the node has promised to do, on disk: after a commit it outlives the process and a power cut.

new     acknowledged, not yet predicted            busy    being predicted
ready   results wait to be sent                    retry   sending them failed, and is tried again
done    delivered                                  failed  cannot be predicted; `reason` says why
dead    results that could not be delivered for so long that nobody tries any more
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from chestmap.errors import BadInput
from chestmap.serving.dicom.clock import Clock

STATES = ("new", "busy", "ready", "retry", "done", "failed", "dead")
FINISHED = ("done", "failed", "dead")
VERSION = 1
STARTS = 3
"""After so many ends of the process in the midst of an image it is given up."""

TABLE = """
CREATE TABLE image (
  id TEXT PRIMARY KEY, state TEXT NOT NULL, changed REAL NOT NULL, reason TEXT NOT NULL DEFAULT '',
  ready REAL, due REAL NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0, starts INTEGER NOT NULL DEFAULT 0,
  kept INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX by_state ON image (state, due, changed);
"""


class Queue:
    """For any number of threads; another process may look, and wake the dead letters."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._base = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "journal_size_limit=67108864"):
                self._base.execute(f"PRAGMA {pragma}")
            with self._writing() as base:
                (version,) = base.execute("PRAGMA user_version").fetchone()
                if version > VERSION:
                    raise BadInput(
                        f"{path}: version {version} is newer than {VERSION}, which is known here; update chestmap"
                    )
                if version < VERSION:
                    for statement in TABLE.split(";")[:-1]:
                        base.execute(statement)
                    base.execute(f"PRAGMA user_version={VERSION}")
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise BadInput(f"{path}: {error}; is it a queue of `chestmap node`?") from None
        except BadInput:
            self._base.close()
            raise
        (latest,) = self._base.execute("SELECT max(changed) FROM image").fetchone()
        self.clock = Clock(latest or 0)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that holds the write lock from its start."""
        with self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")

    def _set(self, image_id: str, state: str, **columns: object) -> None:
        names = ", ".join(f"{name} = ?" for name in columns)
        with self._writing() as base:
            base.execute(
                f"UPDATE image SET state = ?, changed = ?{', ' + names if names else ''} WHERE id = ?",  # noqa: S608 - own names
                (state, self.clock(), *columns.values(), image_id),
            )

    def _ids(self, condition: str, *values: object) -> list[str]:
        with self._lock:
            return [one for (one,) in self._base.execute(f"SELECT id FROM image WHERE {condition}", values)]  # noqa: S608

    def close(self) -> None:
        with self._lock:
            self._base.close()

    def is_pending(self, image_id: str) -> bool:
        return bool(self._ids("id = ? AND state NOT IN ('done', 'failed', 'dead')", image_id))

    def known(self) -> set[str]:
        return set(self._ids("1"))

    def knows(self, image_id: str) -> bool:
        return bool(self._ids("id = ?", image_id))

    def add(self, image_id: str) -> None:
        """A new image, or one that was finished and came again."""
        with self._writing() as base:
            base.execute(
                "INSERT INTO image (id, state, changed) VALUES (?, 'new', ?) ON CONFLICT (id) DO UPDATE SET state = 'new', "
                "changed = excluded.changed, reason = '', ready = NULL, due = 0, tries = 0, starts = 0, kept = 0 "
                "WHERE state IN ('done', 'failed', 'dead')",
                (image_id, self.clock()),
            )

    def recover(self, deaths: int = 1) -> None:
        """After a start: what was being predicted goes on; what ended the process `STARTS` times does not."""
        with self._writing() as base:
            base.execute("UPDATE image SET state = 'new', starts = starts + ? WHERE state = 'busy'", (deaths,))
            base.execute(
                "UPDATE image SET state = 'failed', changed = ?, reason = 'ended the node ' || starts || ' times' "
                "WHERE state = 'new' AND starts >= ?",
                (self.clock(), STARTS),
            )

    def claim(self, most: int) -> list[str]:
        """The oldest new images; one that was at work when the process ended comes alone, last, so that it harms no other."""
        with self._writing() as base:
            rows = base.execute(
                "SELECT id, starts FROM image WHERE state = 'new' ORDER BY starts, changed LIMIT ?", (most,)
            ).fetchall()
            ids = [one for one, starts in rows if not starts] or [one for one, _ in rows[:1]]
            base.executemany("UPDATE image SET state = 'busy' WHERE id = ?", [(one,) for one in ids])
        return ids

    def put_back(self, image_id: str) -> None:
        """No fault of the image."""
        self._set(image_id, "new")

    def again(self, image_id: str, reason: str) -> bool:
        """Perhaps a fault of the image: whether it is tried once more, alone."""
        with self._writing() as base:
            return bool(
                base.execute(
                    "UPDATE image SET state = 'new', starts = starts + 1, reason = ? WHERE id = ? AND starts + 1 < ?",
                    (reason[:200], image_id, STARTS),
                ).rowcount
            )

    def results_ready(self, image_id: str) -> None:
        self._set(image_id, "ready", ready=self.clock(), due=0, tries=0, reason="")

    def fail(self, image_id: str, reason: str) -> None:
        self._set(image_id, "failed", reason=reason[:200])

    def next_due(self) -> tuple[str, int] | None:
        """What is to be sent now, and how often that was tried."""
        with self._lock:
            return self._base.execute(
                "SELECT id, tries FROM image WHERE state IN ('ready', 'retry') AND due <= ? ORDER BY due, changed LIMIT 1",
                (self.clock(),),
            ).fetchone()

    def postpone(self, image_id: str, seconds: float, reason: str) -> None:
        with self._writing() as base:
            base.execute(
                "UPDATE image SET state = 'retry', changed = ?, due = ?, tries = tries + 1, reason = ? WHERE id = ?",
                (now := self.clock(), now + seconds, reason[:200], image_id),
            )

    def hurry(self) -> None:
        """The archive answers again: whatever waits is due."""
        with self._writing() as base:
            base.execute("UPDATE image SET due = 0 WHERE state = 'retry'")

    def delivered(self, image_id: str, *, kept: bool) -> None:
        self._set(image_id, "done", reason="", kept=int(kept))

    def overdue(self, seconds: float) -> list[str]:
        """Whose delivery has failed, and whose results are older than this."""
        return self._ids("state = 'retry' AND ready <= ?", self.clock() - seconds)

    def bury(self, image_id: str) -> None:
        self._set(image_id, "dead")

    def retry_dead(self) -> int:
        """All dead letters are sent once more, with all their time before them."""
        with self._writing() as base:
            now = self.clock()
            return base.execute(
                "UPDATE image SET state = 'retry', changed = ?, ready = ?, due = 0, tries = 0 WHERE state = 'dead'",
                (now, now),
            ).rowcount

    def failed(self) -> list[str]:
        return self._ids("state = 'failed'")

    def retry_failed(self, image_ids: list[str]) -> int:
        """As if they had just come."""
        with self._writing() as base:
            return base.executemany(
                "UPDATE image SET state = 'new', changed = ?, reason = '', starts = 0 WHERE id = ? AND state = 'failed'",
                [(self.clock(), one) for one in image_ids],
            ).rowcount

    def to_remove(self, failed_before: float) -> list[str]:
        """Whose files are not needed any more."""
        return self._ids("(state = 'done' AND NOT kept) OR (state = 'failed' AND changed < ?)", failed_before)

    def forget(self, image_ids: list[str], before: float) -> None:
        """Lines of images without files that ended before this."""
        with self._writing() as base:
            base.executemany("DELETE FROM image WHERE id = ? AND changed < ?", [(one, before) for one in image_ids])

    def counts(self) -> dict[str, int]:
        with self._lock:
            found = dict(self._base.execute("SELECT state, count(*) FROM image GROUP BY state").fetchall())
        return {state: found.get(state, 0) for state in STATES}

    def oldest(self) -> float:
        """Seconds since the oldest of those that are not finished came, or got its results."""
        with self._lock:
            (since,) = self._base.execute(
                "SELECT min(coalesce(ready, changed)) FROM image WHERE state IN ('new', 'busy', 'ready', 'retry')"
            ).fetchone()
        return 0.0 if since is None else max(0.0, self.clock() - since)

    def reasons(self) -> list[tuple[str, str, int]]:
        """State, reason and number of images, the most frequent first."""
        with self._lock:
            return self._base.execute(
                "SELECT state, reason, count(*) FROM image WHERE reason != '' GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"
            ).fetchall()


def status(root: Path) -> str:
    """The queue of a node's folder as lines, whether the node runs or not."""
    with closing(queue_of(root)) as queue:
        counts = queue.counts()
        lines = [f"{state:7}{count:>8}" for state, count in counts.items()]
        if oldest := queue.oldest():
            lines.append(f"the oldest waits for {_time(oldest)}")
        lines += (f"{state}: {reason} ({count})" for state, reason, count in queue.reasons())
        if counts["dead"]:
            lines.append(f"chestmap node --retry-dead {root} sends the dead letters again")
        return "\n".join(lines)


def _time(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"


def retry_dead(root: Path) -> int:
    with closing(queue_of(root)) as queue:
        return queue.retry_dead()


def queue_of(root: Path) -> Queue:
    path = root / "queue.sqlite"
    if not path.is_file():
        raise BadInput(f"{root}: holds no queue.sqlite; give the --store of `chestmap node`")
    return Queue(path)

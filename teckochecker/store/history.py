"""What has happened to jobs, for whoever watches: the last checks of many, and what is new.

Every change of a job writes a line to its log, and ids of lines only grow, so the newest id
says whether anything is new.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from teckochecker.domain import JobId, Kind, Value
from teckochecker.store import rows
from teckochecker.store.database import Database

MESSAGE_CHARS: Final = 200  # of a check's message: enough to tell what happened
NEWS_ROWS: Final = 500  # log lines read at one look
_CHECKS: Final = (
    "execution_time_ms IS NOT NULL AND status IN ('success','failed','pending','error')"
)
_BEAT: Final = f"job_id, status, substr(message, 1, {MESSAGE_CHARS}), created_at, execution_time_ms"
_LAST_BEATS: Final = (
    f"SELECT {_BEAT} FROM logs WHERE id IN ("
    f"SELECT line.id FROM json_each(?) AS wanted, logs AS line WHERE line.id IN ("
    f"SELECT id FROM logs WHERE job_id = wanted.value AND {_CHECKS} "
    f"ORDER BY id DESC LIMIT ?)) ORDER BY id"
)
_NEWEST: Final = "SELECT ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'logs'), 0)"


class Beat(Value, frozen=True, kw_only=True):
    """One check of a job; `verdict` is in lower case, as in the log."""

    at: datetime
    verdict: str
    duration_ms: int
    message: str


Beats = Mapping[JobId, Sequence[Beat]]
"""Checks of each job, oldest first."""


class News(Value, frozen=True, kw_only=True):
    """What happened after a look: up to the log line `seen`; `more` when that isn't the newest."""

    seen: int
    more: bool
    jobs: tuple[JobId, ...]
    beats: Beats
    job_count: int


class Counts(Value, frozen=True, kw_only=True):
    """Jobs by kind and status, and deliveries that haven't arrived by state."""

    jobs: Mapping[Kind, Mapping[str, int]]
    deliveries: Mapping[str, int]


class History:
    def __init__(self, database: Database) -> None:
        self._database = database

    def beats(self, jobs: Collection[int], limit: int) -> Beats:
        """The last `limit` checks of each job."""
        with self._database.read() as db:
            return _beats(db.execute_sql(_LAST_BEATS, (rows.to_json(list(jobs)), limit)))

    def newest(self) -> int:
        """The id of the newest log line that ever was."""
        with self._database.read() as db:
            return int(db.execute_sql(_NEWEST).fetchone()[0])

    def news(self, after: int) -> News:
        """What happened after the log line `after`, as far as one look reaches."""
        with self._database.read() as db:
            newest = db.execute_sql(_NEWEST).fetchone()[0]
            lines = []
            if newest > after:
                cursor = db.execute_sql(
                    f"SELECT {_BEAT}, id, {_CHECKS} FROM logs WHERE id > ? ORDER BY id LIMIT ?",
                    (after, NEWS_ROWS),
                )
                lines = cursor.fetchall()
            more = len(lines) == NEWS_ROWS
            return News(
                seen=lines[-1][5] if more else newest,
                more=more,
                jobs=tuple(dict.fromkeys(line[0] for line in lines)),
                beats=_beats(line for line in lines if line[6]),
                job_count=db.execute_sql("SELECT count(*) FROM jobs").fetchone()[0],
            )

    def counts(self) -> Counts:
        with self._database.read() as db:
            jobs: dict[Kind, dict[str, int]] = {kind: {} for kind in Kind}
            for kind, status, count in db.execute_sql(
                "SELECT kind, status, count(*) FROM jobs GROUP BY kind, status"
            ):
                jobs[Kind(kind)][status] = count
            cursor = db.execute_sql(
                "SELECT state, count(*) FROM deliveries WHERE state <> 'delivered' GROUP BY state"
            )
            return Counts(jobs=jobs, deliveries=dict(cursor.fetchall()))


def _beats(lines: Any) -> Beats:
    found: dict[JobId, list[Beat]] = {}
    for line in lines:
        beat = Beat(at=rows.instant(line[3]), verdict=line[1], duration_ms=line[4], message=line[2])
        found.setdefault(JobId(line[0]), []).append(beat)
    return found

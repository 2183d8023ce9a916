"""Many jobs at once, written straight into the database's file while no daemon runs.

A hundred thousand POSTs would take minutes. Each row copies one that the API made, column by
column as the schema has them, so that it is what the product itself would have stored.
"""

from __future__ import annotations

import time
from pathlib import Path

import apsw

from tests.benchmarks.harness import Daemon

_OWN = {
    "id": ":first + n.value",
    "name": "jobs.name || '-' || n.value",
    "source_doc": "json_set(source_doc, '$.batch_ids', json_array(:family || n.value))",
    "interval_s": ":interval_s",
    "next_check_at": ":due + n.value * :spread / :count",
    "status": "'active'",
    "status_reason": "NULL",
}
_NUMBERS = (
    "WITH RECURSIVE n(value) AS (SELECT 0 UNION ALL SELECT value + 1 FROM n "
    "WHERE value + 1 < :count) "
)


def fill(
    daemon: Daemon,
    fields: dict[str, object],
    *,
    count: int,
    interval_s: int,
    family: str = "batch_bench_",
) -> None:
    """`count` copies of the job that `fields` makes, due far in the future; the daemon must run.

    Their batches are `family` and a number from 0 on. The daemon is stopped when this returns.
    """
    made = daemon.call("POST", "/api/jobs", fields)
    daemon.call("POST", f"/api/jobs/{made['id']}/pause")
    daemon.stop()
    database = _opened(daemon.database)
    with database:
        _copy(database, made["id"], count, interval_s, family)
        database.execute("DELETE FROM jobs WHERE id = ?", (made["id"],))
    database.close()


def schedule(path: Path, *, first: float, spread_s: float, family: str = "batch_bench_") -> None:
    """Due times evenly over `spread_s` from `first` (unix seconds) on, for the jobs of `family`.

    Beside a running daemon this is another program's write: poke the daemon afterwards.
    """
    database = _opened(path)
    with database:
        database.execute(
            "UPDATE jobs SET next_check_at = :first + place * :spread / total FROM ("
            " SELECT id, row_number() OVER (ORDER BY id) - 1 AS place, count(*) OVER () AS total"
            " FROM jobs WHERE source_doc ->> '$.batch_ids[0]' LIKE :family || '%' AND "
            " status = 'active') AS mine "
            "WHERE mine.id = jobs.id",
            {"first": int(first * 1000), "spread": int(spread_s * 1000), "family": family},
        )
    database.close()


def due_at(path: Path, jobs: list[int], instant: float) -> None:
    """All these jobs are due at `instant` (unix seconds); poke a running daemon afterwards."""
    database = _opened(path)
    with database:
        marks = ",".join("?" * len(jobs))
        database.execute(
            f"UPDATE jobs SET next_check_at = ? WHERE id IN ({marks})", (int(instant * 1000), *jobs)
        )
    database.close()


def _opened(path: Path) -> apsw.Connection:
    database = apsw.Connection(str(path))
    database.set_busy_timeout(5000)
    database.pragma("foreign_keys", 1)
    return database


def _copy(
    database: apsw.Connection, template: int, count: int, interval_s: int, family: str
) -> None:
    (last,) = database.execute("SELECT max(id) FROM jobs").fetchone()
    values = {
        "template": template,
        "first": last + 1,
        "count": count,
        "family": family,
        "interval_s": interval_s,
        "due": int((time.time() + 86400) * 1000),
        "spread": 3_600_000,
    }
    columns = [row[1] for row in database.execute("PRAGMA table_info(jobs)")]
    chosen = ", ".join(_OWN.get(column, f"jobs.{column}") for column in columns)
    database.execute(
        f"INSERT INTO jobs ({', '.join(columns)}) {_NUMBERS}"
        f"SELECT {chosen} FROM n, jobs WHERE jobs.id = :template",
        values,
    )
    for table, kept in (("actions", "kind, doc, origin"), ("job_secrets", "role, secret_id")):
        database.execute(
            f"INSERT INTO {table} (job_id, {kept}) {_NUMBERS}"
            f"SELECT :first + n.value, {kept} FROM n, {table} WHERE job_id = :template",
            values,
        )

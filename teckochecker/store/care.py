"""Keeping the file small and healthy: slices of old logs, free pages, a probing write."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from teckochecker.store import models, rows
from teckochecker.store.database import Database

SLICE_ROWS: Final = 500  # a slice stays below 10 ms, so no other writer waits noticeably
VACUUM_PAGES: Final = 200


class Care:
    def __init__(self, database: Database) -> None:
        self._database = database

    def probe(self, now: datetime) -> None:
        """A real write, so that health can say that writing works."""
        with self._database.write() as db:
            models.Meta.replace(key="probed_at", value=str(rows.ms(now))).execute(db)

    def probed_at(self) -> datetime | None:
        """When the last daemon was last seen alive, by the wall clock that it had."""
        text = self.meta().get("probed_at")
        return None if text is None else rows.instant(int(text))

    def delete_old_logs(self, keep: timedelta, now: datetime) -> int:
        """At most one slice; the newest entry of a job stays, however old it is."""
        with self._database.write() as db:
            db.execute_sql(
                "DELETE FROM logs WHERE id IN (SELECT id FROM logs WHERE created_at < ? "
                "AND id < (SELECT max(id) FROM logs newer WHERE newer.job_id = logs.job_id) "
                "LIMIT ?)",
                (rows.ms(now - keep), SLICE_ROWS),
            )
            return int(db.execute_sql("SELECT changes()").fetchone()[0])

    def delete_excess_logs(self, max_per_job: int) -> int:
        """At most one slice of what one job has above its number, oldest first."""
        with self._database.read() as db:
            row = db.execute_sql(
                "SELECT job_id, count(*) AS n FROM logs GROUP BY job_id HAVING n > ? LIMIT 1",
                (max_per_job,),
            ).fetchone()
        if row is None:
            return 0
        with self._database.write() as db:
            db.execute_sql(
                "DELETE FROM logs WHERE id IN (SELECT id FROM logs WHERE job_id = ? "
                "ORDER BY id LIMIT ?)",
                (row[0], min(SLICE_ROWS, row[1] - max_per_job)),
            )
            return int(db.execute_sql("SELECT changes()").fetchone()[0])

    def shrink(self) -> int:
        """Give up to 200 free pages back to the disk; how many are still free."""
        with self._database.alone() as db:
            db.execute_sql(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
            return int(db.execute_sql("PRAGMA freelist_count").fetchone()[0])

    def meta(self) -> dict[str, str]:
        with self._database.read() as db:
            return {row.key: row.value for row in models.Meta.select().execute(db)}

    def set_meta(self, values: dict[str, str]) -> None:
        with self._database.write() as db:
            for key, value in values.items():
                models.Meta.replace(key=key, value=value).execute(db)

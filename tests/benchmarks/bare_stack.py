"""The yardstick behind `cpu`: the same libraries, doing the least that a poll needs.

Trio, its threads, httpx's transport and peewee over apsw: a look for due work, one GET, one
transaction of select, update and insert. No lifecycle, masking, metrics or logs. What the
daemon takes beyond it is the product's own.

Reads `{"url", "key", "folder", "rate", "seconds"}` on standard input, prints its CPU time per
poll in ms.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import trio
from playhouse.apsw_ext import APSWDatabase

WARM_UP_S = 2.0
JOBS = 1000
PRAGMAS = (("journal_mode", "wal"), ("synchronous", "full"), ("busy_timeout", 5000))
SCHEMA = (
    "CREATE TABLE jobs (id INTEGER PRIMARY KEY, name TEXT, doc TEXT, due INTEGER) STRICT",
    "CREATE INDEX jobs_due ON jobs (due)",
    "CREATE TABLE logs (id INTEGER PRIMARY KEY, job_id INTEGER, at INTEGER, text TEXT) STRICT",
    "CREATE INDEX logs_job ON logs (job_id, id)",
)


class Stack:
    def __init__(self, given: dict[str, Any]) -> None:
        path = str(Path(given["folder"]) / "bare.db")
        self._writer = APSWDatabase(path, pragmas=PRAGMAS, thread_safe=False)
        self._fill()
        self._reader = APSWDatabase(path, thread_safe=False)
        self._pool = httpx.HTTPTransport(trust_env=False)
        self._url = given["url"]
        self._headers = {"authorization": f"Bearer {given['key']}"}
        self._pause_s = 1 / given["rate"]
        self._seconds = given["seconds"]
        self._writing = trio.CapacityLimiter(1)
        self._reading = trio.CapacityLimiter(1)
        self.polls = 0

    async def run(self) -> float:
        """CPU time per poll in ms, after the warm-up."""
        await self._polls(WARM_UP_S)
        before, polls = time.process_time(), self.polls
        await self._polls(self._seconds)
        return 1000 * (time.process_time() - before) / (self.polls - polls)

    def close(self) -> None:
        self._pool.close()
        self._reader.close()
        self._writer.close()

    async def _polls(self, seconds: float) -> None:
        end = trio.current_time() + seconds
        due = trio.current_time()
        async with trio.open_nursery() as nursery:
            while due < end:
                await trio.sleep_until(due)
                jobs = await trio.to_thread.run_sync(self._due, limiter=self._reading)
                for job_id, name in jobs:
                    nursery.start_soon(self._poll, job_id, name)
                due += self._pause_s

    async def _poll(self, job_id: int, name: str) -> None:
        answer = await trio.to_thread.run_sync(self._ask, name)
        await trio.to_thread.run_sync(self._record, job_id, answer, limiter=self._writing)
        self.polls += 1

    def _due(self) -> list[tuple[int, str]]:
        with self._reader.atomic("DEFERRED"):
            statement = "SELECT id, name FROM jobs ORDER BY due LIMIT 1 OFFSET 50"
            return list(self._reader.execute_sql(statement))

    def _ask(self, name: str) -> dict[str, Any]:
        request = httpx.Request("GET", f"{self._url}/v1/batches/{name}", headers=self._headers)
        response = self._pool.handle_request(request)
        try:
            document: dict[str, Any] = json.loads(response.read())
        finally:
            response.close()
        return document

    def _record(self, job_id: int, answer: dict[str, Any]) -> None:
        at, text = time.time_ns() // 1_000_000, json.dumps(answer["request_counts"])
        with self._writer.atomic("IMMEDIATE") as _:
            self._writer.execute_sql("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
            self._writer.execute_sql(
                "UPDATE jobs SET due = ?, doc = ? WHERE id = ?", (at, text, job_id)
            )
            self._writer.execute_sql(
                "INSERT INTO logs (job_id, at, text) VALUES (?, ?, ?)", (job_id, at, text)
            )

    def _fill(self) -> None:
        for statement in SCHEMA:
            self._writer.execute_sql(statement)
        with self._writer.atomic("IMMEDIATE"):
            for number in range(JOBS):
                self._writer.execute_sql(
                    "INSERT INTO jobs (name, doc, due) VALUES (?, '{}', ?)",
                    (f"batch_bench_{number}", number),
                )


def main() -> None:
    given = json.load(sys.stdin)
    stack = Stack(given)
    try:
        cpu_ms = trio.run(stack.run)
    finally:
        stack.close()
    json.dump({"cpu_ms": cpu_ms}, sys.stdout)


if __name__ == "__main__":
    main()

"""How late checks are, seen from outside: from `next_check_at` as stored to the request seen.

The due times are read from the database's file while the daemon runs, the requests come from
the simulators. A due time that no request followed counts with the time that has passed.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

import apsw

Due = tuple[str, float]
"""A batch id, and the instant (unix seconds) at which its job is due."""

ROUNDING_S = 0.001  # what is stored is cut to milliseconds


class DueTimes:
    """Writes down due times while its `with` block runs; for jobs of one batch each.

    `every_s` has to be shorter than the jobs' interval, or some are missed.
    """

    def __init__(self, database: Path, *, every_s: float, family: str = "batch_bench_") -> None:
        self._database = str(database)
        self._every_s = every_s
        self._family = family
        self._found: set[Due] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def within(self, start: float, end: float) -> list[Due]:
        return [due for due in list(self._found) if start <= due[1] < end]

    def _watch(self) -> None:
        database = apsw.Connection(self._database, flags=apsw.SQLITE_OPEN_READONLY)
        database.set_busy_timeout(5000)
        while not self._stop.is_set():
            horizon = time.time() + 3 * self._every_s + 1
            self._found |= {
                (batch_id, due / 1000)
                for batch_id, due in database.execute(
                    "SELECT source_doc ->> '$.batch_ids[0]', next_check_at FROM jobs "
                    "WHERE status = 'active' AND next_check_at <= ?",
                    (int(horizon * 1000),),
                )
                if batch_id.startswith(self._family)
            }
            self._stop.wait(self._every_s)
        database.close()


def by_batch(asked: Iterable[Due]) -> dict[str, list[float]]:
    """The instants of the requests for each batch, in order."""
    found: dict[str, list[float]] = {}
    for batch_id, at in asked:
        found.setdefault(batch_id, []).append(at)
    return {batch_id: sorted(instants) for batch_id, instants in found.items()}


def lags_ms(dues: Iterable[Due], asked: Mapping[str, list[float]], now: float) -> list[float]:
    """The lag of each due time; `now` is when the requests were read."""
    return [1000 * (_first(asked.get(batch_id, ()), due, now) - due) for batch_id, due in dues]


def _first(instants: list[float] | tuple[()], due: float, now: float) -> float:
    place = bisect_left(instants, due - ROUNDING_S)
    return max(due, instants[place]) if place < len(instants) else now

"""Scheduler lag and CPU per poll: 1,000 jobs at 30 s on a simulated OpenAI."""

from __future__ import annotations

import time
from itertools import pairwise

from tests.benchmarks.figures import Figure, percentile
from tests.benchmarks.harness import (
    Daemon,
    Simulated,
    add_secrets,
    installation,
    job_fields,
    say,
    simulated,
)
from tests.benchmarks.lags import DueTimes, by_batch, lags_ms
from tests.benchmarks.seeding import fill, schedule

JOBS = 1000
INTERVAL_S = 30
SETTLE_S = 3.0  # after the last window, for late requests to come


def run(quick: bool) -> list[Figure]:
    rounds, round_s, warm_up_s = (2, 4.0, 3.0) if quick else (5, 30.0, 32.0)
    with simulated() as openai, installation(openai) as daemon:
        begin(daemon, JOBS, INTERVAL_S)
        return measured(daemon, openai, warm_up_s, rounds, round_s)


def begin(daemon: Daemon, jobs: int, interval_s: int, spread_s: float | None = None) -> None:
    """Start the daemon over so many jobs, due evenly within their interval."""
    daemon.start()
    add_secrets(daemon, "openai")
    fill(
        daemon, job_fields("bench", "batch_bench_x", interval_s), count=jobs, interval_s=interval_s
    )
    schedule(daemon.database, first=time.time() + 3, spread_s=spread_s or interval_s)
    daemon.start()


def measured(
    daemon: Daemon, openai: Simulated, warm_up_s: float, rounds: int, round_s: float
) -> list[Figure]:
    """Rounds one after the other, without a gap, so that nothing late falls between them."""
    with DueTimes(daemon.database, every_s=2.0) as due_times:
        time.sleep(3 + warm_up_s)
        marks = [(time.time(), daemon.cpu_s())]
        for number in range(rounds):
            time.sleep(max(0.0, marks[0][0] + (number + 1) * round_s - time.time()))
            marks.append((time.time(), daemon.cpu_s()))
            say(f"round {number + 1} of {rounds}")
        time.sleep(SETTLE_S)
    asked, now = openai.asked(), time.time()
    lags, cpu_ms = [], []
    for (start, cpu_before), (stop, cpu_after) in pairwise(marks):
        lags.append(lags_ms(due_times.within(start, stop), by_batch(asked), now))
        polls = sum(start <= at < stop for _, at in asked)
        cpu_ms.append(1000 * (cpu_after - cpu_before) / max(1, polls))
    told = daemon.call("GET", "/api/stats")["lag_seconds"]
    return [
        *lag_figures(lags),
        Figure(what="p99 as the daemon tells it", unit="ms", rounds=[1000 * told["p99"]]),
        Figure(what="polls in a round", unit="polls", rounds=[len(one) for one in lags]),
        Figure(what="CPU per poll", unit="ms", rounds=cpu_ms, bar=4.5),
    ]


def lag_figures(rounds: list[list[float]]) -> list[Figure]:
    def of(share: float, bar: float | None = None) -> Figure:
        what = f"lag p{share:g}" if share < 100 else "lag max"
        values = [percentile(lags, share) for lags in rounds]
        return Figure(what=what, unit="ms", rounds=values, bar=bar)

    return [of(50), of(99, 250), of(100)]

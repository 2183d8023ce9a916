"""Scheduler lag with 100,000 active jobs at 3,600 s: 28 polls a second for a minute."""

from __future__ import annotations

import time
from itertools import pairwise

from tests.benchmarks.figures import Figure
from tests.benchmarks.harness import installation, say, simulated
from tests.benchmarks.lag import SETTLE_S, begin, lag_figures
from tests.benchmarks.lags import DueTimes, by_batch, lags_ms

JOBS = 100_000
INTERVAL_S = 3600


def run(quick: bool) -> list[Figure]:
    jobs, rounds, round_s = (5_000, 2, 2.0) if quick else (JOBS, 5, 12.0)
    with simulated() as openai, installation(openai) as daemon:
        begun = time.monotonic()
        begin(daemon, jobs, INTERVAL_S, spread_s=INTERVAL_S * jobs / JOBS)
        say(f"{jobs} jobs stand in the database after {time.monotonic() - begun:.0f} s")
        lags, cpu_percent = [], []
        with DueTimes(daemon.database, every_s=1.0) as due_times:
            time.sleep(2 if quick else 10)
            marks = [(time.time(), daemon.cpu_s())]
            for number in range(rounds):
                time.sleep(max(0.0, marks[0][0] + (number + 1) * round_s - time.time()))
                marks.append((time.time(), daemon.cpu_s()))
            time.sleep(1 if quick else SETTLE_S)
        asked, now = by_batch(openai.asked()), time.time()
        for (start, cpu_before), (stop, cpu_after) in pairwise(marks):
            lags.append(lags_ms(due_times.within(start, stop), asked, now))
            cpu_percent.append(100 * (cpu_after - cpu_before) / (stop - start))
        return [
            *lag_figures(lags),
            Figure(what="polls a second", unit="1/s", rounds=[len(one) / round_s for one in lags]),
            Figure(what="CPU of one core", unit="%", rounds=cpu_percent, bar=30),
            Figure(what="memory (PSS)", unit="MB", rounds=[daemon.pss_mb()]),
        ]

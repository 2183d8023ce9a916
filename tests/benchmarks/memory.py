"""Memory of the daemon's process tree: idle, with 1,000 jobs listed, and while they are polled."""

from __future__ import annotations

import sys
import time

from tests.benchmarks.figures import Figure
from tests.benchmarks.harness import Daemon, installation, say, simulated
from tests.benchmarks.lag import JOBS, begin
from tests.benchmarks.seeding import schedule

IDLE_BAR_MB = 75 if sys.version_info < (3, 13) else 80
WORK_BAR_MB = 100
SPREAD_S = 10.0  # each job is polled once within it


def run(quick: bool) -> list[Figure]:
    rounds, settle_s = (1, 1.0) if quick else (5, 4.0)
    idle, listed, worked = [], [], []
    with simulated() as openai, installation(openai) as fresh, installation(openai) as full:
        begin(full, JOBS, 3600)
        full.stop()
        for number in range(rounds):
            idle.append(_idle_mb(fresh, settle_s))
            with_list, with_work = _busy_mb(full, settle_s, 2.0 if quick else SPREAD_S)
            listed.append(with_list)
            worked.append(with_work)
            say(f"round {number + 1} of {rounds}")
    return [
        Figure(what="idle", unit="MB", rounds=idle, bar=IDLE_BAR_MB),
        Figure(what="1,000 jobs, all listed", unit="MB", rounds=listed, bar=WORK_BAR_MB),
        Figure(what="1,000 jobs, all polled", unit="MB", rounds=worked, bar=WORK_BAR_MB),
    ]


def _idle_mb(daemon: Daemon, settle_s: float) -> float:
    daemon.start()
    time.sleep(settle_s)
    found = daemon.pss_mb()
    daemon.stop()
    return found


def _busy_mb(daemon: Daemon, settle_s: float, spread_s: float) -> tuple[float, float]:
    """After every job was listed, and after every job was polled as well."""
    schedule(daemon.database, first=time.time() + settle_s + 3, spread_s=spread_s)
    daemon.start()
    for offset in range(0, JOBS, 100):
        daemon.call("GET", f"/api/jobs?limit=100&offset={offset}")
    listed = daemon.pss_mb()
    time.sleep(3 + settle_s + spread_s)
    worked = daemon.pss_mb()
    daemon.stop()
    return listed, worked

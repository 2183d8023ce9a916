"""From the request that creates a job to its first poll, beside 1,000 jobs at 30 s."""

from __future__ import annotations

import random
import time

from tests.benchmarks.figures import Figure, percentile
from tests.benchmarks.harness import (
    Daemon,
    Simulated,
    installation,
    job_fields,
    simulated,
    wait_for,
)
from tests.benchmarks.lag import INTERVAL_S, JOBS, begin

PAUSE_S = 0.6  # at most, between two creations


def run(quick: bool) -> list[Figure]:
    rounds, jobs_each = (1, 10) if quick else (5, 40)
    with simulated() as openai, installation(openai) as daemon:
        begin(daemon, JOBS, INTERVAL_S)
        time.sleep(4 if quick else 20)
        waits = [_waits_s(daemon, openai, number, jobs_each) for number in range(rounds)]
    return [
        Figure(what="p50", unit="s", rounds=[percentile(one, 50) for one in waits]),
        Figure(what="slowest", unit="s", rounds=[max(one) for one in waits], bar=1.0, every=True),
    ]


def _waits_s(daemon: Daemon, openai: Simulated, number: int, count: int) -> list[float]:
    known = len(openai.asked())
    sent: dict[str, float] = {}
    for place in range(count):
        batch_id = f"batch_bench_new_{number}_{place}"
        sent[batch_id] = time.time()
        daemon.call("POST", "/api/jobs", job_fields(batch_id, batch_id, INTERVAL_S))
        time.sleep(random.uniform(0, PAUSE_S))

    def seen() -> dict[str, float]:
        first: dict[str, float] = {}
        for batch_id, at in openai.asked(known):
            first.setdefault(batch_id, at)
        return first if sent.keys() <= first.keys() else {}

    first = wait_for("first poll of every new job", seen, seconds=65, every_s=0.5)
    return [first[batch_id] - at for batch_id, at in sent.items()]

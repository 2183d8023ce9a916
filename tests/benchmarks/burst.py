"""1,000 jobs due at the same instant, while the other side takes 300 ms for an answer."""

from __future__ import annotations

import time

from tests.benchmarks.figures import Figure
from tests.benchmarks.harness import (
    Daemon,
    Simulated,
    add_secrets,
    installation,
    job_fields,
    say,
    simulated,
    wait_for,
)
from tests.benchmarks.seeding import fill, schedule

JOBS = 1000
LATENCY = ("--latency-ms", "300")
MOST_S = 60.0
NOTICE_S = 1.0  # from writing the due time to that time


def run(quick: bool) -> list[Figure]:
    rounds = 1 if quick else 5
    with simulated(*LATENCY) as first, simulated(*LATENCY) as second:
        return [
            *_measured([first], rounds, "one origin"),
            *_measured([first, second], rounds, "two origins"),
        ]


def _measured(origins: list[Simulated], rounds: int, title: str) -> list[Figure]:
    with installation(origins[0]) as daemon:
        daemon.start()
        add_secrets(daemon, "openai")
        for number, origin in enumerate(origins):
            fields = job_fields(f"bench-{number}", "batch_bench_x", 3600)
            fields["openai_base_url"] = origin.base_url
            family = f"batch_bench_{number}_"
            fill(daemon, fields, count=JOBS // len(origins), interval_s=3600, family=family)
            daemon.start()
        made = daemon.call("POST", "/api/jobs", job_fields("spare", "batch_bench_spare", 3600))
        poke = f"/api/jobs/{made['id']}/pause"
        daemon.call("POST", poke)
        results = [_burst(daemon, origins, poke, title) for _ in range(rounds)]
    seen, stored, cpu_ms = zip(*results, strict=True)
    return [
        Figure(what=f"{title}: last request seen", unit="s", rounds=seen),
        Figure(what=f"{title}: last outcome stored", unit="s", rounds=stored, bar=5.0),
        Figure(what=f"{title}: CPU per poll", unit="ms", rounds=cpu_ms),
    ]


def _burst(
    daemon: Daemon, origins: list[Simulated], poke: str, title: str
) -> tuple[float, float, float]:
    """Seconds until the last request and the last outcome, and CPU per poll in ms."""
    known = [len(origin.asked()) for origin in origins]
    due = time.time() + NOTICE_S
    schedule(daemon.database, first=due, spread_s=0)
    daemon.call("POST", poke)  # changes nothing, and wakes the scheduler
    cpu_before = daemon.cpu_s()
    statement = "SELECT count(*), max(last_check_at) FROM jobs WHERE last_check_at >= ?"

    def last_outcome() -> int | None:
        ((polled, last),) = daemon.rows(statement, int(due * 1000))
        return last if polled == JOBS else None

    stored = wait_for("end of the burst", last_outcome, seconds=MOST_S, every_s=0.1)
    cpu_ms = (daemon.cpu_s() - cpu_before) * 1000 / JOBS
    asked = [one for origin, n in zip(origins, known, strict=True) for one in origin.asked(n)]
    say(f"{title}: {stored / 1000 - due:.2f} s")
    return max(at for _, at in asked) - due, stored / 1000 - due, cpu_ms

"""Durable writes: 50 producers record checks through the lane of the one writer.

At a pace of 200 writes a second, six times what 1,000 jobs at 30 s make, the bar is on the whole
wait, the place in line included. As fast as they can, 50 writes always stand in line, so that
wait is 50 divided by the rate whatever the store does, and 25 ms would be 2,000 synced
transactions a second: it is told, and the bar is on the write itself, from its turn to its
commit. A reader pages through the jobs all the while.
"""

from __future__ import annotations

from tests.benchmarks.figures import Figure, percentile
from tests.benchmarks.harness import add_secrets, installation, job_fields, run_module, say
from tests.benchmarks.seeding import fill

PRODUCERS = 50
MOST_MS = 25
PACE = 200.0  # writes a second, of all producers together
PACES = {"200 a second": PACE, "as fast as they can": None}


def run(quick: bool) -> list[Figure]:
    rounds, seconds = (1, 1.0) if quick else (5, 8.0)
    results: dict[str, list[dict[str, list[float]]]] = {title: [] for title in PACES}
    with installation() as daemon:
        daemon.start()
        add_secrets(daemon, "openai")
        fields = job_fields("bench", "batch_bench_x", 3600)
        fill(daemon, fields, count=PRODUCERS, interval_s=3600)
        for number in range(rounds):
            for title, pace in PACES.items():
                given = {"database": str(daemon.database), "seconds": seconds, "pace": pace}
                results[title].append(run_module("producers", given=given, seconds=seconds + 60))
            say(f"round {number + 1} of {rounds}")
    return [figure for title, of in results.items() for figure in _figures(title, of, seconds)]


def _figures(title: str, rounds: list[dict[str, list[float]]], seconds: float) -> list[Figure]:
    def p99(times: str) -> list[float]:
        return [percentile(one[times], 99) for one in rounds]

    waits = [one["waits_ms"] for one in rounds]
    paced = PACES[title] is not None
    return [
        Figure(what=f"{title}: p50", unit="ms", rounds=[percentile(one, 50) for one in waits]),
        Figure(
            what=f"{title}: p99", unit="ms", rounds=p99("waits_ms"), bar=MOST_MS if paced else None
        ),
        Figure(
            what=f"{title}: p99 of the write itself",
            unit="ms",
            rounds=p99("writes_ms"),
            bar=MOST_MS,
        ),
        Figure(
            what=f"{title}: writes",
            unit="1/s",
            rounds=[len(one) / seconds for one in waits],
            higher_is_better=True,
        ),
        Figure(
            what=f"{title}: refused by a lock or otherwise",
            unit="writes",
            rounds=[one["refused"][0] for one in rounds],
            bar=0,
            every=True,
        ),
    ]

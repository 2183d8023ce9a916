"""Ten healthy jobs beside jobs of another origin that hang, are slow, or meet 429 or 500.

The other origin is a process of its own for each window, so nothing hangs over into the next:
its end closes every connection. Sixty jobs are more than one origin may hold of the lane.
"""

from __future__ import annotations

import time

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

HEALTHY = 10
BAD_COUNTS = (1, 60)
STEPS = {"hang": "hang", "slow": "in_progress@3000", "429": "429", "500": "500"}
LEAD_S = 1.0  # for the bad ones to begin, or to end
NONE = ("none", 0)


def run(quick: bool) -> list[Figure]:
    rounds, window_s = (1, 2.0) if quick else (5, 5.0)
    steps = {"hang": "hang"} if quick else STEPS
    with simulated() as openai, installation(openai, MIN_POLL_INTERVAL=1) as daemon:
        bad_port, bad_jobs = _begin(daemon)
        results: dict[tuple[str, int], list[float]] = {}
        with DueTimes(daemon.database, every_s=0.2, family="batch_bench_good") as due_times:
            for number in range(rounds):
                for window in _windows(steps):
                    p50 = _p50(daemon, openai, due_times, window, window_s, bad_port, bad_jobs)
                    results.setdefault(window, []).append(p50)
                say(f"round {number + 1} of {rounds}")
    return _figures(results, rounds)


def _windows(steps: dict[str, str]) -> list[tuple[str, int]]:
    """A window without bad neighbours on each side of those with some."""
    windows = [NONE]
    for count in BAD_COUNTS:
        windows += [*((word, count) for word in steps), NONE]
    return windows


def _begin(daemon: Daemon) -> tuple[int, list[int]]:
    """The port of the other origin, and its jobs, which are paused."""
    daemon.start()
    add_secrets(daemon, "openai", "openai-other")
    with simulated() as other:
        where = {"openai_base_url": other.base_url, "openai_secret": "openai-other"}
        bad = [
            daemon.call(
                "POST", "/api/jobs", job_fields(f"bad-{number}", f"batch_bad_{number}", 1, **where)
            )["id"]
            for number in range(max(BAD_COUNTS))
        ]
        for number in range(HEALTHY):
            name = f"good-{number}"
            daemon.call("POST", "/api/jobs", job_fields(name, f"batch_bench_{name}", 1))
        _all(daemon, bad, "pause")
        time.sleep(2 * LEAD_S)
    return other.port, bad


def _p50(
    daemon: Daemon,
    openai: Simulated,
    due_times: DueTimes,
    window: tuple[str, int],
    window_s: float,
    bad_port: int,
    bad_jobs: list[int],
) -> float:
    """Of the healthy jobs' lags, in ms."""
    word, count = window
    known = len(openai.asked())
    if count == 0:
        start, stop = _window(window_s)
    else:
        with Simulated("--batch", f"batch_bad_*={STEPS[word]}", port=bad_port):
            _all(daemon, bad_jobs[:count], "resume")
            time.sleep(LEAD_S)
            start, stop = _window(window_s)
            _all(daemon, bad_jobs[:count], "pause")
    time.sleep(LEAD_S)
    asked = by_batch(openai.asked(known))
    return percentile(lags_ms(due_times.within(start, stop), asked, time.time()), 50)


def _window(seconds: float) -> tuple[float, float]:
    start = time.time()
    time.sleep(seconds)
    return start, start + seconds


def _all(daemon: Daemon, jobs: list[int], verb: str) -> None:
    for job in jobs:
        daemon.call("POST", f"/api/jobs/{job}/{verb}")


def _figures(results: dict[tuple[str, int], list[float]], rounds: int) -> list[Figure]:
    alone = results.pop(NONE)
    each = len(alone) // rounds
    base = [sum(alone[n * each : (n + 1) * each]) / each for n in range(rounds)]
    figures = [Figure(what="p50 lag without bad neighbours", unit="ms", rounds=alone)]
    for (word, count), p50s in results.items():
        ratios = [p50 / before for p50, before in zip(p50s, base, strict=True)]
        figures.append(
            Figure(
                what=f"p50 beside {count} x {word}, to without", unit="x", rounds=ratios, bar=1.2
            )
        )
    return figures

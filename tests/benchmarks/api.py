"""The API under 16 clients: rates and latencies, alone and beside writers."""

from __future__ import annotations

import itertools
import time

from tests.benchmarks.figures import Figure, percentile
from tests.benchmarks.harness import TOKEN, Daemon, installation, run_module, say, simulated
from tests.benchmarks.lag import JOBS, begin
from tests.benchmarks.load import Answered

CLIENTS = 16
PATHS = {"list": "/api/jobs?limit=100", "one job": "/api/jobs/{job}", "health": "/api/health"}
BARS = {"list": 300, "one job": 500, "health": 900}


def run(quick: bool) -> list[Figure]:
    rounds, seconds = (1, 1.5) if quick else (5, 4.0)
    with simulated() as openai, installation(openai) as daemon:
        begin(daemon, JOBS, 3600)
        ((job,),) = daemon.rows("SELECT max(id) FROM jobs")
        paths = {title: path.format(job=job) for title, path in PATHS.items()}
        time.sleep(2)
        alone: dict[str, list[list[Answered]]] = {title: [] for title in paths}
        mixed: list[list[Answered]] = []
        for number in range(rounds):
            for title, path in paths.items():
                alone[title].append(load(daemon, seconds, [path] * CLIENTS, []))
            readers = list(itertools.islice(itertools.cycle(paths.values()), CLIENTS))
            writers = [f"writer-{number}-{client}" for client in range(CLIENTS)]
            mixed.append(load(daemon, seconds, readers, writers))
            say(f"round {number + 1} of {rounds}")
    return [
        *(figure for title, of in alone.items() for figure in _rates(title, of, seconds)),
        *_beside_writers(mixed, seconds),
    ]


def load(daemon: Daemon, seconds: float, readers: list[str], writers: list[str]) -> list[Answered]:
    """The answers to that many clients, each on a connection of its own."""
    given = {
        "port": daemon.port,
        "token": TOKEN,
        "seconds": seconds,
        "readers": readers,
        "writers": writers,
    }
    answered: list[Answered] = run_module("load", given=given, seconds=seconds + 60)
    return answered


def _rates(title: str, rounds: list[list[Answered]], seconds: float) -> list[Figure]:
    good = [[ms for status, ms, _ in one if status == 200] for one in rounds]
    return [
        Figure(
            what=f"{title}: requests",
            unit="1/s",
            rounds=[len(one) / seconds for one in good],
            bar=BARS[title],
            higher_is_better=True,
        ),
        Figure(what=f"{title}: p50", unit="ms", rounds=[percentile(one, 50) for one in good]),
        Figure(what=f"{title}: p99", unit="ms", rounds=[percentile(one, 99) for one in good]),
        Figure(
            what=f"{title}: other than 200",
            unit="answers",
            rounds=[len(one) - len(ms) for one, ms in zip(rounds, good, strict=True)],
            bar=0,
            every=True,
        ),
    ]


def _beside_writers(rounds: list[list[Answered]], seconds: float) -> list[Figure]:
    figures = []
    for group in ("read", "write"):
        times = [[ms for _, ms, of in one if of == group] for one in rounds]
        rates = [len(one) / seconds for one in times]
        p99 = [percentile(one, 99) for one in times]
        figures += [
            Figure(
                what=f"mixed, {group}: requests", unit="1/s", rounds=rates, higher_is_better=True
            ),
            Figure(what=f"mixed, {group}: p99", unit="ms", rounds=p99),
        ]
    failed = [sum(status >= 500 or status == 0 for status, _, _ in one) for one in rounds]
    refused = [sum(400 <= status < 500 for status, _, _ in one) for one in rounds]
    return [
        *figures,
        Figure(what="mixed: 5xx or broken off", unit="answers", rounds=failed, bar=0, every=True),
        Figure(what="mixed: 4xx", unit="answers", rounds=refused, bar=0, every=True),
    ]

"""CPU time per poll at 33 polls a second, side by side with the bare stack in the same run.

The machine's own speed is in both, so the ratio tells what the product adds even where the
absolute figure of `lag` suffers from other work.
"""

from __future__ import annotations

import tempfile
import time

from teckochecker.simulators import API_KEY
from tests.benchmarks.figures import Figure
from tests.benchmarks.harness import Daemon, Simulated, installation, run_module, say, simulated
from tests.benchmarks.lag import begin
from tests.benchmarks.seeding import schedule

JOBS = 333
INTERVAL_S = 10  # as many polls a second as 1,000 jobs at 30 s, and a shorter warm-up
WARM_UP_S = INTERVAL_S + 3.0  # each job's due time is then one that the daemon itself chose


def run(quick: bool) -> list[Figure]:
    rounds, seconds = (1, 3.0) if quick else (5, 12.0)
    ours, bare = [], []
    with simulated() as openai, installation(openai, MIN_POLL_INTERVAL=1) as daemon:
        begin(daemon, JOBS, INTERVAL_S)
        daemon.stop()
        for number in range(rounds):
            ours.append(_ours_ms(daemon, openai, seconds))
            bare.append(_bare_ms(openai, seconds))
            say(f"round {number + 1} of {rounds}")
    return [
        Figure(what="daemon", unit="ms", rounds=ours, bar=4.5),
        Figure(what="bare stack", unit="ms", rounds=bare),
        Figure(
            what="daemon to bare stack",
            unit="x",
            rounds=[one / other for one, other in zip(ours, bare, strict=True)],
        ),
    ]


def _ours_ms(daemon: Daemon, openai: Simulated, seconds: float) -> float:
    schedule(daemon.database, first=time.time() + 2, spread_s=INTERVAL_S)
    daemon.start()
    time.sleep(WARM_UP_S)
    polls, before = len(openai.asked()), daemon.cpu_s()
    time.sleep(seconds)
    polls, taken = len(openai.asked(polls)), daemon.cpu_s() - before
    daemon.stop()
    return 1000 * taken / max(1, polls)


def _bare_ms(openai: Simulated, seconds: float) -> float:
    with tempfile.TemporaryDirectory(prefix="teckochecker-bench-") as folder:
        given = {
            "url": openai.url,
            "key": API_KEY,
            "folder": folder,
            "rate": JOBS / INTERVAL_S,
            "seconds": seconds,
        }
        cpu_ms: float = run_module("bare_stack", given=given, seconds=seconds + 60)["cpu_ms"]
        return cpu_ms

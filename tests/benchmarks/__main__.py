"""Measures, shows each figure beside its bar, and exits 1 when one is missed.

Simulators and load clients are processes of their own. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

from tests.benchmarks import (
    api,
    burst,
    containers,
    cpu,
    first_poll,
    lag,
    lag_100k,
    memory,
    neighbours,
    soak,
    startup,
    writes,
)
from tests.benchmarks.figures import Figure, table
from tests.benchmarks.harness import Failed, say

Benchmark = Callable[[bool], list[Figure]]

SOAK = "soak"
BENCHMARKS: dict[str, tuple[Benchmark, str]] = {
    "lag": (lag.run, "1,000 jobs at 30 s"),
    "cpu": (cpu.run, "CPU per poll, beside the bare stack"),
    "burst": (burst.run, "1,000 jobs due at once, answers after 300 ms"),
    "first-poll": (first_poll.run, "a new job's first poll, beside 1,000 jobs"),
    "lag-100k": (lag_100k.run, "100,000 jobs at 3,600 s"),
    "neighbours": (neighbours.run, "ten healthy jobs beside bad ones of another origin"),
    "writes": (writes.run, "durable writes of 50 producers"),
    "api": (api.run, "16 clients, alone and beside 16 writers"),
    "startup": (startup.run, "whole commands"),
    "memory": (memory.run, "PSS of the process tree"),
    "containers": (containers.run, "custom checks, beside raw loops of the same image"),
    "beside-containers": (containers.run_beside, "1,000 jobs and 50 running custom checks"),
    SOAK: (soak.run, "500 jobs with faults for an hour, or --minutes; only by its name"),
}
MOST_S = 900  # for one benchmark; most take one or two minutes


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _ended)
    signal.signal(signal.SIGALRM, _too_long)
    print(_machine())
    missed: list[str] = []
    for name in options.names or [name for name in BENCHMARKS if name != SOAK]:
        if name == SOAK:
            most_s = MOST_S + int(60 * options.minutes)
            missed += _run(name, partial(soak.run, options.quick, options.minutes), most_s)
        else:
            missed += _run(name, partial(BENCHMARKS[name][0], options.quick), MOST_S)
    print("\nMissed: " + "; ".join(missed) if missed else "\nEvery bar is met.")
    return 1 if missed else 0


def _run(name: str, benchmark: Callable[[], list[Figure]], most_s: int) -> list[str]:
    """Print its figures; what was missed."""
    print(f"\n{name}: {BENCHMARKS[name][1]}", flush=True)
    begun = time.monotonic()
    signal.alarm(most_s)
    try:
        figures = benchmark()
    except (Failed, OSError) as error:
        print(f"  FAILED: {error}", flush=True)
        return [f"{name} failed"]
    finally:
        signal.alarm(0)
    print(table(figures), flush=True)
    say(f"{time.monotonic() - begun:.0f} s")
    return [f"{name}, {figure.what}" for figure in figures if figure.missed]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    lines = [f"{name}: {title}" for name, (_, title) in BENCHMARKS.items()]
    parser.add_argument(
        "names", nargs="*", choices=[*BENCHMARKS, []], metavar="NAME", help="; ".join(lines)
    )
    parser.add_argument("--quick", action="store_true", help="some seconds each, to try them out")
    parser.add_argument(
        "--minutes", type=float, default=soak.LENGTH_MINUTES, help="how long a soak lasts"
    )
    return parser


def _machine() -> str:
    load = os.getloadavg()[0]
    return (
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.system()} "
        f"{platform.release()}, load {load:.2f} at the start"
    )


def _ended(number: int, frame: FrameType | None) -> None:
    raise SystemExit(143)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("not done within its time")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

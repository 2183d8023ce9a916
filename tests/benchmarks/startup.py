"""Whole commands: from `start` to the first answer, and the command line's own time."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping

from tests.benchmarks.figures import Figure
from tests.benchmarks.harness import PROGRAM, Failed, installation

COMMANDS = {"--help": (["--help"], 0.30), "--version": (["--version"], None)}
LIST = ["job", "list"]


def run(quick: bool) -> list[Figure]:
    rounds = 2 if quick else 10
    seconds: dict[str, list[float]] = {}
    with installation() as daemon:
        for _ in range(rounds + 1):  # the first warms the file cache
            for title, (arguments, _bar) in COMMANDS.items():
                seconds.setdefault(title, []).append(_command(arguments, daemon.environment))
            seconds.setdefault("job list without a daemon", []).append(
                _command(LIST, daemon.environment)
            )
            seconds.setdefault("start to the first answer", []).append(daemon.start())
            seconds.setdefault("job list with a daemon", []).append(
                _command(LIST, daemon.environment)
            )
            daemon.stop()
    bars = {
        **{title: bar for title, (_, bar) in COMMANDS.items()},
        "job list without a daemon": 0.80,
        "start to the first answer": 1.0,
        "job list with a daemon": 0.55,
    }
    return [
        Figure(what=title, unit="s", rounds=runs[1:], bar=bars[title])
        for title, runs in seconds.items()
    ]


def _command(arguments: list[str], environment: Mapping[str, str]) -> float:
    begun = time.perf_counter()
    done = subprocess.run(
        [PROGRAM, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    taken = time.perf_counter() - begun
    if done.returncode:
        raise Failed(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr[-500:]!r}")
    return taken

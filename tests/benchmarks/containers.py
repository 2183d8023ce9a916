"""Custom checks in containers, beside raw loops that create, start, wait and remove.

A raw loop uses the engine's SDK and the same image, and no more settings than it must: for one
check it runs `true`, for many at once the very program of the checks, at that number of threads
which does best on this machine. The daemon's figures are read from its own log of checks.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import docker

from teckochecker.sandbox.images import RUNNERS
from teckochecker.sandbox.settings import INSTANCE
from tests.benchmarks.api import CLIENTS, PATHS, load
from tests.benchmarks.figures import Figure, percentile
from tests.benchmarks.harness import Daemon, Failed, installation, say, simulated, wait_for
from tests.benchmarks.lag import JOBS, begin
from tests.benchmarks.load import Answered
from tests.benchmarks.seeding import due_at
from tests.sandboxed import WHEEL, purge, wheel

MANY, PLACES = 100, 50
THREADS = (2, 4, 8, 16, 50)
MOST_S = 240.0
NOTICE_S = 1.0  # from writing the due time to that time
LOOK_EVERY_S = 0.25  # for what is told with its own times: looking takes time from what is measured
PYTHON = "/opt/teckochecker/venv/bin/python3"
PENDING = 'print(\'{"status": "PENDING"}\')'
TIMED = """
import json, time
ticks = int(open("/proc/self/stat").read().rpartition(")")[2].split()[19])
own = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / 100
print(json.dumps({"status": "PENDING", "data": {"own_ms": 1000 * own}}))
"""
SLEEPS = "import time; time.sleep(600)"
CHECKS = "/api/custom-checks"


def run(quick: bool) -> list[Figure]:
    rounds, each = (1, 3) if quick else (5, 10)
    with engine() as client, with_scripts() as daemon:
        daemon.start()
        return [
            *_one(daemon, client, rounds, each),
            *_with_dependencies(daemon, rounds, each),
            *_parallel(daemon, client, rounds, 20 if quick else MANY),
        ]


def run_beside(quick: bool) -> list[Figure]:
    """The API, and the memory, while 50 scripts run beside 1,000 polling jobs."""
    rounds, seconds = (1, 1.5) if quick else (5, 4.0)
    with simulated() as openai, engine(), with_scripts(openai) as daemon:
        begin(daemon, JOBS, 3600)
        ((job,),) = daemon.rows("SELECT max(id) FROM jobs WHERE kind = 'polling'")
        paths = [path.format(job=job) for path in PATHS.values()]
        readers = (paths * CLIENTS)[:CLIENTS]
        alone = [_p99_ms(load(daemon, seconds, readers, [])) for _ in range(rounds)]
        for number in range(PLACES):
            add(daemon, f"sleeps-{number}", SLEEPS, timeout_seconds=3600)
        wait_for("running scripts", lambda: containers(daemon) == PLACES, seconds=MOST_S)
        time.sleep(2)
        p99, memory = [], []
        for number in range(rounds):
            p99.append(_p99_ms(load(daemon, seconds, readers, [])))
            memory.append(daemon.pss_mb())
            say(f"round {number + 1} of {rounds}")
        if containers(daemon) != PLACES:
            raise Failed("the scripts didn't run all the time")
    return [
        Figure(what="API without them: p99", unit="ms", rounds=alone),
        Figure(what="API beside 50 running checks: p99", unit="ms", rounds=p99, bar=100),
        Figure(what="1,000 jobs and 50 running checks", unit="MB", rounds=memory, bar=100),
    ]


def _p99_ms(answered: list[Answered]) -> float:
    return percentile([ms for _, ms, _ in answered], 99)


def _one(daemon: Daemon, client: Any, rounds: int, each: int) -> list[Figure]:
    job = add(daemon, "one", TIMED)
    waited(daemon, job, 1)
    ratios, checks, raws = [], [], []
    for number in range(rounds):
        raw = [timed(raw_run, client, ["true"]) for _ in range(each)]
        found = [_overhead_ms(daemon, job) for _ in range(each)]
        raws.append(1000 * statistics.median(raw))
        checks.append(statistics.median(found))
        ratios.append(checks[-1] / raws[-1])
        say(f"one check, round {number + 1} of {rounds}")
    return [
        Figure(what="raw create, start, wait, remove", unit="ms", rounds=raws),
        Figure(what="a check, less the script's own time", unit="ms", rounds=checks),
        Figure(what="a check to raw", unit="x", rounds=ratios, bar=1.10),
    ]


def _overhead_ms(daemon: Daemon, job: int) -> float:
    """From due to recorded, less the script's own time."""
    line, due = triggered(daemon, job)
    own: float = line["script_output"]["data"]["own_ms"]
    return 1000 * (instant(line) - instant(due)) - own


def _with_dependencies(daemon: Daemon, rounds: int, each: int) -> list[Figure]:
    plain = add(daemon, "plain", PENDING)
    files = {"main.py": f"import tinydep; {PENDING}".encode(), WHEEL: wheel()}
    files["requirements.txt"] = f"./{WHEEL}\n".encode()
    needy = add(daemon, "needy", None)
    daemon.upload(needy, files)
    for job in (plain, needy):
        waited(daemon, job, 1)
    ratios = []
    for _ in range(rounds):
        times = {
            job: statistics.median(
                triggered(daemon, job)[0]["execution_time_ms"] for _ in range(each)
            )
            for job in (plain, needy)
        }
        ratios.append(times[needy] / times[plain])
    return [
        Figure(what="second check with dependencies, to without", unit="x", rounds=ratios, bar=1.15)
    ]


def _parallel(daemon: Daemon, client: Any, rounds: int, count: int) -> list[Figure]:
    jobs = [add(daemon, f"many-{number}", PENDING) for number in range(count)]
    for job in jobs:
        waited(daemon, job, 1)
    spare = add(daemon, "spare", None)
    command = [PYTHON, "-c", PENDING]
    tried = {threads: timed(raw_loop, client, command, count, threads) for threads in THREADS}
    best = min(tried, key=lambda threads: tried[threads])
    say("raw loops: " + ", ".join(f"{n} threads {s:.1f} s" for n, s in tried.items()))
    raws, checks, ratios = [], [], []
    for number in range(rounds):
        raws.append(timed(raw_loop, client, command, count, best))
        checks.append(_burst_s(daemon, jobs, spare))
        ratios.append(raws[-1] / checks[-1])
        say(f"{count} checks, round {number + 1} of {rounds}")
    return [
        Figure(what=f"raw loop of {count} at its best, {best} threads", unit="s", rounds=raws),
        Figure(what=f"{count} checks at {PLACES} in parallel", unit="s", rounds=checks),
        Figure(
            what="throughput to the raw loop's",
            unit="x",
            rounds=ratios,
            bar=0.90,
            higher_is_better=True,
        ),
    ]


def _burst_s(daemon: Daemon, jobs: list[int], spare: int) -> float:
    """From the instant at which all are due until the last is recorded."""
    due = time.time() + NOTICE_S
    due_at(daemon.database, jobs, due)
    daemon.call("POST", f"{CHECKS}/{spare}/pause")
    daemon.call("POST", f"{CHECKS}/{spare}/resume")

    def last() -> Any:
        ((checked, least),) = daemon.rows(
            "SELECT max(last_check_at), min(last_check_at) FROM jobs "
            f"WHERE id IN ({','.join(map(str, jobs))})"
        )
        return checked if least >= 1000 * due else None

    found: int = wait_for("end of all checks", last, seconds=MOST_S, every_s=LOOK_EVERY_S)
    return found / 1000 - due


@contextmanager
def engine() -> Iterator[Any]:
    client = docker.DockerClient.from_env()
    try:
        client.images.get(RUNNERS["python"])
        yield client
    except docker.errors.DockerException as error:
        raise Failed(f"no Docker engine with the runner images: {error}") from error
    finally:
        client.close()


@contextmanager
def with_scripts(*simulators: Any) -> Iterator[Daemon]:
    """A daemon that may use the engine, whose containers and images are removed afterwards."""
    settings = {name: text for name, text in os.environ.items() if name.startswith("DOCKER_")}
    instance = ""
    try:
        with installation(*simulators, MAX_CONCURRENT_CHECKS=PLACES, **settings) as daemon:
            try:
                yield daemon
            finally:
                instance = instance_of(daemon)
    finally:
        purge(instance)  # a busy machine lets a stop leave some for the next start


def instance_of(daemon: Daemon) -> str:
    ((found,),) = daemon.rows("SELECT value FROM meta WHERE key = 'instance'")
    return str(found)


def containers(daemon: Daemon) -> int:
    client = docker.DockerClient.from_env()
    label = {"label": f"{INSTANCE}={instance_of(daemon)}", "status": "running"}
    found = len(client.api.containers(filters=label))
    client.close()
    return found


def add(daemon: Daemon, name: str, script: str | None, **fields: object) -> int:
    body = {
        "name": name,
        "script_runtime": "python",
        "script": script,
        "network": "none",
        "poll_interval_seconds": 3600,
        **fields,
    }
    made: int = daemon.call("POST", CHECKS, body)["id"]
    return made


def waited(daemon: Daemon, job: int, count: int) -> list[Any]:
    """The job's log, newest first, once it holds so many checks."""

    def found() -> Any:
        lines = daemon.call("GET", f"{CHECKS}/{job}/logs?limit=10")["logs"]
        failed = [line["message"] for line in lines if line["status"] == "error"]
        if failed:
            raise Failed(f"a check failed: {failed[0]}")
        return lines if sum(line["status"] == "pending" for line in lines) >= count else None

    lines: list[Any] = wait_for("end of a check", found, seconds=MOST_S, every_s=LOOK_EVERY_S)
    return lines


def triggered(daemon: Daemon, job: int) -> tuple[Any, Any]:
    """The lines of a check that is asked for now, and of the asking."""
    known = daemon.call("GET", f"{CHECKS}/{job}/logs?limit=1")["logs"][0]["id"]
    daemon.call("POST", f"{CHECKS}/{job}/trigger")

    def found() -> Any:
        lines = daemon.call("GET", f"{CHECKS}/{job}/logs?after={known}")["logs"]
        return lines if len(lines) == 2 else None

    line, due = wait_for("end of a check", found, seconds=MOST_S, every_s=LOOK_EVERY_S)
    return line, due


def instant(line: Any) -> float:
    return datetime.fromisoformat(line["created_at"]).timestamp()


def timed(call: Callable[..., None], *arguments: Any) -> float:
    begun = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - begun


def raw_run(client: Any, command: list[str]) -> None:
    api = client.api
    body = {
        "Image": RUNNERS["python"],
        "Entrypoint": command,
        "HostConfig": {"NetworkMode": "none", "NanoCpus": 500_000_000},
    }
    container = api.create_container_from_config(body)["Id"]
    api.start(container)
    api.wait(container)
    api.remove_container(container)


def raw_loop(client: Any, command: list[str], count: int, threads: int) -> None:
    clients = [docker.DockerClient.from_env() for _ in range(threads)]
    shares = [count // threads + (place < count % threads) for place in range(threads)]

    def share(own: Any, runs: int) -> None:
        for _ in range(runs):
            raw_run(own, command)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(share, clients, shares))
    for one in clients:
        one.close()

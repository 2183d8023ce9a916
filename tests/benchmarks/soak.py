"""A long life in short: 500 jobs with faults, while others come and go and somebody follows.

Memory, descriptors and threads of the daemon must be as flat in the last quarter as in the
first one after the warm-up; no trigger may be lost or stuck, no request be answered with an
error, no container be left. Checks in containers are part of it where an engine answers.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from threading import Event

import docker

from teckochecker import simulators
from teckochecker.simulators import Answer, Keboola, OpenAI, Receiver, Recorded, Reply, openai_error
from tests.benchmarks import kill_soak
from tests.benchmarks.containers import PENDING, SLEEPS, add, engine, instance_of
from tests.benchmarks.figures import Figure
from tests.benchmarks.harness import TOKEN, Daemon, Failed, installation, job_fields, say
from tests.benchmarks.lag import begin
from tests.sandboxed import ENVIRONMENT, containers_of, purge

JOBS, INTERVAL_S = 500, 10
LENGTH_MINUTES, QUICK_S = 60.0, 15.0
WARM_UP_SHARE, MOST_WARM_UP_S = 0.3, 120.0
SAMPLES = 240
TURN_S = 0.5  # between two rounds of changes: two jobs come, one goes, one pauses, one goes on
PAUSED, SHOWN = 5, 50  # jobs that are kept so at a time
STREAM_S = 5.0  # until the follower leaves and comes back
SETTLE_S = 60.0  # a webhook that failed five times in a row waits half a minute
FAULT_SHARE = 0.05
FAULTS: tuple[Reply, ...] = (
    *(openai_error(429), openai_error(500), simulators.DROP, simulators.TRUNCATED) * 3,
    openai_error(429, retry_after=1),  # rare, since it holds up every job of the account
    simulators.HANG,  # rare too: each takes a place for 20 s
)
REFUSALS = (Answer(429, headers={"Retry-After": "1"}), Answer(503), simulators.DROP)
ERRS = f'import random; {PENDING} if random.random() < 0.5 else print(\'{{"status": "ERROR"}}\')'
WARMING_MB = 15.0  # what a quick run, which ends within the warm-up, may need more
MEASURES = (  # what, unit, and how much more its last quarter may have than its first
    ("memory of the process tree", "MB", 5.0),
    ("descriptors", "open", 12),  # at times some requests more hang
    ("threads", "alive", 8),
    ("database and its log", "MB", None),
    ("containers", "alive", None),
)
Sample = tuple[float, ...]


class FaultyOpenAI(OpenAI):
    """Faults in place of a twentieth of its answers, while it isn't `calm`."""

    def __init__(self) -> None:
        super().__init__()
        self.calm, self.polls = False, 0
        self.add("batch_ends_*", "in_progress", "completed")

    def answer(self, request: Recorded) -> Reply:
        self._requests.clear()  # an hour of them takes too much memory
        self.polls += 1
        if self.calm or random.random() > FAULT_SHARE:
            return super().answer(request)
        hangs_too = "batch_ends" not in request.path  # a job's end would be too late to see
        return random.choice(FAULTS if hangs_too else FAULTS[:-1])


class FaultyReceiver(Receiver):
    """Refuses a fifth of the calls; `took` names the jobs of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.took: set[str] = set()

    def answer(self, request: Recorded) -> Reply:
        self._requests.clear()
        if random.random() < 0.2:
            return random.choice(REFUSALS)
        assert isinstance(request.body, dict)
        self.took.add(request.body["job_name"])
        return super().answer(request)


class Churn:
    """The jobs that come, go, pause and end; every answer but a 2xx is Failed."""

    def __init__(self, daemon: Daemon, keboola: Keboola, receiver: FaultyReceiver) -> None:
        self._daemon = daemon
        self._keboola, self._receiver = keboola, receiver
        self._numbers = itertools.count(1)
        self._standing = deque(id_ for (id_,) in daemon.rows("SELECT id FROM jobs"))
        self._paused: deque[int] = deque()
        self.made: set[str] = set()
        self.ended: set[str] = set()

    def turn(self) -> None:
        call = self._daemon.call
        self._add_ending()
        number = next(self._numbers)
        fields = job_fields(f"stands-{number}", f"batch_bench_stands_{number}", INTERVAL_S)
        call("DELETE", f"/api/jobs/{self._standing.popleft()}")
        self._standing.append(call("POST", "/api/jobs", fields)["id"])
        self._paused.append(self._standing.popleft())
        call("POST", f"/api/jobs/{self._paused[-1]}/pause")
        if len(self._paused) > PAUSED:
            self._standing.append(self._paused.popleft())
            call("POST", f"/api/jobs/{self._standing[-1]}/resume")
        self.tidy()
        for path in ("jobs?limit=100&q=stands", "custom-checks", "stats", "system"):
            call("GET", f"/api/{path}")
        call("GET", f"/api/jobs/{self._standing[0]}/logs?after=1")

    def tidy(self) -> bool:
        """Note what has ended and delete all but the newest of it; whether all has ended."""
        found = self._daemon.call("GET", "/api/jobs?status=completed&limit=1000")["jobs"]
        self.ended |= {job["name"] for job in found}
        for job in found[SHOWN:]:
            self._daemon.call("DELETE", f"/api/jobs/{job['id']}")
        return self.ended == self.made

    def _add_ending(self) -> None:
        number = next(self._numbers)
        action = ("keboola", "webhook")[len(self.made) % 2]
        fields = kill_soak.job_fields(number, action, self._keboola, self._receiver)
        if action == "keboola":
            fields["keboola_configuration_id"] = fields["name"]
        self._daemon.call("POST", "/api/jobs", {**fields, "batch_id": f"batch_ends_{number}"})
        self.made.add(str(fields["name"]))


def run(quick: bool, minutes: float = LENGTH_MINUTES) -> list[Figure]:
    length_s = QUICK_S if quick else 60 * minutes
    with ExitStack() as stack:
        openai = stack.enter_context(FaultyOpenAI())
        keboola = stack.enter_context(Keboola())
        receiver = stack.enter_context(FaultyReceiver())
        settings = {"OPENAI_BASE_URL": openai.base_url, "MIN_POLL_INTERVAL": 1, **ENVIRONMENT}
        daemon = stack.enter_context(installation(None, **settings))
        begin(daemon, JOBS, INTERVAL_S)
        churn = Churn(daemon, keboola, receiver)
        instance = stack.enter_context(_with_checks(daemon))
        with _followed(daemon):
            samples = _lived(daemon, churn, length_s, instance)
            openai.calm = True
            until = time.monotonic() + SETTLE_S
            while not churn.tidy() and time.monotonic() < until:
                time.sleep(TURN_S)
        daemon.stop()
        left = len(containers_of(instance)) if instance else 0
        errors = sum(_errors(path) for path in daemon.home.glob("teckochecker.log*"))
        triggered = receiver.took | {str(job["config"]) for job in keboola.jobs}
    return [
        *_figures(samples, WARMING_MB if quick else 0.0),
        Figure(what="polls", unit="calls", rounds=[openai.polls]),
        Figure(what="jobs that had to trigger", unit="jobs", rounds=[len(churn.made)]),
        Figure(what="lost triggers", unit="jobs", rounds=[len(churn.ended - triggered)], bar=0),
        Figure(what="stuck", unit="jobs", rounds=[len(churn.made - churn.ended)], bar=0),
        Figure(what="errors in the daemon's log", unit="lines", rounds=[errors], bar=0),
        Figure(what="containers left", unit="alive", rounds=[left], bar=0),
    ]


def _lived(daemon: Daemon, churn: Churn, length_s: float, instance: str) -> list[Sample]:
    """What was sampled after the warm-up."""
    begun = time.monotonic()
    due = begun + min(WARM_UP_SHARE * length_s, MOST_WARM_UP_S)
    every_s = (begun + length_s - due) / SAMPLES
    samples: list[Sample] = []
    while (now := time.monotonic()) < begun + length_s:
        churn.turn()
        if now >= due:
            due = max(due + every_s, now)
            samples += _sampled(daemon, instance)
            if samples and len(samples) % 20 == 0:
                say(f"{(now - begun) / 60:.1f} min, {samples[-1][0]:.1f} MB")
        time.sleep(max(0.0, now + TURN_S - time.monotonic()))
    return samples


def _sampled(daemon: Daemon, instance: str) -> Iterator[Sample]:
    """The values of `MEASURES`; none when a child ended just now, as the next time will do."""
    process = Path(f"/proc/{daemon.pid}")
    files = (path for path in daemon.home.glob("teckochecker.db*"))
    try:
        yield (
            daemon.pss_mb(),
            len(list((process / "fd").iterdir())),
            len(list((process / "task").iterdir())),
            sum(path.stat().st_size for path in files) / 2**20,
            len(containers_of(instance)) if instance else 0,
        )
    except (FileNotFoundError, ProcessLookupError):
        return


def _figures(samples: list[Sample], warming_mb: float) -> list[Figure]:
    if not samples:
        raise Failed("it lasted too short for a sample")
    quarter = max(1, len(samples) // 4)
    figures = []
    for (what, unit, slack), values in zip(MEASURES, zip(*samples, strict=True), strict=True):
        first, last = values[:quarter], values[-quarter:]
        more = warming_mb if what.startswith("memory") else 0
        bar = None if slack is None else statistics.median(first) + slack + more
        figures.append(Figure(what=f"{what}, first quarter", unit=unit, rounds=first))
        figures.append(Figure(what=f"{what}, last quarter", unit=unit, rounds=last, bar=bar))
    return figures


@contextmanager
def _with_checks(daemon: Daemon) -> Iterator[str]:
    """Custom checks of every fate, and the instance on their containers; "" without an engine."""
    try:
        with engine():
            instance = instance_of(daemon)
    except (Failed, docker.errors.DockerException) as error:
        say(f"without custom checks: {error}")
        yield ""
        return
    try:
        add(daemon, "waits", PENDING, poll_interval_seconds=5)
        add(daemon, "errs", ERRS, poll_interval_seconds=5)
        add(daemon, "overruns", SLEEPS, poll_interval_seconds=5, timeout_seconds=10)
        add(daemon, "runs-at-the-stop", SLEEPS, timeout_seconds=3600)
        yield instance
    finally:
        daemon.stop()
        purge(instance)


@contextmanager
def _followed(daemon: Daemon) -> Iterator[None]:
    """Meanwhile somebody follows what happens, and comes back again and again."""
    ended = Event()

    def follow() -> None:
        while not ended.is_set():
            with closing(HTTPConnection("127.0.0.1", daemon.port, timeout=30)) as connection:
                headers = {"authorization": f"Bearer {TOKEN}"}
                connection.request("GET", "/api/events", headers=headers)
                answer = connection.getresponse()
                if answer.status != 200:
                    raise Failed(f"/api/events answered {answer.status}")
                until = time.monotonic() + STREAM_S
                while not ended.is_set() and time.monotonic() < until:
                    answer.readline()

    with ThreadPoolExecutor(1) as pool:
        follower = pool.submit(follow)
        try:
            yield
        finally:
            ended.set()
        follower.result()


def _errors(log: Path) -> int:
    events = map(json.loads, log.read_text().splitlines())
    return sum(event["level"] in ("error", "critical") for event in events)

"""The real daemon, killed with SIGKILL at named points of its talk with the outside.

The simulators kill it: when they have read a request, before anything is done about it, or when
the whole answer has left. It is started again on the same data, and then the job must complete,
and Keboola must have started exactly one job of ours.
"""

from __future__ import annotations

import shutil
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from teckochecker.simulators import DROP, Keboola, OpenAI, Receiver, Recorded
from tests.benchmarks.kill_soak import Victim, job_fields, make_home, soak

pytestmark = pytest.mark.slow

KILL_WITHIN_S = 30.0
DONE_WITHIN_S = 40.0  # two starts and a pause of 10 s between two looks, on a busy machine
Moment = Literal["read", "answered"]


@dataclass(frozen=True)
class Point:
    """Where the daemon dies: at a request, when it was read or when it was answered."""

    method: str
    path: str
    moment: Moment


STATUS = partial(Point, "GET", "/v1/batches/*")
DISCOVERY = partial(Point, "GET", "/v2/storage")
START = partial(Point, "POST", "/jobs")
SEARCH = partial(Point, "GET", "/search/jobs")
FOLLOW_UP = partial(Point, "GET", "/jobs/*")
WEBHOOK = partial(Point, "POST", "/hook")


class Stage:
    """A daemon with its outside world, and the points at which it is still to die."""

    def __init__(self, victim: Victim, openai: OpenAI, keboola: Keboola, receiver: Receiver):
        self.victim = victim
        self.openai = openai
        self.keboola = keboola
        self.receiver = receiver
        self._points: deque[Point] = deque()
        self._deaths = threading.Semaphore(0)
        for simulator in (openai, keboola, receiver):
            simulator.on_read = partial(self._passed, "read")
            simulator.on_answered = partial(self._passed, "answered")

    def play(self, action: str, *points: Point) -> None:
        """Add a job and let the daemon die at each point in turn; then it runs on undisturbed."""
        self.openai.add("batch_1", "completed")
        self.keboola.plan("*", "success")
        self.victim.start()
        self.victim.add_secrets()
        self._points.extend(points)
        fields = job_fields(1, action, self.keboola, self.receiver)
        with suppress(httpx.TransportError):  # killed before its answer; the job is committed
            self.victim.call("POST", "/api/jobs", fields)
        for number, point in enumerate(points, start=1):
            assert self._deaths.acquire(timeout=KILL_WITHIN_S), f"it never came to {point}"
            if number < len(points):
                self.victim.spawn()
        self.victim.start()

    def completed(self) -> dict[str, Any]:
        """The job's only delivery, once the job is completed."""
        job = self.victim.wait_job(
            "job-1", lambda job: job["status"] == "completed", seconds=DONE_WITHIN_S
        )
        assert job["last_check_status"] == "SUCCESS"
        (delivery,) = self.victim.deliveries("job-1")
        assert delivery["state"] == "delivered"
        return delivery

    def _passed(self, moment: Moment, request: Recorded) -> None:
        if not self._points:
            return
        point = self._points[0]
        if moment == point.moment and request.matches(point.method, point.path):
            self._points.popleft()
            self.victim.kill()  # and wait: from here on nothing reaches it
            self._deaths.release()


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("made"))


@contextmanager
def staging(home: Path, made_home: Path) -> Iterator[Stage]:
    shutil.copytree(made_home, home)
    with ExitStack() as stack:
        openai = stack.enter_context(OpenAI())
        keboola = stack.enter_context(Keboola())
        receiver = stack.enter_context(Receiver())
        victim = stack.enter_context(Victim(home, OPENAI_BASE_URL=openai.base_url))
        yield Stage(victim, openai, keboola, receiver)


@pytest.fixture
def stage(tmp_path: Path, made_home: Path) -> Iterator[Stage]:
    with staging(tmp_path / "home", made_home) as made:
        yield made


def assert_started_once(stage: Stage) -> None:
    delivery = stage.completed()
    (started,) = stage.keboola.jobs
    assert delivery["receipt"]["id"] == started["id"]
    variables = started["variableValuesData"]
    assert isinstance(variables, dict)
    assert {"name": "teckochecker_event_id", "value": delivery["event_id"]} in variables["values"]


@pytest.mark.parametrize(
    "points",
    [
        [STATUS("read")],
        [STATUS("answered")],
        [START("read")],
        [START("answered")],
        [START("read"), SEARCH("answered")],
        [STATUS("read"), START("read"), SEARCH("read")],
    ],
    ids=lambda points: "+".join(f"{point.path}-{point.moment}" for point in points),
)
def test_a_kill_neither_loses_nor_doubles_the_started_job(
    stage: Stage, points: list[Point]
) -> None:
    stage.play("keboola", *points)

    assert_started_once(stage)
    assert len(stage.keboola.asked("POST", "/jobs")) == 1


def test_a_start_that_never_arrived_is_sent_again_after_two_looks(
    tmp_path: Path, made_home: Path
) -> None:
    """Three daemons side by side, since each waits 10 s between its two looks."""
    points = {"asked": DISCOVERY("read"), "told": DISCOVERY("answered"), "lost": START("read")}
    with ExitStack() as stack:
        stages = {name: stack.enter_context(staging(tmp_path / name, made_home)) for name in points}
        stages["lost"].keboola.instead("POST", "/jobs", DROP)
        for name, stage in stages.items():
            stage.play("keboola", points[name])

        for name, stage in stages.items():
            assert_started_once(stage)
            sent = len(stage.keboola.asked("POST", "/jobs"))
            assert sent == (2 if name == "lost" else 1), name
        for name in ("asked", "lost"):
            assert len(stages[name].keboola.asked("GET", "/search/jobs")) == 2, name


def test_a_started_job_is_followed_on_after_a_kill(tmp_path: Path, made_home: Path) -> None:
    with ExitStack() as stack:
        moments: tuple[Moment, ...] = ("read", "answered")
        stages = [stack.enter_context(staging(tmp_path / one, made_home)) for one in moments]
        for stage, moment in zip(stages, moments, strict=True):
            stage.play("keboola", FOLLOW_UP(moment))

        for stage in stages:
            assert_started_once(stage)
            job = stage.victim.wait_job(
                "job-1", lambda job: job["keboola_job"]["status"] == "success"
            )
            assert job["status"] == "completed"


@pytest.mark.parametrize(
    ("points", "numbers"),
    [
        ([WEBHOOK("read")], {2}),
        ([WEBHOOK("read"), WEBHOOK("read")], {3}),
        ([WEBHOOK("answered")], {1, 2}),  # it may have recorded the answer before it died
    ],
    ids=["read", "read-twice", "answered"],
)
def test_a_webhook_that_is_sent_again_is_the_same_message(
    stage: Stage, points: list[Point], numbers: set[int]
) -> None:
    stage.play("webhook", *points)

    delivery = stage.completed()
    calls = stage.receiver.requests
    assert {call.headers["webhook-id"] for call in calls} == {delivery["event_id"]}
    assert len({call.raw for call in calls}) == 1
    assert len(calls) in numbers


def test_random_kills_lose_nothing_and_leave_nothing_stuck(tmp_path: Path) -> None:
    figures = soak(tmp_path, rounds=8, seed=1)

    assert figures.jobs > 0
    assert (figures.lost, figures.stuck, figures.started_doubles) == (0, 0, 0), figures

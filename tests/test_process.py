"""The daemon as a process: how it stops, who may start it, and how it goes on after a restart."""

from __future__ import annotations

import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from teckochecker.lock import holder
from teckochecker.simulators import HANG, Afterwards, Batch, Keboola, OpenAI, Receiver
from tests.benchmarks.harness import wait_for
from tests.benchmarks.kill_soak import Victim, job_fields, make_home

pytestmark = pytest.mark.slow

SOON_S = 10.0  # for what takes milliseconds on a machine that isn't busy
HOUR_MS = 3_600_000
CONFLICT = 5
Make = Callable[..., Victim]


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("made"))


@pytest.fixture
def openai() -> Iterator[OpenAI]:
    with OpenAI() as simulator:
        yield simulator


@pytest.fixture
def keboola() -> Iterator[Keboola]:
    with Keboola() as simulator:
        yield simulator


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as simulator:
        yield simulator


@pytest.fixture
def make_daemon(tmp_path: Path, made_home: Path, openai: OpenAI) -> Iterator[Make]:
    """Makes daemons over one home, not started yet."""
    home = tmp_path / "home"
    shutil.copytree(made_home, home)
    with ExitStack() as stack:

        def make(**settings: object) -> Victim:
            given = {"OPENAI_BASE_URL": openai.base_url, "DRAIN_SECONDS": 20, **settings}
            return stack.enter_context(Victim(home, **given))

        yield make


@pytest.fixture
def add_job(keboola: Keboola, receiver: Receiver) -> Callable[..., None]:
    def add(daemon: Victim, number: int = 1, action: str = "keboola", **more: object) -> None:
        daemon.call("POST", "/api/jobs", job_fields(number, action, keboola, receiver, **more))

    return add


def wait_logged(daemon: Victim, event: str, count: int = 1) -> dict[str, Any]:
    """The `count`-th line that the daemon has logged about `event`."""

    def found() -> Any:
        lines = [line for line in daemon.log if line["event"] == event]
        return lines[count - 1] if len(lines) >= count else None

    line: dict[str, Any] = wait_for(f"{event} in the log", found, seconds=SOON_S)
    return line


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.socket() as client:
        client.settimeout(SOON_S)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # full early
        client.connect((host, int(port)))
        yield client


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_check_in_flight_end_and_be_recorded(
    make_daemon: Make, add_job: Callable[..., None], openai: OpenAI, number: signal.Signals
) -> None:
    openai.add("batch_1", Batch("in_progress", delay_s=1.0))
    daemon = make_daemon()
    daemon.start()
    daemon.add_secrets()
    add_job(daemon)
    openai.wait_for(lambda request: True, timeout_s=SOON_S)

    daemon.signal(number)

    assert daemon.wait_ended(15) == 0
    assert holder(daemon.home) is None
    assert daemon.rows("SELECT last_verdict FROM jobs") == [("PENDING",)]
    assert len(openai.requests) == 1
    assert daemon.log[-1]["event"] == "daemon.stopped"


def test_a_second_signal_ends_it_at_once(
    make_daemon: Make, add_job: Callable[..., None], openai: OpenAI
) -> None:
    openai.instead("*", "*", HANG, forever=True)
    daemon = make_daemon()
    daemon.start()
    daemon.add_secrets()
    add_job(daemon)
    openai.wait_for(lambda request: True, timeout_s=SOON_S)
    daemon.signal(signal.SIGTERM)
    wait_logged(daemon, "scheduler.draining")

    daemon.signal(signal.SIGTERM)

    assert daemon.wait_ended(5) == 1  # the drain would take 20 s
    assert daemon.log[-1]["event"] == "daemon.ended_at_once"
    assert holder(daemon.home) is None


def test_a_delivery_that_a_drain_cut_off_is_in_doubt_and_found(
    make_daemon: Make, add_job: Callable[..., None], openai: OpenAI, keboola: Keboola
) -> None:
    openai.add("batch_1", "completed")
    keboola.instead("POST", "/jobs", Afterwards(HANG))
    daemon = make_daemon(DRAIN_SECONDS=1)
    daemon.start()
    daemon.add_secrets()
    add_job(daemon)
    keboola.wait_for(lambda request: request.method == "POST", timeout_s=SOON_S)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait_ended(1 + 5 + SOON_S) == 0
    assert daemon.log[-1]["event"] == "daemon.stopped"
    assert daemon.rows("SELECT state FROM deliveries") == [("sending",)]

    daemon.start()

    assert wait_logged(daemon, "scheduler.started", count=2)["deliveries_in_doubt"] == 1
    daemon.wait_job("job-1", lambda job: job["status"] == "completed")
    (delivery,) = daemon.deliveries("job-1")
    assert [one["outcome"] for one in delivery["attempts"]] == ["unknown", "found"]
    assert len(keboola.jobs) == len(keboola.asked("POST", "/jobs")) == 1


def test_a_client_that_sends_nothing_doesnt_keep_it_alive(make_daemon: Make) -> None:
    daemon = make_daemon()
    with connected(daemon.start()), connected(daemon.wait_up()) as half:
        half.sendall(b"GET /api/health HTTP/1.1\r\nHost: loc")

        daemon.signal(signal.SIGTERM)

        assert daemon.wait_ended(15) == 0  # the drain may take 20 s


def test_a_client_that_never_reads_doesnt_keep_it_alive(make_daemon: Make) -> None:
    """It asks for more than the sockets' buffers hold, until the server can't write any more."""
    daemon = make_daemon(DRAIN_SECONDS=0)
    with connected(daemon.start()) as client:
        client.settimeout(2)
        ask = f"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n{_bearer(daemon)}\r\n\r\n"
        with suppress(TimeoutError):  # it has stopped reading, since we don't read
            while True:
                client.sendall(ask.encode())

        daemon.signal(signal.SIGTERM)

        assert daemon.wait_ended(15) == 0
    assert daemon.log[-1]["event"] == "daemon.overtime"


def test_a_second_daemon_names_the_first(make_daemon: Make) -> None:
    first, second = make_daemon(), make_daemon()
    url = first.start()

    second.spawn()

    assert second.wait_ended(30) == CONFLICT
    said = (second.home / "out").read_text()
    assert first.process is not None
    assert f"pid {first.process.pid}" in said
    assert url in said
    assert "Traceback" not in said
    assert first.call("GET", "/api/health")["status"] == "ok"


def test_a_taken_port_is_told_before_anything_runs(make_daemon: Make) -> None:
    daemon = make_daemon()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        daemon.spawn(port)

        assert daemon.wait_ended(30) == CONFLICT
    said = (daemon.home / "out").read_text()
    assert f"127.0.0.1:{port}" in said
    assert "Traceback" not in said
    assert holder(daemon.home) is None
    assert daemon.log == []


def test_a_restart_keeps_the_due_times(
    make_daemon: Make, add_job: Callable[..., None], openai: OpenAI
) -> None:
    openai.add("batch_*", "in_progress")
    daemon = make_daemon()
    daemon.start()
    daemon.add_secrets()
    add_job(daemon, 1, poll_interval_seconds=60)
    add_job(daemon, 2, poll_interval_seconds=4)
    before = {
        name: daemon.wait_job(name, lambda job: job["last_check_at"]) for name in ("job-1", "job-2")
    }
    daemon.signal(signal.SIGTERM)
    assert daemon.wait_ended(15) == 0

    daemon.start()

    assert daemon.job("job-1")["next_check_at"] == before["job-1"]["next_check_at"]
    openai.wait_for(lambda request: request.path.endswith("batch_2"), count=2, timeout_s=SOON_S)
    first, second = openai.asked("GET", "*/batch_2")
    assert second.at - first.at >= 4
    assert len(openai.asked("GET", "*/batch_1")) == 1


def test_many_missed_checks_run_once_each_and_spread(
    make_daemon: Make, add_job: Callable[..., None], openai: OpenAI
) -> None:
    openai.add("batch_*", "in_progress")
    daemon = make_daemon()
    daemon.start()
    daemon.add_secrets()
    for number in range(1, 301):
        add_job(daemon, number, poll_interval_seconds=60)
    wait_for("first checks", lambda: _all_checked(daemon), seconds=30)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait_ended(15) == 0
    known = len(openai.requests)
    daemon.rows("UPDATE jobs SET next_check_at = next_check_at - ?", HOUR_MS)

    daemon.start()

    openai.wait_for(lambda request: True, count=known + 300, timeout_s=20)
    missed = openai.requests[known:]
    assert len({request.path for request in missed}) == len(missed) == 300
    assert 1.0 < missed[-1].at - missed[0].at < 3.0
    assert wait_logged(daemon, "scheduler.started", count=2)["overdue_jobs"] == 300
    wait_for("second checks", lambda: _due_again(daemon), seconds=SOON_S)


def _bearer(daemon: Victim) -> str:
    return f"Authorization: Bearer {daemon.token}"


def _all_checked(daemon: Victim) -> bool:
    return daemon.rows("SELECT count(*) FROM jobs WHERE last_check_at IS NULL") == [(0,)]


def _due_again(daemon: Victim) -> bool:
    """Whether nobody is due within the next half minute: the missed hour isn't made up for."""
    soon = int(time.time() * 1000) + HOUR_MS // 120
    return daemon.rows("SELECT count(*) FROM jobs WHERE next_check_at < ?", soon) == [(0,)]

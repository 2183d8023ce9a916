"""What a service manager hears: in parts, and from the real program over a stand-in's socket."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import trio

from teckochecker import upkeep
from teckochecker.app import App
from teckochecker.lanes import Lane
from teckochecker.lock import holder
from teckochecker.notify import STATUS_EVERY_S, Notifier
from teckochecker.pulse import STALLED
from tests.benchmarks.kill_soak import make_home

OFTEN_S = 0.05
UNIT = Path(__file__).parents[1] / "deploy/systemd/teckochecker.service"


class Manager:
    """A stand-in for the manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def hear(self, seconds: float = 30) -> list[str]:
        """The next message's lines; TimeoutError when none comes."""
        self.socket.settimeout(seconds)
        return self.socket.recv(65536).decode().splitlines()

    def hear_until(self, line: str) -> list[list[str]]:
        """All messages up to the first that has this line."""
        heard = [self.hear()]
        while line not in heard[-1]:
            heard.append(self.hear())
        return heard

    def forget(self) -> None:
        self.socket.setblocking(False)
        try:
            while self.socket.recv(65536):
                pass
        except BlockingIOError:
            return


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    abstract = f"@teckochecker-test-{uuid.uuid4().hex}"
    made = Manager(abstract if request.param == "abstract" else str(tmp_path / "notify"))
    with made.socket:
        yield made


def test_a_message_is_one_datagram_of_lines(manager: Manager) -> None:
    Notifier(manager.address).ready("http://127.0.0.1:1")
    assert manager.hear() == ["READY=1", "STATUS=Answers at http://127.0.0.1:1"]


def test_a_status_has_one_line_whatever_it_says(manager: Manager) -> None:
    Notifier(manager.address).stuck("one\nREADY=1")
    assert manager.hear() == ["STATUS=one READY=1"]


def test_without_a_manager_nothing_is_sent() -> None:
    Notifier().ready("http://127.0.0.1:1")


def test_a_manager_that_is_gone_or_does_not_read_changes_nothing(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "nobody")).alive("ok")
    deaf = Manager(str(tmp_path / "deaf"))
    with deaf.socket:
        for _ in range(2000):
            Notifier(deaf.address).alive("ok")


@pytest.mark.parametrize(
    ("env", "wanted"),
    [
        ({}, Notifier("", STATUS_EVERY_S)),
        ({"NOTIFY_SOCKET": "/s"}, Notifier("/s", STATUS_EVERY_S)),
        ({"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "6000000"}, Notifier("/s", 2.0)),
        ({"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "900000000"}, Notifier("/s", STATUS_EVERY_S)),
        ({"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "x"}, Notifier("/s", STATUS_EVERY_S)),
        (
            {"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "6000000", "WATCHDOG_PID": "7"},
            Notifier("/s", 2.0),
        ),
        (
            {"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "6000000", "WATCHDOG_PID": "8"},
            Notifier("/s", STATUS_EVERY_S),
        ),
    ],
)
def test_the_environment_names_the_manager_and_its_patience(
    env: dict[str, str], wanted: Notifier
) -> None:
    assert Notifier.from_env(env, 7) == wanted


async def test_the_watchdog_is_fed_while_all_goes_on(
    app: App, manager: Manager, nursery: trio.Nursery
) -> None:
    await nursery.start(partial(upkeep.run, app, Notifier(manager.address, OFTEN_S)))

    for _ in range(3):
        assert await heard(manager) == ["WATCHDOG=1", "STATUS=ok"]
    nursery.cancel_scope.cancel()


async def test_the_watchdog_runs_on_when_the_scheduler_stalls(
    app: App, manager: Manager, nursery: trio.Nursery
) -> None:
    app.pulse.last_pass_at -= STALLED + timedelta(seconds=1)
    await nursery.start(partial(upkeep.run, app, Notifier(manager.address, OFTEN_S)))

    for _ in range(3):
        (status,) = await heard(manager)
        assert status.startswith("STATUS=failing; the scheduler makes no progress")
    app.pulse.last_pass_at = app.now()
    while "WATCHDOG=1" not in await heard(manager):
        pass
    nursery.cancel_scope.cancel()


async def test_the_watchdog_runs_on_when_the_writer_is_stuck(
    app: App, manager: Manager, nursery: trio.Nursery
) -> None:
    await nursery.start(partial(upkeep.run, app, Notifier(manager.address, OFTEN_S)))
    await heard(manager)
    entered, let_go = trio.Event(), threading.Event()

    def stuck() -> None:
        trio.from_thread.run_sync(entered.set)
        let_go.wait(30)

    nursery.start_soon(partial(app.lanes.run, Lane.STORE, stuck))
    await entered.wait()
    await trio.sleep(4 * OFTEN_S)  # the round that was in flight tells once more
    manager.forget()
    with pytest.raises(TimeoutError):
        await heard(manager, seconds=10 * OFTEN_S)
    let_go.set()
    assert "WATCHDOG=1" in await heard(manager)
    nursery.cancel_scope.cancel()


async def heard(manager: Manager, seconds: float = 10) -> list[str]:
    return await trio.to_thread.run_sync(manager.hear, seconds)


@contextmanager
def serving(home: Path, manager: Manager, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "teckochecker", "start", "--port", "0"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TECKOCHECKER_HOME": str(home),
            "NOTIFY_SOCKET": manager.address,
            **env,
        },
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_the_real_program_tells_that_it_serves_lives_and_stops(
    tmp_path: Path, manager: Manager
) -> None:
    (tmp_path / "home").mkdir()
    home = make_home(tmp_path / "home")
    with serving(home, manager, WATCHDOG_USEC="600000") as process:
        ready = manager.hear_until("READY=1")[-1]
        found = holder(home)
        assert found is not None
        assert ready[1] == f"STATUS=Answers at {found.url}"
        with urllib.request.urlopen(f"{found.url}/api/health", timeout=10) as answer:
            assert answer.status == 200
        for _ in range(3):
            assert manager.hear(5) == ["WATCHDOG=1", "STATUS=ok"]

        process.send_signal(signal.SIGTERM)
        stopping = manager.hear_until("STOPPING=1")[-1]

        assert stopping[1] == "EXTEND_TIMEOUT_USEC=35000000"  # DRAIN_SECONDS and some
        assert process.wait(30) == 0


@pytest.mark.slow
def test_a_watchdog_of_another_process_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    home = make_home(tmp_path / "home")
    manager = Manager(str(tmp_path / "notify"))
    with (
        manager.socket,
        serving(home, manager, WATCHDOG_USEC="600000", WATCHDOG_PID="1") as process,
    ):
        manager.hear_until("READY=1")
        manager.hear()  # the first look, at the start
        with pytest.raises(TimeoutError):
            manager.hear(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


# -- the unit


def directives() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, given, value = line.partition("=")
        if given and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_says_what_the_program_does() -> None:
    given = directives()
    assert given["Type"] == ["notify"]
    assert given["KillMode"] == ["mixed"]
    assert given["ExecStart"] == ["/usr/local/bin/teckochecker start"]
    assert "SECRET_KEY_FILE=%d/secret_key" in given["Environment"]
    assert given["LoadCredential"][0].startswith("secret_key:")
    assert given["RestartPreventExitStatus"] == ["5 78"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd isn't here")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """With a program that exists, since its absence is the one complaint otherwise."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/local/bin/teckochecker", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")

"""The nursery tree from the inside; from the outside it is tested in `test_process`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import pytest
import trio

from teckochecker.app import App
from teckochecker.daemon import listen, serve_app, stop, url_of
from teckochecker.errors import AlreadyRunning, ConfigError, StoreBroken
from teckochecker.lock import DataLock, holder
from tests.conftest import Api
from tests.parts import SECRET_KEY
from tests.serving import exchange, raw, status_of

DIES = """
import sys
from pathlib import Path
import apsw  # never two SQLite libraries in one process: the one drops the other's locks
from teckochecker import daemon
from teckochecker.config import Settings

home = Path(sys.argv[1])
env = {"SECRET_KEY": sys.argv[2], "API_PORT": "0", "LOG_FILE": "-"}

def announce(url):
    other = apsw.Connection(str(home / "teckochecker.db"))
    other.execute("DROP TABLE deliveries")
    other.close()

daemon.run(Settings.from_env(env, home), announce)
"""


class Part:
    """A part of the store of which one method does something else."""

    def __init__(self, inner: Any, **methods: Any) -> None:
        self._inner = inner
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def with_part(app: App, part: str, **methods: Any) -> App:
    changed = Part(app.store, **{part: Part(getattr(app.store, part), **methods)})
    return replaced(app, store=changed)  # type: ignore[arg-type]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listen("127.0.0.1", 0) as made:
        yield made


@pytest.fixture
def lock(app: App) -> Iterator[DataLock]:
    made = DataLock(app.settings.home)
    yield made
    made.release()


@asynccontextmanager
async def starting(
    app: App, listener: socket.socket, lock: DataLock
) -> AsyncIterator[tuple[list[str], trio.Event]]:
    """A daemon that is on its way; the addresses that it announces, and when it does."""
    announced: list[str] = []
    ready = trio.Event()

    def announce(url: str) -> None:
        announced.append(url)
        ready.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_app, app, listener, lock, announce)
        yield announced, ready
        nursery.cancel_scope.cancel()


async def test_the_address_is_announced_only_when_jobs_run_and_requests_are_served(
    app: App, listener: socket.socket, lock: DataLock
) -> None:
    entered, let_go = threading.Event(), threading.Event()
    normal = app.store.agenda.spread_overdue

    def held_back(*args: Any) -> Any:
        entered.set()
        let_go.wait(10)
        return normal(*args)

    slow = with_part(app, "agenda", spread_overdue=held_back)
    async with starting(slow, listener, lock) as (announced, ready):
        await trio.to_thread.run_sync(entered.wait, 5)
        await trio.sleep(0.1)
        before = holder(app.settings.home)
        assert announced == []
        assert before is not None
        assert before.url is None

        let_go.set()
        with trio.fail_after(5):
            await ready.wait()
        answer = await exchange(announced[0], raw("GET", "/api/health", "Connection: close"))

        assert status_of(answer) == 200
        found = holder(app.settings.home)
        assert found is not None
        assert (found.pid, found.url) == (os.getpid(), announced[0])


def broken(*args: object) -> None:
    raise StoreBroken("The database can't be used: check the disk.")


@pytest.mark.parametrize(
    ("part", "method"),
    [("agenda", "due"), ("agenda", "spread_overdue"), ("care", "probe"), ("care", "shrink")],
)
async def test_a_long_lived_task_that_dies_takes_the_daemon_down(
    app: App, listener: socket.socket, lock: DataLock, part: str, method: str
) -> None:
    ill = with_part(app, part, **{method: broken})

    with pytest.raises(BaseExceptionGroup) as caught, trio.fail_after(10):
        await serve_app(ill, listener, lock, lambda url: None)

    ours, others = caught.value.split(StoreBroken)
    assert ours is not None
    assert others is None


async def test_a_step_that_meets_a_broken_database_takes_the_daemon_down(
    app: App,
    api: Api,
    secrets: dict[str, int],
    job_fields: dict[str, Any],
    listener: socket.socket,
    lock: DataLock,
) -> None:
    """What was found can't be written any more; going on would find it again and again."""
    await api("POST", "/api/jobs", job_fields, expect=201)
    ill = with_part(app, "jobs", step=broken)

    with pytest.raises(BaseExceptionGroup) as caught, trio.fail_after(10):
        await serve_app(ill, listener, lock, lambda url: None)

    assert caught.value.split(StoreBroken)[1] is None


def test_the_process_of_a_daemon_that_died_ends_with_an_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DIES, str(tmp_path), SECRET_KEY],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "daemon.died" in done.stderr
    assert "no such table: deliveries" in done.stderr
    assert holder(tmp_path) is None


def test_a_port_of_its_own_is_taken_where_none_is_named(listener: socket.socket) -> None:
    port = listener.getsockname()[1]

    assert port > 0
    assert url_of("127.0.0.1", listener) == f"http://127.0.0.1:{port}"


def test_a_taken_port_is_refused_with_the_way_out(listener: socket.socket) -> None:
    with pytest.raises(AlreadyRunning, match="choose another port"):
        listen("127.0.0.1", listener.getsockname()[1])


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises((ConfigError, AlreadyRunning), match=r"192\.0\.2\.1"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("localhost", "localhost")],
)
def test_people_are_shown_an_address_that_they_can_open(
    listener: socket.socket, host: str, shown: str
) -> None:
    assert url_of(host, listener) == f"http://{shown}:{listener.getsockname()[1]}"


async def test_a_stop_without_work_in_flight_takes_no_time(
    app: App, listener: socket.socket, lock: DataLock
) -> None:
    with trio.fail_after(2):  # the drain may take two, the server's last answers one
        await serve_app(app, listener, lock, lambda url: stop(app))

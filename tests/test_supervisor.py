"""The parent of a detached daemon: alone with small commands, and over the real program."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from teckochecker.cli.exits import Exit
from teckochecker.cli.supervisor import (
    FINAL,
    FIRST_PAUSE_S,
    HEALTHY_S,
    LONGEST_PAUSE_S,
    next_pause_s,
)
from teckochecker.lock import SUPERVISOR, DataLock, holder
from tests.benchmarks.harness import wait_for
from tests.benchmarks.kill_soak import make_home

SOON_S = 20.0
SMALL_PSS_KB = 10_000  # 6 MB on Python 3.11 in a checkout, whose import hooks are most of it


def test_pauses_double_up_to_a_minute() -> None:
    pauses = [next_pause_s(0, lived_s=0)]
    while len(pauses) < 8:
        pauses.append(next_pause_s(pauses[-1], lived_s=0))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert pauses[-1] == LONGEST_PAUSE_S


def test_pauses_begin_anew_after_ten_minutes_of_health() -> None:
    assert next_pause_s(60, lived_s=HEALTHY_S) == FIRST_PAUSE_S
    assert next_pause_s(16, lived_s=HEALTHY_S - 1) == 32


def test_it_gives_up_where_a_new_start_would_end_alike() -> None:
    assert {Exit.OK, Exit.CONFLICT, Exit.CONFIG} == FINAL


# -- alone


@dataclass(frozen=True)
class Supervised:
    """A supervisor of something small, whose starter waits for an answer or has gone."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def log(self) -> list[dict[str, Any]]:
        file = self.folder / "daemon.log"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def wait_logged(self, count: int) -> list[dict[str, Any]]:
        wait_for("log line", lambda: len(self.log) >= count, seconds=SOON_S)
        return self.log

    def wait_for_file(self, name: str) -> str:
        file = self.folder / name
        wait_for(name, lambda: file.exists() and file.read_text(), seconds=SOON_S)
        return file.read_text()


@contextmanager
def supervising(folder: Path, script: str, *, waited_for: bool = False) -> Iterator[Supervised]:
    lock = DataLock(folder, SUPERVISOR)
    reading, writing = os.pipe()
    command = ["/bin/sh", "-c", script]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "teckochecker", "supervise"),
            *(str(lock.fileno()), str(folder / "daemon.log"), *command),
        ],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=writing,
        pass_fds=[lock.fileno()],
    )
    lock.hand_on()
    os.close(writing)
    if not waited_for:
        os.close(reading)
    try:
        yield Supervised(process, folder)
    finally:
        if waited_for:
            os.close(reading)
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_crash_loop_is_logged_and_its_pauses_grow(tmp_path: Path) -> None:
    with supervising(tmp_path, "echo >>starts; kill -9 $$") as made:
        lines = made.wait_logged(3)

        made.process.terminate()  # in the third pause

        assert made.process.wait(SOON_S) == 0
    assert [line["restart_in_s"] for line in lines] == [1, 2, 4]
    assert {line["exit_code"] for line in lines} == {-9}
    assert {line["event"] for line in lines} == {"supervisor.daemon_crashed"}
    assert all({"timestamp", "level", "logger"} <= line.keys() for line in lines)
    assert len((tmp_path / "starts").read_text().splitlines()) == 3
    assert (tmp_path / "daemon.log").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
@pytest.mark.parametrize("code", sorted(FINAL))
def test_it_ends_with_a_daemon_that_need_not_run_again(tmp_path: Path, code: int) -> None:
    with supervising(tmp_path, f"echo >>starts; exit {code}") as made:
        assert made.process.wait(SOON_S) == code
    assert len((tmp_path / "starts").read_text().splitlines()) == 1
    assert holder(tmp_path, SUPERVISOR) is None


@pytest.mark.slow
@pytest.mark.parametrize(("end", "code"), [("exit 74", 74), ("kill -9 $$", 137)])
def test_it_hands_on_the_end_of_a_daemon_that_never_answered(
    tmp_path: Path, end: str, code: int
) -> None:
    with supervising(tmp_path, end, waited_for=True) as made:
        assert made.process.wait(SOON_S) == code
    assert made.log == []


@pytest.mark.slow
def test_it_hands_on_the_wish_to_end_as_often_as_it_comes(tmp_path: Path) -> None:
    script = """
    trap 'echo one >one; trap "echo two >two; exit 1" TERM' TERM
    echo up >up; while :; do sleep 0.05; done
    """
    with supervising(tmp_path, script) as made:
        made.wait_for_file("up")
        made.process.terminate()
        made.wait_for_file("one")
        assert made.process.poll() is None
        made.process.terminate()
        made.wait_for_file("two")
        assert made.process.wait(SOON_S) == 1
    assert made.log == []


@pytest.mark.slow
def test_the_daemon_does_not_hold_its_lock(tmp_path: Path) -> None:
    with supervising(tmp_path, "echo $$ >pid; exec sleep 60") as made:
        daemon = int(made.wait_for_file("pid"))
        found = holder(tmp_path, SUPERVISOR)
        assert found is not None
        assert found.pid == made.process.pid
        made.process.kill()
        made.process.wait()
        try:
            assert holder(tmp_path, SUPERVISOR) is None
        finally:
            os.kill(daemon, signal.SIGKILL)


@pytest.mark.slow
def test_a_program_that_is_missing_is_waited_for(tmp_path: Path) -> None:
    """The cache of an executable may be cleared; its next use fills it again."""
    lock = DataLock(tmp_path, SUPERVISOR)
    reading, writing = os.pipe()
    os.close(reading)
    log = tmp_path / "log"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "teckochecker", "supervise"),
            *(str(lock.fileno()), str(log), str(tmp_path / "program")),
        ],
        stdout=writing,
        pass_fds=[lock.fileno()],
    )
    os.close(writing)
    lock.hand_on()
    try:
        wait_for("log line", lambda: log.exists() and log.read_text(), seconds=SOON_S)
        assert json.loads(log.read_text())["exit_code"] == 127
        (tmp_path / "program").write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / "program").chmod(0o700)
        assert process.wait(SOON_S) == 0
    finally:
        process.kill()
        process.wait()


# -- over the real program


@dataclass(frozen=True)
class Installation:
    home: Path

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "teckochecker", *arguments],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "TECKOCHECKER_HOME": str(self.home),
            },
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def pid(self, name: str) -> int:
        found = holder(self.home, name)
        assert found is not None
        return found.pid


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    (tmp_path / "home").mkdir()
    home = make_home(tmp_path / "home")
    yield Installation(home)
    for name in (SUPERVISOR, "daemon.lock"):
        if left := holder(home, name):
            with suppress(ProcessLookupError):
                os.kill(left.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_daemon_serves_again_and_stop_ends_both(installation: Installation) -> None:
    installation("start", "--detach", "--port=0")
    first, supervisor = installation.pid("daemon.lock"), installation.pid(SUPERVISOR)

    os.kill(first, signal.SIGKILL)

    def again() -> bool:
        found = holder(installation.home)
        return found is not None and found.url is not None and found.pid != first

    wait_for("new daemon", again, seconds=SOON_S)
    assert installation.pid(SUPERVISOR) == supervisor
    assert "ok" in installation("status")
    assert pss_kb(supervisor) < SMALL_PSS_KB
    assert f"pid {installation.pid('daemon.lock')}" in installation(
        "start", "--detach", code=Exit.CONFLICT
    )
    lines = (installation.home / "teckochecker.log").read_text().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events.count("daemon.started") == 2
    assert events.count("supervisor.daemon_crashed") == 1

    installation("stop")

    assert holder(installation.home) is None
    assert holder(installation.home, SUPERVISOR) is None
    assert not is_alive(supervisor)
    installation("stop", code=Exit.UNREACHABLE)


@pytest.mark.slow
def test_stop_ends_a_supervisor_that_waits_to_start_a_daemon_again(
    installation: Installation,
) -> None:
    installation("start", "--detach", "--port=0")
    supervisor = installation.pid(SUPERVISOR)
    os.kill(supervisor, signal.SIGSTOP)  # so that the pause lasts as long as the test needs
    daemon = installation.pid("daemon.lock")
    os.kill(daemon, signal.SIGKILL)
    wait_for("end of the daemon", lambda: holder(installation.home) is None, seconds=SOON_S)

    assert "is started again within a minute" in installation("status", code=Exit.UNREACHABLE)
    refusal = installation("start", "--detach", code=Exit.CONFLICT)
    assert f"pid {supervisor}" in refusal
    os.kill(supervisor, signal.SIGCONT)
    installation("stop")

    assert holder(installation.home, SUPERVISOR) is None
    time.sleep(1.5 * FIRST_PAUSE_S)
    assert holder(installation.home) is None


def pss_kb(pid: int) -> int:
    found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
    except FileNotFoundError:
        return False

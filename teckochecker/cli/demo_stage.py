"""Where the demo plays: the real daemon as a child of this process, in a folder of its own.

The child is this very program, started by its command line. However the demo ends, the child is
ended first, by its pid; only pauses can be interrupted, so a start or an end is never cut in two.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from teckochecker.cli import environment
from teckochecker.domain import Document
from teckochecker.errors import FolderError, NotReachable
from teckochecker.lock import holder

START_S: Final = 20.0
START_PAUSE_S: Final = 0.05
DRAIN_S: Final = 2
END_S: Final = DRAIN_S + 8.0  # a daemon that overruns its drain ends itself five seconds later
LAST_LINES: Final = 15
_INHERITED: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")

Pause = Callable[[float], None]


class Stopped(Exception):
    """Somebody wants the demo to end."""


@contextmanager
def pausing() -> Iterator[Pause]:
    """Gives a sleep that raises Stopped once a signal has asked for the end.

    Signals have no other effect until the block ends; under `nohup` a hang-up has none at all.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    wanted = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        wanted.append(signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: None) for number in wanted}
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def pause(seconds: float) -> None:
        if select.select([reading], [], [], seconds)[0]:
            raise Stopped

    try:
        yield pause
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)


@contextmanager
def own_folder() -> Iterator[Path]:
    """An empty folder that only this user can read; it is removed with the block."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="teckochecker-demo-")
    except OSError as error:
        raise FolderError(
            f"There is no place for temporary files ({error.strerror}): set TMPDIR to a folder "
            f"that can be written."
        ) from error
    with folder as name:
        yield Path(name)


class Daemon:
    """The child that serves, asked over its API; NotReachable when it can't be."""

    def __init__(self, process: subprocess.Popen[bytes], home: Path, url: str) -> None:
        self.url = url
        self.token = (home / "token").read_text().strip()
        self._process = process
        self._home = home
        self._client = httpx.Client(
            base_url=url,
            headers={"authorization": f"Bearer {self.token}"},
            timeout=5.0,
            trust_env=False,  # a proxy of the user's has no business on loopback
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, method: str, path: str, document: Document | None = None) -> Any:
        """The answer's document."""
        try:
            answer = self._client.request(method, path, json=document)
        except httpx.TransportError as error:
            self.refuse_dead(patience_s=1.0)
            raise NotReachable(f"The daemon doesn't answer: {error!r}") from error
        if answer.is_error:
            raise NotReachable(f"{method} {path} was answered {answer.status_code}: {answer.text}")
        return answer.json()

    def refuse_dead(self, patience_s: float = 0.0) -> None:
        """NotReachable with the last log lines, if the process has ended or does so in time."""
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return
        raise _died("The daemon", code, self._home)

    def close(self) -> None:
        self._client.close()


@contextmanager
def daemon_in(home: Path, settings: Mapping[str, str], pause: Pause) -> Iterator[Daemon]:
    """A healthy daemon of a fresh installation in `home`; it is ended with the block."""
    variables = _variables(home, settings)
    with _child(["init"], home, variables) as init:
        _wait(lambda: init.poll() is not None, "The folder wasn't set up", pause)
    if init.returncode:
        raise _died("Setting up the folder", init.returncode, home)
    with _child(["start", "--port", "0"], home, variables) as process:
        _wait(lambda: _is_healthy(home) or process.poll() is not None, "No daemon answers", pause)
        found = holder(home)
        if found is None or found.url is None:
            raise _died("The daemon", process.wait(), home)
        daemon = Daemon(process, home, found.url)
        try:
            yield daemon
        finally:
            daemon.close()


def _is_healthy(home: Path) -> bool:
    found = holder(home)
    if found is None or found.url is None:
        return False
    try:
        return httpx.get(f"{found.url}/api/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _wait(condition: Callable[[], bool], complaint: str, pause: Pause) -> None:
    deadline = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > deadline:
            raise NotReachable(f"{complaint} within {START_S:.0f} s.")
        pause(START_PAUSE_S)


@contextmanager
def _child(
    arguments: Sequence[str], home: Path, variables: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """This program once more, out of reach of the terminal's Ctrl-C; ended with the block."""
    with (home / "output").open("ab") as output:
        child = subprocess.Popen(  # noqa: S603  our own program, with constant arguments
            [*environment.program(), *arguments],
            cwd=home,  # where no `.env` of the user lies
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    try:
        yield child
    finally:
        _end(child, home)


def _end(child: subprocess.Popen[bytes], home: Path) -> None:
    child.terminate()
    try:
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        found = holder(home)  # behind an executable's loader the daemon is a process of its own
        if found is not None and found.pid not in (0, child.pid):
            os.kill(found.pid, signal.SIGKILL)
        child.kill()
        child.wait()


def _variables(home: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """What any program needs and what the demo sets, but no setting of the user's."""
    everything = environment.of_child()
    return {
        **{name: everything[name] for name in _INHERITED if name in everything},
        "TECKOCHECKER_HOME": str(home),
        "LOG_FILE": "demo.log",
        "DRAIN_SECONDS": str(DRAIN_S),
        **settings,
    }


def _died(what: str, code: int, home: Path) -> NotReachable:
    lines = (home / "output").read_text(errors="replace").splitlines()[-LAST_LINES:]
    said = "\n".join(lines) or "nothing"
    return NotReachable(f"{what} ended with exit code {code}. It said last:\n{said}")

"""`start`, `stop` and `status`: the daemon as a process."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Final

from cyclopts import Parameter

from teckochecker import __version__
from teckochecker.cli import environment, installation
from teckochecker.cli.client import call, health
from teckochecker.cli.duration import Duration
from teckochecker.cli.exits import Exit, TimedOut
from teckochecker.cli.output import (
    Output,
    answer,
    discard,
    local_time,
    note,
    printable,
    say,
    show_fields,
)
from teckochecker.errors import AccessDenied, NotReachable
from teckochecker.lock import DAEMON, SUPERVISOR, DataLock, holder

START_S: Final = 60.0  # a migration of a large database takes its time
_LOOK_EVERY_S: Final = 0.05
_LOOPBACK: Final = ("127.", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Running:
    """A daemon that is up."""

    pid: int
    url: str


def start(
    *,
    detach: Annotated[bool, Parameter(help="In the background; returns once it answers.")] = False,
    host: Annotated[str | None, Parameter(help="Instead of API_HOST.")] = None,
    port: Annotated[int | None, Parameter(help="Instead of API_PORT; 0 takes a free one.")] = None,
    detached: Annotated[bool, Parameter(show=False)] = False,
    output: Output = "table",
) -> int:
    """Run the daemon until Ctrl-C or `teckochecker stop`.

    In the background it is started again when it crashes, after 1 s, 2 s, up to a minute.

    Example: teckochecker start --detach --port 8000
    """
    flags = {"API_HOST": host, "API_PORT": None if port is None else str(port)}
    given = {name: value for name, value in flags.items() if value is not None}
    if not detached and (names := environment.set_here(given)):
        note(f"Note: the file .env of this folder sets {', '.join(names)}.")
    if detach:
        return _start_detached(given, output)
    settings = environment.settings(given)
    installation.settled(settings.home)  # a command may hold the data for a moment
    from teckochecker import daemon

    def announce(url: str) -> None:
        _tell_started(url, os.getpid(), output)
        if detached:
            _let_go()

    if not settings.api_host.startswith(_LOOPBACK):
        note(f"Note: {settings.api_host} can be reached from outside; every request needs a token.")
    daemon.run(settings, announce, environment.notifier())
    return Exit.OK


def stop(
    *,
    timeout: Annotated[
        Duration, Parameter(help="How long to wait for that (60s); more than DRAIN_SECONDS.")
    ] = 60.0,
    output: Output = "table",
) -> int:
    """End the daemon; work in flight is finished first.

    Example: teckochecker stop --timeout 2m
    """
    home = environment.home()
    supervisor = holder(home, SUPERVISOR)  # which would start the daemon again
    pid = supervisor.pid if supervisor else _running(home).pid
    name = SUPERVISOR if supervisor else DAEMON
    _terminate(pid)
    until = time.monotonic() + timeout
    while _still(home, name, pid):
        if time.monotonic() > until:
            raise TimedOut(
                f"The daemon (pid {pid}) hasn't ended within {timeout:.0f} s: wait longer "
                f"with --timeout; a second `teckochecker stop` ends it at once."
            )
        time.sleep(_LOOK_EVERY_S)
    answer(json.dumps({"pid": pid}).encode(), output, lambda: say("The daemon has ended."))
    return Exit.OK


def status(*, output: Output = "table") -> int:
    """How the daemon is: exit code 0 when well or degraded, 1 when failing, 6 without one.

    Example: teckochecker status
    """
    url = environment.url() or _running(environment.home()).url
    how = health(url)
    found = how.document()
    stats = call("GET", "/api/stats")
    both = b'{"health":%b,"stats":%b}' % (how.body, stats.body)
    answer(both, output, lambda: show_fields(_status_fields(url, found, stats.document())))
    return Exit.FAILURE if found["status"] == "failing" else Exit.OK


def _start_detached(flags: Mapping[str, str], output: str) -> int:
    """Start supervisor and daemon and see that answer, or hand on its error and exit code."""
    options = [f"--{name.removeprefix('API_').lower()}={value}" for name, value in flags.items()]
    program, settings = environment.program(), environment.settings(flags)
    daemon = [*program, "start", "--detached", "--output=json", *options]
    lock = DataLock(settings.home, SUPERVISOR)
    command = [*program, "supervise", str(lock.fileno()), str(settings.log_file or ""), *daemon]
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment.of_child(),
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )
        lock.hand_on()
        assert child.stdout is not None
        with child.stdout as told:
            line = _line_of(child, told)
        if not line:
            code = child.wait()
            errors.seek(0)
            note(printable(errors.read().decode(errors="replace").rstrip("\n")))
            return code if code > 0 else Exit.FAILURE
    started = json.loads(line)
    health(started["url"]).document()
    child.returncode = 0  # it lives on, and nobody here waits for it
    _tell_started(started["url"], started["pid"], output)
    return Exit.OK


def _line_of(child: subprocess.Popen[bytes], told: IO[bytes]) -> bytes:
    """The line that the child writes once it answers; nothing when it ends instead."""
    readable, _, _ = select.select([told], [], [], START_S)
    if not readable:
        child.terminate()
        child.wait()
        raise TimedOut(
            f"The daemon hasn't started within {START_S:.0f} s: run `teckochecker start` without "
            f"--detach to see what keeps it."
        )
    return told.readline()


def _tell_started(url: str, pid: int, output: str) -> None:
    answer(
        json.dumps({"url": url, "pid": pid}).encode(),
        output,
        lambda: say(
            f"TeckoChecker {__version__} answers at {url} (pid {pid}); `teckochecker stop` ends it."
        ),
    )


def _let_go() -> None:
    """Leave the terminal that started us: from now on the log file alone tells what happens."""
    discard()
    os.dup2(sys.stdout.fileno(), sys.stderr.fileno())


def _terminate(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return  # it has just ended
    except PermissionError as error:
        raise AccessDenied(
            f"The daemon (pid {pid}) belongs to another user: stop it as that user."
        ) from error


def _running(home: Path) -> Running:
    """The daemon on this data; NotReachable without one, or with one that isn't up."""
    found = installation.settled(home)
    if found is None and holder(home, SUPERVISOR):
        raise NotReachable(
            "The daemon has crashed and is started again within a minute: its log tells why."
        )
    if found is None:
        raise NotReachable(f"No daemon runs on {home}: start one with `teckochecker start`.")
    if found.url is None:
        raise installation.silent(home, found)
    return Running(found.pid, found.url)


def _still(home: Path, name: str, pid: int) -> bool:
    """Whether that process holds its lock still; it wipes its pid just before it lets go."""
    found = holder(home, name)
    return found is not None and found.pid in (pid, 0)


def _status_fields(
    url: str, health: Mapping[str, Any], stats: Mapping[str, Any]
) -> Iterator[tuple[str, object]]:
    yield "Status", health["status"]
    for reason in health["reasons"]:
        yield "Reason", reason
    yield "Address", url
    yield "Version", health["version"]
    yield "Uptime", f"{health['uptime_seconds']:.0f} s"
    scheduler = health["scheduler"]
    yield "Checks in flight", scheduler["checks_in_flight"]
    yield "Deliveries in flight", scheduler["deliveries_in_flight"]
    yield "Oldest due job", f"{scheduler['oldest_due_seconds']:.1f} s"
    yield "Jobs", _counted(stats["jobs"]["all"])
    yield "Checks, last day", _counted(stats["checks_last_day"])
    yield "Triggers, last day", _counted(stats["triggers_last_day"])
    yield "Deliveries", _counted(stats["deliveries"])
    yield (
        "Lag of checks",
        ", ".join(
            f"{name} {value} s" for name, value in stats["lag_seconds"].items() if value is not None
        ),
    )
    yield "Token last used", local_time(stats["token_last_used_at"])


def _counted(counts: object) -> str:
    if not isinstance(counts, Mapping):
        return str(counts)
    return ", ".join(f"{number} {word}" for word, number in counts.items() if number) or "none"

"""The parent of a detached daemon: starts it again when it has crashed.

It lives as long as the daemon and has next to nothing to do, so it imports next to nothing. It
ends with a daemon that was stopped, that never came to answer, or that a new start can't help.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from typing import Final

FIRST_PAUSE_S: Final = 1.0  # doubled at every crash
LONGEST_PAUSE_S: Final = 60.0
HEALTHY_S: Final = 600.0  # after so long the pauses begin anew
# Exit.OK, CONFLICT and CONFIG: stopped; another daemon or a taken port; settings or a key that
# don't fit. What they are called is left where importing it costs 4 MB.
FINAL: Final = frozenset({0, 5, 78})

_NO_PROGRAM: Final = 127  # as shells have it
_STOPS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_AWAITED: Final = _STOPS | {signal.SIGCHLD, signal.SIGALRM}


def main(arguments: Sequence[str]) -> int:
    """The daemon's last exit code, from `LOCK LOG_FILE COMMAND...`.

    LOCK is the descriptor of a held lock, LOG_FILE is empty where there is none, and standard
    output is a pipe to whoever waits for the daemon's first answer.
    """
    lock, log_file, *command = arguments
    _hold(int(lock))
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    pause_s = 0.0
    has_answered = False
    while True:
        begun = time.monotonic()
        code, stopped = _run(command)
        if stopped or code in FINAL or (not has_answered and _is_waited_for()):
            return code if code >= 0 else 128 - code
        if not has_answered:
            _let_go()
            has_answered = True
        pause_s = next_pause_s(pause_s, lived_s=time.monotonic() - begun)
        _log(log_file, code, pause_s)
        if _stopped_within(pause_s):
            return 0


def next_pause_s(pause_s: float, *, lived_s: float) -> float:
    """How long to wait after a crash; `pause_s` was the wait before, 0 the first time."""
    if pause_s == 0 or lived_s >= HEALTHY_S:
        return FIRST_PAUSE_S
    return min(2 * pause_s, LONGEST_PAUSE_S)


def _hold(lock: int) -> None:
    """Tell who holds the lock, and keep it from the daemon, which may outlive us."""
    os.set_inheritable(lock, False)
    os.ftruncate(lock, 0)
    os.pwrite(lock, b'{"pid": %d, "url": null}' % os.getpid(), 0)


def _run(command: list[str]) -> tuple[int, bool]:
    """The daemon's exit code, negative for a signal, and whether somebody wanted its end."""
    try:
        pid = os.posix_spawn(command[0], command, os.environ, setsigmask=())
    except OSError:  # somebody has cleared the cache of the executable; its next use fills it
        return _NO_PROGRAM, False
    stopped = False
    while True:
        if signal.sigwait(_AWAITED) in _STOPS:
            stopped = True
            os.kill(pid, signal.SIGTERM)
            continue
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), stopped


def _stopped_within(pause_s: float) -> bool:
    signal.setitimer(signal.ITIMER_REAL, pause_s)
    stopped = signal.sigwait(_STOPS | {signal.SIGALRM}) in _STOPS
    signal.setitimer(signal.ITIMER_REAL, 0)
    return stopped


def _is_waited_for() -> bool:
    """Whether standard output has a reader still: it goes when the daemon has answered."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return not poll.poll(0)


def _let_go() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for file in (sys.stdout, sys.stderr):
        os.dup2(nowhere, file.fileno())
    os.close(nowhere)


def _log(log_file: str, code: int, pause_s: float) -> None:
    """A line as the daemon writes them; where it can't be written, nothing is lost but it."""
    if not log_file:
        return
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = (
        f'{{"event": "supervisor.daemon_crashed", "exit_code": {code}, "restart_in_s": {pause_s}, '
        f'"logger": "teckochecker.supervisor", "level": "error", "timestamp": "{at}"}}\n'
    )
    try:
        file = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(file, line.encode())
        os.close(file)
    except OSError:
        return

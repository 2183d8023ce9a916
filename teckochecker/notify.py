"""Tells a service manager how the daemon is, as systemd wants it: sd_notify(3).

A message is one datagram of `NAME=value` lines to a socket that the manager named; without a
manager nothing is sent. A message that can't be delivered is logged and changes nothing: the
manager draws its own conclusions from silence.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog

log = structlog.stdlib.get_logger(__name__)

STATUS_EVERY_S: Final = 10.0
_MICRO: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Notifier:
    """The manager at `address`, a path or, with `@` in front, a name in the abstract space.

    `every_s` is how often it is told that the daemon is alive.
    """

    address: str = ""
    every_s: float = STATUS_EVERY_S

    @classmethod
    def from_env(cls, env: Mapping[str, str], pid: int) -> Notifier:
        """The manager that the environment of process `pid` names; a watchdog may be another's."""
        address, watchdog_usec = env.get("NOTIFY_SOCKET", ""), env.get("WATCHDOG_USEC", "")
        if not watchdog_usec.isdecimal() or env.get("WATCHDOG_PID", str(pid)) != str(pid):
            return cls(address)
        # A third of the time-out, so that one late message does no harm.
        return cls(address, min(STATUS_EVERY_S, int(watchdog_usec) / _MICRO / 3))

    def ready(self, url: str) -> None:
        self._tell("READY=1", f"STATUS=Answers at {url}")

    def alive(self, status: str) -> None:
        self._tell("WATCHDOG=1", f"STATUS={status}")

    def stuck(self, status: str) -> None:
        """As `alive`, but the manager's watchdog runs on."""
        self._tell(f"STATUS={status}")

    def stopping(self, within_s: float) -> None:
        """`within_s` is how long the end may take, which may be more than the manager grants."""
        extend = f"EXTEND_TIMEOUT_USEC={int(within_s * _MICRO)}"
        self._tell("STOPPING=1", extend, "STATUS=Finishing the work in flight")

    def _tell(self, *lines: str) -> None:
        if not self.address:
            return
        message = "\n".join(line.replace("\n", " ") for line in lines)
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)  # a manager that doesn't read must not stop the event loop
            try:
                sender.sendto(message.encode(), address)
            except OSError as error:
                log.warning("notify.failed", reason=str(error), message=lines[0])


SILENT: Final = Notifier()

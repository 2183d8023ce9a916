"""The Docker engine for commands of this machine; they need neither an installation nor a key."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from teckochecker.cli import environment
from teckochecker.errors import NotReachable

if TYPE_CHECKING:
    from teckochecker.sandbox import Sandbox

Runtime = Literal["python", "node"]
RUNTIMES: Final[tuple[Runtime, ...]] = ("python", "node")
_INSTANCE: Final = "custom-check-run"  # marks what is made without an installation


def sandbox(runtimes: Iterable[Runtime] = ()) -> Sandbox:
    """A sandbox whose engine answers, and has the images of `runtimes`; else NotReachable."""
    from teckochecker.sandbox import Sandbox

    docker = environment.settings().docker
    made = Sandbox(docker, _INSTANCE, partial(datetime.now, UTC), guest=True)
    if missing := made.missing(runtimes):
        raise NotReachable(" ".join(one.message for one in missing))
    return made

"""The course that a batch or a job takes: steps that a caller, or the clock, walks through."""

from __future__ import annotations

import time
from typing import Generic, TypeVar

Step = TypeVar("Step")


class Script(Generic[Step]):
    """Gives its steps one by one; the last one repeats.

    Without `each_s` every `take` moves on. With it the clock does: each step lasts that many
    seconds, counted from the script's creation, however often it is asked for.
    """

    def __init__(self, steps: tuple[Step, ...], each_s: float | None = None) -> None:
        if not steps:
            raise ValueError("A script needs at least one step.")
        self._steps = steps
        self._each_s = each_s
        self._taken = 0
        self._began = time.monotonic()

    def take(self) -> Step:
        place = self._taken
        if self._each_s is not None:
            place = int((time.monotonic() - self._began) / self._each_s)
        self._taken += 1
        return self._steps[min(place, len(self._steps) - 1)]

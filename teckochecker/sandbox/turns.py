"""How many threads do something at the same time; the others wait for their turn, in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from teckochecker.sandbox.stream import TICK_S


class Turns:
    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: deque[object] = deque()
        self._taken = 0

    @contextmanager
    def turn(self, places: int, checkpoint: Callable[[], None]) -> Iterator[None]:
        """One of so many `places`; what `checkpoint` raises ends the waiting and leaves here."""
        self._take(places, checkpoint)
        try:
            yield
        finally:
            with self._condition:
                self._taken -= 1
                self._condition.notify_all()

    def _take(self, places: int, checkpoint: Callable[[], None]) -> None:
        me = object()
        with self._condition:
            self._waiting.append(me)
            try:
                while self._taken >= places or self._waiting[0] is not me:
                    self._condition.wait(TICK_S)
                    checkpoint()
                self._taken += 1
            finally:
                self._waiting.remove(me)
                self._condition.notify_all()

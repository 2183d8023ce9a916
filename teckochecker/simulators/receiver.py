"""A receiver of webhooks: takes every call, and answers 200 unless told otherwise."""

from __future__ import annotations

from teckochecker.simulators.exchange import Answer, Recorded, Reply
from teckochecker.simulators.server import Simulator


class Receiver(Simulator):
    """`requests` is what arrived; `instead("*", "*", Answer(503))` makes it fail."""

    def answer(self, request: Recorded) -> Reply:
        return Answer(content={"received": True})

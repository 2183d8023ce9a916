"""What every simulator can do: record, fail on demand, tell a test when something happened.

A simulator answers on loopback from one thread per connection and writes nothing to standard
error: a fault of its own, or of a hook, is kept and raised at the end of the `with` block.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

from teckochecker.simulators.exchange import Afterwards, Answer, Recorded, Reply, Silence
from teckochecker.simulators.listener import Connection, Listener

REQUESTS_PATH = "/_sim/requests"  # for measuring processes; such a call itself isn't recorded


class Simulator(ABC):
    """The part that all simulators share; a context manager.

    `port` 0 takes a free one; after `close`, `start` serves on the same port with the same state,
    for tests of an outage. `latency_s` may be changed at any time. The hooks run in the
    connection's thread: `on_read` when a request has been read and recorded and before anything
    is done about it, `on_answered` when the whole answer has left. A test kills its victim there.
    """

    def __init__(self, *, port: int = 0, latency_s: float = 0.0) -> None:
        self.port = port
        self.latency_s = latency_s
        self.on_read: Callable[[Recorded], None] | None = None
        self.on_answered: Callable[[Recorded], None] | None = None
        self._changed = threading.Condition()  # guards what follows, and subclasses' state
        self._requests: list[Recorded] = []
        self._rules: list[_Rule] = []
        self._listener: Listener | None = None

    @abstractmethod
    def answer(self, request: Recorded) -> Reply:
        """Carry the request out; one thread at a time is in here, so it must not wait."""

    def common_headers(self) -> dict[str, str]:
        """Headers that go out with every answer."""
        return {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[Recorded]:
        """A copy of what has been recorded so far, oldest first."""
        with self._changed:
            return list(self._requests)

    def asked(self, method: str, pattern: str) -> list[Recorded]:
        """The requests so far of one method (or "*") whose path matches a shell pattern."""
        return [request for request in self.requests if request.matches(method, pattern)]

    def instead(
        self, method: str, pattern: str, *replies: Reply | Afterwards, forever: bool = False
    ) -> None:
        """Reply so to the next requests of `method` (or "*") whose path matches `pattern`.

        Each reply serves one request; with `forever` the last one stays until `restore`.
        """
        with self._changed:
            self._rules.append(_Rule(method, pattern, deque(replies), forever))

    def restore(self) -> None:
        """Forget every `instead` that is left."""
        with self._changed:
            self._rules.clear()

    def wait_for(
        self, predicate: Callable[[Recorded], bool], *, count: int = 1, timeout_s: float = 5.0
    ) -> Recorded:
        """The `count`-th recorded request that fulfils `predicate`, past ones included.

        Raises TimeoutError, which names what was recorded instead.
        """

        def found() -> list[Recorded]:
            return [request for request in self._requests if predicate(request)]

        with self._changed:
            if not self._changed.wait_for(lambda: len(found()) >= count, timeout_s):
                seen = [f"{request.method} {request.path}" for request in self._requests]
                raise TimeoutError(f"{len(found())} of {count} in {timeout_s} s, of {seen}")
            return found()[count - 1]

    def start(self) -> Self:
        """Listen and serve; `url` is good when this returns."""
        if self._listener is not None:
            raise RuntimeError("This simulator runs already; close it first.")
        self._listener = Listener(self.port, self._serve)
        self.port = self._listener.server_port
        return self

    def close(self) -> list[Exception]:
        """End every connection and its thread; returns the faults of hooks and of `answer`.

        Not to be called from a hook, whose own thread it would wait for.
        """
        listener, self._listener = self._listener, None
        return listener.close() if listener is not None else []

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        faults = self.close()
        if faults and error is None:
            raise faults[0]

    def _serve(self, request: Recorded, connection: Connection) -> None:
        if request.path == REQUESTS_PATH:
            self._send(Answer(content=self._report(request)), connection, latency_s=0.0)
            return
        self._record(request)
        if self.on_read is not None:
            self.on_read(request)
        match self._reply(request):
            case Silence.DROP:
                connection.drop()
            case Silence.HANG:
                connection.hang()
            case Answer() as answer:
                self._send(answer, connection, latency_s=self.latency_s)
                if self.on_answered is not None:
                    self.on_answered(request)

    def _report(self, request: Recorded) -> list[dict[str, object]]:
        """`?after=N` leaves out the first N, which the asking process has already."""
        skipped = int(request.query.get("after", ["0"])[0])
        shown = [asdict(recorded) for recorded in self.requests[skipped:]]
        return [{**one, "raw": one["raw"].decode("latin-1")} for one in shown]

    def _record(self, request: Recorded) -> None:
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()

    def _reply(self, request: Recorded) -> Reply:
        with self._changed:
            rule = next((rule for rule in self._rules if rule.covers(request)), None)
            ordered = Afterwards() if rule is None else rule.take()
            if not isinstance(ordered, Afterwards):
                return ordered
            usual = self.answer(request)
            return usual if ordered.reply is None else ordered.reply

    def _send(self, answer: Answer, connection: Connection, *, latency_s: float) -> None:
        connection.send(
            answer.encoded(self.common_headers()),
            delay_s=latency_s + answer.delay_s,
            drip_s=answer.drip_s,
        )
        if answer.missing_bytes:
            connection.drop()


@dataclass(frozen=True, slots=True)
class _Rule:
    method: str
    pattern: str
    replies: deque[Reply | Afterwards]
    forever: bool

    def covers(self, request: Recorded) -> bool:
        return bool(self.replies) and request.matches(self.method, self.pattern)

    def take(self) -> Reply | Afterwards:
        last = len(self.replies) == 1
        return self.replies[0] if last and self.forever else self.replies.popleft()

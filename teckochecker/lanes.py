"""The only door from trio to blocking code: threads, a fixed number for each kind of work.

A lane's token is given back when the *thread* ends, not when its caller stops waiting, so a
lane never runs more threads than it has tokens, and a call's time-out starts with its token,
so that waiting in line never eats a call's time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from enum import Enum
from functools import cache, partial
from typing import Any, Final, Protocol, TypeVar

import trio

from teckochecker.errors import InvalidInput
from teckochecker.scripts.archive import limit_worker

T = TypeVar("T")


class Lane(Enum):
    STORE = "store"  # the one writer of the database; never abandoned
    READ = "read"  # the database's readers; never abandoned
    NETWORK = "network"  # HTTP checks
    DELIVERY = "delivery"  # triggers and their follow-ups, never behind checks
    SANDBOX = "sandbox"  # checks in containers
    CARE = "care"  # files of scripts, and the engine's state


ARCHIVE_TOKENS: Final = 2  # processes that read strangers' archives, each for a while
ARCHIVE_TIMEOUT_S: Final = 60.0
WORKER_IDLE_S: Final = 10.0  # then a process that reads archives ends: it costs 10 to 26 MB
READ_TOKENS: Final = 3
CARE_TOKENS: Final = 2
DELIVERY_TOKENS: Final = 20
_WHOLE: Final = frozenset({Lane.STORE, Lane.READ})


class Observer(Protocol):
    def __call__(self, lane: Lane, seconds: float) -> None: ...


class Lanes:
    """The lanes of one program; `observe` hears how long each call held its token."""

    def __init__(self, *, network: int, sandbox: int = 50, observe: Observer | None = None) -> None:
        sizes = {
            Lane.STORE: 1,
            Lane.READ: READ_TOKENS,
            Lane.NETWORK: network,
            Lane.DELIVERY: DELIVERY_TOKENS,
            Lane.SANDBOX: sandbox,
            Lane.CARE: CARE_TOKENS,
        }
        self._limiters = {lane: trio.CapacityLimiter(size) for lane, size in sizes.items()}
        self._archives = trio.CapacityLimiter(ARCHIVE_TOKENS)
        self._origins: dict[tuple[Lane, str], trio.CapacityLimiter] = {}
        self._observe = observe

    def size(self, lane: Lane) -> int:
        return int(self._limiters[lane].total_tokens)

    def share(self, lane: Lane) -> int:
        """How many tokens of a lane one origin may hold: three quarters.

        A thousand checks of 300 ms each, all at one provider, need 60 to end within 5 s.
        """
        return max(1, self.size(lane) * 3 // 4)

    def borrowed(self, lane: Lane) -> int:
        """Tokens held by living threads, the abandoned ones among them."""
        return self._limiters[lane].borrowed_tokens

    def borrowed_by_origin(self, lane: Lane) -> dict[str, int]:
        return {
            origin: limiter.borrowed_tokens
            for (of, origin), limiter in self._origins.items()
            if of is lane
        }

    async def run(
        self,
        lane: Lane,
        fn: Callable[[], T],
        *,
        timeout_s: float | None = None,
        origin: str = "",
    ) -> T:
        """`fn()` in a thread of `lane`; TooSlowError when it runs longer than `timeout_s`.

        A database call, once begun, is waited for whatever happens. Any other is abandoned
        when the caller is cancelled or late: its thread ends by its own time-outs, or sooner
        where it calls `checkpoint`.
        """
        if lane in _WHOLE:
            return await self._thread(partial(self._timed, lane, fn), self._limiters[lane])
        with trio.CancelScope() as scope:
            limiter = _Timed(self._tokens(lane, origin), scope, timeout_s)
            return await self._thread(fn, limiter, abandon_on_cancel=True)
        raise trio.TooSlowError

    async def archive(self, fn: Callable[[], T]) -> T:
        """`fn()`, picklable, in a process of its own, which is killed when it takes too long.

        For reading what strangers packed: InvalidInput when it can't be read within bounds.
        """
        async with self._archives:
            workers = _workers()
            try:
                with trio.fail_after(ARCHIVE_TIMEOUT_S):
                    return await workers.run_sync(fn, kill_on_cancel=True)  # type: ignore[no-any-return]
            except (trio.TooSlowError, workers.BrokenWorkerError, MemoryError) as error:
                message = "The archive takes too much time or memory to read: pack less."
                raise InvalidInput(message) from error

    def archive_from_thread(self, fn: Callable[[], T]) -> T:
        """`archive`, for the threads of a lane."""
        return trio.from_thread.run(self.archive, fn)

    async def _thread(
        self, fn: Callable[[], T], limiter: object, *, abandon_on_cancel: bool = False
    ) -> T:
        return await trio.to_thread.run_sync(
            fn,
            limiter=limiter,  # type: ignore[arg-type]  # the two methods that trio calls
            abandon_on_cancel=abandon_on_cancel,
        )

    def _timed(self, lane: Lane, fn: Callable[[], T]) -> T:
        begun = time.perf_counter()
        try:
            return fn()
        finally:
            if self._observe:
                self._observe(lane, time.perf_counter() - begun)

    def _tokens(self, lane: Lane, origin: str) -> tuple[trio.CapacityLimiter, ...]:
        """The origin's share first, so that who waits for it holds nothing of the lane."""
        if not origin:
            return (self._limiters[lane],)
        self._forget_idle_origins()
        share = self._origins.setdefault((lane, origin), trio.CapacityLimiter(self.share(lane)))
        return share, self._limiters[lane]

    def _forget_idle_origins(self) -> None:
        if len(self._origins) < 256:  # only a bound on memory
            return
        for key, limiter in list(self._origins.items()):
            statistics = limiter.statistics()
            if not statistics.borrowed_tokens and not statistics.tasks_waiting:
                del self._origins[key]


@cache
def _workers() -> Any:
    """trio-parallel, set up once: its workers are the process's, not a lane's."""
    import trio_parallel

    trio_parallel.configure_default_context(idle_timeout=WORKER_IDLE_S, init=limit_worker)
    return trio_parallel


def checkpoint() -> None:
    """In a thread of a lane: raises when nobody wants the answer any more."""
    trio.from_thread.check_cancelled()


class _Timed:
    """What trio takes for a limiter: starts the caller's time-out once the tokens are there."""

    def __init__(
        self,
        limiters: tuple[trio.CapacityLimiter, ...],
        scope: trio.CancelScope,
        timeout_s: float | None,
    ) -> None:
        self._limiters = limiters
        self._scope = scope
        self._timeout_s = timeout_s

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        with ExitStack() as undo:
            for limiter in self._limiters:
                await limiter.acquire_on_behalf_of(borrower)
                undo.callback(limiter.release_on_behalf_of, borrower)
            undo.pop_all()
        if self._timeout_s is not None:
            self._scope.deadline = trio.current_time() + self._timeout_s

    def release_on_behalf_of(self, borrower: object) -> None:
        for limiter in self._limiters:
            limiter.release_on_behalf_of(borrower)

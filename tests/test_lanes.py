"""Lanes count threads, not callers: real threads, hung and let go by hand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest
import trio
import trio.testing

from teckochecker.lanes import Lane, Lanes, checkpoint

NETWORK = Lane.NETWORK
SLOW = "https://slow.example:443"
QUICK = "https://quick.example:443"


class Hung:
    """Calls that hang until `let_go`; `living` and `peak` count their threads."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.living = 0
        self.peak = 0
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            self.living += 1
            self.peak = max(self.peak, self.living)
        self.let_go.wait(10)
        with self._lock:
            self.living -= 1
        return "done"


@pytest.fixture
def hung() -> Iterator[Hung]:
    made = Hung()
    yield made
    made.let_go.set()


async def until(wanted: object) -> None:
    """`wanted()` is true, within five seconds."""
    with trio.fail_after(5):
        while not wanted():  # type: ignore[operator]
            await trio.sleep(0.002)


async def outcome(lanes: Lanes, fn: Hung, seen: list[str], timeout_s: float | None = None) -> None:
    try:
        seen.append(await lanes.run(NETWORK, fn, timeout_s=timeout_s))
    except trio.TooSlowError:
        seen.append("late")


async def test_a_lane_never_runs_more_threads_than_tokens_although_callers_give_up(
    hung: Hung, nursery: trio.Nursery
) -> None:
    lanes, seen = Lanes(network=3), list[str]()
    for _ in range(9):
        nursery.start_soon(outcome, lanes, hung, seen, 0.05)

    await until(lambda: seen == ["late"] * 3)

    assert (hung.living, hung.peak) == (3, 3)  # abandoned, and still counted
    assert lanes.borrowed(NETWORK) == 3
    hung.let_go.set()
    await until(lambda: len(seen) == 9)
    assert seen == ["late"] * 3 + ["done"] * 6
    assert hung.peak == 3
    await until(lambda: lanes.borrowed(NETWORK) == 0)


async def test_waiting_in_line_doesnt_eat_a_calls_time(hung: Hung, nursery: trio.Nursery) -> None:
    lanes, seen = Lanes(network=1), list[str]()
    nursery.start_soon(outcome, lanes, hung, seen)
    await until(lambda: hung.living == 1)
    nursery.start_soon(outcome, lanes, lambda: "second", seen, 0.5)

    await trio.sleep(0.7)
    assert seen == []
    hung.let_go.set()
    await until(lambda: len(seen) == 2)

    assert seen == ["done", "second"]


async def test_a_late_call_is_an_error_for_its_caller_only(hung: Hung) -> None:
    lanes = Lanes(network=2)

    with pytest.raises(trio.TooSlowError):
        await lanes.run(NETWORK, hung, timeout_s=0.02)

    assert await lanes.run(NETWORK, lambda: "well", timeout_s=5) == "well"


async def test_an_origin_holds_at_most_three_quarters_of_a_lane(
    hung: Hung, nursery: trio.Nursery
) -> None:
    lanes = Lanes(network=6)
    for _ in range(10):
        nursery.start_soon(partial(lanes.run, NETWORK, hung, origin=SLOW))
    await until(lambda: hung.living == 4)

    with trio.fail_after(5):
        assert await lanes.run(NETWORK, lambda: "well", origin=QUICK) == "well"

    assert hung.peak == 4
    assert lanes.share(NETWORK) == 4
    assert lanes.borrowed(NETWORK) == 4
    assert lanes.borrowed_by_origin(NETWORK) == {SLOW: 4, QUICK: 0}


async def test_an_origins_abandoned_threads_count_against_its_share(
    hung: Hung, nursery: trio.Nursery
) -> None:
    lanes, seen = Lanes(network=4), list[str]()

    async def ask() -> None:
        try:
            seen.append(await lanes.run(NETWORK, hung, timeout_s=0.02, origin=SLOW))
        except trio.TooSlowError:
            seen.append("late")

    for _ in range(5):
        nursery.start_soon(ask)
    await until(lambda: seen == ["late"] * 3)

    assert lanes.borrowed_by_origin(NETWORK) == {SLOW: 3}
    assert hung.peak == 3


async def test_who_waits_for_an_origins_share_holds_nothing_of_the_lane(
    hung: Hung, nursery: trio.Nursery
) -> None:
    lanes = Lanes(network=2)
    for _ in range(5):
        nursery.start_soon(partial(lanes.run, NETWORK, hung, origin=SLOW))
    await until(lambda: hung.living == 1)
    await trio.testing.wait_all_tasks_blocked()

    assert lanes.borrowed(NETWORK) == 1


@pytest.mark.parametrize("waits_for", ["the lane", "the origin's share"])
async def test_who_is_cancelled_while_waiting_gives_everything_back(
    hung: Hung, nursery: trio.Nursery, waits_for: str
) -> None:
    lanes = Lanes(network=1)
    mine = SLOW if waits_for == "the origin's share" else QUICK
    nursery.start_soon(partial(lanes.run, NETWORK, hung, origin=SLOW))
    await until(lambda: hung.living == 1)

    with trio.move_on_after(0.02) as scope:
        await lanes.run(NETWORK, lambda: "never", origin=mine)

    assert scope.cancelled_caught
    hung.let_go.set()
    await until(lambda: lanes.borrowed(NETWORK) == 0)
    assert set(lanes.borrowed_by_origin(NETWORK).values()) == {0}
    assert await lanes.run(NETWORK, lambda: "well", origin=mine) == "well"


async def test_a_call_that_raises_gives_its_token_back() -> None:
    lanes = Lanes(network=1)

    def broken() -> None:
        raise LookupError("gone")

    for _ in range(3):
        with pytest.raises(LookupError):
            await lanes.run(NETWORK, broken, origin=SLOW)

    assert lanes.borrowed(NETWORK) == 0


@pytest.mark.parametrize("lane", [Lane.STORE, Lane.READ])
async def test_a_database_call_once_begun_is_waited_for(
    hung: Hung, nursery: trio.Nursery, lane: Lane
) -> None:
    lanes, done = Lanes(network=1), list[str]()

    async def cancelled_meanwhile() -> None:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_once_it_runs, scope)
            done.append(await lanes.run(lane, hung, timeout_s=0.01))

    async def cancel_once_it_runs(scope: trio.CancelScope) -> None:
        await until(lambda: hung.living == 1)
        scope.cancel()
        await trio.sleep(0.05)
        assert done == []
        hung.let_go.set()

    await cancelled_meanwhile()

    assert done == ["done"]
    assert hung.living == 0


async def test_only_one_thread_writes_at_a_time(nursery: trio.Nursery) -> None:
    lanes, writing, seen = Lanes(network=9), threading.Lock(), list[bool]()

    def write() -> None:
        mine = writing.acquire(blocking=False)
        seen.append(mine)
        if mine:
            writing.release()

    async with trio.open_nursery() as writers:
        for _ in range(40):
            writers.start_soon(lanes.run, Lane.STORE, write)

    assert seen == [True] * 40


async def test_a_long_call_may_ask_whether_anybody_waits_for_it(nursery: trio.Nursery) -> None:
    lanes, ended = Lanes(network=1), threading.Event()

    def patient() -> None:
        try:
            while not ended.wait(0.002):
                checkpoint()
        finally:
            ended.set()

    with pytest.raises(trio.TooSlowError):
        await lanes.run(NETWORK, patient, timeout_s=0.02)

    await until(ended.is_set)
    await until(lambda: lanes.borrowed(NETWORK) == 0)


async def test_the_time_of_every_write_is_observed() -> None:
    seen: list[tuple[Lane, float]] = []
    lanes = Lanes(network=1, observe=lambda lane, seconds: seen.append((lane, seconds)))

    await lanes.run(Lane.STORE, lambda: None)
    await lanes.run(NETWORK, lambda: None)

    assert [lane for lane, _ in seen] == [Lane.STORE]
    assert seen[0][1] >= 0


async def test_origins_that_nobody_calls_any_more_are_forgotten(
    hung: Hung, nursery: trio.Nursery
) -> None:
    lanes = Lanes(network=4)
    nursery.start_soon(partial(lanes.run, NETWORK, hung, origin=SLOW))
    await until(lambda: hung.living == 1)

    for number in range(600):
        await lanes.run(NETWORK, lambda: None, origin=f"https://{number}.example:443")

    known = lanes.borrowed_by_origin(NETWORK)
    assert len(known) <= 257
    assert known[SLOW] == 1

"""What wakes the scheduler: no word is lost, and none wakes it twice. Health: test_telemetry."""

from __future__ import annotations

from functools import partial

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from teckochecker.domain import JobId
from teckochecker.pulse import Pulse, Wake
from tests.parts import NOW, after


async def nap(wake: Wake, seconds: float = 30.0) -> float:
    """How long the nap has lasted."""
    begun = trio.current_time()
    await wake.nap(after(begun), seconds)
    return trio.current_time() - begun


async def nap_until(wake: Wake, at_s: float, word: partial[None], seconds: float = 30.0) -> float:
    """How long it has lasted when `word` comes after `at_s` seconds of it."""
    lasted: list[float] = []

    async def sleeper() -> None:
        lasted.append(await nap(wake, seconds))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper)
        await wait_all_tasks_blocked()
        await trio.sleep(at_s)
        word()
    return lasted[0]


async def test_a_nap_ends_by_itself(autojump_clock: MockClock) -> None:
    assert await nap(Wake(), 12) == 12


async def test_a_poke_ends_a_nap(autojump_clock: MockClock) -> None:
    wake = Wake()

    assert await nap_until(wake, 3, partial(wake.poke)) == 3


async def test_a_poke_before_the_nap_isnt_lost(autojump_clock: MockClock) -> None:
    wake = Wake()
    wake.poke()

    assert await nap(wake) == 0
    assert await nap(wake) == 30


async def test_many_pokes_are_one_wake_up(autojump_clock: MockClock) -> None:
    wake = Wake()
    for _ in range(100):
        wake.poke()

    assert await nap(wake) == 0
    assert await nap(wake) == 30


async def test_an_earlier_due_time_ends_a_nap_and_a_later_one_doesnt(
    autojump_clock: MockClock,
) -> None:
    wake = Wake()

    assert await nap_until(wake, 3, partial(wake.by, after(10))) == 3
    assert await nap_until(wake, 3, partial(wake.by, after(60))) == 30
    assert await nap_until(wake, 3, partial(wake.by, None)) == 30


async def test_a_due_time_that_comes_between_two_naps_isnt_lost(autojump_clock: MockClock) -> None:
    wake = Wake()
    wake.by(after(60))

    assert await nap(wake) == 0


async def test_a_look_that_is_wanted_soon_shortens_the_nap_once(autojump_clock: MockClock) -> None:
    wake = Wake()

    assert await nap_until(wake, 3, partial(wake.within, 0.5)) == 3.5
    assert await nap(wake) == 30


async def test_a_look_wanted_soon_before_the_nap_isnt_lost(autojump_clock: MockClock) -> None:
    wake = Wake()
    wake.within(0.5)
    wake.within(2)

    assert await nap(wake) == 0.5
    assert await nap(wake) == 30


async def test_a_nap_that_ends_sooner_isnt_prolonged(autojump_clock: MockClock) -> None:
    wake = Wake()

    assert await nap_until(wake, 1, partial(wake.within, 60), seconds=5) == 5


async def test_a_cancelled_nap_keeps_the_poke_for_the_next_one(autojump_clock: MockClock) -> None:
    wake = Wake()
    with trio.move_on_after(1):
        await nap(wake)
    wake.poke()

    assert await nap(wake) == 0


def test_a_job_that_is_due_in_the_future_isnt_late() -> None:
    pulse = Pulse.begun(NOW)
    pulse.jobs[JobId(1)] = ""

    assert pulse.oldest_due_s(NOW) == 0
    pulse.oldest_due_at = after(30)
    assert pulse.oldest_due_s(NOW) == 0
    assert pulse.oldest_due_s(after(45)) == 15

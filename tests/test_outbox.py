"""A delivery from its first try to its last, without a clock; every wait is the contract's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teckochecker import outbox
from teckochecker.domain import (
    Delivery,
    DeliveryState,
    Doubt,
    Job,
    NotFoundYet,
    Receipt,
    Status,
    Undecided,
    Verdict,
    replace,
)
from teckochecker.errors import Fault, OutsideError, WrongState
from teckochecker.outbox import DeliveryChange, delivery_waits_s
from tests.parts import NOW, Outcome, after, delivering, delivery, failing, job, sent

PENDING, SENDING = DeliveryState.PENDING, DeliveryState.SENDING
DELIVERED, FAILED, UNCONFIRMED = (
    DeliveryState.DELIVERED,
    DeliveryState.FAILED,
    DeliveryState.UNCONFIRMED,
)
TAIL = [300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]
DEFAULT_WAITS = delivery_waits_s(3, 60)
FINAL = [Fault.REFUSED, Fault.CREDENTIALS, Fault.NOT_FOUND]
NOTHING = NotFoundYet(message="Nothing yet.")
UNKNOWN = failing(maybe_done=True)


def attempt(
    found: Delivery,
    outcome: Outcome,
    *,
    of: Job | None = None,
    others: Sequence[DeliveryState] = (),
    waits_s: Sequence[float] = DEFAULT_WAITS,
    now: datetime = NOW,
    jitter: float = 0.5,
) -> DeliveryChange:
    """One whole attempt: begun, and come to its end."""
    return outbox.attempted(
        outbox.attempt_begun(found, now),
        delivering() if of is None else of,
        outcome,
        started_at=now,
        duration_ms=5,
        waits_s=waits_s,
        opened=(),
        others=others,
        now=now,
        jitter=jitter,
    )


def waits_of(outcome: OutsideError, *, waits_s: Sequence[float], jitter: float) -> list[float]:
    """The waits between attempts that all end with `outcome`, until nothing is tried any more."""
    found, now, seen = delivery(), NOW, []
    while True:
        found = attempt(found, outcome, waits_s=waits_s, now=now, jitter=jitter).delivery
        if found.next_attempt_at is None:
            return seen
        seen.append((found.next_attempt_at - now).total_seconds())
        now = found.next_attempt_at


# When it is tried again


def test_the_schedule_is_the_contracts() -> None:
    assert list(DEFAULT_WAITS) == [1, 2, 4, 60, *TAIL]


@pytest.mark.parametrize("max_retries", range(11))
def test_max_retries_gives_that_many_doubling_quick_tries(max_retries: int) -> None:
    waits = delivery_waits_s(max_retries, 90)

    assert list(waits[:max_retries]) == [2**n for n in range(max_retries)]
    assert list(waits[max_retries:]) == [90, *TAIL]


@pytest.mark.parametrize(("jitter", "factor"), [(0.0, 0.9), (0.5, 1.0), (1.0, 1.1)])
def test_a_delivery_waits_as_scheduled_ten_percent_either_way(jitter: float, factor: float) -> None:
    waits = waits_of(failing(), waits_s=DEFAULT_WAITS, jitter=jitter)

    assert waits == pytest.approx([wait * factor for wait in DEFAULT_WAITS])


@pytest.mark.parametrize("max_retries", range(11))
def test_a_used_up_schedule_fails_the_delivery_and_its_job(max_retries: int) -> None:
    waits_s = delivery_waits_s(max_retries, 60)
    found, tries = delivery(), 0
    while found.state is PENDING:
        change = attempt(found, failing(), waits_s=waits_s)
        found, tries = change.delivery, tries + 1

    assert found.state is FAILED
    assert tries == found.attempt_count == len(waits_s) + 1
    assert change.job.status is Status.FAILED
    assert change.job.status_reason == "delivery failed: It failed."
    assert [entry.status for entry in change.entries] == ["delivery_failed", "failed"]


def test_a_longer_retry_after_replaces_the_next_wait_and_a_shorter_one_doesnt() -> None:
    told = failing(Fault.RATE_LIMITED, retry_after_s=120.0)

    assert waits_of(told, waits_s=(1, 60, 300), jitter=0.5) == [120, 120, 300]


@pytest.mark.parametrize("fault", FINAL)
def test_a_refusal_is_final_at_once(fault: Fault) -> None:
    change = attempt(delivery(), failing(fault))

    assert change.delivery.state is FAILED
    assert change.delivery.next_attempt_at is None
    assert change.job.status is Status.FAILED


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in FINAL])
def test_everything_else_is_tried_again(fault: Fault) -> None:
    change = attempt(delivery(), failing(fault))

    assert change.delivery.state is PENDING
    assert change.delivery.next_attempt_at == after(1)
    assert change.job == delivering()


@given(
    max_retries=st.integers(0, 10),
    retry_delay_s=st.integers(1, 86_400),
    jitter=st.floats(0, 1),
    retry_after_s=st.none() | st.floats(1, 3600),
)
def test_every_wait_stays_within_its_bounds(
    max_retries: int, retry_delay_s: int, jitter: float, retry_after_s: float | None
) -> None:
    scheduled = delivery_waits_s(max_retries, retry_delay_s)
    error = failing(Fault.RATE_LIMITED, retry_after_s=retry_after_s)
    waits = waits_of(error, waits_s=scheduled, jitter=jitter)

    assert len(waits) == len(scheduled)
    for waited, planned in zip(waits, scheduled, strict=True):
        told = retry_after_s or 0.0
        assert max(planned * 0.9, told) - 0.001 <= waited <= max(planned * 1.1, told) + 0.001


# What an attempt leaves behind


def test_an_attempt_is_marked_before_it_is_sent() -> None:
    begun = outbox.attempt_begun(delivery(), NOW)

    assert begun.state is SENDING
    assert begun.next_attempt_at is None
    assert (begun.tries, begun.attempt_count, begun.first_sent_at) == (1, 1, NOW)


def test_the_first_sending_is_remembered() -> None:
    again = attempt(attempt(delivery(), failing()).delivery, failing(), now=after(60)).delivery

    assert again.first_sent_at == NOW
    assert again.attempt_count == 2


def test_a_receipt_completes_the_job() -> None:
    change = attempt(delivery(), sent("1001"))

    assert change.delivery.state is DELIVERED
    assert change.delivery.receipt == Receipt(id="1001", status="created")
    assert change.delivery.delivered_at == NOW
    assert change.job.status is Status.COMPLETED
    assert change.job.completed_at == NOW
    assert [entry.status for entry in change.entries] == ["triggered", "completed"]


def test_a_receipt_completes_a_job_that_was_paused_meanwhile() -> None:
    change = attempt(delivery(), sent(), of=delivering(status=Status.PAUSED))

    assert change.job.status is Status.COMPLETED


def test_a_passing_failure_leaves_a_paused_job_paused() -> None:
    paused = delivering(status=Status.PAUSED)

    assert attempt(delivery(), failing(), of=paused).job == paused


@pytest.mark.parametrize(
    ("outcome", "word", "message"),
    [
        (sent(), "delivered", "Delivered."),
        (sent(found=True), "found", "An earlier attempt had arrived."),
        (NOTHING, "looked", "Nothing yet."),
        (Undecided(message="Can't tell."), "unconfirmed", "Can't tell."),
        (failing(), "failed", "It failed."),
        (UNKNOWN, "unknown", "It failed."),
    ],
)
def test_every_attempt_is_noted_with_how_it_ended(
    outcome: Outcome, word: str, message: str
) -> None:
    noted = attempt(delivery(), outcome).attempt

    assert noted is not None
    assert (noted.outcome, noted.message, noted.duration_ms) == (word, message, 5)
    assert noted.started_at == NOW


# Two actions


def test_a_job_is_completed_only_when_all_is_delivered() -> None:
    first = attempt(delivery(), sent(), others=[PENDING])
    last = attempt(delivery(), sent(), of=first.job, others=[DELIVERED])

    assert first.job == delivering()
    assert last.job.status is Status.COMPLETED


def test_one_used_up_delivery_fails_the_job_and_the_other_goes_on() -> None:
    first = attempt(delivery(), failing(Fault.REFUSED), others=[PENDING])
    second = attempt(delivery(), failing(), of=first.job, others=[FAILED])
    last = attempt(second.delivery, sent(), of=second.job, others=[FAILED])

    assert first.job.status is Status.FAILED
    assert second.delivery.state is PENDING
    assert last.delivery.state is DELIVERED
    assert last.job == first.job


def test_redelivering_the_used_up_one_completes_the_job() -> None:
    failed = delivering(status=Status.FAILED, completed_at=NOW)
    again = outbox.redelivered(delivery(state=FAILED, next_attempt_at=None), failed, NOW)

    change = attempt(again.delivery, sent(), of=again.job, others=[DELIVERED])

    assert change.job.status is Status.COMPLETED


def test_the_reason_of_a_failed_job_never_quotes_a_delivery_that_arrived() -> None:
    change = attempt(delivery(), sent(), others=[FAILED])

    assert change.job.status is Status.FAILED
    assert "Delivered" not in (change.job.status_reason or "")


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ([DELIVERED], Status.COMPLETED),
        ([DELIVERED, DELIVERED], Status.COMPLETED),
        ([DELIVERED, PENDING], Status.ACTIVE),
        ([DELIVERED, SENDING], Status.ACTIVE),
        ([DELIVERED, FAILED], Status.FAILED),
        ([DELIVERED, UNCONFIRMED], Status.FAILED),
        ([PENDING, UNCONFIRMED], Status.FAILED),
        ([FAILED, UNCONFIRMED], Status.FAILED),
    ],
)
def test_the_states_of_all_deliveries_make_the_jobs_status(
    states: list[DeliveryState], status: Status
) -> None:
    assert outbox.settle(delivering(), states, "why", NOW).status is status


# Doubt


def test_an_attempt_cut_off_by_a_crash_is_looked_for_at_once() -> None:
    cut_off = outbox.interrupted(outbox.attempt_begun(delivery(), NOW), after(5))

    assert cut_off.state is PENDING
    assert cut_off.doubt is Doubt.LOOK
    assert cut_off.next_attempt_at == after(5)


def test_an_unknown_outcome_is_looked_for_before_it_is_sent_again() -> None:
    assert attempt(delivery(), UNKNOWN).delivery.doubt is Doubt.LOOK
    assert attempt(delivery(), failing()).delivery.doubt is Doubt.NONE


def test_a_look_that_finds_nothing_is_repeated_after_a_pause_and_costs_no_try() -> None:
    before = attempt(delivery(), UNKNOWN).delivery

    looked = attempt(before, NOTHING, now=after(1)).delivery

    assert looked.doubt is Doubt.LOOK_AGAIN
    assert looked.next_attempt_at == after(1 + outbox.LOOK_PAUSE_S)
    assert looked.tries == before.tries
    assert looked.attempt_count == before.attempt_count + 1


def test_a_job_that_is_found_is_delivered_without_sending() -> None:
    before = attempt(delivery(), UNKNOWN).delivery

    change = attempt(before, sent("1001", found=True))

    assert change.delivery.state is DELIVERED
    assert change.delivery.doubt is Doubt.NONE
    assert change.job.status is Status.COMPLETED


@pytest.mark.parametrize("doubt", [Doubt.LOOK, Doubt.LOOK_AGAIN])
def test_doubt_outlives_a_failed_look(doubt: Doubt) -> None:
    change = attempt(delivery(doubt=doubt), failing())

    assert change.delivery.doubt is doubt
    assert change.delivery.state is PENDING


def test_a_second_unknown_outcome_begins_the_looking_anew() -> None:
    assert attempt(delivery(doubt=Doubt.LOOK_AGAIN), UNKNOWN).delivery.doubt is Doubt.LOOK


def test_a_search_that_cant_decide_leaves_it_unconfirmed() -> None:
    change = attempt(delivery(doubt=Doubt.LOOK), Undecided(message="Can't tell."))

    assert change.delivery.state is UNCONFIRMED
    assert change.delivery.next_attempt_at is None
    assert change.job.status is Status.FAILED
    assert change.job.status_reason == "delivery unconfirmed: Can't tell."


@pytest.mark.parametrize("fault", FINAL)
@pytest.mark.parametrize("doubt", [Doubt.LOOK, Doubt.LOOK_AGAIN])
def test_a_refusal_in_doubt_isnt_called_a_failure(fault: Fault, doubt: Doubt) -> None:
    assert attempt(delivery(doubt=doubt), failing(fault)).delivery.state is UNCONFIRMED


def test_a_schedule_used_up_in_doubt_is_unconfirmed() -> None:
    used_up = delivery(doubt=Doubt.LOOK, tries=len(DEFAULT_WAITS))

    assert attempt(used_up, failing()).delivery.state is UNCONFIRMED


# By hand


@pytest.mark.parametrize("state", [FAILED, UNCONFIRMED, DELIVERED])
def test_a_redelivery_starts_the_schedule_anew_with_the_same_event(state: DeliveryState) -> None:
    ended = Status.COMPLETED if state is DELIVERED else Status.FAILED
    before = delivery(
        state=state,
        doubt=Doubt.LOOK if state is UNCONFIRMED else Doubt.NONE,
        tries=13,
        attempt_count=15,
        next_attempt_at=None,
        first_sent_at=after(-600),
        delivered_at=NOW if state is DELIVERED else None,
        receipt=Receipt(id="1001") if state is DELIVERED else None,
        follow_up_at=after(60) if state is DELIVERED else None,
        follow_ups=4,
    )

    change = outbox.redelivered(before, delivering(status=ended, completed_at=NOW), after(30))

    found = change.delivery
    assert (found.state, found.doubt, found.next_attempt_at) == (PENDING, Doubt.NONE, after(30))
    assert (found.tries, found.attempt_count) == (0, 15)
    assert (found.delivered_at, found.receipt, found.follow_up_at) == (None, None, None)
    assert found.follow_ups == 0
    assert found.event == before.event
    assert change.job == delivering()


def test_a_redelivery_of_one_in_doubt_looks_from_the_start() -> None:
    looked = attempt(delivery(doubt=Doubt.LOOK), NOTHING).delivery

    again = outbox.redelivered(looked, delivering(), after(1)).delivery

    assert again.doubt is Doubt.LOOK
    assert again.next_attempt_at == after(1)
    assert again.first_sent_at == looked.first_sent_at


def test_a_redelivery_of_an_arrived_one_isnt_taken_for_the_earlier_one() -> None:
    """A look for it must not find the job that the first delivery started long ago."""
    arrived = attempt(delivery(), sent()).delivery

    again = outbox.redelivered(arrived, delivering(status=Status.COMPLETED), after(9000)).delivery

    assert outbox.attempt_begun(again, after(9000)).first_sent_at == after(9000)


def test_a_delivery_that_is_being_sent_cant_be_redelivered() -> None:
    with pytest.raises(WrongState, match="right now"):
        outbox.redelivered(delivery(state=SENDING), delivering(), NOW)


def test_a_delivery_of_a_paused_job_names_the_call_that_helps() -> None:
    with pytest.raises(WrongState, match="resume"):
        outbox.redelivered(delivery(), delivering(status=Status.PAUSED), NOW)


# The follow-up

STARTED = Receipt(id="1001", status="created", finished=False)
DONE = replace(STARTED, status="success", finished=True)


def arrived() -> Delivery:
    return attempt(delivery(), sent("1001", follow_up=True)).delivery


def asked(news: Receipt | OutsideError, *, every_s: float = 0.0) -> list[float]:
    """When the started job is asked for, in seconds after its receipt."""
    found, seen = arrived(), []
    while found.follow_up_at is not None:
        seen.append((found.follow_up_at - NOW).total_seconds())
        found = outbox.followed(found, delivering(), news, found.follow_up_at).delivery
    return seen


def test_the_started_job_is_asked_for_after_5_10_20_and_then_every_60_seconds() -> None:
    times = asked(STARTED)

    assert [later - at for at, later in pairwise([0.0, *times])][:6] == [5, 10, 20, 60, 60, 60]


def test_it_is_asked_for_48_hours_at_most() -> None:
    times = asked(STARTED)

    assert 48 * 3600 - 60 < times[-1] <= 48 * 3600


def test_a_finished_job_isnt_asked_for_again() -> None:
    change = outbox.followed(arrived(), delivering(), DONE, after(5))

    assert change.delivery.follow_up_at is None
    assert change.delivery.receipt == DONE
    assert [entry.status for entry in change.entries] == ["follow_up"]


def test_news_are_told_once() -> None:
    processing = replace(STARTED, status="processing")
    first = outbox.followed(arrived(), delivering(), processing, after(5))
    second = outbox.followed(first.delivery, delivering(), processing, after(15))

    assert [entry.message for entry in first.entries] == ["Started job 1001 is processing."]
    assert second.entries == ()


def test_a_started_job_that_fails_never_fails_ours() -> None:
    completed = job(status=Status.COMPLETED, event_id="evt_1", completed_at=NOW)
    news = replace(DONE, status="error", failed=True, message="Out of memory.")

    change = outbox.followed(arrived(), completed, news, after(5))

    assert change.job == completed
    assert change.entries[0].status == "follow_up_failed"
    assert "Out of memory." in change.entries[0].message


def test_a_passing_fault_keeps_asking_with_the_receipt_at_hand() -> None:
    change = outbox.followed(arrived(), delivering(), failing(), after(5))

    assert change.delivery.follow_up_at == after(15)
    assert change.delivery.receipt == STARTED
    assert change.entries == ()


def test_a_follow_up_waits_as_long_as_the_service_asks() -> None:
    told = failing(Fault.RATE_LIMITED, retry_after_s=300.0)

    assert outbox.followed(arrived(), delivering(), told, after(5)).delivery.follow_up_at == after(
        305
    )


@pytest.mark.parametrize("fault", FINAL)
def test_a_lasting_fault_ends_the_asking_and_says_so(fault: Fault) -> None:
    change = outbox.followed(arrived(), delivering(), failing(fault), after(5))

    assert change.delivery.follow_up_at is None
    assert change.delivery.state is DELIVERED
    assert [entry.status for entry in change.entries] == ["warning"]


@pytest.mark.parametrize("news", [DONE, STARTED, failing()])
def test_news_of_the_earlier_job_dont_touch_a_redelivery(news: Receipt | OutsideError) -> None:
    again = outbox.redelivered(arrived(), delivering(status=Status.COMPLETED), after(4))

    change = outbox.followed(again.delivery, again.job, news, after(5))

    assert change == DeliveryChange(delivery=again.delivery, job=again.job)


# Whatever happens

OUTCOMES: st.SearchStrategy[Outcome] = st.sampled_from(
    [
        sent(),
        sent(follow_up=True),
        sent(found=True),
        NOTHING,
        Undecided(message="Can't tell."),
        UNKNOWN,
        *(failing(fault) for fault in Fault),
        failing(Fault.RATE_LIMITED, retry_after_s=3600.0),
    ]
)


@given(st.lists(OUTCOMES, max_size=40), st.floats(0, 1))
def test_a_delivery_is_due_or_at_its_end_after_any_run_of_outcomes(
    outcomes: list[Outcome], jitter: float
) -> None:
    found, of, now = delivery(), delivering(), NOW
    for outcome in outcomes:
        if found.state is not PENDING:
            break
        assert found.next_attempt_at is not None
        now = max(now, found.next_attempt_at)
        doubted = found.doubt is not Doubt.NONE
        change = attempt(found, outcome, of=of, now=now, jitter=jitter)
        found, of = change.delivery, change.job
        if doubted and found.state is PENDING:
            assert found.doubt is not Doubt.NONE
        assert (found.state is PENDING) == (found.next_attempt_at is not None)
        assert (found.state is DELIVERED) == (found.receipt is not None)
    expected = {PENDING: Status.ACTIVE, DELIVERED: Status.COMPLETED}
    assert of.status is expected.get(found.state, Status.FAILED)
    assert found.tries <= len(DEFAULT_WAITS) + 1


def test_a_job_that_erred_too_often_ends_failed_once_that_is_delivered() -> None:
    given_up = delivering(last_verdict=Verdict.ERROR, status_reason="No route.")

    settled = outbox.settle(given_up, [DeliveryState.DELIVERED], "", NOW)

    assert (settled.status, settled.status_reason) == (Status.FAILED, "No route.")
    assert settled.completed_at == NOW


def test_a_webhook_of_unknown_outcome_is_sent_again_and_never_looked_for() -> None:
    sending = delivery(state=SENDING, action="webhook")

    assert outbox.interrupted(sending, NOW).doubt is Doubt.NONE


def test_an_outcome_of_an_attempt_that_is_settled_changes_nothing() -> None:
    arrived = delivery(state=DELIVERED)

    change = outbox.attempted(
        arrived,
        delivering(),
        failing(),
        started_at=NOW,
        duration_ms=1,
        waits_s=DEFAULT_WAITS,
        opened=(),
        others=(),
        now=NOW,
        jitter=0.5,
    )

    assert (change.delivery, change.attempt) == (arrived, None)

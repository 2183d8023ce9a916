"""Every row of the table of states and verbs, and every wait of a check, without a clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teckochecker import lifecycle
from teckochecker.domain import (
    ENDED,
    TERMINAL,
    Finding,
    Job,
    Kind,
    Part,
    Phase,
    SecretId,
    SecretOpened,
    Status,
    TriggerOn,
    Verdict,
    replace,
)
from teckochecker.errors import Fault, WrongState
from teckochecker.lifecycle import Change
from tests.parts import ACTION, NOW, SOURCE, after, delivering, draft, finding, job

ACTION_FIELDS = frozenset({"keboola_stack_url", "keboola_variables"})
OPENED = (SecretOpened(id=SecretId(1), name="key", updated_at=NOW, variable="openai_secret"),)
PASSING = [
    fault for fault in Fault if fault not in (Fault.CREDENTIALS, Fault.NOT_FOUND, Fault.ENGINE)
]
HOUR = 3600


def check(
    found: Job,
    what: Finding,
    *,
    revision: int | None = None,
    held_until: datetime | None = None,
    jitter: float = 0.0,
) -> Change:
    return lifecycle.checked(
        found,
        what,
        revision=found.revision if revision is None else revision,
        event_id="evt_new",
        duration_ms=12,
        opened=OPENED,
        held_until=held_until,
        now=NOW,
        jitter=jitter,
    )


def error(fault: Fault = Fault.TRANSIENT, **changes: object) -> Finding:
    return finding(Verdict.ERROR, fault=fault, **changes)


def wait_s(change: Change) -> float:
    assert change.job.next_check_at is not None
    return (change.job.next_check_at - NOW).total_seconds()


def edit(found: Job, **changes: object) -> Change:
    return lifecycle.edited(found, draft(**changes), frozenset(changes), ACTION_FIELDS, NOW)


def words(change: Change) -> list[str]:
    return [entry.status for entry in change.entries]


def ended(status: Status) -> Job:
    return job(status=status, next_check_at=None, event_id="evt_1", completed_at=NOW)


# The table of states and verbs

PAUSED = job(status=Status.PAUSED, next_check_at=after(40))
SCRIPT = Part(kind="script", doc={"script_source_type": "upload"})
FROM_GIT = Part(kind="script", doc={"script_source_type": "git"})
AWAITING = job(kind=Kind.CUSTOM_CHECK, source=SCRIPT, next_check_at=None)
STORED = {"sha256": "0" * 64}
Verb = Callable[[Job], Change]
PAUSE: Verb = lambda found: lifecycle.paused(found, NOW)  # noqa: E731
RESUME: Verb = lambda found: lifecycle.resumed(found, None, NOW)  # noqa: E731
TRIGGER: Verb = lambda found: lifecycle.triggered(found, None, NOW)  # noqa: E731


@pytest.mark.parametrize(
    ("found", "checking", "expected"),
    [
        (job(), False, Phase.POLLING),
        (job(), True, Phase.CHECKING),
        (AWAITING, False, Phase.AWAITING_SCRIPT),
        (delivering(), False, Phase.DELIVERING),
        (PAUSED, False, None),
        (PAUSED, True, None),
        (replace(PAUSED, event_id="evt_1"), False, None),
        (ended(Status.COMPLETED), False, None),
        (ended(Status.FAILED), False, None),
    ],
)
def test_the_phase_tells_what_an_active_job_is_doing(
    found: Job, checking: bool, expected: Phase | None
) -> None:
    assert lifecycle.phase(found, checking=checking) is expected


@pytest.mark.parametrize("found", [job(next_check_at=after(40)), AWAITING, delivering()])
def test_a_pause_stops_an_active_job_whatever_it_does(found: Job) -> None:
    change = PAUSE(found)

    assert change.job == replace(found, status=Status.PAUSED, status_reason="paused by hand")
    assert words(change) == ["paused"]


def test_a_pause_of_a_paused_job_changes_nothing() -> None:
    assert PAUSE(PAUSED) == Change(job=PAUSED)


@pytest.mark.parametrize("found", [job(), AWAITING, delivering()])
def test_a_resume_of_an_active_job_changes_nothing(found: Job) -> None:
    assert RESUME(found) == Change(job=found)


def test_a_resumed_job_is_due_now_and_forgets_its_errors() -> None:
    change = RESUME(replace(PAUSED, errors=4, strikes=3, status_reason="mend it"))

    assert change.job == replace(PAUSED, status=Status.ACTIVE, next_check_at=NOW)
    assert words(change) == ["resumed"]


def test_a_resumed_delivery_goes_on_without_another_check() -> None:
    change = RESUME(delivering(status=Status.PAUSED))

    assert change.job.status is Status.ACTIVE
    assert change.job.delivering
    assert change.job.next_check_at is None


def test_a_resumed_job_that_waits_for_its_script_goes_on_waiting() -> None:
    change = RESUME(replace(AWAITING, status=Status.PAUSED))

    assert lifecycle.phase(change.job, checking=False) is Phase.AWAITING_SCRIPT


def test_a_resumed_job_waits_as_long_as_its_service_asked() -> None:
    assert lifecycle.resumed(PAUSED, after(90), NOW).job.next_check_at == after(90)


def test_a_trigger_makes_a_job_due_now_in_spite_of_backoff() -> None:
    change = TRIGGER(job(next_check_at=after(1800), errors=5))

    assert change.job.next_check_at == NOW
    assert words(change) == ["triggered"]


def test_a_trigger_doesnt_overrule_a_retry_after_and_says_so() -> None:
    change = lifecycle.triggered(job(next_check_at=after(1800)), after(90), NOW)

    assert change.job.next_check_at == after(90)
    assert "asked us to wait until 2026-03-01 12:01:30 UTC" in change.entries[0].message


def test_a_trigger_of_a_delivering_job_asks_for_its_delivery() -> None:
    change = TRIGGER(delivering())

    assert change.deliver_now
    assert change.job == delivering()


@pytest.mark.parametrize(
    ("found", "hint"),
    [(PAUSED, "resume"), (AWAITING, "upload"), (delivering(status=Status.PAUSED), "resume")],
)
def test_a_trigger_that_cant_be_names_the_call_that_helps(found: Job, hint: str) -> None:
    with pytest.raises(WrongState, match=hint):
        TRIGGER(found)


@pytest.mark.parametrize("status", sorted(ENDED))
@pytest.mark.parametrize("verb", [PAUSE, RESUME, TRIGGER], ids=["pause", "resume", "trigger"])
def test_no_verb_but_redeliver_moves_an_ended_job(status: Status, verb: Verb) -> None:
    with pytest.raises(WrongState, match="redeliver"):
        verb(ended(status))


def test_every_field_of_an_active_job_can_be_changed() -> None:
    found = job(next_check_at=after(40), errors=2, strikes=2, last_data={"batches": []})
    new = draft(
        name="hourly",
        interval_s=30,
        trigger_on=TriggerOn.TERMINAL,
        source=replace(SOURCE, doc={"batch_ids": ["batch_b"]}),
        actions=(replace(ACTION, doc={"keboola_stack_url": "https://other"}),),
    )

    change = lifecycle.edited(found, new, frozenset({"name", "batch_id"}), ACTION_FIELDS, NOW)

    assert change.job.name == "hourly"
    assert change.job.interval_s == 30
    assert change.job.trigger_on is TriggerOn.TERMINAL
    assert change.job.source == new.source
    assert change.job.actions == new.actions
    assert words(change) == ["changed"]


def test_another_source_is_a_new_revision_that_is_checked_at_once() -> None:
    found = job(next_check_at=after(40), errors=2, strikes=2, last_data={"batches": []})

    change = edit(found, source=replace(SOURCE, doc={"batch_ids": ["batch_b"]}))

    assert change.job.revision == found.revision + 1
    assert change.job.next_check_at == NOW
    assert change.job.last_data is None
    assert (change.job.errors, change.job.strikes) == (0, 0)


def test_another_key_is_a_new_revision_that_keeps_what_is_known() -> None:
    found = job(next_check_at=after(40), last_data={"batches": [1]})

    change = lifecycle.edited(found, draft(), frozenset({"openai_secret"}), ACTION_FIELDS, NOW)

    assert change.job.revision == found.revision + 1
    assert change.job.last_data == {"batches": [1]}
    assert change.job.next_check_at == NOW


@pytest.mark.parametrize(
    ("last_check_at", "interval_s", "due"),
    [
        (after(-10), 60, after(40)),  # unchanged: it keeps its place and its jitter
        (after(-10), 30, after(20)),  # counted from the last check
        (after(-100), 30, NOW),
        (after(-10), 600, after(590)),
        (None, 600, after(40)),
    ],
)
def test_a_changed_interval_counts_from_the_last_check(
    last_check_at: datetime | None, interval_s: int, due: datetime
) -> None:
    found = job(next_check_at=after(40), last_check_at=last_check_at)

    assert edit(found, interval_s=interval_s).job.next_check_at == due


def test_a_changed_pause_stays_a_pause() -> None:
    change = edit(PAUSED, source=replace(SOURCE, doc={"batch_ids": ["batch_b"]}))

    assert change.job.status is Status.PAUSED
    assert change.job.next_check_at == PAUSED.next_check_at


def test_a_changed_job_that_waits_for_its_script_goes_on_waiting() -> None:
    assert edit(AWAITING, source=SCRIPT, interval_s=600).job.next_check_at is None


def test_a_script_that_comes_from_git_from_now_on_is_checked_at_once() -> None:
    assert edit(AWAITING, source=FROM_GIT).job.next_check_at == NOW


def test_a_script_makes_its_job_due_and_what_is_running_stale() -> None:
    change = lifecycle.script_given(AWAITING, STORED, None, NOW, "Script uploaded.")

    assert change.job.next_check_at == NOW
    assert change.job.revision == AWAITING.revision + 1
    assert change.job.source_state == STORED
    assert words(change) == ["script"]


@pytest.mark.parametrize("found", [delivering(), *map(ended, sorted(ENDED))])
def test_a_script_comes_too_late_for_a_job_whose_check_has_ended(found: Job) -> None:
    with pytest.raises(WrongState, match=r"[Cc]reate a new job"):
        lifecycle.script_given(found, STORED, None, NOW, "Script uploaded.")


def test_a_changed_script_keeps_the_state_that_it_carries() -> None:
    known = job(kind=Kind.CUSTOM_CHECK, source=SCRIPT, last_data={"count": 3})

    assert edit(known, source=FROM_GIT).job.last_data == {"count": 3}


@pytest.mark.parametrize(
    "found", [delivering(), delivering(status=Status.PAUSED), *map(ended, sorted(ENDED))]
)
def test_name_and_actions_stay_changeable_after_the_verdict(found: Job) -> None:
    other = replace(ACTION, doc={"keboola_stack_url": "https://other"})
    new = draft(name="mended", actions=(other,))

    change = lifecycle.edited(found, new, frozenset({"name"}) | ACTION_FIELDS, ACTION_FIELDS, NOW)

    assert change.job == replace(found, name="mended", actions=(other,))


@pytest.mark.parametrize("found", [delivering(), *map(ended, sorted(ENDED))])
@pytest.mark.parametrize("field", ["batch_id", "poll_interval_seconds", "openai_secret"])
def test_what_to_check_cant_be_changed_after_the_verdict(found: Job, field: str) -> None:
    with pytest.raises(WrongState, match=field):
        lifecycle.edited(found, draft(), frozenset({field, "name"}), ACTION_FIELDS, NOW)


# What a finding does

COVERED = [
    (TriggerOn.SUCCESS, Verdict.SUCCESS, True),
    (TriggerOn.SUCCESS, Verdict.FAILED, False),
    (TriggerOn.TERMINAL, Verdict.SUCCESS, True),
    (TriggerOn.TERMINAL, Verdict.FAILED, True),
]


@pytest.mark.parametrize(("trigger_on", "verdict", "delivers"), COVERED)
def test_a_verdict_that_trigger_on_covers_makes_an_event(
    trigger_on: TriggerOn, verdict: Verdict, delivers: bool
) -> None:
    change = check(job(trigger_on=trigger_on), finding(verdict, data={"batches": [1]}))

    assert (change.event is not None) == delivers
    assert change.job.delivering == delivers
    assert change.job.last_verdict is verdict
    assert change.job.next_check_at is None


def test_the_event_says_what_was_found() -> None:
    change = check(job(name="nightly"), finding(Verdict.SUCCESS, data={"batches": [1]}))

    assert change.event is not None
    assert change.event.id == change.job.event_id == "evt_new"
    assert change.event.job_name == "nightly"
    assert change.event.data == {"batches": [1]}
    assert change.event.occurred_at == NOW
    assert change.event.execution_time_ms == 12
    assert change.job.status is Status.ACTIVE
    assert change.job.completed_at is None


def test_a_terminal_finding_without_data_tells_what_was_known_before() -> None:
    change = check(job(last_data={"batches": [1]}), finding(Verdict.SUCCESS, data=None))

    assert change.event is not None
    assert change.event.data == {"batches": [1]}


def test_a_verdict_that_isnt_covered_ends_the_job_at_once() -> None:
    change = check(job(), finding(Verdict.FAILED, message="One batch expired."))

    assert change.job.status is Status.FAILED
    assert change.job.status_reason == "One batch expired."
    assert change.job.completed_at == NOW
    assert words(change) == ["failed", "failed"]


def test_a_success_without_any_action_completes_the_job() -> None:
    change = check(job(actions=()), finding(Verdict.SUCCESS))

    assert change.job.status is Status.COMPLETED
    assert change.job.status_reason is None
    assert change.event is None


def test_a_failed_custom_check_without_any_action_is_completed() -> None:
    change = check(job(kind=Kind.CUSTOM_CHECK, actions=()), finding(Verdict.FAILED))

    assert change.job.status is Status.COMPLETED
    assert change.job.last_verdict is Verdict.FAILED


def test_a_pause_that_landed_during_the_check_wins() -> None:
    found = replace(PAUSED, last_verdict=Verdict.PENDING, last_data={"batches": [1]})

    change = check(found, finding(Verdict.SUCCESS, data={"batches": [2]}))

    assert change.event is None
    assert change.job == replace(found, check_count=1, last_check_at=NOW)
    assert "not acted on, the job is paused" in change.entries[0].message


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_finding_about_an_older_source_changes_nothing(verdict: Verdict) -> None:
    found = job(revision=3)

    change = check(found, finding(verdict), revision=2)

    assert change.job == found
    assert change.event is None
    assert "stale" in change.entries[0].message


@pytest.mark.parametrize("found", [delivering(), *map(ended, sorted(ENDED))])
def test_a_finding_after_the_verdict_changes_nothing(found: Job) -> None:
    change = check(found, finding(Verdict.SUCCESS))

    assert change.job == found
    assert change.event is None


def test_warnings_are_entries_of_their_own() -> None:
    change = check(job(), finding(warnings=("batch_a has the unknown status 'paused'.",)))

    assert words(change) == ["pending", "warning"]
    assert change.entries[0].opened == OPENED


# When it is checked again


def test_a_pending_job_is_checked_after_its_interval() -> None:
    assert wait_s(check(job(interval_s=60, errors=3), finding())) == 60
    assert check(job(errors=3), finding()).job.errors == 0


@pytest.mark.parametrize(
    ("interval_s", "waits"),
    [
        (30, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]),
        (1800, [1800, 3600, 3600]),
        (7200, [7200, 7200]),  # never earlier than the interval
    ],
)
def test_passing_errors_double_the_wait_up_to_an_hour(interval_s: int, waits: list[int]) -> None:
    found, seen = job(interval_s=interval_s), []
    for _ in waits:
        change = check(found, error())
        seen.append(wait_s(change))
        found = change.job

    assert seen == waits


@pytest.mark.parametrize("errors", [50, 10_000])
def test_no_number_of_errors_makes_the_wait_overflow(errors: int) -> None:
    assert wait_s(check(job(errors=errors), error())) == HOUR


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_never_pauses_a_job(fault: Fault) -> None:
    found = job()
    for _ in range(20):
        found = check(found, error(fault)).job

    assert found.status is Status.ACTIVE
    assert found.errors == 20


def test_a_fault_of_the_engine_neither_counts_nor_slows_down() -> None:
    found = job(max_errors=3, errors=1)
    for _ in range(5):
        change = check(found, error(Fault.ENGINE))
        assert wait_s(change) == found.interval_s
        found = change.job

    assert (found.status, found.errors) == (Status.ACTIVE, 1)


def test_too_many_errors_in_a_row_fail_the_job_with_the_last_reason() -> None:
    found = job(max_errors=3, errors=2, trigger_on=TriggerOn.SUCCESS)

    change = check(found, error(message="No route."))

    assert change.job.status is Status.FAILED
    assert change.job.status_reason == "No route. (3 errors in a row)"
    assert change.event is None


def test_too_many_errors_are_told_to_who_asked_for_every_end() -> None:
    found = job(max_errors=1, trigger_on=TriggerOn.TERMINAL)

    change = check(found, error(message="No route."))

    assert change.event is not None
    assert change.event.verdict is Verdict.ERROR
    assert change.job.delivering
    assert change.job.status_reason == "No route. (max_consecutive_errors is 1)"


def test_a_good_answer_starts_the_count_of_errors_anew() -> None:
    found = check(job(max_errors=2, errors=1), finding(Verdict.PENDING)).job

    assert check(found, error()).job.status is Status.ACTIVE


@pytest.mark.parametrize("fault", [Fault.CREDENTIALS, Fault.NOT_FOUND])
def test_the_third_strike_in_a_row_pauses_and_says_why(fault: Fault) -> None:
    found = job(interval_s=60)
    for strike in (1, 2):
        change = check(found, error(fault))
        assert change.job.status is Status.ACTIVE
        assert change.job.strikes == strike
        assert wait_s(change) == 60
        found = change.job

    change = check(found, error(fault, message="OpenAI answered 404: no such batch"))

    assert change.job.status is Status.PAUSED
    assert "no such batch" in (change.job.status_reason or "")
    assert words(change) == ["error", "paused"]


@pytest.mark.parametrize(
    "between", [finding(), error(Fault.TRANSIENT), error(Fault.RATE_LIMITED, retry_after_s=5)]
)
def test_strikes_count_in_a_row_only(between: Finding) -> None:
    found = job()
    for what in (error(Fault.NOT_FOUND), error(Fault.NOT_FOUND), between, error(Fault.NOT_FOUND)):
        found = check(found, what).job

    assert found.status is Status.ACTIVE
    assert found.strikes == 1


def test_an_empty_account_is_asked_once_an_hour() -> None:
    assert wait_s(check(job(interval_s=30), error(Fault.QUOTA))) == HOUR
    assert wait_s(check(job(interval_s=7200), error(Fault.QUOTA))) == 7200


def test_a_longer_retry_after_is_waited_for_and_a_shorter_one_isnt() -> None:
    assert wait_s(check(job(), error(Fault.RATE_LIMITED, retry_after_s=300.0))) == 300
    assert wait_s(check(job(), error(Fault.RATE_LIMITED, retry_after_s=5.0))) == 60


def test_an_empty_account_with_a_time_is_held() -> None:
    assert check(job(), error(Fault.QUOTA, retry_after_s=300.0)).hold_until == after(300)


def test_only_a_limit_with_a_time_holds_the_account() -> None:
    told = check(job(), error(Fault.RATE_LIMITED, retry_after_s=300.0))
    untold = check(job(), error(Fault.RATE_LIMITED))
    other = check(job(), error(Fault.TRANSIENT, retry_after_s=300.0))

    assert told.hold_until == after(300)
    assert untold.hold_until is None
    assert other.hold_until is None


@pytest.mark.parametrize("found", [job(), job(revision=2), PAUSED])
def test_the_account_is_held_whatever_becomes_of_the_job_that_was_told(found: Job) -> None:
    change = check(found, error(Fault.RATE_LIMITED, retry_after_s=300.0), revision=1)

    assert change.hold_until == after(300)


def test_a_check_is_never_due_before_its_account_may_be_asked() -> None:
    change = check(job(interval_s=60), finding(), held_until=after(200), jitter=0.5)

    assert wait_s(change) == 201


@given(
    interval_s=st.integers(1, 604_800),
    errors=st.integers(0, 200),
    jitter=st.floats(0, 1),
    verdict=st.sampled_from([Verdict.PENDING, Verdict.ERROR]),
    fault=st.sampled_from(list(Fault)),
    retry_after_s=st.none() | st.floats(1, 3600),
)
def test_no_wait_is_shorter_than_the_interval_or_absurdly_long(
    interval_s: int,
    errors: int,
    jitter: float,
    verdict: Verdict,
    fault: Fault,
    retry_after_s: float | None,
) -> None:
    what = finding(verdict, fault=fault, retry_after_s=retry_after_s)
    if verdict is Verdict.PENDING:
        what = finding(verdict)
    wait = wait_s(check(job(interval_s=interval_s, errors=errors), what, jitter=jitter))

    shortest = max(interval_s, what.retry_after_s or 0)
    jitter_s = min(1.0, interval_s / 100)
    assert shortest <= wait + 1e-6
    assert wait <= max(shortest, HOUR) + jitter_s + 1e-6
    if verdict is Verdict.PENDING:
        assert wait <= interval_s + jitter_s + 1e-5


@given(st.sampled_from(list(Verdict)), st.sampled_from(list(Fault)), st.data())
def test_after_any_finding_an_active_job_has_something_ahead(
    verdict: Verdict, fault: Fault, data: st.DataObject
) -> None:
    found = job(
        trigger_on=data.draw(st.sampled_from(list(TriggerOn))),
        actions=data.draw(st.sampled_from([(), (ACTION,)])),
        errors=data.draw(st.integers(0, 5)),
        strikes=data.draw(st.integers(0, 2)),
    )
    what = finding(verdict, fault=fault if verdict is Verdict.ERROR else None)
    change = check(found, what)

    after_it = change.job
    if verdict in TERMINAL:
        assert after_it.delivering == (change.event is not None)
        assert after_it.delivering or after_it.status in ENDED
        assert after_it.next_check_at is None
    else:
        assert after_it.status in (Status.ACTIVE, Status.PAUSED)
        assert after_it.next_check_at is not None
    assert (after_it.completed_at is not None) == (after_it.status in ENDED)


# How long the scheduler sleeps


@pytest.mark.parametrize(
    ("due", "nap"),
    [(None, 30.0), (after(12), 12.0), (after(600), 30.0), (after(-5), 0.0), (NOW, 0.0)],
)
def test_the_scheduler_sleeps_until_the_next_due_time_but_never_long(
    due: datetime | None, nap: float
) -> None:
    assert lifecycle.nap_s(due, NOW) == nap


def test_a_source_part_is_compared_by_its_content() -> None:
    same = Part(kind="openai", doc={"batch_ids": ["batch_a"]}, origin=SOURCE.origin)

    assert edit(job(next_check_at=after(40)), source=same).job.next_check_at == after(40)


def test_held_leaves_what_is_later_anyway() -> None:
    assert lifecycle.held(after(60), None, 1.0) == after(60)
    assert lifecycle.held(after(60), after(30), 1.0) == after(60)
    assert lifecycle.held(after(60), after(90), 1.0) == after(90) + timedelta(seconds=2)

"""Any run of events over the real database: no job is ever stuck, no trigger lost or doubled.

A run is a list of numbers, so that Hypothesis can cut a failing one short. It plays scheduler,
people, crashes and the outside world against the store and the pure decisions; after each
event every job and every delivery is looked at.
"""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import given, note, settings
from hypothesis import strategies as st

from teckochecker import lifecycle, outbox
from teckochecker.domain import (
    ENDED,
    SEARCHABLE,
    USED_UP,
    Delivery,
    DeliveryId,
    DeliveryState,
    Doubt,
    Finding,
    Job,
    JobDraft,
    JobId,
    NotFoundYet,
    Page,
    Receipt,
    SecretId,
    SecretOpened,
    SecretType,
    Status,
    TriggerOn,
    Undecided,
    Verdict,
    replace,
)
from teckochecker.errors import Fault, NameTaken, WrongState
from teckochecker.store import (
    Agenda,
    Busy,
    DeliveryDue,
    DeliveryWork,
    JobFilter,
    JobView,
    Store,
    job_view,
)
from tests.parts import ACTION, NOW, SOURCE, Outcome, draft, failing, finding, secret_ref, sent

K = TypeVar("K", JobId, DeliveryId)
ALL = Page(limit=1000, offset=0)
WAITS_S = outbox.delivery_waits_s(1, 60)
ACTIONS = ((ACTION,), (), (ACTION, replace(ACTION, kind="webhook")))
SECRETS = (secret_ref("key"), secret_ref("stack", "keboola_secret"))
SUCCESS = finding(Verdict.SUCCESS, data={"batches": []})
FINDINGS = (
    *[SUCCESS] * 8,  # without it there is nothing to deliver
    finding(),
    finding(Verdict.FAILED),
    finding(Verdict.ERROR, fault=Fault.NOT_FOUND),
    finding(Verdict.ERROR, fault=Fault.TRANSIENT),
    finding(Verdict.ERROR, fault=Fault.RATE_LIMITED, retry_after_s=600.0),
)
FATES = ("arrives", "is lost", "its answer is lost", "fails", "is refused")
OPENED = SecretOpened(id=SecretId(1), name="key", updated_at=NOW, variable="openai_secret")
PENDING, SENDING = DeliveryState.PENDING, DeliveryState.SENDING
DELIVERED = DeliveryState.DELIVERED


class World:
    """Everything outside the store: the scheduler's memory, the other side, people, the clock."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "test.db", backups=folder)
        for name, type_ in (("key", SecretType.OPENAI), ("stack", SecretType.KEBOOLA)):
            self.store.secrets.add(name, name, type_, b"sealed", NOW)
        self.now = NOW
        self.numbers = itertools.count(1)
        self.checking: dict[JobId, Job] = {}
        self.sending: dict[DeliveryId, DeliveryWork] = {}
        self.following: dict[DeliveryId, DeliveryWork] = {}
        self.started: Counter[tuple[str, str]] = Counter()  # at the other side
        self.by_hand: set[DeliveryId] = set()  # redelivered: a second start is wanted
        self.events: dict[JobId, str] = {}

    def play(self, event: str, number: int) -> None:
        note(f"{event} {number}")
        getattr(self, event)(number)
        self.look()
        self.check()

    # The scheduler

    def agenda(self) -> Agenda:
        return self.store.agenda.due(
            self.now,
            Busy(ids=frozenset(self.checking), taken={}, share=100, free=100),
            Busy(ids=(), taken={}, share=100, free=100),
            Busy(ids={*self.sending, *self.following}, taken={}, share=100, free=100),
        )

    def look(self) -> None:
        """Start what is due, as the scheduler does after every poke and every nap."""
        agenda = self.agenda()
        for work in agenda.checks:
            assert work.job.status is Status.ACTIVE
            assert not work.job.delivering
            self.checking[work.job.id] = work.job
        for due in agenda.deliveries:
            self.start(due)

    def start(self, due: DeliveryDue) -> None:
        assert due.id not in self.sending, "attempted twice at a time"
        if due.follow_up:
            work = self.store.deliveries.following(due.id)
            assert work is not None
            self.following[due.id] = work
            return
        work = self.store.deliveries.begin(due.id, self.now)
        assert work is not None, "listed as due, and isn't"
        assert work.job.status is not Status.PAUSED
        self.sending[due.id] = work

    def check_ends(self, number: int) -> None:
        if not self.checking:
            return self.add(number)
        job_id, rest = picked(self.checking, number)
        return self.conclude(job_id, FINDINGS[rest % len(FINDINGS)])

    def conclude(self, job_id: JobId, what: Finding) -> None:
        asked = self.checking.pop(job_id)
        before = self.jobs().get(job_id)
        if before is None:  # deleted meanwhile
            return

        def decide(job: Job, held: datetime | None) -> lifecycle.Change:
            return lifecycle.checked(
                job,
                what,
                revision=asked.revision,
                event_id=f"evt_{next(self.numbers)}",
                duration_ms=1,
                opened=(OPENED,),
                held_until=held,
                now=self.now,
                jitter=0.5,
            )

        change = self.store.jobs.step(job_id, decide, self.now)
        if before.status is Status.PAUSED or before.revision != asked.revision:
            assert change.event is None, "acted on a finding that nobody wants any more"
            assert change.job.status is before.status
        if change.event:
            assert job_id not in self.events, "a second event of one job"
            self.events[job_id] = change.event.id

    def attempt_ends(self, number: int) -> None:
        if not self.sending:
            return self.next_is_due(number)
        delivery_id, rest = picked(self.sending, number)
        fate = FATES[rest % len(FATES)]
        note(fate)
        return self.settle(delivery_id, self.outcome(self.sending[delivery_id].delivery, fate))

    def outcome(self, delivery: Delivery, fate: str) -> Outcome:
        """What an honest action gets to know; in doubt it looks first."""
        key = (delivery.event.id, delivery.action)
        if delivery.doubt is not Doubt.NONE:
            if fate == "is refused":
                return failing(Fault.CREDENTIALS)
            if fate == "fails":
                return failing()
            if self.started[key]:
                return sent(found=True, follow_up=True)
            if fate == "is lost":
                return Undecided(message="Can't tell.")
            if delivery.doubt is Doubt.LOOK:
                return NotFoundYet(message="Nothing yet.")
        if fate in ("arrives", "its answer is lost"):
            self.arrive(delivery)
        match fate:
            case "arrives":
                return sent(follow_up=True)
            case "fails":
                return failing(Fault.RATE_LIMITED, retry_after_s=30.0)
            case "is refused":
                return failing(Fault.REFUSED)
            case _:
                return failing(maybe_done=True)

    def arrive(self, delivery: Delivery) -> None:
        key = (delivery.event.id, delivery.action)
        self.started[key] += 1
        again = delivery.id in self.by_hand or delivery.action not in SEARCHABLE
        assert self.started[key] == 1 or again, "a double"

    def settle(self, delivery_id: DeliveryId, outcome: Outcome) -> None:
        self.sending.pop(delivery_id)

        def decide(found: Delivery, job: Job, others: Any) -> outbox.DeliveryChange:
            return outbox.attempted(
                found,
                job,
                outcome,
                started_at=self.now,
                duration_ms=1,
                waits_s=WAITS_S,
                opened=(),
                others=others,
                now=self.now,
                jitter=0.5,
            )

        self.store.deliveries.finish(delivery_id, decide, self.now)

    def news_come(self, number: int) -> None:
        if not self.following:
            return
        delivery_id, rest = picked(self.following, number)
        self.following.pop(delivery_id)
        finished = Receipt(id="1001", status="success")
        news = (finished, replace(finished, finished=False), failing())[rest % 3]
        self.store.deliveries.finish(
            delivery_id, lambda found, job, _: outbox.followed(found, job, news, self.now), self.now
        )

    def crash(self, number: int) -> None:
        """Killed, whatever it does, and started again; some requests had left already."""
        for work in self.sending.values():
            if work.delivery.doubt is Doubt.NONE and number % 2:
                self.arrive(work.delivery)
        for running in (self.checking, self.following, self.sending):
            running.clear()  # type: ignore[attr-defined]
        self.store.deliveries.recover(self.now)
        self.store.agenda.spread_overdue(self.now)

    # Time

    def next_is_due(self, _number: int) -> None:
        self.now = self.agenda().next_due or self.now

    def time_passes(self, number: int) -> None:
        self.now += timedelta(seconds=(0.5, 11, 4000, 90_000)[number % 4])

    def clock_is_set_back(self, number: int) -> None:
        by = timedelta(seconds=(60, 90_000)[number % 2])
        self.now -= by
        self.store.agenda.bring_forward(by, self.now)

    # People

    def add(self, number: int) -> None:
        name, rest = f"job-{number % 3}", number // 3
        new = draft(
            name=name,
            trigger_on=tuple(TriggerOn)[rest % 2],
            actions=ACTIONS[rest // 2 % len(ACTIONS)],
            secrets=SECRETS,
        )
        taken = any(job.name == name and job.status not in ENDED for job in self.jobs().values())
        try:
            self.store.jobs.add(new, self.now, self.now)
        except NameTaken:
            assert taken
        else:
            assert not taken

    def change(self, number: int, decide: Callable[..., lifecycle.Change]) -> None:
        if jobs := self.jobs():
            job_id, _ = picked(jobs, number)
            try:
                self.store.jobs.change(job_id, decide, self.now)
            except WrongState:
                assert self.jobs()[job_id] == jobs[job_id]

    def pause(self, number: int) -> None:
        self.change(number, lambda job, held: lifecycle.paused(job, self.now))

    def resume(self, number: int) -> None:
        self.change(number, lambda job, held: lifecycle.resumed(job, held, self.now))

    def trigger(self, number: int) -> None:
        self.change(number, lambda job, held: lifecycle.triggered(job, held, self.now))

    def edit(self, number: int) -> None:
        jobs = self.jobs()
        if not jobs:
            return
        job_id, rest = picked(jobs, number)
        field = ("batch_id", "poll_interval_seconds", "name")[rest % 3]

        def drafted(view: JobView) -> JobDraft:
            found, doc = view.job, {"batch_ids": [f"batch_{next(self.numbers)}"]}
            return draft(
                name=found.name,
                interval_s=90 if field == "poll_interval_seconds" else found.interval_s,
                trigger_on=found.trigger_on,
                source=replace(SOURCE, doc=doc) if field == "batch_id" else found.source,
                actions=found.actions,
                secrets=SECRETS,
            )

        def decide(job: Job, new: JobDraft) -> lifecycle.Change:
            return lifecycle.edited(job, new, frozenset({field}), frozenset(), self.now)

        try:
            self.store.jobs.edit(job_id, drafted, decide, self.now)
        except WrongState:
            assert self.jobs()[job_id] == jobs[job_id]

    def delete(self, number: int) -> None:
        if jobs := self.jobs():
            self.store.jobs.delete(picked(jobs, number)[0])

    def redeliver(self, number: int) -> None:
        found = {one.id: one for job_id in self.jobs() for one in self.deliveries(job_id)}
        if not found:
            return
        delivery_id, _ = picked(found, number)
        before = found[delivery_id]
        try:
            self.store.deliveries.redeliver(delivery_id, self.now)
        except (WrongState, NameTaken):
            assert before in self.deliveries(before.job_id)
        else:
            self.by_hand.add(delivery_id)

    # What must always hold

    def jobs(self) -> dict[JobId, Job]:
        texts, _ = self.store.jobs.page(JobFilter(), ALL)
        views = [job_view(text) for text in texts]
        return {view.job.id: view.job for view in views}

    def deliveries(self, job_id: JobId) -> list[Delivery]:
        views, _ = self.store.deliveries.page(job_id, ALL)
        return [view.delivery for view in views]

    def check(self) -> None:
        for job in self.jobs().values():
            deliveries = self.deliveries(job.id)
            self.check_job(job, deliveries)
            for delivery in deliveries:
                self.check_delivery(delivery)

    def check_job(self, job: Job, deliveries: list[Delivery]) -> None:
        states = {delivery.state for delivery in deliveries}
        assert self.events.get(job.id) == job.event_id
        assert {delivery.event.id for delivery in deliveries} <= {job.event_id}
        assert len(deliveries) == (len(job.actions) if job.event_id else 0)
        assert (job.completed_at is not None) == (job.status in ENDED)
        if job.status is Status.ACTIVE and not job.delivering:
            assert job.next_check_at is not None, "active, and nothing is due"
        if job.delivering or job.status in ENDED:
            assert job.next_check_at is None, "due after its verdict"
        if job.delivering:
            assert states & {PENDING, SENDING}, "delivering, and nothing is on its way"
        if job.status is Status.COMPLETED:
            assert states <= {DELIVERED}
        if job.status is Status.FAILED and deliveries:
            assert states & USED_UP

    def check_delivery(self, delivery: Delivery) -> None:
        state = delivery.state
        assert (state is PENDING) == (delivery.next_attempt_at is not None)
        assert (state is DELIVERED) == (delivery.receipt is not None)
        assert (state is SENDING) == (delivery.id in self.sending), "nobody waits for its answer"
        assert delivery.follow_up_at is None or state is DELIVERED
        if state is DELIVERED:
            assert self.started[delivery.event.id, delivery.action], "a receipt for nothing"

    def end_well(self) -> None:
        """In a world where all goes well, every job ends without a further hand."""
        for number, job in enumerate(self.jobs().values()):
            if job.status is Status.PAUSED:
                note(f"finally resumes {number}")
                self.store.jobs.change(
                    job.id, lambda found, held: lifecycle.resumed(found, held, self.now), self.now
                )
        for _ in range(100):
            self.look()
            for job_id in list(self.checking):
                self.conclude(job_id, SUCCESS)
            for delivery_id, work in list(self.sending.items()):
                self.settle(delivery_id, self.outcome(work.delivery, "arrives"))
            while self.following:
                self.news_come(0)
            self.check()
            if all(job.status in ENDED for job in self.jobs().values()):
                return
            self.now = self.agenda().next_due or self.now + timedelta(hours=1)
        raise AssertionError(f"stuck: {self.jobs()}")


def picked(of: dict[K, Any], number: int) -> tuple[K, int]:
    """One of the keys by `number`, and what is left of the number."""
    keys = sorted(of)
    return keys[number % len(keys)], number // len(keys)


EVENTS = (
    *["check_ends", "attempt_ends"] * 8,
    *["next_is_due", "resume"] * 2,
    *["pause", "crash", "redeliver", "trigger", "news_come", "edit"],
    *["time_passes", "clock_is_set_back", "delete"],
)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 999)), min_size=40, max_size=60))
def test_no_run_of_events_leaves_a_job_stuck_or_a_trigger_lost_or_doubled(
    events: list[tuple[str, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            world.add(0)
            world.look()
            for event, number in events:
                world.play(event, number)
            world.end_well()
        finally:
            world.store.close()

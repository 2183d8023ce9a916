"""Any run of events over the real database: no job is ever stuck, no trigger lost or doubled.

Hypothesis plays scheduler, users, crashes and the outside world against the store and the pure
decisions; after each step the machine looks at every job and delivery.
"""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from teckochecker import lifecycle, outbox
from teckochecker.domain import (
    ENDED,
    USED_UP,
    Delivery,
    DeliveryId,
    DeliveryState,
    Doubt,
    Finding,
    Job,
    JobId,
    NotFoundYet,
    Page,
    Receipt,
    SecretId,
    SecretOpened,
    SecretType,
    Sent,
    Status,
    TriggerOn,
    Undecided,
    Verdict,
    replace,
)
from teckochecker.errors import Fault, JobNotFound, NameTaken, WrongState
from teckochecker.store import Busy, DeliveryDue, DeliveryWork, Store
from tests.parts import ACTION, NOW, SOURCE, Outcome, draft, failing, finding, secret_ref, sent

ALL = Page(limit=1000, offset=0)
WAITS_S = outbox.delivery_waits_s(1, 60)
ACTIONS = ((ACTION,), (), (ACTION, replace(ACTION, kind="webhook")))
FINDINGS = (
    finding(),
    finding(Verdict.SUCCESS, data={"batches": []}),
    finding(Verdict.FAILED),
    *(finding(Verdict.ERROR, fault=fault) for fault in Fault),
    finding(Verdict.ERROR, fault=Fault.RATE_LIMITED, retry_after_s=600.0),
)
EVENTS_OF_SENDING = ("arrives", "is lost on its way", "its answer is lost", "fails", "is refused")


class World(RuleBasedStateMachine):
    jobs = Bundle("jobs")

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.folder.name) / "test.db", backups=Path(self.folder.name))
        for uid, type_ in (("key", SecretType.OPENAI), ("stack", SecretType.KEBOOLA)):
            self.store.secrets.add(uid, uid, type_, b"sealed", NOW)
        self.now = NOW
        self.numbers = itertools.count(1)
        self.checking: dict[JobId, Job] = {}
        self.sending: dict[DeliveryId, DeliveryWork] = {}
        self.following: dict[DeliveryId, DeliveryWork] = {}
        self.started: Counter[tuple[str, str]] = Counter()  # at the other side
        self.by_hand: set[DeliveryId] = set()  # redelivered, so that a second start is wanted
        self.events: dict[JobId, str] = {}

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.everything_comes_to_an_end()
            self.store.close()
            self.folder.cleanup()

    # What the scheduler does

    def agenda(self) -> Any:
        checks = Busy(ids=frozenset(self.checking), taken={}, share=100, free=100)
        busy = frozenset((*self.sending, *self.following))
        return self.store.agenda.due(self.now, checks, Busy(ids=busy, taken={}, share=100, free=100))

    @rule()
    def starts_what_is_due(self) -> None:
        agenda = self.agenda()
        for work in agenda.checks:
            assert work.job.status is Status.ACTIVE
            assert not work.job.delivering
            self.checking[work.job.id] = work.job
        for due in agenda.deliveries:
            self.start(due)

    def start(self, due: DeliveryDue) -> None:
        assert due.id not in self.sending
        assert due.id not in self.following
        if due.follow_up:
            work = self.store.deliveries.following(due.id)
            assert work is not None
            self.following[due.id] = work
            return
        work = self.store.deliveries.begin(due.id, self.now)
        assert work is not None
        assert work.job.status is not Status.PAUSED
        self.sending[due.id] = work

    @precondition(lambda self: self.checking)
    @rule(what=st.sampled_from(FINDINGS), number=st.integers(0, 99), jitter=st.floats(0, 1))
    def a_check_ends(self, what: Finding, number: int, jitter: float) -> None:
        job_id = sorted(self.checking)[number % len(self.checking)]
        self.conclude(job_id, what, jitter)

    def conclude(self, job_id: JobId, what: Finding, jitter: float = 0.5) -> None:
        asked = self.checking.pop(job_id)
        opened = SecretOpened(id=SecretId(1), name="key", updated_at=NOW, variable="openai_secret")

        def decide(job: Job, held: Any) -> lifecycle.Change:
            return lifecycle.checked(
                job,
                what,
                revision=asked.revision,
                event_id=f"evt_{next(self.numbers)}",
                duration_ms=1,
                opened=(opened,),
                held_until=held,
                now=self.now,
                jitter=jitter,
            )

        try:
            change = self.store.jobs.step(job_id, decide, self.now)
        except JobNotFound:
            return
        if change.event:
            assert job_id not in self.events, "a second event of one job"
            self.events[job_id] = change.event.id

    @precondition(lambda self: self.sending)
    @rule(fate=st.sampled_from(EVENTS_OF_SENDING), number=st.integers(0, 99))
    def an_attempt_ends(self, fate: str, number: int) -> None:
        delivery_id = sorted(self.sending)[number % len(self.sending)]
        self.settle(delivery_id, self.outcome(self.sending[delivery_id], fate))

    def outcome(self, work: DeliveryWork, fate: str) -> Outcome:
        """What an honest action gets to know; it looks first when it is in doubt."""
        delivery = work.delivery
        key = (delivery.event.id, delivery.action)
        if delivery.doubt is not Doubt.NONE:
            if fate == "is refused":
                return failing(Fault.CREDENTIALS)
            if fate == "fails":
                return failing()
            if self.started[key]:
                return sent(found=True)
            if fate == "is lost on its way":
                return Undecided(message="Can't tell.")
            if delivery.doubt is Doubt.LOOK:
                return NotFoundYet(message="Nothing yet.")
        return self.sent(key, delivery, fate)

    def sent(self, key: tuple[str, str], delivery: Delivery, fate: str) -> Outcome:
        if fate in ("arrives", "its answer is lost"):
            self.started[key] += 1
            assert self.started[key] == 1 or delivery.id in self.by_hand, "a double"
        match fate:
            case "arrives":
                return sent(follow_up=True)
            case "fails":
                return failing(Fault.RATE_LIMITED, retry_after_s=30.0)
            case "is refused":
                return failing(Fault.REFUSED)
            case _:
                return failing(maybe_done=True)

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

    @precondition(lambda self: self.following)
    @rule(number=st.integers(0, 99), state=st.sampled_from(["processing", "success", "fault"]))
    def news_come(self, number: int, state: str) -> None:
        delivery_id = sorted(self.following)[number % len(self.following)]
        self.following.pop(delivery_id)
        news = Receipt(id="1001", status=state, finished=state == "success")
        what = failing() if state == "fault" else news
        self.store.deliveries.finish(
            delivery_id, lambda found, job, _: outbox.followed(found, job, what, self.now), self.now
        )

    @rule()
    def crashes(self) -> None:
        """The process is killed, whatever it does, and started again."""
        self.checking.clear()
        self.following.clear()
        for work in self.sending.values():  # some of what was under way had left already
            key = (work.delivery.event.id, work.delivery.action)
            if work.delivery.doubt is Doubt.NONE and next(self.numbers) % 2:
                self.started[key] += 1
        self.sending.clear()
        self.store.deliveries.recover(self.now)
        self.store.agenda.spread_overdue(self.now)

    @rule(seconds=st.sampled_from([0.5, 2, 11, 61, 600, 4000, 90_000]))
    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(seconds=st.sampled_from([60, 90_000]))
    def the_clock_is_set_back(self, seconds: float) -> None:
        by = timedelta(seconds=seconds)
        self.now -= by
        self.store.agenda.bring_forward(by, self.now)

    # What people do

    @rule(
        target=jobs,
        name=st.sampled_from(["a", "b", "c"]),
        trigger_on=st.sampled_from(list(TriggerOn)),
        actions=st.sampled_from(ACTIONS),
    )
    def is_added(self, name: str, trigger_on: TriggerOn, actions: Any) -> Any:
        new = draft(
            name=name,
            trigger_on=trigger_on,
            actions=actions,
            secrets=(secret_ref("key"), secret_ref("stack", "keboola_secret")),
        )
        try:
            return self.store.jobs.add(new, self.now, self.now).job.id
        except NameTaken:
            return multiple()

    def attempted_by_hand(self, job_id: JobId, decide: Any) -> None:
        before = self.all_jobs().get(job_id)
        try:
            self.store.jobs.change(job_id, decide, self.now)
        except JobNotFound:
            assert before is None
        except WrongState:
            assert self.all_jobs()[job_id] == before

    @rule(job_id=jobs)
    def is_paused(self, job_id: JobId) -> None:
        self.attempted_by_hand(job_id, lambda job, held: lifecycle.paused(job, self.now))

    @rule(job_id=jobs)
    def is_resumed(self, job_id: JobId) -> None:
        self.attempted_by_hand(job_id, lambda job, held: lifecycle.resumed(job, held, self.now))

    @rule(job_id=jobs)
    def is_triggered(self, job_id: JobId) -> None:
        self.attempted_by_hand(job_id, lambda job, held: lifecycle.triggered(job, held, self.now))

    @rule(job_id=jobs, field=st.sampled_from(["batch_id", "poll_interval_seconds", "name"]))
    def is_edited(self, job_id: JobId, field: str) -> None:
        doc = {"batch_ids": [f"batch_{next(self.numbers)}"]}

        def drafted(view: Any) -> Any:
            found = view.job
            return draft(
                name=found.name,
                interval_s=90 if field == "poll_interval_seconds" else found.interval_s,
                trigger_on=found.trigger_on,
                source=replace(SOURCE, doc=doc) if field == "batch_id" else found.source,
                actions=found.actions,
                secrets=(secret_ref("key"), secret_ref("stack", "keboola_secret")),
            )

        def decide(job: Job, new: Any) -> lifecycle.Change:
            return lifecycle.edited(job, new, frozenset({field}), frozenset(), self.now)

        before = self.all_jobs().get(job_id)
        try:
            self.store.jobs.edit(job_id, drafted, decide, self.now)
        except JobNotFound:
            assert before is None
        except WrongState:
            assert self.all_jobs()[job_id] == before

    @rule(job_id=jobs)
    def is_deleted(self, job_id: JobId) -> None:
        if job_id in self.all_jobs():
            self.store.jobs.delete(job_id)

    @rule(job_id=jobs, number=st.integers(0, 1))
    def is_redelivered(self, job_id: JobId, number: int) -> None:
        if job_id not in self.all_jobs():
            return
        found = self.deliveries(job_id)
        if not found:
            return
        delivery = found[number % len(found)]
        try:
            self.store.deliveries.redeliver(delivery.id, self.now)
        except (WrongState, NameTaken):
            assert self.deliveries(job_id) == found
        else:
            self.by_hand.add(delivery.id)

    # What must always hold

    def all_jobs(self) -> dict[JobId, Job]:
        views, _ = self.store.jobs.page(self.every_kind(), ALL)
        return {view.job.id: view.job for view in views}

    @staticmethod
    def every_kind() -> Any:
        from teckochecker.store import JobFilter

        return JobFilter()

    def deliveries(self, job_id: JobId) -> list[Delivery]:
        views, _ = self.store.deliveries.page(job_id, ALL)
        return [view.delivery for view in views]

    @invariant()
    def nothing_is_stuck_lost_or_contradictory(self) -> None:
        if not hasattr(self, "store"):
            return
        for job in self.all_jobs().values():
            deliveries = self.deliveries(job.id)
            self.holds_for_the_job(job, deliveries)
            for delivery in deliveries:
                self.holds_for_the_delivery(delivery)

    def holds_for_the_job(self, job: Job, deliveries: list[Delivery]) -> None:
        states = {delivery.state for delivery in deliveries}
        assert (job.event_id is not None) == bool(deliveries)
        assert self.events.get(job.id) == job.event_id
        assert {delivery.event.id for delivery in deliveries} <= {job.event_id}
        assert len(deliveries) in (0, len(job.actions))
        assert (job.completed_at is not None) == (job.status in ENDED)
        if job.status is Status.ACTIVE and not job.delivering:
            assert job.next_check_at is not None, "active, and nothing is due"
        if job.delivering or job.status in ENDED:
            assert job.next_check_at is None
        if job.delivering:
            assert states & {DeliveryState.PENDING, DeliveryState.SENDING}, "nothing on its way"
        if job.status is Status.COMPLETED:
            assert states <= {DeliveryState.DELIVERED}
        if job.status is Status.FAILED and deliveries:
            assert states & USED_UP

    def holds_for_the_delivery(self, delivery: Delivery) -> None:
        state = delivery.state
        assert (state is DeliveryState.PENDING) == (delivery.next_attempt_at is not None)
        assert (state is DeliveryState.DELIVERED) == (delivery.receipt is not None)
        assert (state is DeliveryState.SENDING) == (delivery.id in self.sending), "abandoned"
        if delivery.follow_up_at is not None:
            assert state is DeliveryState.DELIVERED
        if state is DeliveryState.DELIVERED:
            assert self.started[delivery.event.id, delivery.action], "a receipt for nothing"

    def everything_comes_to_an_end(self) -> None:
        """In a world where all goes well, every job ends without a further hand."""
        for job in self.all_jobs().values():
            if job.status is Status.PAUSED:
                self.is_resumed(job.id)
        for _ in range(200):
            self.starts_what_is_due()
            for job_id in list(self.checking):
                self.conclude(job_id, finding(Verdict.SUCCESS, data={"batches": []}))
            for delivery_id, work in list(self.sending.items()):
                self.settle(delivery_id, self.outcome(work, "arrives"))
            self.nothing_is_stuck_lost_or_contradictory()
            if all(job.status in ENDED for job in self.all_jobs().values()):
                break
            self.now += timedelta(seconds=30)
        else:
            raise AssertionError(f"stuck: {self.all_jobs()}")


World.TestCase.settings = settings(max_examples=30, stateful_step_count=40)
TestStates = World.TestCase

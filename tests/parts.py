"""What the engine's tests are made of: values with good defaults, fakes at the ports, a clock.

A fake source or action does what its `script` says, in the calling thread; nothing of the
product is patched, an `App` gets the fakes in place of the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace as replaced
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import trio

from teckochecker.actions import DeliveryContext
from teckochecker.app import App, assemble
from teckochecker.config import Settings
from teckochecker.domain import (
    Delivery,
    DeliveryId,
    DeliveryState,
    Document,
    Doubt,
    Event,
    Finding,
    Job,
    JobDraft,
    JobId,
    Kind,
    NotFoundYet,
    Page,
    Part,
    Receipt,
    Secret,
    SecretRef,
    SecretType,
    Sent,
    Status,
    TriggerOn,
    Undecided,
    Verdict,
)
from teckochecker.errors import Fault, OutsideError
from teckochecker.lanes import Lane, Lanes
from teckochecker.sources import CheckContext
from teckochecker.store import Store
from teckochecker.validation import Fields, Parsed
from teckochecker.vault import new_uid

T = TypeVar("T")
Outcome = Sent | NotFoundYet | Undecided | OutsideError

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECRET_KEY = "Q2hlY2tzLXRoaW5ncy1mb3ItdGVzdHMtb25seS0xMjM0NTY3ODkw"
SOURCE = Part(kind="openai", doc={"batch_ids": ["batch_a"]}, origin="https://api.example:443")
ACTION = Part(
    kind="keboola", doc={"keboola_stack_url": "https://stack.example"}, origin="https://s"
)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def job(**changes: Any) -> Job:
    fields: dict[str, Any] = {
        "id": JobId(7),
        "kind": Kind.POLLING,
        "name": "nightly",
        "status": Status.ACTIVE,
        "status_reason": None,
        "revision": 1,
        "interval_s": 60,
        "trigger_on": TriggerOn.SUCCESS,
        "source": SOURCE,
        "actions": (ACTION,),
        "next_check_at": NOW,
        "last_check_at": None,
        "last_verdict": None,
        "last_data": None,
        "check_count": 0,
        "errors": 0,
        "strikes": 0,
        "event_id": None,
        "created_at": after(-3600),
        "completed_at": None,
    }
    return Job(**fields | changes)


def delivering(**changes: Any) -> Job:
    return job(**{"event_id": "evt_1", "next_check_at": None} | changes)


def draft(**changes: Any) -> JobDraft:
    fields: dict[str, Any] = {
        "kind": Kind.POLLING,
        "name": "nightly",
        "interval_s": 60,
        "trigger_on": TriggerOn.SUCCESS,
        "source": SOURCE,
        "actions": (ACTION,),
        "secrets": (),
    }
    return JobDraft(**fields | changes)


def secret_ref(name: str, role: str = "openai_secret") -> SecretRef:
    type_ = SecretType.OPENAI if role == "openai_secret" else SecretType.KEBOOLA
    return SecretRef(role=role, field=role, wanted=name, type=type_)


def event(**changes: Any) -> Event:
    fields: dict[str, Any] = {
        "id": "evt_1",
        "job_id": JobId(7),
        "job_name": "nightly",
        "verdict": Verdict.SUCCESS,
        "message": "Batch completed.",
        "data": {"batches": []},
        "occurred_at": NOW,
        "execution_time_ms": 12,
    }
    return Event(**fields | changes)


def delivery(**changes: Any) -> Delivery:
    fields: dict[str, Any] = {
        "id": DeliveryId(3),
        "job_id": JobId(7),
        "event": event(),
        "action": "keboola",
        "state": DeliveryState.PENDING,
        "doubt": Doubt.NONE,
        "tries": 0,
        "attempt_count": 0,
        "next_attempt_at": NOW,
        "created_at": NOW,
        "delivered_at": None,
        "first_sent_at": None,
        "receipt": None,
        "follow_up_at": None,
        "follow_ups": 0,
    }
    return Delivery(**fields | changes)


def finding(verdict: Verdict = Verdict.PENDING, **changes: Any) -> Finding:
    return Finding(**{"verdict": verdict, "message": "Found."} | changes)


def failing(fault: Fault = Fault.TRANSIENT, **changes: Any) -> OutsideError:
    return OutsideError("It failed.", fault, **changes)


def sent(number: str = "1001", *, follow_up: bool = False, **changes: Any) -> Sent:
    receipt = Receipt(id=number, status="created", finished=not follow_up)
    return Sent(receipt=receipt, follow_up=follow_up, **changes)


class FakeSource:
    """A source that finds what `script(doc, context)` returns or raises; counts its calls."""

    kind: ClassVar[str] = "openai"
    tests: ClassVar[SecretType | None] = None

    def __init__(self, script: Callable[[Document, CheckContext], Finding]) -> None:
        self.script = script
        self.calls: list[datetime] = []
        self.allowed_s = 20.0

    def parse(self, fields: Fields) -> Parsed:
        raise AssertionError("these tests have no use for it")

    def show(self, doc: Document) -> dict[str, object]:
        return dict(doc)

    def roles(self, doc: Document) -> Mapping[str, str]:
        return {"openai_secret": "openai_secret"}

    def progress(
        self, doc: Document, data: Document | None, state: Document | None
    ) -> dict[str, object]:
        return {}

    def timeout_s(self, doc: Document, previous: Document | None) -> float:
        return self.allowed_s

    def check(self, doc: Document, context: CheckContext) -> Finding:
        self.calls.append(context.now)
        return self.script(doc, context)

    def trial_url(self, fields: Fields) -> str:
        raise AssertionError("these tests have no use for it")

    def test(self, secret: Secret, doc: Document) -> str:
        raise AssertionError("these tests have no use for it")


class FakeAction:
    """An action that delivers what `script(event, context)` returns or raises."""

    kind: ClassVar[str] = "keboola"
    fields: ClassVar[frozenset[str]] = frozenset({"keboola_stack_url"})
    tests: ClassVar[SecretType | None] = None
    main_field: ClassVar[str] = "keboola_stack_url"

    def __init__(
        self,
        script: Callable[[Event, DeliveryContext], Sent | NotFoundYet | Undecided],
        news: Callable[[Receipt], Receipt] = lambda receipt: receipt,
    ) -> None:
        self.script = script
        self.news = news
        self.calls: list[datetime] = []
        self.asked: list[datetime] = []

    def parse(self, fields: Fields) -> Parsed:
        raise AssertionError("these tests have no use for it")

    def show(self, doc: Document) -> dict[str, object]:
        return dict(doc)

    def roles(self, doc: Document) -> Mapping[str, str]:
        return {"keboola_secret": "keboola_secret"}

    def timeout_s(self, doc: Document) -> float:
        return 20.0

    def deliver(
        self, doc: Document, event: Event, context: DeliveryContext
    ) -> Sent | NotFoundYet | Undecided:
        self.calls.append(context.now)
        return self.script(event, context)

    def follow_up(self, doc: Document, receipt: Receipt, context: DeliveryContext) -> Receipt:
        self.asked.append(context.now)
        return self.news(receipt)

    def trial_url(self, fields: Fields) -> str:
        raise AssertionError("these tests have no use for it")

    def test(self, secret: Secret, doc: Document) -> str:
        raise AssertionError("these tests have no use for it")


class InlineLanes(Lanes):
    """Runs everything in the event loop, so that a mock clock stands still meanwhile."""

    async def run(
        self,
        lane: Lane,
        fn: Callable[[], T],
        *,
        timeout_s: float | None = None,
        origin: str = "",
    ) -> T:
        await trio.lowlevel.checkpoint()
        return fn()


class Clock:
    """A wall clock over trio's, which a test may also move by hand."""

    def __init__(self) -> None:
        self.moved = timedelta(0)

    def __call__(self) -> datetime:
        return NOW + timedelta(seconds=trio.current_time()) + self.moved


def plain_settings(home: Path, **changes: object) -> Settings:
    env = {"SECRET_KEY": SECRET_KEY, "MIN_POLL_INTERVAL": "1", "LOG_FILE": "-"}
    return Settings.from_env(env | {name: str(value) for name, value in changes.items()}, home)


@contextmanager
def assembled(
    settings: Settings,
    *,
    source: FakeSource | None = None,
    action: FakeAction | None = None,
    **changes: Any,
) -> Iterator[App]:
    """An app with fakes at its ports; `changes` are given to `assemble`."""
    app = assemble(settings, **changes)
    sources: Mapping[str, Any] = app.sources if source is None else {source.kind: source}
    actions: Mapping[str, Any] = app.actions if action is None else {action.kind: action}
    try:
        yield replaced(app, sources=sources, actions=actions)
    finally:
        app.close()


def add_secret(app: App, name: str, type_: SecretType, now: datetime, value: str = "") -> None:
    uid = new_uid()
    sealed = app.vault.seal(uid, type_, Secret(value or f"value-of-{name}"))
    app.store.secrets.add(uid, name, type_, sealed, now)


def only_delivery(store: Store, job_id: int) -> Delivery:
    found, total = store.deliveries.page(job_id, Page(limit=10, offset=0))
    assert total == 1
    return found[0].delivery

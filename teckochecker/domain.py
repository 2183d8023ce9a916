"""The product's words as values: jobs, findings, deliveries, secrets, and their bounds.

Everything here is frozen and free of input, output and clocks. Instants are aware datetimes
in UTC. A job is a source (what to check) and its actions (what to trigger) on a schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, NewType

import msgspec

from teckochecker.errors import Fault

JobId = NewType("JobId", int)
SecretId = NewType("SecretId", int)
DeliveryId = NewType("DeliveryId", int)

Document = Mapping[str, Any]
"""A JSON object as Python values."""

MAX_ID = 2**63 - 1  # what SQLite can hold; a larger number in a path is simply not found
MAX_NAME_CHARS = 255
MAX_ANSWER_BYTES = 4096  # of what the other side said, kept per attempt
MAX_DATA_BYTES = 64 * 1024  # of a finding's data as JSON; one environment string ends at 128 KiB


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """The base of every value here: frozen, made by keyword, changed by `replace`."""


replace = msgspec.structs.replace


class Kind(StrEnum):
    """Which of the two views of jobs a job belongs to."""

    POLLING = "polling"
    CUSTOM_CHECK = "custom_check"


class Status(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"


SANDBOXED = "script"  # the kind of source whose checks run in containers
ENDED = frozenset({Status.COMPLETED, Status.FAILED})
OPEN = frozenset(Status) - ENDED


class Phase(StrEnum):
    """What an active job is doing; computed, never stored."""

    POLLING = "polling"
    CHECKING = "checking"
    DELIVERING = "delivering"
    AWAITING_SCRIPT = "awaiting_script"


class Verdict(StrEnum):
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    PENDING = "PENDING"
    ERROR = "ERROR"


TERMINAL = frozenset({Verdict.SUCCESS, Verdict.FAILED})


class TriggerOn(StrEnum):
    """Which verdicts make deliveries: only SUCCESS, or any end."""

    SUCCESS = "success"
    TERMINAL = "terminal"

    def covers(self, verdict: Verdict) -> bool:
        return verdict is Verdict.SUCCESS or (self is TriggerOn.TERMINAL and verdict in TERMINAL)


class SecretType(StrEnum):
    OPENAI = "openai"
    KEBOOLA = "keboola"
    GENERIC = "generic"


class Secret:
    """The plain value of a secret, which doesn't show itself when printed or logged."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value, for the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"


class SealedSecret(Value, frozen=True, kw_only=True):
    """A secret as it lies in the database: who it is, and bytes that only the vault opens."""

    id: SecretId
    uid: str
    name: str
    type: SecretType
    sealed: bytes
    updated_at: datetime


class SecretUse(Value, frozen=True, kw_only=True):
    """Who refers to a secret: `kind` is a job's kind, or `delivery`."""

    kind: str
    id: int
    name: str


class SecretInfo(Value, frozen=True, kw_only=True):
    """What may be shown of a secret."""

    id: SecretId
    name: str
    type: SecretType
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None
    used_by: tuple[SecretUse, ...] = ()


class SecretRef(Value, frozen=True, kw_only=True):
    """A mention of a secret in a document: by id or name, in `field`, for use as `role`.

    `type` None takes any. One that isn't `fresh` was there before a change: the secret that
    it is linked to stays, even when another one has its name by now.
    """

    role: str
    field: str
    wanted: int | str
    type: SecretType | None
    fresh: bool = True


class Part(Value, frozen=True, kw_only=True):
    """One source or action of a job: its kind, and its specification as a JSON object.

    `origin` is the scheme, host and port that it talks to; no origin may hold a whole lane.
    """

    kind: str
    doc: Document
    origin: str = ""


class JobDraft(Value, frozen=True, kw_only=True):
    """A job as somebody asks for it, checked but not yet stored.

    `max_errors` ERROR verdicts in a row make it fail, None never.
    """

    kind: Kind
    name: str
    interval_s: int
    trigger_on: TriggerOn
    source: Part
    actions: tuple[Part, ...]
    secrets: tuple[SecretRef, ...]
    max_errors: int | None = None


class Job(Value, frozen=True, kw_only=True):
    """A stored job.

    `revision` counts changes of the source: a finding of an older one is stale.
    `source_state` is what the source keeps for itself between checks, such as where a script is.
    `errors` counts ERROR verdicts in a row, `strikes` those that no waiting will heal.
    `event_id` names the outcome that is, or was, delivered.
    """

    id: JobId
    kind: Kind
    name: str
    status: Status
    status_reason: str | None
    revision: int
    interval_s: int
    trigger_on: TriggerOn
    source: Part
    actions: tuple[Part, ...]
    next_check_at: datetime | None
    last_check_at: datetime | None
    last_verdict: Verdict | None
    last_data: Document | None
    check_count: int
    errors: int
    strikes: int
    event_id: str | None
    created_at: datetime
    completed_at: datetime | None
    max_errors: int | None = None
    source_state: Document | None = None

    @property
    def delivering(self) -> bool:
        return self.status in OPEN and self.event_id is not None


class Execution(Value, frozen=True, kw_only=True):
    """How a script's run ended, for the log; the ends of both streams are masked."""

    exit_code: int | None = None
    peak_memory_bytes: int | None = None
    stdout: str = ""
    stderr: str = ""
    output: Document | None = None  # the verdict as the script said it
    startup_ms: int | None = None  # what the engine took to start the container


class Finding(Value, frozen=True, kw_only=True):
    """What one check found.

    `data` and `state` replace what was known before; None keeps it. `fault` is set on ERROR only.
    `warnings` are sentences for the log that change nothing else.
    """

    verdict: Verdict
    message: str
    data: Document | None = None
    fault: Fault | None = None
    retry_after_s: float | None = None
    warnings: tuple[str, ...] = ()
    detail: str | None = None  # a traceback, or what the other side said
    state: Document | None = None
    execution: Execution | None = None


class SecretOpened(Value, frozen=True, kw_only=True):
    """An entry of the audit: which secret a check or attempt opened, and for which field."""

    id: SecretId
    name: str
    updated_at: datetime
    variable: str


class Entry(Value, frozen=True, kw_only=True):
    """One line of a job's log; `status` is a verdict in lower case, or a word for an event."""

    status: str
    message: str
    duration_ms: int | None = None
    detail: str | None = None
    opened: tuple[SecretOpened, ...] = ()
    execution: Execution | None = None


class LogRow(Value, frozen=True, kw_only=True):
    """A stored log entry."""

    id: int
    job_id: JobId
    status: str
    message: str
    created_at: datetime
    execution_time_ms: int | None
    detail: str | None
    secrets_opened: list[Document]
    execution: Execution


class Event(Value, frozen=True, kw_only=True):
    """The outcome of a job, as it is told to every action; it never changes once made."""

    id: str
    job_id: JobId
    job_name: str
    verdict: Verdict
    message: str
    data: Document
    occurred_at: datetime
    execution_time_ms: int
    job_kind: Kind = Kind.POLLING


class DeliveryState(StrEnum):
    PENDING = "pending"
    SENDING = "sending"
    DELIVERED = "delivered"
    FAILED = "failed"
    UNCONFIRMED = "unconfirmed"


SEARCHABLE = frozenset({"keboola"})  # actions whose earlier attempts can be looked for
USED_UP = frozenset({DeliveryState.FAILED, DeliveryState.UNCONFIRMED})  # nobody tries any more


class Doubt(StrEnum):
    """Whether an earlier attempt may have arrived without our knowing."""

    NONE = "none"
    LOOK = "look"  # look for it before sending again
    LOOK_AGAIN = "look_again"  # one look found nothing, but an index may lag


class Receipt(Value, frozen=True, kw_only=True):
    """What the other side gave us for a delivery, and the follow-up's news about it.

    For Keboola: `id` and `url` of the started job and its `status`.
    """

    id: str
    url: str | None = None
    status: str | None = None
    finished: bool = True
    failed: bool = False
    message: str | None = None


class Delivery(Value, frozen=True, kw_only=True):
    """One outcome on its way to one action.

    `tries` counts attempts of the present schedule, `attempt_count` all that ever were.
    `follow_up_at` is when the started work is asked for next, None when nobody asks any more.
    """

    id: DeliveryId
    job_id: JobId
    event: Event
    action: str
    state: DeliveryState
    doubt: Doubt
    tries: int
    attempt_count: int
    next_attempt_at: datetime | None
    created_at: datetime
    delivered_at: datetime | None
    first_sent_at: datetime | None
    receipt: Receipt | None
    follow_up_at: datetime | None
    follow_ups: int


class Attempt(Value, frozen=True, kw_only=True):
    """One try of a delivery: when, what came back (`answer` masked), and how it ended."""

    started_at: datetime
    duration_ms: int | None
    status_code: int | None
    outcome: str
    message: str
    answer: str


class Sent(Value, frozen=True, kw_only=True):
    """An action's success: the receipt, and the bytes that came back."""

    receipt: Receipt
    status_code: int | None = None
    answer: str = ""
    follow_up: bool = False
    found: bool = False  # not sent now: an earlier attempt had arrived


class NotFoundYet(Value, frozen=True, kw_only=True):
    """A look for an earlier attempt found nothing; the index may lag, so look again later."""

    message: str


class Undecided(Value, frozen=True, kw_only=True):
    """A look could not tell whether an earlier attempt arrived."""

    message: str


class Page(Value, frozen=True, kw_only=True):
    """Which part of a list: `limit` 1 to 1000 rows, after `offset`."""

    limit: int
    offset: int

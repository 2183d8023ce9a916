"""The documents of the API as types, for the OpenAPI description only.

Nothing is decoded into them: `wire` and `validation` do that, and tell every fault at once.
Their tests compare the two.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from teckochecker.actions.webhook import Method
from teckochecker.domain import (
    MAX_NAME_CHARS,
    Attempt,
    DeliveryState,
    Event,
    Kind,
    Phase,
    Receipt,
    SecretInfo,
    SecretType,
    Status,
    TriggerOn,
    Verdict,
)
from teckochecker.sources.openai import MAX_BATCHES

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
BatchId = Annotated[str, Meta(pattern="^batch_[A-Za-z0-9_-]{1,200}$")]
SecretMention = Annotated[int | str, Meta(description="Id or name of a secret.")]
Percent = Annotated[float, Meta(ge=0, le=100)]
Interval = Annotated[
    int, Meta(ge=1, description="Seconds, within MIN_POLL_INTERVAL and MAX_POLL_INTERVAL.")
]
Limit = Annotated[int, Meta(ge=1, le=1000)]
Instant = Annotated[datetime, Meta(tz=True, description="RFC 3339, UTC.")]
Offset = Annotated[int, Meta(ge=0)]


class JobChange(Struct, forbid_unknown_fields=True):
    """Fields of a polling job; any subset changes it."""

    name: Name | UnsetType = UNSET
    batch_id: BatchId | UnsetType | None = UNSET
    batch_ids: (
        Annotated[list[BatchId], Meta(min_length=1, max_length=MAX_BATCHES)] | UnsetType | None
    ) = UNSET
    openai_secret: SecretMention | UnsetType | None = UNSET
    openai_secret_id: SecretMention | UnsetType | None = UNSET
    openai_base_url: str | UnsetType | None = UNSET
    max_failed_percent: Percent | UnsetType | None = UNSET
    keboola_secret: SecretMention | UnsetType | None = UNSET
    keboola_secret_id: SecretMention | UnsetType | None = UNSET
    keboola_stack_url: str | UnsetType | None = UNSET
    keboola_component_id: str | UnsetType | None = UNSET
    keboola_configuration_id: str | UnsetType = UNSET
    keboola_variables: dict[str, Any] | UnsetType | None = UNSET
    follow_up: bool | UnsetType | None = UNSET
    webhook_url: str | UnsetType | None = UNSET
    webhook_method: Method | UnsetType | None = UNSET
    webhook_headers: dict[str, str] | UnsetType | None = UNSET
    webhook_query_params: dict[str, str] | UnsetType | None = UNSET
    webhook_signing_secret: SecretMention | UnsetType | None = UNSET
    webhook_signing_secret_id: SecretMention | UnsetType | None = UNSET
    webhook_timeout_seconds: Annotated[int, Meta(ge=5, le=60)] | UnsetType | None = UNSET
    poll_interval_seconds: Interval | UnsetType | None = UNSET
    trigger_on: TriggerOn | UnsetType | None = UNSET


class NewJob(JobChange, forbid_unknown_fields=True, kw_only=True):
    """A polling job: give `batch_id` or `batch_ids`, each secret by id or name, and an action.

    `keboola_*` starts a Keboola job, `webhook_*` calls a URL; a job may have both.
    """

    name: Name


class BatchState(Struct):
    batch_id: str
    status: str | None
    request_counts: dict[str, int] | None
    output_file_id: str | None
    error_file_id: str | None
    created_at: str | None
    completed_at: str | None
    expires_at: str | None
    errors: list[str]


class StartedJob(Struct):
    """The Keboola job that was started."""

    id: str
    url: str | None
    status: str | None
    failed: bool
    message: str | None


class JobDocument(Struct, kw_only=True):
    """A polling job and how it stands."""

    id: int
    kind: Kind
    name: str
    status: Status
    phase: Phase | None
    status_reason: str | None
    poll_interval_seconds: int
    trigger_on: TriggerOn
    batch_id: str
    batch_ids: list[str]
    openai_base_url: str | None
    max_failed_percent: float
    openai_secret_id: int | UnsetType = UNSET
    openai_secret_name: str | UnsetType = UNSET
    keboola_secret_id: int | UnsetType = UNSET
    keboola_secret_name: str | UnsetType = UNSET
    keboola_stack_url: str | UnsetType = UNSET
    keboola_component_id: str | UnsetType = UNSET
    keboola_configuration_id: str | UnsetType = UNSET
    keboola_variables: dict[str, Any] | UnsetType | None = UNSET
    follow_up: bool | UnsetType = UNSET
    webhook_url: str | UnsetType = UNSET
    webhook_method: Method | UnsetType = UNSET
    webhook_headers: dict[str, str] | UnsetType | None = UNSET
    webhook_query_params: dict[str, str] | UnsetType | None = UNSET
    webhook_signing_secret_id: int | UnsetType = UNSET
    webhook_signing_secret_name: str | UnsetType = UNSET
    webhook_timeout_seconds: int | UnsetType = UNSET
    batches: list[BatchState]
    batch_count: int
    completed_count: int
    failed_count: int
    last_check_status: Verdict | None
    last_check_data: dict[str, Any] | None
    last_check_at: Instant | None
    next_check_at: Instant | None
    created_at: Instant
    completed_at: Instant | None
    keboola_job: StartedJob | None


class LogDocument(Struct):
    """A line of a job's log."""

    id: int
    job_id: int
    status: str
    message: str
    created_at: Instant
    execution_time_ms: int | None
    detail: str | None
    secrets_opened: list[dict[str, Any]]


class JobDetail(JobDocument, kw_only=True):
    """A polling job with its newest log entries."""

    logs: list[LogDocument]


class JobVerb(JobDocument, kw_only=True):
    """The job after a verb, and a sentence about it."""

    message: str
    job_id: int


class JobList(Struct):
    jobs: list[JobDocument]
    total: int
    limit: int
    offset: int


class LogList(Struct):
    logs: list[LogDocument]
    total: int
    limit: int
    offset: int


class DeliveryDocument(Struct):
    """One outcome on its way to one action, with every attempt."""

    id: int
    job_id: int
    event_id: str
    event: Event
    action: str
    state: DeliveryState
    attempts: list[Attempt]
    next_attempt_at: Instant | None
    created_at: Instant
    delivered_at: Instant | None
    receipt: Receipt | None


class DeliveryList(Struct):
    deliveries: list[DeliveryDocument]
    total: int
    limit: int
    offset: int


class NewSecret(Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1, max_length=255, pattern="^[A-Za-z0-9_.-]+$")]
    type: SecretType
    value: Annotated[str, Meta(min_length=1)]


class SecretValue(Struct, forbid_unknown_fields=True):
    value: Annotated[str, Meta(min_length=1)]


class SecretList(Struct):
    secrets: list[SecretInfo]
    total: int


class SecretTrial(Struct, forbid_unknown_fields=True):
    """Where to try a secret; a Keboola token needs its stack unless a job names one."""

    openai_base_url: str | UnsetType | None = UNSET
    keboola_stack_url: str | UnsetType | None = UNSET


class TrialResult(Struct):
    valid: bool
    message: str


class HealthDocument(Struct):
    status: Literal["ok", "degraded", "failing"]
    reasons: list[str]
    version: str
    uptime_seconds: float
    scheduler: dict[str, float]
    database: dict[str, Any]


class StatsDocument(Struct):
    active_jobs: int
    jobs_processed: int
    jobs: dict[str, dict[str, int]]
    checks_last_day: dict[str, int]
    triggers_last_day: int
    deliveries: dict[str, int]
    lag_seconds: dict[str, float | None]
    database_bytes: int
    token_last_used_at: Instant | None


class Problem(Struct):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: int | None
    request_id: str
    errors: list[dict[str, str]] | UnsetType = UNSET


class Paging(Struct):
    limit: Limit = 100
    offset: Offset = 0


class JobQuery(Struct):
    status: Status | UnsetType = UNSET
    q: Annotated[str, Meta(max_length=MAX_NAME_CHARS)] | UnsetType = UNSET
    kind: Literal["polling", "all"] = "polling"
    limit: Limit = 100
    offset: Offset = 0


class LogQuery(Struct):
    after: Annotated[int, Meta(ge=0)] = 0
    limit: Limit = 100
    offset: Offset = 0

"""The documents of the API as types, for the OpenAPI description only.

Nothing is decoded into them: `wire` and `validation` do that, and tell every fault at once.
Their tests compare the two.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from teckochecker.domain import (
    MAX_NAME_CHARS,
    Attempt,
    DeliveryState,
    Event,
    Receipt,
    SecretInfo,
    SecretType,
    Status,
)
from teckochecker.sources.script_fields import SourceType
from teckochecker.web.job_schemas import Instant, LogDocument, SecretMention

Limit = Annotated[int, Meta(ge=1, le=1000)]
Offset = Annotated[int, Meta(ge=0)]


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
    sandbox: dict[str, Any]
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


class Beat(Struct):
    """One check of a job."""

    at: Instant
    verdict: Literal["success", "failed", "pending", "error"]
    duration_ms: int
    message: str


class HeartbeatList(Struct):
    """The last checks of each job, by its id, oldest first."""

    heartbeats: dict[str, list[Beat]]


class SignIn(Struct, forbid_unknown_fields=True):
    token: Annotated[str, Meta(min_length=1, max_length=200)]


class SessionDocument(Struct):
    """A session has begun; its cookie comes with this answer."""

    expires_at: Instant


class Setting(Struct):
    name: str
    value: str | int | None
    help: str


class SystemDocument(Struct):
    """What runs, how it is set, and how much room it takes."""

    version: str
    python: str
    sqlite: str
    system: str
    home: str
    started_at: Instant
    disk: dict[str, int]
    settings: list[Setting]


class Problem(Struct):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: int | None
    request_id: str
    errors: list[dict[str, str]] | UnsetType = UNSET


class WebhookTrial(Struct):
    """What the receiver answered to a test event."""

    message: str
    job_id: int
    event_id: str
    status_code: int | None
    answer: str
    duration_ms: int


class Upload(Struct):
    """A form with the part `file`."""

    file: str


class Uploaded(Struct):
    """The stored form of an upload; `path` is within the installation's folder."""

    message: str
    path: str
    sha256: str
    size_bytes: int


class GitSource(Struct, forbid_unknown_fields=True):
    git_url: Annotated[str, Meta(max_length=500)]
    branch: Annotated[str, Meta(max_length=100)] | UnsetType | None = UNSET
    subfolder: Annotated[str, Meta(max_length=500)] | UnsetType | None = UNSET
    secret: SecretMention | UnsetType | None = UNSET


class GitConfigured(Struct):
    message: str
    url: str
    branch: str
    subfolder: str | None


class ScriptFile(Struct):
    path: str
    size_bytes: int


class ScriptMetadata(Struct):
    sha256: str
    size_bytes: int
    commit: str | None
    stored_at: str
    files: list[ScriptFile]
    text: str | None


class ScriptInfo(Struct):
    """Where a script comes from, and what was stored; `text` when it is one small text file."""

    job_id: int
    source_type: SourceType
    git_url: str | None
    git_branch: str | None
    git_subfolder: str | None
    entrypoint: str
    file_path: str | None
    metadata: ScriptMetadata | None


class CustomCheckQuery(Struct):
    status: Status | UnsetType = UNSET
    q: Annotated[str, Meta(max_length=MAX_NAME_CHARS)] | UnsetType = UNSET
    kind: Literal["custom_check", "all"] = "custom_check"
    limit: Limit = 100
    offset: Offset = 0


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


class HeartbeatQuery(Struct):
    ids: Annotated[str, Meta(pattern="^[0-9]{1,15}(,[0-9]{1,15}){0,199}$")]
    limit: Annotated[int, Meta(ge=1, le=60)] = 30

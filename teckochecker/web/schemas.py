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
from teckochecker.sources.script import (
    MAX_MEMORY_MB,
    MAX_TIMEOUT_S,
    MIN_CORES,
    MIN_MEMORY_MB,
    MIN_TIMEOUT_S,
    Network,
    Runtime,
    SourceType,
)
from teckochecker.validation import MAX_ERRORS

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
    exit_code: int | None
    peak_memory_bytes: int | None
    stdout: str
    stderr: str
    script_output: dict[str, Any] | None


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


class ResourceLimits(Struct, forbid_unknown_fields=True):
    memory_mb: Annotated[int, Meta(ge=MIN_MEMORY_MB, le=MAX_MEMORY_MB)] | UnsetType = UNSET
    cpu_cores: Annotated[float, Meta(ge=MIN_CORES)] | UnsetType = UNSET


class CustomCheckChange(Struct, forbid_unknown_fields=True):
    """Fields of a custom check; any subset changes it."""

    name: Name | UnsetType = UNSET
    script_source_type: SourceType | UnsetType = UNSET
    script: (
        Annotated[str, Meta(min_length=1, description="The script as one text, for `upload`.")]
        | UnsetType
        | None
    ) = UNSET
    script_git_url: Annotated[str, Meta(max_length=500)] | UnsetType | None = UNSET
    script_git_branch: Annotated[str, Meta(max_length=100)] | UnsetType | None = UNSET
    script_git_subfolder: Annotated[str, Meta(max_length=500)] | UnsetType | None = UNSET
    script_git_secret: SecretMention | UnsetType | None = UNSET
    script_git_secret_id: SecretMention | UnsetType | None = UNSET
    script_runtime: Runtime | UnsetType = UNSET
    script_entrypoint: Annotated[str, Meta(max_length=255)] | UnsetType | None = UNSET
    check_params: dict[str, Any] | UnsetType | None = UNSET
    env_vars: dict[str, str] | UnsetType | None = UNSET
    timeout_seconds: Annotated[int, Meta(ge=MIN_TIMEOUT_S, le=MAX_TIMEOUT_S)] | UnsetType | None = (
        UNSET
    )
    resource_limits: ResourceLimits | UnsetType | None = UNSET
    network: Network | UnsetType | None = UNSET
    max_consecutive_errors: Annotated[int, Meta(ge=1, le=MAX_ERRORS)] | UnsetType | None = UNSET
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


class NewCustomCheck(CustomCheckChange, forbid_unknown_fields=True, kw_only=True):
    """A custom check: a script, when to run it, and what to call with its outcome.

    The script comes as `script`, by a later upload, with this body as the part `config` of a
    form and the archive as its part `script`, or from git.
    """

    name: Name
    script_runtime: Runtime


class StoredScript(Struct):
    """The script that runs next; `commit` is set when it comes from git."""

    sha256: str
    size_bytes: int
    files: int
    commit: str | None
    stored_at: str


class CustomCheckDocument(Struct, kw_only=True):
    """A custom check and how it stands."""

    id: int
    kind: Kind
    name: str
    status: Status
    phase: Phase | None
    status_reason: str | None
    poll_interval_seconds: int
    trigger_on: TriggerOn
    max_consecutive_errors: int | None
    script_source_type: SourceType
    script_runtime: Runtime
    script_entrypoint: str
    script_git_url: str | None
    script_git_branch: str | None
    script_git_subfolder: str | None
    script_git_secret_id: int | UnsetType = UNSET
    script_git_secret_name: str | UnsetType = UNSET
    script: StoredScript | None
    check_params: dict[str, Any]
    env_vars: dict[str, str] | None
    timeout_seconds: int
    resource_limits: ResourceLimits
    network: Network
    keboola_secret_id: int | UnsetType = UNSET
    keboola_secret_name: str | UnsetType = UNSET
    keboola_stack_url: str | UnsetType = UNSET
    keboola_component_id: str | UnsetType = UNSET
    keboola_configuration_id: str | UnsetType = UNSET
    keboola_variables: dict[str, Any] | UnsetType | None = UNSET
    follow_up: bool | UnsetType = UNSET
    webhook_url: str | None
    webhook_method: Method
    webhook_headers: dict[str, str] | None
    webhook_query_params: dict[str, str] | None
    webhook_signing_secret_id: int | UnsetType = UNSET
    webhook_signing_secret_name: str | UnsetType = UNSET
    webhook_timeout_seconds: int | UnsetType = UNSET
    last_check_status: Verdict | None
    last_check_data: dict[str, Any] | None
    last_check_at: Instant | None
    next_check_at: Instant | None
    created_at: Instant
    completed_at: Instant | None
    keboola_job: StartedJob | None


class CustomCheckDetail(CustomCheckDocument, kw_only=True):
    """A custom check with its newest log entries."""

    logs: list[LogDocument]


class CustomCheckVerb(CustomCheckDocument, kw_only=True):
    """The custom check after a verb, and a sentence about it."""

    message: str
    job_id: int


class CustomCheckList(Struct):
    jobs: list[CustomCheckDocument]
    total: int
    limit: int
    offset: int


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

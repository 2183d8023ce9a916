"""The documents of jobs as types, for the OpenAPI description only; see `schemas`.

A job's `kind` tells which of the two documents it is.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from teckochecker.actions.webhook import Method
from teckochecker.domain import MAX_NAME_CHARS, Kind, Phase, Status, TriggerOn, Verdict
from teckochecker.sources.openai import MAX_BATCHES
from teckochecker.sources.script_fields import (
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
CheckInterval = Annotated[
    int,
    Meta(
        ge=1,
        description="Seconds, 10 to 86400; wider where MIN_POLL_INTERVAL or MAX_POLL_INTERVAL is.",
    ),
]
Instant = Annotated[datetime, Meta(tz=True, description="RFC 3339, UTC.")]


class _Change(Struct, forbid_unknown_fields=True):
    """What jobs of both kinds can be given."""

    name: Name | UnsetType = UNSET
    poll_interval_seconds: Interval | UnsetType | None = UNSET
    trigger_on: TriggerOn | UnsetType | None = UNSET
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


class JobChange(_Change, forbid_unknown_fields=True):
    """Fields of a polling job; any subset changes it."""

    batch_id: BatchId | UnsetType | None = UNSET
    batch_ids: (
        Annotated[list[BatchId], Meta(min_length=1, max_length=MAX_BATCHES)] | UnsetType | None
    ) = UNSET
    openai_secret: SecretMention | UnsetType | None = UNSET
    openai_secret_id: SecretMention | UnsetType | None = UNSET
    openai_base_url: str | UnsetType | None = UNSET
    max_failed_percent: Percent | UnsetType | None = UNSET


class NewJob(JobChange, forbid_unknown_fields=True, kw_only=True):
    """A polling job: give `batch_id` or `batch_ids`, each secret by id or name, and an action.

    `keboola_*` starts a Keboola job, `webhook_*` calls a URL; a job may have both.
    """

    name: Name


class ResourceLimits(Struct, forbid_unknown_fields=True):
    memory_mb: Annotated[int, Meta(ge=MIN_MEMORY_MB, le=MAX_MEMORY_MB)] | UnsetType = UNSET
    cpu_cores: Annotated[float, Meta(ge=MIN_CORES)] | UnsetType = UNSET


class CustomCheckChange(_Change, forbid_unknown_fields=True):
    """Fields of a custom check; any subset changes it."""

    poll_interval_seconds: CheckInterval | UnsetType | None = UNSET
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


class NewCustomCheck(CustomCheckChange, forbid_unknown_fields=True, kw_only=True):
    """A custom check: a script, when to run it, and what to call with its outcome.

    The script comes as `script`, by a later upload, with this body as the part `config` of a
    form and the archive as its part `script`, or from git.
    """

    name: Name
    script_runtime: Runtime


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


class StoredScript(Struct):
    """The script that runs next; `commit` is set when it comes from git."""

    sha256: str
    size_bytes: int
    files: int
    commit: str | None
    stored_at: str


class _Document(Struct, kw_only=True):
    """What is shown of jobs of both kinds."""

    id: int
    name: str
    status: Status
    phase: Phase | None
    status_reason: str | None
    poll_interval_seconds: int
    trigger_on: TriggerOn
    keboola_secret_id: int | UnsetType = UNSET
    keboola_secret_name: str | UnsetType = UNSET
    keboola_stack_url: str | UnsetType = UNSET
    keboola_component_id: str | UnsetType = UNSET
    keboola_configuration_id: str | UnsetType = UNSET
    keboola_variables: dict[str, Any] | UnsetType | None = UNSET
    follow_up: bool | UnsetType = UNSET
    webhook_url: str | UnsetType | None = UNSET
    webhook_method: Method | UnsetType = UNSET
    webhook_headers: dict[str, str] | UnsetType | None = UNSET
    webhook_query_params: dict[str, str] | UnsetType | None = UNSET
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


class JobDocument(_Document, kw_only=True, tag_field="kind", tag=Kind.POLLING.value):
    """A polling job and how it stands."""

    webhook_url: str | UnsetType = UNSET
    batch_id: str
    batch_ids: list[str]
    openai_base_url: str | None
    max_failed_percent: float
    openai_secret_id: int | UnsetType = UNSET
    openai_secret_name: str | UnsetType = UNSET
    batches: list[BatchState]
    batch_count: int
    completed_count: int
    failed_count: int


class CustomCheckDocument(_Document, kw_only=True, tag_field="kind", tag=Kind.CUSTOM_CHECK.value):
    """A custom check and how it stands; a webhook's first fields are there without one, too."""

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
    webhook_url: str | None
    webhook_method: Method
    webhook_headers: dict[str, str] | None
    webhook_query_params: dict[str, str] | None


class JobList(Struct):
    """Jobs of one kind, or with `kind=all` of both."""

    jobs: list[JobDocument | CustomCheckDocument]
    total: int
    limit: int
    offset: int


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


class CustomCheckDetail(CustomCheckDocument, kw_only=True):
    """A custom check with its newest log entries."""

    logs: list[LogDocument]


class CustomCheckVerb(CustomCheckDocument, kw_only=True):
    """The custom check after a verb, and a sentence about it."""

    message: str
    job_id: int

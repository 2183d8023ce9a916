"""The tables as peewee models, bound to no database: every query says where it runs."""

from __future__ import annotations

import peewee
from playhouse.sqlite_ext import AutoIncrementField


class Meta(peewee.Model):
    key = peewee.TextField(primary_key=True)
    value = peewee.TextField()

    class Meta:
        table_name = "meta"


class Token(peewee.Model):
    id = AutoIncrementField()
    hash = peewee.BlobField(unique=True)
    created_at = peewee.IntegerField()
    last_used_at = peewee.IntegerField(null=True)

    class Meta:
        table_name = "tokens"


class Secret(peewee.Model):
    id = AutoIncrementField()
    uid = peewee.TextField(unique=True)
    name = peewee.TextField(unique=True)
    type = peewee.TextField()
    sealed = peewee.BlobField()
    created_at = peewee.IntegerField()
    updated_at = peewee.IntegerField()
    last_used_at = peewee.IntegerField(null=True)
    held_until = peewee.IntegerField(null=True)

    class Meta:
        table_name = "secrets"


class Job(peewee.Model):
    id = AutoIncrementField()
    kind = peewee.TextField()
    name = peewee.TextField()
    status = peewee.TextField()
    status_reason = peewee.TextField(null=True)
    revision = peewee.IntegerField()
    interval_s = peewee.IntegerField()
    trigger_on = peewee.TextField()
    source_kind = peewee.TextField()
    source_doc = peewee.TextField()
    origin = peewee.TextField()
    next_check_at = peewee.IntegerField(null=True)
    last_check_at = peewee.IntegerField(null=True)
    last_verdict = peewee.TextField(null=True)
    last_data = peewee.TextField(null=True)
    check_count = peewee.IntegerField()
    errors = peewee.IntegerField()
    strikes = peewee.IntegerField()
    event_id = peewee.TextField(null=True)
    created_at = peewee.IntegerField()
    completed_at = peewee.IntegerField(null=True)
    max_errors = peewee.IntegerField(null=True)
    source_state = peewee.TextField(null=True)

    class Meta:
        table_name = "jobs"


class Action(peewee.Model):
    id = AutoIncrementField()
    job_id = peewee.IntegerField()
    kind = peewee.TextField()
    doc = peewee.TextField()
    origin = peewee.TextField()

    class Meta:
        table_name = "actions"


class JobSecret(peewee.Model):
    job_id = peewee.IntegerField()
    role = peewee.TextField()
    secret_id = peewee.IntegerField()

    class Meta:
        table_name = "job_secrets"
        primary_key = peewee.CompositeKey("job_id", "role", "secret_id")


class Log(peewee.Model):
    id = AutoIncrementField()
    job_id = peewee.IntegerField()
    status = peewee.TextField()
    message = peewee.TextField()
    created_at = peewee.IntegerField()
    execution_time_ms = peewee.IntegerField(null=True)
    detail = peewee.TextField(null=True)
    secrets_opened = peewee.TextField(null=True)
    exit_code = peewee.IntegerField(null=True)
    peak_memory_bytes = peewee.IntegerField(null=True)
    stdout = peewee.TextField(null=True)
    stderr = peewee.TextField(null=True)
    script_output = peewee.TextField(null=True)

    class Meta:
        table_name = "logs"


class Delivery(peewee.Model):
    id = AutoIncrementField()
    job_id = peewee.IntegerField()
    event_id = peewee.TextField()
    event = peewee.TextField()
    body = peewee.BlobField(null=True)
    action = peewee.TextField()
    state = peewee.TextField()
    doubt = peewee.TextField()
    tries = peewee.IntegerField()
    attempt_count = peewee.IntegerField()
    next_attempt_at = peewee.IntegerField(null=True)
    created_at = peewee.IntegerField()
    delivered_at = peewee.IntegerField(null=True)
    first_sent_at = peewee.IntegerField(null=True)
    receipt = peewee.TextField(null=True)
    follow_up_at = peewee.IntegerField(null=True)
    follow_ups = peewee.IntegerField()

    class Meta:
        table_name = "deliveries"


class Attempt(peewee.Model):
    id = AutoIncrementField()
    delivery_id = peewee.IntegerField()
    started_at = peewee.IntegerField()
    duration_ms = peewee.IntegerField(null=True)
    status_code = peewee.IntegerField(null=True)
    outcome = peewee.TextField()
    message = peewee.TextField()
    answer = peewee.TextField()

    class Meta:
        table_name = "attempts"


MODELS = (Meta, Token, Secret, Job, Action, JobSecret, Log, Delivery, Attempt)

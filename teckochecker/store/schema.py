"""The tables, as migrations: each a function in `MIGRATIONS`, run once, in one transaction.

`PRAGMA user_version` says how many have run. Instants are integers, milliseconds since the
epoch, UTC; the views show them as RFC 3339 for people who look with SQL.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from teckochecker.errors import ConfigError
from teckochecker.store import copies
from teckochecker.store.database import Database

COPY_PREFIX: Final = "before-schema-"
KEPT_COPIES: Final = 5
_TABLES: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE tokens (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  hash BLOB NOT NULL UNIQUE,
  created_at INTEGER NOT NULL,
  last_used_at INTEGER
) STRICT;
CREATE TABLE secrets (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  uid TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL UNIQUE,
  type TEXT NOT NULL,
  sealed BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  last_used_at INTEGER,
  held_until INTEGER
) STRICT;
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  status TEXT NOT NULL,
  status_reason TEXT,
  revision INTEGER NOT NULL,
  interval_s INTEGER NOT NULL,
  trigger_on TEXT NOT NULL,
  source_kind TEXT NOT NULL,
  source_doc TEXT NOT NULL,
  origin TEXT NOT NULL,
  next_check_at INTEGER,
  last_check_at INTEGER,
  last_verdict TEXT,
  last_data TEXT,
  check_count INTEGER NOT NULL,
  errors INTEGER NOT NULL,
  strikes INTEGER NOT NULL,
  event_id TEXT,
  created_at INTEGER NOT NULL,
  completed_at INTEGER
) STRICT;
CREATE UNIQUE INDEX jobs_open_name ON jobs (name) WHERE status IN ('active', 'paused');
CREATE INDEX jobs_name ON jobs (name);
CREATE INDEX jobs_due ON jobs (next_check_at)
  WHERE status = 'active' AND next_check_at IS NOT NULL;
CREATE INDEX jobs_kind_status ON jobs (kind, status);
CREATE TABLE actions (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  kind TEXT NOT NULL,
  doc TEXT NOT NULL,
  origin TEXT NOT NULL,
  UNIQUE (job_id, kind)
) STRICT;
CREATE TABLE job_secrets (
  job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  role TEXT NOT NULL,
  secret_id INTEGER NOT NULL REFERENCES secrets (id) ON DELETE CASCADE,
  PRIMARY KEY (job_id, role, secret_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX job_secrets_secret ON job_secrets (secret_id);
CREATE TABLE logs (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  status TEXT NOT NULL,
  message TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  execution_time_ms INTEGER,
  detail TEXT,
  secrets_opened TEXT
) STRICT;
CREATE INDEX logs_job ON logs (job_id, id);
CREATE INDEX logs_created ON logs (created_at);
CREATE TABLE deliveries (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  event_id TEXT NOT NULL,
  event TEXT NOT NULL,
  body BLOB,
  action TEXT NOT NULL,
  state TEXT NOT NULL,
  doubt TEXT NOT NULL,
  tries INTEGER NOT NULL,
  attempt_count INTEGER NOT NULL,
  next_attempt_at INTEGER,
  created_at INTEGER NOT NULL,
  delivered_at INTEGER,
  first_sent_at INTEGER,
  receipt TEXT,
  follow_up_at INTEGER,
  follow_ups INTEGER NOT NULL,
  UNIQUE (event_id, action)
) STRICT;
CREATE INDEX deliveries_job ON deliveries (job_id, id);
CREATE INDEX deliveries_due ON deliveries (next_attempt_at) WHERE state = 'pending';
CREATE INDEX deliveries_follow ON deliveries (follow_up_at) WHERE follow_up_at IS NOT NULL;
CREATE INDEX deliveries_open ON deliveries (state) WHERE state <> 'delivered';
CREATE TABLE attempts (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  delivery_id INTEGER NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
  started_at INTEGER NOT NULL,
  duration_ms INTEGER,
  status_code INTEGER,
  outcome TEXT NOT NULL,
  message TEXT NOT NULL,
  answer TEXT NOT NULL
) STRICT;
CREATE INDEX attempts_delivery ON attempts (delivery_id, id);
"""


def _rfc3339(column: str) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', {column} / 1000.0, 'unixepoch')"


def _webhook(field: str) -> str:
    """A field of a job's webhook; an object comes as its JSON, null as NULL."""
    return (
        f"(SELECT doc ->> '$.{field}' FROM actions a "
        f"WHERE a.job_id = jobs.id AND a.kind = 'webhook')"
    )


_VIEWS: Final = f"""
CREATE VIEW polling_jobs AS SELECT
  id, name,
  source_doc ->> '$.batch_ids[0]' AS batch_id,
  source_doc -> '$.batch_ids' AS batch_ids,
  (SELECT secret_id FROM job_secrets s WHERE s.job_id = jobs.id AND role = 'openai_secret')
    AS openai_secret_id,
  (SELECT secret_id FROM job_secrets s WHERE s.job_id = jobs.id AND role = 'keboola_secret')
    AS keboola_secret_id,
  (SELECT doc ->> '$.keboola_stack_url' FROM actions a
    WHERE a.job_id = jobs.id AND a.kind = 'keboola') AS keboola_stack_url,
  (SELECT doc ->> '$.keboola_configuration_id' FROM actions a
    WHERE a.job_id = jobs.id AND a.kind = 'keboola') AS keboola_configuration_id,
  interval_s AS poll_interval_seconds, status,
  {_rfc3339("last_check_at")} AS last_check_at,
  {_rfc3339("next_check_at")} AS next_check_at,
  {_rfc3339("created_at")} AS created_at,
  {_rfc3339("completed_at")} AS completed_at
FROM jobs WHERE kind = 'polling';
CREATE VIEW polling_logs AS SELECT
  logs.id, logs.job_id, logs.status, logs.message, {_rfc3339("logs.created_at")} AS created_at
FROM logs JOIN jobs ON jobs.id = logs.job_id WHERE jobs.kind = 'polling';
"""


_SCRIPTS: Final = f"""
ALTER TABLE jobs ADD COLUMN max_errors INTEGER;
ALTER TABLE jobs ADD COLUMN source_state TEXT;
ALTER TABLE logs ADD COLUMN exit_code INTEGER;
ALTER TABLE logs ADD COLUMN peak_memory_bytes INTEGER;
ALTER TABLE logs ADD COLUMN stdout TEXT;
ALTER TABLE logs ADD COLUMN stderr TEXT;
ALTER TABLE logs ADD COLUMN script_output TEXT;
CREATE VIEW custom_check_jobs AS SELECT
  id, name,
  source_doc ->> '$.script_source_type' AS script_source_type,
  source_doc ->> '$.script_git_url' AS script_git_url,
  source_doc ->> '$.script_git_branch' AS script_git_branch,
  'scripts/' || (source_state ->> '$.sha256') || '.tar' AS script_file_path,
  source_doc ->> '$.script_runtime' AS script_runtime,
  source_doc ->> '$.script_entrypoint' AS script_entrypoint,
  source_doc -> '$.check_params' AS check_params,
  source_doc ->> '$.env_vars' AS env_vars,
  source_doc ->> '$.timeout_seconds' AS timeout_seconds,
  source_doc -> '$.resource_limits' AS resource_limits,
  {_webhook("webhook_url")} AS webhook_url,
  {_webhook("webhook_method")} AS webhook_method,
  {_webhook("webhook_headers")} AS webhook_headers,
  {_webhook("webhook_query_params")} AS webhook_query_params,
  interval_s AS poll_interval_seconds, status,
  last_verdict AS last_check_status, last_data AS last_check_data,
  {_rfc3339("last_check_at")} AS last_check_at,
  {_rfc3339("next_check_at")} AS next_check_at,
  {_rfc3339("created_at")} AS created_at,
  {_rfc3339("completed_at")} AS completed_at
FROM jobs WHERE kind = 'custom_check';
CREATE VIEW custom_check_logs AS SELECT
  logs.id, logs.job_id, logs.status, logs.message, logs.script_output,
  logs.execution_time_ms, {_rfc3339("logs.created_at")} AS created_at
FROM logs JOIN jobs ON jobs.id = logs.job_id WHERE jobs.kind = 'custom_check';
"""


def _first(database: Any) -> None:
    _run(database, _TABLES + _VIEWS)


def _scripts(database: Any) -> None:
    _run(database, _SCRIPTS)


def _run(database: Any, statements: str) -> None:
    for statement in statements.split(";\n"):
        if statement.strip():
            database.execute_sql(statement)


Migration = Callable[[Any], None]
MIGRATIONS: Final[tuple[Migration, ...]] = (_first, _scripts)


def version(database: Any) -> int:
    found: int = database.execute_sql("PRAGMA user_version").fetchone()[0]
    return found


def migrate(
    database: Database, backups: Path, migrations: Sequence[Migration] = MIGRATIONS
) -> None:
    """Bring the file to this program's schema; an older one is copied to `backups` first.

    Raises ConfigError when the file is of a newer program.
    """
    with database.alone() as writer:
        have = version(writer)
    refuse_newer(have, len(migrations), database.path)
    if 0 < have < len(migrations):
        _copy(database.path, backups, f"{len(migrations)}-from-{have}")
    for number, migration in enumerate(migrations[have:], have + 1):
        with database.write() as writer:
            migration(writer)
            writer.execute_sql(f"PRAGMA user_version = {number}")


def refuse_newer(have: int, known: int, path: Path) -> None:
    if have > known:
        raise ConfigError(
            f"The database {path} has schema {have}, this program knows {known}: "
            f"start the newer program that wrote it, or restore a backup."
        )


def _copy(path: Path, backups: Path, name: str) -> None:
    backups.mkdir(parents=True, exist_ok=True, mode=0o700)
    copies.copy(path, backups / f"{COPY_PREFIX}{name}-{time.time_ns()}.db")
    copies.prune(backups, f"{COPY_PREFIX}*.db", KEPT_COPIES)

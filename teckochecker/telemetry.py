"""What can be seen of the program: log events, their redaction, and metrics.

Events have names and fields, one line each: JSON, or on a terminal for people. Every text
that leaves through here, or is stored as a log entry, goes through `Redaction`, which knows
the secret values that were opened in the last hour.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
import threading
from collections.abc import Callable, Iterable, MutableMapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from teckochecker.domain import Secret
from teckochecker.errors import FolderError
from teckochecker.masking import Mask

REMEMBERED: Final = timedelta(hours=1)
LOG_FILE_BYTES: Final = 10 * 1024 * 1024
LOG_FILES: Final = 5
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_MINUTES: Final = (120, 300, 600, 1800, 3600)  # a script may take an hour


class Redaction:
    """Masks the secret values that were opened lately; made anew only when they change."""

    def __init__(self) -> None:
        self._seen: dict[str, datetime] = {}
        self._mask = Mask(())
        self._lock = threading.Lock()  # secrets are opened in many threads

    def learn(self, secrets: Iterable[Secret], now: datetime) -> None:
        values = {secret.reveal() for secret in secrets}
        with self._lock:
            kept = {value: at for value, at in self._seen.items() if now - at <= REMEMBERED}
            kept.update(dict.fromkeys(values, now))
            if kept.keys() != self._seen.keys():
                self._mask = Mask(tuple(kept))
            self._seen = kept

    @property
    def mask(self) -> Mask:
        return self._mask

    def processor(
        self, _logger: object, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """A step of structlog's chain."""
        return self._mask.document(dict(event))


class Metrics:
    """Prometheus metrics in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, labels, registry=registry, buckets=_SECONDS)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        prefix = "teckochecker"
        self.dispatch_lag = histogram(
            f"{prefix}_dispatch_lag_seconds", "From a check's due time to its begin"
        )
        self.scheduler_pass = histogram(f"{prefix}_scheduler_pass_seconds", "One look for due work")
        self.db_write = histogram(f"{prefix}_db_write_seconds", "One writing transaction")
        self.check_duration = histogram(
            f"{prefix}_check_duration_seconds", "One check of a source", "source"
        )
        self.delivery_duration = histogram(
            f"{prefix}_delivery_duration_seconds", "One attempt of a delivery", "action"
        )
        self.checks = counter(f"{prefix}_checks", "Finished checks", "source", "verdict")
        self.attempts = counter(
            f"{prefix}_delivery_attempts", "Finished attempts of deliveries", "action", "outcome"
        )
        self.started_jobs = counter(
            f"{prefix}_started_jobs", "Ends of the jobs that were started", "action", "status"
        )
        self.oldest_due = gauge(
            f"{prefix}_oldest_due_seconds", "How long the oldest unstarted job has been due"
        )
        self.in_flight = gauge(f"{prefix}_checks_in_flight", "Checks running now")
        self.deliveries = gauge(f"{prefix}_deliveries", "Deliveries by state", "state")
        self.jobs = gauge(f"{prefix}_jobs", "Jobs by kind and status", "kind", "status")
        self.waiting = gauge(
            f"{prefix}_checks_waiting", "Due checks that wait for a free place", "source"
        )
        custom = "custom_check"
        self.custom_jobs = gauge(f"{custom}_jobs_total", "Custom checks by status", "status")
        self.custom_active = gauge(f"{custom}_jobs_active", "Active custom checks")
        self.executions = counter(
            f"{custom}_executions", "Finished runs of scripts", "status", "runtime"
        )
        self.execution_duration = Histogram(
            f"{custom}_duration_seconds",
            "One custom check, its container included",
            ("runtime",),
            registry=registry,
            buckets=(*_SECONDS, *_MINUTES),
        )
        self.execution_errors = counter(
            f"{custom}_errors", "Custom checks that ended in ERROR", "error_type"
        )
        self.containers = gauge("docker_containers_active", "Containers that live now")
        self.container_startup = histogram(
            "docker_container_startup_seconds", "What the engine took to start a container"
        )
        self.script_storage = gauge("script_storage_bytes_total", "Bytes of stored scripts")
        self.webhook_calls = counter("webhook_calls", "Webhook calls by answer", "status_code")
        self.webhook_duration = histogram("webhook_duration_seconds", "One webhook call")

    def exposition(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self.registry)


def configure_logging(
    redaction: Redaction, *, level: str, file: Path | None, stream: Any = None
) -> None:
    """Send events to `stream` (for people when it is a terminal) and to `file` as JSON.

    `stream` None is standard error as it is now.
    """
    stream = stream or sys.stderr
    shared: list[Callable[..., Any]] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redaction.processor,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    people = stream.isatty()
    handlers: list[logging.Handler] = [logging.StreamHandler(stream)]
    handlers[0].setFormatter(_formatter(shared, people=people))
    if file is not None:
        handlers.append(_file_handler(file))
        handlers[1].setFormatter(_formatter(shared, people=False))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    for noisy in ("httpx", "httpcore", "hypercorn.access", "hypercorn.error", "peewee"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _formatter(shared: list[Callable[..., Any]], *, people: bool) -> logging.Formatter:
    last: tuple[Any, ...] = (
        (_tamed, structlog.dev.ConsoleRenderer())
        if people
        else (structlog.processors.JSONRenderer(default=str),)
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )


def _tamed(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A traceback, and a library's own words, without what steers a terminal."""
    for name in ("event", "exception"):
        if name in event:
            chars = str(event[name])
            event[name] = "".join(
                char if char.isprintable() or char == "\n" else "\ufffd" for char in chars
            )
    return event


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """Readable by its owner only, also after a rotation."""

    def _open(self) -> Any:
        def private(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        return open(self.baseFilename, self.mode, encoding=self.encoding, opener=private)


def _file_handler(file: Path) -> logging.Handler:
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _PrivateFile(file, maxBytes=LOG_FILE_BYTES, backupCount=LOG_FILES, encoding="utf-8")
    except OSError as error:
        raise FolderError(
            f"The log file {file} can't be written ({error.strerror}): set LOG_FILE to another "
            f"place, or to '-' for none."
        ) from error

"""What can be seen of the program: log lines without secrets, metrics, and health."""

from __future__ import annotations

import io
import json
import logging
import logging.handlers
import re
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from teckochecker import __version__
from teckochecker.app import App
from teckochecker.domain import DeliveryId, Finding, JobId, Part, Secret, Verdict
from teckochecker.errors import FolderError
from teckochecker.pulse import Pulse, health, percentiles
from teckochecker.reports import observe_check
from teckochecker.store import CheckWork
from teckochecker.telemetry import LOG_FILES, REMEMBERED, Metrics, Redaction, configure_logging
from tests.conftest import Api
from tests.parts import SOURCE, job

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
KEY = "sk-a-key-that-nobody-may-see"


@pytest.fixture
def redaction() -> Redaction:
    made = Redaction()
    made.learn([Secret(KEY)], NOW)
    return made


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def logged(redaction: Redaction) -> Iterator[Callable[..., io.StringIO]]:
    """Configures logging for the time of a test; gives the stream that it writes to."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []

    def configure(
        *, level: str = "DEBUG", file: Path | None = None, terminal: bool = False
    ) -> io.StringIO:
        stream = Terminal() if terminal else io.StringIO()
        configure_logging(redaction, level=level, file=file, stream=stream)
        return stream

    yield configure
    for handler in root.handlers:
        handler.close()
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


log = structlog.stdlib.get_logger("teckochecker.test")


# Log lines


def test_an_event_is_one_line_of_json_with_its_fields(
    logged: Callable[..., io.StringIO],
) -> None:
    stream = logged()

    log.info("job.checked", job_id=7, verdict="SUCCESS", message="a\nb")

    (line,) = lines(stream)
    assert datetime.fromisoformat(line.pop("timestamp")).tzinfo is not None
    assert line == {
        "event": "job.checked",
        "level": "info",
        "logger": "teckochecker.test",
        "job_id": 7,
        "verdict": "SUCCESS",
        "message": "a\nb",
    }


def test_a_librarys_line_looks_the_same(logged: Callable[..., io.StringIO]) -> None:
    stream = logged()

    logging.getLogger("quart.app").warning("no %s here", "route")

    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == (
        "no route here",
        "warning",
        "quart.app",
    )
    assert line.keys() == {"event", "level", "logger", "timestamp"}


def test_a_value_that_was_opened_is_masked_wherever_it_stands(
    logged: Callable[..., io.StringIO],
) -> None:
    stream = logged()

    log.info(f"event {KEY}", plain=KEY, deep=[{"a": (KEY,)}], **{KEY: 1}, other=Secret(KEY))
    logging.getLogger("library").info("it said %s", KEY)
    try:
        int(KEY)
    except ValueError:
        log.exception("step.failed")
        logging.getLogger("library").exception("oh no")

    assert KEY not in stream.getvalue()
    first, second, third, fourth = lines(stream)
    assert (first["event"], first["plain"], first["deep"]) == ("event ***", "***", [{"a": ["***"]}])
    assert second["event"] == "it said ***"
    assert "base 10: '***'" in third["exception"]
    assert "base 10: '***'" in fourth["exception"]


def test_a_terminal_gets_lines_for_people(logged: Callable[..., io.StringIO]) -> None:
    stream = logged(terminal=True)

    log.info("job.checked", said=KEY)

    assert "job.checked" in stream.getvalue()
    assert not stream.getvalue().startswith("{")
    assert KEY not in stream.getvalue()


def test_nothing_that_is_told_steers_a_terminal(logged: Callable[..., io.StringIO]) -> None:
    stream = logged(terminal=True)
    evil = "\x1b]0;evil\x07\x9b2J\n[error] forged"

    log.info("job.checked", message=evil)
    log.error("step.failed", exc_info=ValueError(evil))

    shown = re.sub("\x1b\\[[0-9;]*m", "", stream.getvalue())
    assert "forged" in shown
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)


def test_a_file_gets_json_whatever_the_stream_is(
    logged: Callable[..., io.StringIO], tmp_path: Path
) -> None:
    file = tmp_path / "deep" / "t.log"
    logged(terminal=True, file=file)

    log.info("job.checked", said=f"{KEY} ž")

    assert json.loads(file.read_text(encoding="utf-8"))["said"] == "*** ž"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_level_hides_what_is_below_it(logged: Callable[..., io.StringIO]) -> None:
    stream = logged(level="WARNING")

    log.info("hidden")
    log.warning("seen")

    assert [line["event"] for line in lines(stream)] == ["seen"]


def test_libraries_log_neither_urls_nor_statements(logged: Callable[..., io.StringIO]) -> None:
    stream = logged(level="DEBUG")

    for name in ("httpx", "httpcore", "hypercorn.access", "peewee"):
        logging.getLogger(name).info("GET https://example")

    assert stream.getvalue() == ""


def test_configuring_again_replaces_what_was(
    logged: Callable[..., io.StringIO], tmp_path: Path
) -> None:
    first = logged(file=tmp_path / "a.log")
    second = logged(file=tmp_path / "b.log")

    log.info("once")

    assert first.getvalue() == ""
    assert len(lines(second)) == 1
    assert (tmp_path / "a.log").read_text() == ""


def test_a_log_file_is_rotated(logged: Callable[..., io.StringIO], tmp_path: Path) -> None:
    logged(file=tmp_path / "t.log")

    rotating = logging.getLogger().handlers[1]

    assert isinstance(rotating, logging.handlers.RotatingFileHandler)
    assert (rotating.maxBytes, rotating.backupCount) == (10 * 1024 * 1024, LOG_FILES)


def test_a_full_log_file_makes_room_and_stays_private(
    logged: Callable[..., io.StringIO], tmp_path: Path
) -> None:
    logged(file=tmp_path / "t.log")

    for number in range(12):
        log.info("long", number=number, text="x" * 1024 * 1024)

    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["t.log", "t.log.1"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    newest = (tmp_path / "t.log").read_text().splitlines()
    assert json.loads(newest[-1])["number"] == 11
    assert all(file.stat().st_size <= 10 * 1024 * 1024 for file in files)


def test_a_log_file_that_can_not_be_written_is_told(
    logged: Callable[..., io.StringIO], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(FolderError, match="set LOG_FILE"):
        logged(file=tmp_path / "file" / "t.log")


# What is remembered for masking


def test_a_value_is_masked_for_an_hour_after_its_last_use() -> None:
    redaction = Redaction()
    redaction.learn([Secret(KEY)], NOW)
    redaction.learn([Secret("another-value")], NOW + REMEMBERED)
    assert redaction.mask.text(f"{KEY} another-value") == "*** ***"

    redaction.learn([Secret("another-value")], NOW + REMEMBERED + timedelta(seconds=1))

    assert redaction.mask.text(f"{KEY} another-value") == f"{KEY} ***"


def test_using_a_value_again_prolongs_its_hour() -> None:
    redaction = Redaction()
    for minutes in range(0, 300, 50):
        redaction.learn([Secret(KEY)], NOW + timedelta(minutes=minutes))

    assert redaction.mask.text(KEY) == "***"


def test_the_mask_is_made_anew_only_when_the_values_change() -> None:
    redaction = Redaction()
    redaction.learn([Secret(KEY)], NOW)
    mask = redaction.mask

    redaction.learn([Secret(KEY)], NOW + timedelta(minutes=1))
    redaction.learn([], NOW + timedelta(minutes=2))

    assert redaction.mask is mask


def test_values_are_learnt_in_many_threads_and_none_is_lost() -> None:
    redaction = Redaction()
    values = [f"value-number-{n}" for n in range(50)]
    threads = [
        threading.Thread(target=redaction.learn, args=([Secret(value)], NOW)) for value in values
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert redaction.mask.text(" ".join(values)) == " ".join(["***"] * 50)


# Metrics


def test_metrics_have_the_names_that_are_documented() -> None:
    metrics = Metrics()
    metrics.deliveries.labels("pending").set(3)
    metrics.checks.labels("openai", "SUCCESS").inc()

    text = metrics.exposition().decode()

    for name in (
        "teckochecker_dispatch_lag_seconds", "teckochecker_oldest_due_seconds",
        "teckochecker_checks_in_flight", "teckochecker_deliveries",
        "teckochecker_scheduler_pass_seconds", "teckochecker_db_write_seconds",
    ):  # fmt: skip
        assert f"# TYPE {name} " in text
    assert 'teckochecker_deliveries{state="pending"} 3.0' in text
    assert 'teckochecker_checks_total{source="openai",verdict="SUCCESS"} 1.0' in text


async def test_containers_that_live_are_counted_not_jobs_in_flight(app: App) -> None:
    sandbox: Any = SimpleNamespace(containers=3)
    app.pulse.scripts[JobId(1)] = "script"
    api = Api(replace(app, sandbox=sandbox))

    text = (await api.client.get("/metrics")).text
    told = (await api("GET", "/api/health"))["sandbox"]
    await api.client.aclose()

    assert "\ndocker_containers_active 3.0\n" in text
    assert told["containers"] == 3


@pytest.mark.parametrize(
    ("source", "more"),
    [
        (SOURCE, {}),
        (Part(kind="script", doc={"script_runtime": "node"}), {"runtime": "node"}),
    ],
)
def test_the_line_of_a_check_tells_the_runtime_of_a_script(
    app: App, source: Part, more: dict[str, str]
) -> None:
    work = CheckWork(job=job(source=source), secrets=())
    found = Finding(verdict=Verdict.PENDING, message="not yet")

    with capture_logs() as lines:
        observe_check(app, work, found, NOW, NOW + timedelta(seconds=1.5))

    assert lines == [
        {
            "event": "job.checked", "log_level": "info", "job_id": 7, "verdict": "PENDING",
            "duration_ms": 1500, "message": "not yet", **more,
        }
    ]  # fmt: skip


# Health


def pulse(**changes: Any) -> Pulse:
    made = Pulse.begun(NOW - timedelta(hours=1))
    made.last_pass_at = made.last_probe_at = NOW
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("changes", "word", "said"),
    [
        ({}, "ok", ""),
        ({"last_pass_at": ago(59.9)}, "ok", ""),
        ({"last_pass_at": ago(60)}, "failing", "scheduler"),
        ({"last_probe_at": ago(29.9)}, "ok", ""),
        ({"last_probe_at": ago(30)}, "failing", "can't be written"),
        ({"last_probe_at": ago(30), "store_trouble": "disk full"}, "failing", "disk full"),
        ({"store_trouble": "disk full"}, "degraded", "disk full"),
        ({"oldest_due_at": ago(59)}, "ok", ""),
        ({"oldest_due_at": ago(60)}, "degraded", "due for 60 s"),
        ({"oldest_due_at": NOW + timedelta(hours=1)}, "ok", ""),
        ({"troubled_deliveries": 2}, "degraded", "2 deliveries"),
        ({"troubled_deliveries": 1, "last_pass_at": ago(99)}, "failing", "deliveries"),
    ],
)
def test_health_is_what_the_table_says(changes: dict[str, Any], word: str, said: str) -> None:
    found = health(pulse(**changes), NOW)

    assert found.word == found.document["status"] == word
    assert said in " ".join(found.reasons)
    assert bool(found.reasons) is (word != "ok")
    assert found.document["reasons"] == list(found.reasons)


def test_every_reason_is_told_the_worst_first() -> None:
    found = health(pulse(last_pass_at=ago(99), last_probe_at=ago(99), troubled_deliveries=1), NOW)

    assert [word in reason for word, reason in zip(
        ("scheduler", "written", "deliveries"), found.reasons, strict=True
    )] == [True] * 3  # fmt: skip


def test_a_health_document_has_its_figures() -> None:
    running = pulse(
        jobs={JobId(1): "a", JobId(2): "b"}, deliveries={DeliveryId(1): "c"},
        oldest_due_at=ago(1.25), last_pass_at=ago(2.5),
    )  # fmt: skip

    assert health(running, NOW).document == {
        "status": "ok",
        "reasons": [],
        "version": __version__,
        "uptime_seconds": 3600.0,
        "scheduler": {
            "last_pass_seconds": 2.5,
            "oldest_due_seconds": 1.2,
            "checks_in_flight": 2,
            "deliveries_in_flight": 1,
        },
        "sandbox": {"ready": True, "containers": 0, "missing": []},
        "database": {"writable": True},
    }


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([], {"p50": None, "p95": None, "p99": None}),
        ([3.0], {"p50": 3.0, "p95": 3.0, "p99": 3.0}),
        ([2.0, 1.0], {"p50": 2.0, "p95": 2.0, "p99": 2.0}),
        ([n / 1000 for n in range(1000)], {"p50": 0.5, "p95": 0.95, "p99": 0.99}),
    ],
)
def test_percentiles_are_of_the_sorted_values(
    values: list[float], wanted: dict[str, float | None]
) -> None:
    assert percentiles(values) == wanted

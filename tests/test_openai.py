"""OpenAI batches: what each answer makes of a check, however odd the answer is."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teckochecker.addresses import Allowed
from teckochecker.domain import Finding, Secret, Verdict
from teckochecker.errors import Fault, InvalidInput, OpenAIError
from teckochecker.http import Http
from teckochecker.simulators import (
    DROP,
    HTML,
    LIST,
    OTHER_ID,
    TRUNCATED,
    Answer,
    Batch,
    OpenAI,
    Reply,
    openai_error,
)
from teckochecker.sources import CheckContext
from teckochecker.sources.openai import ENDED_WORDS, MAX_BATCHES, OPEN_WORDS, batch, judged
from teckochecker.sources.openai import OpenAI as Source
from teckochecker.validation import Fields
from tests.conftest import Api, eventually
from tests.parts import NOW

KEY = "sk-test-openai-key-1"
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # loading certificates is a client's slowest part
ALLOWED = Allowed.parse("127.0.0.1")
SCHEMA = json.loads((Path(__file__).parent / "data" / "openai-batch.schema.json").read_text())
NULLABLE = ("output_file_id", "error_file_id", "completed_at", "expires_at", "errors", "metadata")


@pytest.fixture
def http() -> Iterator[Http]:
    made = Http(ALLOWED, max_connections=10, tls=lambda: NO_TLS)
    yield made
    made.close()


@pytest.fixture
def source(http: Http, openai: OpenAI) -> Source:
    return Source(http, ALLOWED, openai.base_url)


def spec(*batch_ids: str, **changes: Any) -> dict[str, Any]:
    stored = {"batch_ids": list(batch_ids or ("batch_a",)), "openai_base_url": None}
    return {**stored, "max_failed_percent": 100, **changes}


def context(**changes: Any) -> CheckContext:
    fields: dict[str, Any] = {
        "job_id": 7,
        "number": 1,
        "state": None,
        "now": NOW,
        "secrets": {"openai_secret": Secret(KEY)},
        "pool_key": "one",
        "previous": None,
        "checkpoint": lambda: None,
    }
    return CheckContext(**fields | changes)


def statuses(found: Finding) -> dict[str, str | None]:
    return {one["batch_id"]: one["status"] for one in (found.data or {})["batches"]}


def asked(openai: OpenAI) -> list[str]:
    return [request.path.rpartition("/")[2] for request in openai.requests]


def a_batch(**changes: Any) -> dict[str, Any]:
    """What is kept of a completed batch."""
    counts = {"total": 4, "completed": 4, "failed": 0}
    return batch(
        {"id": "batch_a", "status": "completed", "request_counts": counts} | changes, "batch_a"
    )


# What the words mean


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ("validating", Verdict.PENDING),
        ("in_progress", Verdict.PENDING),
        ("finalizing", Verdict.PENDING),
        ("cancelling", Verdict.PENDING),
        ("completed", Verdict.SUCCESS),
        ("failed", Verdict.FAILED),
        ("expired", Verdict.FAILED),
        ("cancelled", Verdict.FAILED),
    ],
)
def test_each_status_word_has_its_verdict(
    openai: OpenAI, source: Source, status: str, verdict: Verdict
) -> None:
    openai.add("batch_a", status)
    found = source.check(spec(), context())
    assert (found.verdict, found.fault, found.warnings) == (verdict, None, ())
    assert statuses(found) == {"batch_a": status}
    [call] = openai.requests
    assert (call.method, call.path, call.query) == ("GET", "/v1/batches/batch_a", {})
    assert call.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("status", sorted(OPEN_WORDS | ENDED_WORDS))
def test_what_is_simulated_is_a_batch_by_openais_schema(
    openai: OpenAI, http: Http, status: str
) -> None:
    openai.add("batch_a", Batch(status, total=9, failed=2))
    headers = {"authorization": f"Bearer {KEY}"}
    reply = http.request("GET", f"{openai.base_url}/batches/batch_a", headers=headers)
    present = {name: value for name, value in reply.document().items() if value is not None}
    jsonschema.validate(present, SCHEMA)


@pytest.mark.parametrize("word", ["paused_by_moon", "COMPLETED", "completed ", "x" * 5000])
def test_an_unknown_word_is_pending_with_a_warning(
    openai: OpenAI, source: Source, word: str
) -> None:
    openai.add("batch_a", word)
    found = source.check(spec(), context())
    assert found.verdict is Verdict.PENDING
    [warning] = found.warnings
    assert warning.startswith("batch_a has the unknown status")
    assert word[:100] in warning
    assert len(warning) < 300
    assert len(found.message) < 300


def test_null_fields_are_kept_as_null(openai: OpenAI, source: Source) -> None:
    nulls = dict.fromkeys((*NULLABLE, "request_counts", "created_at"))
    openai.add("batch_a", Batch("completed", changes=nulls))
    found = source.check(spec(), context())
    assert found.verdict is Verdict.SUCCESS
    [one] = (found.data or {})["batches"]
    assert one == {
        "batch_id": "batch_a",
        "status": "completed",
        "request_counts": None,
        "output_file_id": None,
        "error_file_id": None,
        "created_at": None,
        "completed_at": None,
        "expires_at": None,
        "errors": [],
    }


def test_counts_files_and_times_are_kept(openai: OpenAI, source: Source) -> None:
    created = int(NOW.timestamp())
    openai.add("batch_a", Batch("completed", total=10, failed=3), created_at=created)
    [one] = (source.check(spec(), context()).data or {})["batches"]
    assert one["request_counts"] == {"total": 10, "completed": 7, "failed": 3}
    assert (one["output_file_id"], one["error_file_id"]) == ("file-out-batch_a", "file-err-batch_a")
    assert one["created_at"] == "2026-03-01T12:00:00Z"
    assert one["expires_at"] == "2026-03-02T12:00:00Z"


@pytest.mark.parametrize(
    "counts",
    [
        [],
        {"total": 4},
        {"total": True, "completed": 1, "failed": 0},
        {"total": -1, "completed": 1, "failed": 0},
        {"total": 1.5, "completed": 1, "failed": 0},
        {"total": "4", "completed": 1, "failed": 0},
        {"total": 2**53, "completed": 1, "failed": 0},
    ],
)
def test_counts_that_cant_be_ones_are_taken_for_none(counts: object) -> None:
    assert a_batch(request_counts=counts)["request_counts"] is None


@pytest.mark.parametrize("seconds", [0, -1, 1.5, True, "1772366400", 10**11, 10**30, [], {}])
def test_a_time_that_cant_be_one_is_taken_for_none(seconds: object) -> None:
    assert a_batch(expires_at=seconds)["expires_at"] is None


def test_progress_tells_requests_done(openai: OpenAI, source: Source) -> None:
    openai.add("batch_a", Batch("in_progress", total=100, completed=40, failed=2))
    assert source.check(spec(), context()).message == (
        "Batch is in_progress, 42 of 100 requests done."
    )


def test_the_reason_of_a_failed_batch_is_told(openai: OpenAI, source: Source) -> None:
    openai.add("batch_a", "failed")
    found = source.check(spec(), context())
    assert "batch_a failed" in found.message
    assert found.message.endswith("This line is not parseable as valid JSON.")


def test_an_open_batch_past_its_expiry_is_warned_of(openai: OpenAI, source: Source) -> None:
    openai.add("batch_a", "in_progress", created_at=int(NOW.timestamp()))
    late = NOW + timedelta(hours=25)
    assert source.check(spec(), context(now=late)).warnings == ()
    later = source.check(spec(), context(now=late + timedelta(seconds=1)))
    assert later.verdict is Verdict.PENDING
    assert later.warnings == (
        "batch_a is still in_progress, although it expired at 2026-03-02T12:00:00Z.",
    )


def test_an_ended_batch_past_its_expiry_is_not_warned_of(openai: OpenAI, source: Source) -> None:
    openai.add("batch_a", "completed", created_at=int(NOW.timestamp()))
    assert source.check(spec(), context(now=NOW + timedelta(days=9))).warnings == ()


# Several batches


def test_one_failed_batch_fails_the_job_once_all_have_ended_and_is_named(
    openai: OpenAI, source: Source
) -> None:
    openai.add("batch_a", "completed")
    openai.add("batch_b", "expired")
    openai.add("batch_c", "in_progress", "completed")
    doc = spec("batch_a", "batch_b", "batch_c")

    first = source.check(doc, context())
    assert first.verdict is Verdict.PENDING
    assert first.message.startswith("2 of 3 batches ended")

    second = source.check(doc, context(previous=first.data))
    assert second.verdict is Verdict.FAILED
    assert second.message == "1 of 3 batches didn't complete: batch_b expired."
    data = second.data or {}
    assert (data["batch_count"], data["completed_count"], data["failed_count"]) == (3, 2, 1)


def test_ended_batches_are_not_asked_again(openai: OpenAI, source: Source) -> None:
    for name, status in (("a", "completed"), ("b", "cancelled"), ("c", "odd"), ("d", "validating")):
        openai.add(f"batch_{name}", status)
    doc = spec("batch_a", "batch_b", "batch_c", "batch_d")
    first = source.check(doc, context())
    assert asked(openai) == ["batch_a", "batch_b", "batch_c", "batch_d"]
    second = source.check(doc, context(previous=first.data))
    assert asked(openai)[4:] == ["batch_c", "batch_d"]
    assert statuses(second) == statuses(first)


def test_a_hundred_batches_are_one_request_each(openai: OpenAI, source: Source) -> None:
    openai.add("batch_many_*", "completed")
    names = [f"batch_many_{number:03}" for number in range(MAX_BATCHES)]
    found = source.check(spec(*names), context())
    assert found.verdict is Verdict.SUCCESS
    assert found.message == "All 100 batches completed, 10000 of 10000 requests succeeded."
    assert asked(openai) == names


def test_only_five_of_many_failures_are_named() -> None:
    names = [f"batch_{number}" for number in range(7)]
    known = {name: batch({"id": name, "status": "failed"}, name) for name in names}
    found = judged(spec(*names), known)
    assert found.message.endswith("batch_4 failed and 2 more.")
    assert "batch_5" not in found.message


def test_nobody_who_lost_interest_is_kept_waiting(openai: OpenAI, source: Source) -> None:
    class Gone(Exception):
        pass

    calls: list[int] = []

    def checkpoint() -> None:
        calls.append(len(openai.requests))
        if len(calls) == 3:
            raise Gone

    openai.add("batch_*", "completed")
    names = ("batch_a", "batch_b", "batch_c")
    with pytest.raises(Gone):
        source.check(spec(*names), context(checkpoint=checkpoint))
    assert calls == [0, 1, 2]
    assert asked(openai) == ["batch_a", "batch_b"]


def test_what_was_learnt_before_a_failure_is_kept(openai: OpenAI, source: Source) -> None:
    openai.add("batch_a", "completed")
    openai.add("batch_b", "odd")
    openai.add("batch_c", openai_error(500), "completed")
    openai.add("batch_d", "completed")
    doc = spec("batch_a", "batch_b", "batch_c", "batch_d")
    found = source.check(doc, context())
    assert (found.verdict, found.fault) == (Verdict.ERROR, Fault.TRANSIENT)
    assert statuses(found) == {
        "batch_a": "completed",
        "batch_b": "odd",
        "batch_c": None,
        "batch_d": None,
    }
    assert (found.data or {})["completed_count"] == 1
    assert len(found.warnings) == 1
    assert asked(openai) == ["batch_a", "batch_b", "batch_c"]

    source.check(doc, context(previous=found.data))
    assert asked(openai)[3:] == ["batch_b", "batch_c", "batch_d"]


def test_a_batch_keeps_its_last_known_state_through_a_failure(
    openai: OpenAI, source: Source
) -> None:
    openai.add("batch_a", "in_progress", openai_error(500))
    first = source.check(spec(), context())
    second = source.check(spec(), context(previous=first.data))
    assert second.verdict is Verdict.ERROR
    assert second.data == first.data


# max_failed_percent


@pytest.mark.parametrize(
    ("failed", "percent", "verdict"),
    [
        (4, 100, Verdict.SUCCESS),
        (0, 0, Verdict.SUCCESS),
        (1, 0, Verdict.FAILED),
        (1, 25, Verdict.SUCCESS),
        (2, 25, Verdict.FAILED),
        (1, 24.9, Verdict.FAILED),
    ],
)
def test_more_failed_requests_than_allowed_fail_the_job(
    openai: OpenAI, source: Source, failed: int, percent: float, verdict: Verdict
) -> None:
    openai.add("batch_a", Batch("completed", total=4, failed=failed))
    found = source.check(spec(max_failed_percent=percent), context())
    assert found.verdict is verdict
    if verdict is Verdict.FAILED:
        assert f"{failed} of 4 requests failed" in found.message
        assert f"{percent:g} % of max_failed_percent" in found.message
    else:
        assert f"{4 - failed} of 4 requests succeeded" in found.message


def test_failed_requests_are_counted_over_all_batches(openai: OpenAI, source: Source) -> None:
    openai.add("batch_a", Batch("completed", total=10, failed=10))
    openai.add("batch_b", Batch("completed", total=90))
    doc = spec("batch_a", "batch_b")
    assert source.check({**doc, "max_failed_percent": 10}, context()).verdict is Verdict.SUCCESS
    assert source.check({**doc, "max_failed_percent": 9}, context()).verdict is Verdict.FAILED


# What goes wrong


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (openai_error(401, "invalid_api_key"), Fault.CREDENTIALS),
        (openai_error(403), Fault.CREDENTIALS),
        (openai_error(404), Fault.NOT_FOUND),
        (openai_error(429), Fault.RATE_LIMITED),
        (openai_error(429, "insufficient_quota"), Fault.QUOTA),
        (openai_error(500), Fault.TRANSIENT),
        (openai_error(502), Fault.TRANSIENT),
        (openai_error(503), Fault.RATE_LIMITED),
        (openai_error(400, "invalid_value"), Fault.MALFORMED),
        (Answer(204), Fault.MALFORMED),
        (Answer(302, headers={"Location": "https://example.com/"}), Fault.MALFORMED),
        (Answer(502, b"<html>Bad gateway</html>", content_type="text/html"), Fault.TRANSIENT),
        (Answer(500, {"error": "text"}), Fault.TRANSIENT),
        (Answer(500, {"error": {"code": None, "message": None}}), Fault.TRANSIENT),
        (Answer(429, {"error": {"code": ["insufficient_quota"]}}), Fault.RATE_LIMITED),
        (Answer(500, b""), Fault.TRANSIENT),
        (DROP, Fault.TRANSIENT),
        (TRUNCATED, Fault.TRANSIENT),
        (HTML, Fault.MALFORMED),
        (LIST, Fault.MALFORMED),
        (Answer(content=None), Fault.MALFORMED),
        (Answer(content="completed"), Fault.MALFORMED),
        (Answer(content=b""), Fault.MALFORMED),
        (Answer(content=b"\xff\xfe{}"), Fault.MALFORMED),
        (Answer(content=b'{"id": "\xff"}'), Fault.MALFORMED),
        (Answer(content={}), Fault.MALFORMED),
        (Answer(content={"id": "batch_a"}), Fault.MALFORMED),
        (Answer(content={"id": "batch_a", "status": None}), Fault.MALFORMED),
        (Answer(content={"id": "batch_a", "status": ""}), Fault.MALFORMED),
        (Answer(content={"id": ["batch_a"], "status": "completed"}), Fault.MALFORMED),
        (Answer(content=b'{"a":' * 20_000 + b"1" + b"}" * 20_000), Fault.MALFORMED),
        (
            Answer(content=b'{"id": "batch_a", "status": "completed", "a": ' + b"[" * 9000),
            Fault.MALFORMED,
        ),
        (
            Answer(content={"id": "batch_a", "status": "completed", "pad": "x" * 70_000}),
            Fault.MALFORMED,
        ),
    ],
)
def test_an_answer_that_isnt_a_batch_is_an_error_of_its_kind_after_one_request(
    openai: OpenAI, source: Source, reply: Reply, fault: Fault
) -> None:
    openai.add("batch_a", reply)
    found = source.check(spec(), context())
    assert (found.verdict, found.fault) == (Verdict.ERROR, fault), found.message
    assert statuses(found) == {"batch_a": None}
    assert KEY not in found.message
    assert 10 < len(found.message) < 800
    assert len(openai.requests) == 1


def test_an_answer_about_another_batch_is_refused(openai: OpenAI, source: Source) -> None:
    openai.add("batch_a", OTHER_ID)
    found = source.check(spec(), context())
    assert (found.verdict, found.fault) == (Verdict.ERROR, Fault.MALFORMED)
    assert found.message == "OpenAI answered about 'batch_other' instead of batch_a."


def test_a_page_instead_of_json_is_told_by_its_title(openai: OpenAI, source: Source) -> None:
    openai.add("batch_a", HTML)
    found = source.check(spec(), context())
    assert "a page titled 'Sign in'" in found.message
    assert "<h1>" in (found.detail or "")


def test_an_unreachable_host_is_an_error_of_the_check(openai: OpenAI, source: Source) -> None:
    openai.close()
    found = source.check(spec(), context())
    assert (found.verdict, found.fault) == (Verdict.ERROR, Fault.TRANSIENT)
    assert "can't be reached" in found.message


@pytest.mark.parametrize(
    ("said", "wait_s"),
    [
        (None, None),
        (20, 20.0),
        ("1.5", 1.5),
        (0, 1.0),
        (86400, 3600.0),
        ("9" * 400, 3600.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 1.0),
        (format_datetime(NOW + timedelta(days=1), usegmt=True), 3600.0),
        ("soon", None),
        ("-5", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_passed_on_from_1_s_to_1_h(
    openai: OpenAI, source: Source, status: int, said: int | str | None, wait_s: float | None
) -> None:
    openai.add("batch_a", openai_error(status, retry_after=said))
    found = source.check(spec(), context())
    assert (found.fault, found.retry_after_s) == (Fault.RATE_LIMITED, wait_s)


def test_an_error_is_told_with_its_cause_its_remedy_and_the_request_id(
    openai: OpenAI, source: Source
) -> None:
    found = source.check(spec(), context())
    assert found.fault is Fault.NOT_FOUND
    assert found.message == (
        "OpenAI answered 404: No batch found with id 'batch_a'; check the batch id and whose key "
        f"it is (request req_{1:032x})"
    )
    assert json.loads(found.detail or "")["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("reply", "hint"),
    [
        (openai_error(401), "secret test"),
        (openai_error(403), "secret test"),
        (openai_error(429, "insufficient_quota"), "no credit left"),
    ],
)
def test_what_waiting_doesnt_heal_says_what_to_do(
    openai: OpenAI, source: Source, reply: Reply, hint: str
) -> None:
    openai.add("batch_a", reply)
    assert hint in source.check(spec(), context()).message


def test_a_job_without_its_secret_asks_nobody(openai: OpenAI, source: Source) -> None:
    found = source.check(spec(), context(secrets={}))
    assert (found.verdict, found.fault) == (Verdict.ERROR, Fault.CREDENTIALS)
    assert "secret was deleted" in found.message
    assert openai.requests == []


def test_a_job_may_have_a_base_url_of_its_own(http: Http) -> None:
    with OpenAI(api_keys=[KEY]) as other:
        other.add("batch_a", "completed")
        source = Source(http, ALLOWED, "https://api.openai.invalid/v1")
        doc = spec(openai_base_url=f"{other.base_url}/")
        assert source.check(doc, context()).verdict is Verdict.SUCCESS
        assert other.requests[0].path == "/v1/batches/batch_a"


def test_more_open_batches_get_more_time(source: Source) -> None:
    doc = spec("batch_a", "batch_b")
    assert source.timeout_s(doc, None) == 26
    assert source.timeout_s(doc, {"batches": [a_batch()]}) == 23


# Trying a key


def test_a_good_key_is_accepted_for_nothing(openai: OpenAI, source: Source) -> None:
    assert source.test(Secret(KEY), {}, NOW) == "OpenAI accepts this key."
    assert [(call.method, call.path) for call in openai.requests] == [("GET", "/v1/models")]


def test_a_wrong_key_is_refused(source: Source) -> None:
    with pytest.raises(OpenAIError, match="answered 401") as raised:
        source.test(Secret("sk-wrong-key-0123456789"), {}, NOW)
    assert raised.value.fault is Fault.CREDENTIALS
    assert str(raised.value).startswith(
        "OpenAI answered 401: Incorrect API key provided: ***; check the secret"
    )


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("provided: sk-abcde****wxyz. You", "provided: ***. You"),
        ("provided: sk-proj-*wxyz", "provided: ***"),
        ("a **bold** word and 2 * 3", "a **bold** word and 2 * 3"),
        ("-" * 60_000, "-" * 500),
    ],
)
def test_the_ends_of_a_key_that_openai_leaves_readable_are_taken_out(
    openai: OpenAI, source: Source, said: str, shown: str
) -> None:
    openai.add("batch_a", Answer(401, {"error": {"message": said}}))
    found = source.check(spec(), context())
    assert found.message.startswith(f"OpenAI answered 401: {shown};")
    assert shown in (found.detail or "")


# Any JSON at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
COUNT = st.integers(min_value=-1, max_value=2**60) | JSON
KEPT_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.just("batch_a") | JSON,
        "status": st.sampled_from(sorted(OPEN_WORDS | ENDED_WORDS)) | JSON,
        "request_counts": st.fixed_dictionaries(
            {}, optional={"total": COUNT, "completed": COUNT, "failed": COUNT}
        )
        | JSON,
        "output_file_id": JSON,
        "error_file_id": JSON,
        "created_at": st.integers() | JSON,
        "completed_at": st.integers() | JSON,
        "expires_at": st.integers() | JSON,
        "errors": st.fixed_dictionaries({"data": st.lists(JSON)}) | JSON,
    },
)
DOCUMENTS = st.builds(lambda odd, kept: odd | kept, st.dictionaries(st.text(), JSON), KEPT_FIELDS)


def kept_or_refused(document: dict[str, Any]) -> dict[str, Any] | Fault:
    try:
        return batch(document, "batch_a")
    except OpenAIError as error:
        return error.fault


@settings(max_examples=50)
@given(DOCUMENTS)
def test_any_object_is_a_batch_or_a_malformed_answer(document: dict[str, Any]) -> None:
    kept = kept_or_refused(document)
    if not isinstance(kept, dict):
        assert kept is Fault.MALFORMED
        return
    assert document["id"] == kept["batch_id"] == "batch_a"
    assert kept["status"] == document["status"][:100]
    json.dumps(kept, allow_nan=False)
    for name in ("created_at", "completed_at", "expires_at"):
        assert kept[name] is None or datetime.fromisoformat(kept[name])


@settings(max_examples=50)
@given(st.lists(KEPT_FIELDS, min_size=1, max_size=4), st.floats(min_value=0, max_value=100))
def test_success_is_said_only_of_batches_that_all_completed(
    documents: list[dict[str, Any]], percent: float
) -> None:
    known = {}
    for number, document in enumerate(documents):
        name = f"batch_{number}"
        status = str(document.get("status") or "completed")
        known[name] = batch({**document, "id": name, "status": status}, name)
    found = judged(spec(*known, max_failed_percent=percent), known)
    words = {one["status"] for one in known.values()}
    assert (found.verdict is Verdict.PENDING) == bool(words - ENDED_WORDS)
    if found.verdict is Verdict.SUCCESS:
        assert words == {"completed"}
    elif found.verdict is Verdict.FAILED:
        assert words <= ENDED_WORDS
    else:
        assert found.verdict is Verdict.PENDING
    assert found.fault is None


# A job's fields


def parsed(source: Source, given: Mapping[str, Any]) -> tuple[Any, str]:
    fields = Fields({"openai_secret": "s", **given})
    part = source.parse(fields).part
    fields.done("job")
    return part.doc, part.origin


def test_one_batch_or_many_are_stored_alike(openai: OpenAI, source: Source) -> None:
    doc, origin = parsed(source, {"batch_id": "batch_a"})
    assert doc == spec()
    assert origin == openai.url
    many, _ = parsed(source, {"batch_ids": ["batch_b", "batch_a"], "max_failed_percent": 2.5})
    assert many == spec("batch_b", "batch_a", max_failed_percent=2.5)
    assert source.show(many)["batch_id"] == "batch_b"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "batch_ids"),
        ({"batch_ids": []}, "batch_ids"),
        ({"batch_ids": ["batch_a"] * 2}, "batch_ids"),
        ({"batch_ids": [f"batch_{number}" for number in range(101)]}, "batch_ids"),
        ({"batch_ids": ["batch_a", "../models"]}, "batch_ids"),
        ({"batch_ids": "batch_a"}, "batch_ids"),
        ({"batch_id": "batch_"}, "batch_id"),
        ({"batch_id": "batch_a/cancel"}, "batch_id"),
        ({"batch_id": "batch_a\n"}, "batch_id"),
        ({"batch_id": "batch_" + "a" * 201}, "batch_id"),
        ({"batch_id": "batch_ä"}, "batch_id"),
        ({"batch_id": 1}, "batch_id"),
        ({"batch_id": "batch_a", "batch_ids": ["batch_b"]}, "batch_id"),
        ({"batch_id": "batch_a", "max_failed_percent": 100.1}, "max_failed_percent"),
        ({"batch_id": "batch_a", "max_failed_percent": -1}, "max_failed_percent"),
        ({"batch_id": "batch_a", "max_failed_percent": True}, "max_failed_percent"),
        ({"batch_id": "batch_a", "openai_base_url": "https://10.0.0.1/v1"}, "openai_base_url"),
        ({"batch_id": "batch_a", "openai_base_url": "http://example.com/v1"}, "openai_base_url"),
        ({"batch_id": "batch_a", "openai_base_url": "https://example.com/?a=b"}, "openai_base_url"),
    ],
)
def test_a_bad_field_is_refused_by_name(source: Source, given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parsed(source, given)
    assert [error.field for error in raised.value.errors] == [field]


# Through the whole engine


async def test_progress_is_shown_on_the_job(
    api: Api, engine: None, openai: OpenAI, secrets: dict[str, int], job_fields: dict[str, Any]
) -> None:
    openai.add("batch_a", Batch("in_progress", total=10, completed=4, failed=1))
    made = await api("POST", "/api/jobs", job_fields, expect=201)
    path = f"/api/jobs/{made['id']}"
    shown = await eventually(api, path, lambda job: job["last_check_status"] == "PENDING")
    counts = {"total": 10, "completed": 4, "failed": 1}
    assert shown["batches"][0]["request_counts"] == counts
    assert (shown["batch_count"], shown["completed_count"], shown["failed_count"]) == (1, 0, 0)


@pytest.mark.parametrize("key", ["sk-wrong-01234567890123", "sk-tiny-1234"])
async def test_a_key_that_openai_repeats_is_masked_in_log_and_detail(
    api: Api,
    engine: None,
    openai: OpenAI,
    secrets: dict[str, int],
    job_fields: dict[str, Any],
    key: str,
) -> None:
    body = {"name": "wrong", "type": "openai", "value": key}
    await api("POST", "/api/admin/secrets", body, expect=201)
    made = await api("POST", "/api/jobs", {**job_fields, "openai_secret": "wrong"}, expect=201)
    path = f"/api/jobs/{made['id']}"
    job = await eventually(api, path, lambda job: job["last_check_status"] == "ERROR")
    logs = await api("GET", f"{path}/logs")
    [entry] = [log for log in logs["logs"] if log["status"] == "error"]
    assert "Incorrect API key provided: " in entry["message"]
    assert "Incorrect API key provided: " in entry["detail"]
    assert key[:8] not in json.dumps([job, logs])
    assert key[-4:] not in json.dumps([entry["message"], entry["detail"]])


async def test_a_whole_key_in_an_answer_is_masked(
    api: Api, engine: None, openai: OpenAI, secrets: dict[str, int], job_fields: dict[str, Any]
) -> None:
    openai.add("batch_a", Answer(500, {"error": {"message": f"key {KEY} broke", "code": KEY}}))
    made = await api("POST", "/api/jobs", job_fields, expect=201)
    path = f"/api/jobs/{made['id']}"
    job = await eventually(api, path, lambda job: job["last_check_status"] == "ERROR")
    logs = await api("GET", f"{path}/logs")
    assert "key *** broke" in logs["logs"][-1]["message"] + logs["logs"][0]["message"]
    assert KEY not in json.dumps([job, logs])


@pytest.mark.parametrize("cut", [100, 200, 500, 4096])
@pytest.mark.parametrize("kind", ["text", "message", "page", "errors"])
async def test_no_part_of_a_key_is_left_where_an_answer_is_cut(
    api: Api,
    engine: None,
    openai: OpenAI,
    secrets: dict[str, int],
    job_fields: dict[str, Any],
    kind: str,
    cut: int,
) -> None:
    text = "z" * (cut - len(KEY) + 1) + KEY
    answers = {
        "text": Answer(500, text.encode()),
        "message": Answer(500, {"error": {"message": text, "code": text}}),
        "page": Answer(200, f"<html><title>{text}</title>{text}".encode()),
        "errors": Answer(
            200,
            {"id": "batch_a", "status": "failed", "errors": {"data": [{"message": text}]},
             "output_file_id": text},
        ),
    }  # fmt: skip
    openai.add("batch_a", answers[kind])
    made = await api("POST", "/api/jobs", job_fields, expect=201)
    path = f"/api/jobs/{made['id']}"
    job = await eventually(api, path, lambda job: job["last_check_status"] is not None)
    logs = await api("GET", f"{path}/logs")
    assert KEY[:12] not in json.dumps([job, logs])


async def test_a_warning_stands_in_the_log(
    api: Api, engine: None, openai: OpenAI, secrets: dict[str, int], job_fields: dict[str, Any]
) -> None:
    openai.add("batch_a", "resting")
    made = await api("POST", "/api/jobs", job_fields, expect=201)
    path = f"/api/jobs/{made['id']}/logs"
    shown = await eventually(
        api, path, lambda logs: any(log["status"] == "warning" for log in logs["logs"])
    )
    [first, *_] = [log for log in shown["logs"] if log["status"] == "warning"]
    assert first["message"] == "batch_a has the unknown status 'resting', taken as not ended."


async def test_batches_that_dont_complete_fail_the_job_without_a_trigger(
    api: Api,
    engine: None,
    openai: OpenAI,
    keboola: Any,
    secrets: dict[str, int],
    job_fields: dict[str, Any],
) -> None:
    openai.add("batch_a", Batch("completed", total=2, failed=1))
    fields = {**job_fields, "max_failed_percent": 10}
    made = await api("POST", "/api/jobs", fields, expect=201)
    path = f"/api/jobs/{made['id']}"
    job = await eventually(api, path, lambda job: job["status"] == "failed")
    assert job["last_check_status"] == "FAILED"
    assert "50 % is more than the 10 %" in job["status_reason"]
    assert keboola.jobs == []

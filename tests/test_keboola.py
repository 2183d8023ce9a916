"""Keboola: jobs are started once, on the right stack, with what was promised, and followed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from teckochecker.actions import DeliveryContext
from teckochecker.actions.keboola import Keboola as Action
from teckochecker.actions.keboola import variables
from teckochecker.addresses import Allowed
from teckochecker.app import App, assemble
from teckochecker.config import Settings
from teckochecker.domain import Document, Doubt, Kind, NotFoundYet, Receipt, Secret, Sent, Undecided
from teckochecker.errors import Fault, InvalidInput, KeboolaError, OutsideError
from teckochecker.http import Http
from teckochecker.simulators import (
    DROP,
    HTML,
    LIST,
    TRUNCATED,
    Afterwards,
    Answer,
    Keboola,
    OpenAI,
    Reply,
    Token,
    maintenance,
    queue_error,
)
from teckochecker.validation import Fields
from tests.conftest import TOKEN as API_TOKEN
from tests.conftest import Api, eventually
from tests.parts import NOW, event

TOKEN = "4711-test-storage-token"
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # loading certificates is a client's slowest part
ALLOWED = Allowed.parse("127.0.0.1")
DISCOVERY = ("GET", "/v2/storage")
START = ("POST", "/jobs")
SEARCH = ("GET", "/search/jobs")
VERIFY = ("GET", "/v2/storage/tokens/verify")


def loopback(host: str, port: int, **_: object) -> list[Any]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture
def http() -> Iterator[Http]:
    made = Http(ALLOWED, max_connections=10, resolve=loopback, tls=lambda: NO_TLS)
    yield made
    made.close()


@pytest.fixture
def action(http: Http) -> Action:
    return Action(http, ALLOWED)


def spec(stack_url: str, **changes: Any) -> dict[str, Any]:
    return {
        "keboola_stack_url": stack_url,
        "keboola_component_id": "keboola.orchestrator",
        "keboola_configuration_id": "123456",
        "keboola_variables": None,
        "follow_up": True,
        **changes,
    }


def named(keboola: Keboola) -> str:
    """The stack's address as stacks are named, so that the queue's can be guessed."""
    return f"http://connection.localhost:{keboola.port}"


def context(doubt: Doubt = Doubt.NONE, token: str = TOKEN, **changes: Any) -> DeliveryContext:
    fields: dict[str, Any] = {
        "now": NOW,
        "secrets": {"keboola_secret": Secret(token)},
        "pool_key": token,
        "doubt": doubt,
        "body": b"{}",
        "first_sent_at": datetime.now(UTC),
        "checkpoint": lambda: None,
    }
    return DeliveryContext(**fields | changes)


def sent(action: Action, doc: Document, *, event_id: str = "evt_1", **changes: Any) -> Sent:
    outcome = action.deliver(doc, event(id=event_id), context(**changes))
    assert isinstance(outcome, Sent)
    return outcome


def refused(action: Action, doc: Document, **changes: Any) -> KeboolaError:
    with pytest.raises(KeboolaError) as raised:
        action.deliver(doc, event(), context(**changes))
    assert TOKEN not in str(raised.value)
    return raised.value


def paths(keboola: Keboola) -> list[str]:
    return [f"{request.method} {request.path}" for request in keboola.requests]


def discovered(url: object) -> Answer:
    return Answer(content={"services": [{"id": "queue", "url": url}]})


# Where the queue is


def test_discovery_gets_no_token_and_the_queue_does(action: Action, keboola: Keboola) -> None:
    sent(action, spec(keboola.url))
    discovery, start = keboola.requests
    assert (discovery.method, discovery.path) == DISCOVERY
    assert discovery.query == {"exclude": ["components"]}
    assert TOKEN not in json.dumps(discovery.headers)
    assert "x-storageapi-token" not in discovery.headers
    assert (start.method, start.path) == START
    assert start.headers["x-storageapi-token"] == TOKEN


@pytest.mark.parametrize("gone", [DROP, Answer(404, {"error": "no such path"})])
def test_a_queue_that_is_gone_is_looked_for_anew(
    action: Action, keboola: Keboola, gone: Answer
) -> None:
    with Keboola(tokens=[TOKEN]) as moved:
        keboola.instead(*DISCOVERY, discovered(moved.url))
        moved.instead(*START, gone)
        refused(action, spec(keboola.url))

        sent(action, spec(keboola.url))

    assert paths(keboola) == ["GET /v2/storage", "GET /v2/storage", "POST /jobs"]


def test_a_stack_in_capitals_has_the_same_queue(action: Action, keboola: Keboola) -> None:
    keboola.instead(*DISCOVERY, DROP)

    sent(action, spec(f"http://Connection.Localhost:{keboola.port}"))

    assert paths(keboola)[-1] == "POST /jobs"


def test_a_custom_check_sends_its_verdict_message_and_data() -> None:
    said = event(
        job_kind=Kind.CUSTOM_CHECK, message="Done.", data={"batches": ["not", "ours"], "n": 1}
    )

    found = variables({"own": "1"}, said)

    assert found == {
        "own": "1",
        "check_status": "SUCCESS",
        "check_message": "Done.",
        "check_data": '{"batches":["not","ours"],"n":1}',
        "teckochecker_job_id": "7",
        "teckochecker_event_id": "evt_1",
    }


def test_discovery_is_remembered_per_stack(action: Action, keboola: Keboola) -> None:
    with Keboola(tokens=[TOKEN]) as other:
        for _ in range(3):
            sent(action, spec(keboola.url))
            sent(action, spec(other.url))
        for stack in (keboola, other):
            assert paths(stack) == ["GET /v2/storage", *["POST /jobs"] * 3]


@pytest.mark.parametrize(
    "reply",
    [
        DROP,
        HTML,
        LIST,
        TRUNCATED,
        maintenance(60),
        Answer(404, {"error": "nothing here", "services": [{"id": "queue", "url": "https://a.b"}]}),
        Answer(content={}),
        Answer(content={"services": {"queue": "https://queue.example.com"}}),
        Answer(content={"services": ["queue", {"id": "encryption", "url": "https://a.example"}]}),
        Answer(content={"services": [{"id": "queue"}]}),
        Answer(content=b'{"a":' * 20_000),
        discovered(None),
        discovered("http://example.com/queue"),
        discovered("https://10.0.0.1"),
        discovered("https://169.254.169.254"),
        discovered("ftp://queue.example.com"),
        discovered("file:///etc/passwd"),
        discovered("https://user:pw@queue.example.com"),
        discovered("/jobs"),
        discovered(["https://queue.example.com"]),
    ],
)
def test_without_a_usable_discovery_the_queue_is_beside_the_stack(
    action: Action, keboola: Keboola, reply: Reply
) -> None:
    keboola.instead(*DISCOVERY, reply)
    sent(action, spec(named(keboola)))
    [start] = keboola.asked(*START)
    assert start.headers["host"] == f"queue.localhost:{keboola.port}"


def test_a_guess_is_not_remembered(action: Action, keboola: Keboola) -> None:
    keboola.instead(*DISCOVERY, Answer(500))
    for _ in range(3):
        sent(action, spec(named(keboola)))
    assert [call.headers["host"].partition(":")[0] for call in keboola.asked(*START)] == [
        "queue.localhost",
        "127.0.0.1",
        "127.0.0.1",
    ]
    assert len(keboola.asked(*DISCOVERY)) == 2


def test_a_stack_that_nothing_is_known_of_gets_no_token(action: Action, keboola: Keboola) -> None:
    keboola.instead(*DISCOVERY, Answer(500))
    error = refused(action, spec(keboola.url))
    assert "check keboola_stack_url" in str(error)
    assert (error.fault, error.maybe_done) == (Fault.TRANSIENT, False)
    assert paths(keboola) == ["GET /v2/storage"]


# What is sent and what comes back


def test_the_body_is_exactly_what_keboola_wants(action: Action, keboola: Keboola) -> None:
    own = {
        "text": "as it is",
        "list": [1, "ä"],
        "object": {"a": None},
        "number": 1.5,
        "yes": True,
        "none": None,
    }
    batches = [
        {"batch_id": "batch_a", "status": "completed"},
        {"batch_id": "batch_b", "status": "expired"},
        {"batch_id": "batch_c", "status": "completed"},
    ]
    doc = spec(keboola.url, keboola_component_id="acme.app", keboola_variables=own)
    action.deliver(doc, event(data={"batches": batches}), context())
    [start] = keboola.asked(*START)
    assert start.headers["content-type"] == "application/json"
    body: Any = start.body
    values = body["variableValuesData"].pop("values")
    assert body == {
        "component": "acme.app",
        "config": "123456",
        "mode": "run",
        "variableValuesData": {},
    }
    assert {one["name"]: one["value"] for one in values} == {
        "text": "as it is",
        "list": '[1,"ä"]',
        "object": '{"a":null}',
        "number": "1.5",
        "yes": "true",
        "none": "null",
        "batch_ids_completed": '["batch_a","batch_c"]',
        "batch_ids_failed": '["batch_b"]',
        "batch_count_total": "3",
        "batch_count_completed": "2",
        "batch_count_failed": "1",
        "teckochecker_job_id": "7",
        "teckochecker_event_id": "evt_1",
    }


def test_our_variables_win_over_own_ones_stored_before_they_were_reserved() -> None:
    assert variables({"teckochecker_event_id": "mine"}, event())["teckochecker_event_id"] == "evt_1"


def test_the_receipt_names_the_started_job(action: Action, keboola: Keboola) -> None:
    outcome = sent(action, spec(keboola.url))
    [job] = keboola.jobs
    assert outcome.receipt == Receipt(
        id=str(job["id"]), url=str(job["url"]), status="created", finished=False
    )
    assert (outcome.status_code, outcome.follow_up, outcome.found) == (201, True, False)
    assert json.loads(outcome.answer)["id"] == job["id"]


def test_a_receipt_needs_no_more_than_an_id(action: Action, keboola: Keboola) -> None:
    keboola.instead(*START, Answer(201, {"id": 17, "status": 5, "url": [], "result": []}))
    assert sent(action, spec(keboola.url)).receipt == Receipt(id="17", finished=False)


def test_an_address_that_is_none_of_the_web_is_no_link(action: Action, keboola: Keboola) -> None:
    keboola.instead(*START, Answer(201, {"id": 17, "url": "javascript:alert(1)"}))
    assert sent(action, spec(keboola.url)).receipt.url is None


def test_without_follow_up_nobody_asks_again(action: Action, keboola: Keboola) -> None:
    assert not sent(action, spec(keboola.url, follow_up=False)).follow_up


def test_a_job_that_is_finished_at_once_isnt_followed(action: Action, keboola: Keboola) -> None:
    answer = {"id": "17", "status": "success", "isFinished": True}
    keboola.instead(*START, Answer(201, answer))
    outcome = sent(action, spec(keboola.url))
    assert (outcome.receipt.finished, outcome.follow_up) == (True, False)


# Tokens


def test_each_stack_gets_its_own_token_only(action: Action) -> None:
    with Keboola(tokens=["token-one"]) as one, Keboola(tokens=["token-two"]) as two:
        for _ in range(2):
            sent(action, spec(one.url), token="token-one", pool_key="same")
            sent(action, spec(two.url), token="token-two", pool_key="same")
        seen = [
            {call.headers.get("x-storageapi-token") for call in stack.requests}
            for stack in (one, two)
        ]
        assert seen == [{None, "token-one"}, {None, "token-two"}]


def test_a_delivery_without_its_secret_asks_nobody(action: Action, keboola: Keboola) -> None:
    error = refused(action, spec(keboola.url), secrets={})
    assert error.fault is Fault.CREDENTIALS
    assert "secret was deleted" in str(error)
    assert keboola.requests == []


def test_a_delivery_nobody_wants_any_more_is_not_started(action: Action, keboola: Keboola) -> None:
    class Gone(Exception):
        pass

    def checkpoint() -> None:
        raise Gone

    with pytest.raises(Gone):
        action.deliver(spec(keboola.url), event(), context(checkpoint=checkpoint))
    assert keboola.jobs == []


# What goes wrong when starting


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (400, Fault.REFUSED),
        (401, Fault.CREDENTIALS),
        (403, Fault.CREDENTIALS),
        (404, Fault.NOT_FOUND),
        (408, Fault.TRANSIENT),
        (409, Fault.REFUSED),
        (410, Fault.REFUSED),
        (422, Fault.REFUSED),
        (425, Fault.TRANSIENT),
        (429, Fault.RATE_LIMITED),
        (500, Fault.TRANSIENT),
        (503, Fault.RATE_LIMITED),
    ],
)
def test_a_refusal_is_told_by_kind_with_its_exception_id_after_one_request(
    action: Action, keboola: Keboola, status: int, fault: Fault
) -> None:
    keboola.instead(*START, queue_error(status, "No way"))
    error = refused(action, spec(keboola.url))
    assert (error.fault, error.status_code, error.maybe_done) == (fault, status, False)
    assert str(error).startswith(f"Keboola answered {status}: No way")
    assert str(error).endswith("(exceptionId job-queue-simulated)")
    assert ("secret test" in str(error)) == (fault is Fault.CREDENTIALS)
    assert json.loads(error.answer)["code"] == status
    assert len(keboola.asked(*START)) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize(
    ("said", "wait_s"),
    [
        (30, 30.0),
        (0, 1.0),
        (100_000, 3600.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        ("later", None),
        (None, None),
    ],
)
def test_retry_after_is_passed_on(
    action: Action, keboola: Keboola, status: int, said: int | str | None, wait_s: float | None
) -> None:
    keboola.instead(*START, queue_error(status, "Slow down", retry_after=said))
    assert refused(action, spec(keboola.url)).retry_after_s == wait_s


def test_maintenance_is_told_with_its_reason(action: Action, keboola: Keboola) -> None:
    keboola.instead(*START, maintenance(600))
    error = refused(action, spec(keboola.url))
    assert str(error) == "Keboola answered 503: Scheduled maintenance"
    assert (error.fault, error.retry_after_s) == (Fault.RATE_LIMITED, 600.0)


@pytest.mark.parametrize(
    "reply",
    [
        queue_error(502, "Bad gateway"),
        queue_error(504, "Too late"),
        Answer(502, b"<html>Bad gateway</html>", content_type="text/html"),
        DROP,
        Afterwards(DROP),
        TRUNCATED,
        HTML,
        LIST,
        Answer(201, b""),
        Answer(201, {}),
        Answer(201, {"id": None}),
        Answer(201, {"id": ["1"]}),
        Answer(201, {"id": ""}),
        Answer(201, {"id": "x" * 101}),
        Answer(202),
        Answer(201, b'{"id": "\xff"}'),
        Answer(201, b"[" * 20_000),
        Answer(201, {"id": "1", "pad": "x" * 70_000}),
    ],
)
def test_what_leaves_open_whether_a_job_was_started_is_in_doubt(
    action: Action, keboola: Keboola, reply: Reply
) -> None:
    keboola.instead(*START, reply)
    error = refused(action, spec(keboola.url))
    assert error.maybe_done
    assert error.fault in (Fault.TRANSIENT, Fault.MALFORMED)
    assert len(keboola.asked(*START)) == 1


def test_a_stack_that_takes_no_connection_leaves_no_doubt(action: Action, keboola: Keboola) -> None:
    keboola.close()
    error = refused(action, spec(named(keboola)))
    assert (error.fault, error.maybe_done) == (Fault.TRANSIENT, False)


# In doubt: look before sending again


def test_a_look_finds_the_job_of_the_lost_attempt(action: Action, keboola: Keboola) -> None:
    doc = spec(keboola.url)
    sent(action, doc, event_id="evt_before")
    keboola.instead(*START, Afterwards(DROP))
    assert refused(action, doc).maybe_done
    sent(action, doc, event_id="evt_after")

    for doubt in (Doubt.LOOK, Doubt.LOOK_AGAIN):
        found = sent(action, doc, doubt=doubt)
        assert found.found
        assert found.follow_up
        assert found.receipt.id == keboola.jobs[1]["id"]
    assert len(keboola.jobs) == 3


def test_a_found_job_that_has_ended_isnt_followed(action: Action, keboola: Keboola) -> None:
    doc = spec(keboola.url)
    keboola.plan("*", "error")
    started = sent(action, doc).receipt
    action.follow_up(doc, started, context())
    found = sent(action, doc, doubt=Doubt.LOOK)
    assert (found.found, found.follow_up) == (True, False)
    assert found.receipt.failed


def test_a_look_asks_for_the_very_configuration_since_a_bit_before_the_first_attempt(
    action: Action, keboola: Keboola
) -> None:
    action.deliver(spec(keboola.url), event(), context(Doubt.LOOK, first_sent_at=NOW))
    [search] = keboola.asked(*SEARCH)
    assert search.query == {
        "componentId": ["keboola.orchestrator"],
        "configId": ["123456"],
        "createdTimeFrom": ["2026-03-01T11:55:00Z"],
        "limit": ["100"],
    }


def test_the_first_look_that_finds_nothing_sends_nothing(action: Action, keboola: Keboola) -> None:
    outcome = action.deliver(spec(keboola.url), event(), context(Doubt.LOOK))
    assert isinstance(outcome, NotFoundYet)
    assert keboola.jobs == []


def test_the_second_look_that_finds_nothing_sends(action: Action, keboola: Keboola) -> None:
    outcome = sent(action, spec(keboola.url), doubt=Doubt.LOOK_AGAIN)
    assert not outcome.found
    assert paths(keboola) == ["GET /v2/storage", "GET /search/jobs", "POST /jobs"]


def test_a_job_of_another_event_or_configuration_isnt_ours(
    action: Action, keboola: Keboola
) -> None:
    sent(action, spec(keboola.url), event_id="evt_10")
    sent(action, spec(keboola.url, keboola_configuration_id="9"))
    outcome = action.deliver(spec(keboola.url), event(), context(Doubt.LOOK))
    assert isinstance(outcome, NotFoundYet)


def test_a_look_goes_through_the_pages(action: Action, keboola: Keboola) -> None:
    sent(action, spec(keboola.url), event_id="evt_9")
    for number in range(230):
        sent(action, spec(keboola.url), event_id=f"evt_later_{number}")

    found = action.deliver(spec(keboola.url), event(id="evt_9"), context(Doubt.LOOK))
    missing = action.deliver(spec(keboola.url), event(id="evt_none"), context(Doubt.LOOK))

    assert isinstance(found, Sent)
    assert found.found
    assert isinstance(missing, NotFoundYet)
    assert len(keboola.asked(*SEARCH)) == 3 + 3


def test_a_look_through_too_many_pages_cant_tell(action: Action, keboola: Keboola) -> None:
    for page in range(11):
        jobs = [{"id": f"{page}-{n}", "variableValuesData": {"values": []}} for n in range(100)]
        keboola.instead(*SEARCH, Answer(content=jobs))

    outcome = action.deliver(spec(keboola.url), event(), context(Doubt.LOOK))

    assert isinstance(outcome, Undecided)
    assert len(keboola.asked(*SEARCH)) == 10


@pytest.mark.parametrize(
    "jobs",
    [
        [{"id": str(number), "variableValuesData": {"values": []}} for number in range(100)],
        [{"id": "1", "variableValuesData": {"values": []}}, {"id": "2"}],
    ],
)
@pytest.mark.parametrize("doubt", [Doubt.LOOK, Doubt.LOOK_AGAIN])
def test_a_look_that_cant_tell_sends_nothing_and_says_so(
    action: Action, keboola: Keboola, jobs: list[Any], doubt: Doubt
) -> None:
    keboola.instead(*SEARCH, Answer(content=jobs))
    keboola.instead(*SEARCH, Answer(content=jobs))
    outcome = action.deliver(spec(keboola.url), event(), context(doubt))
    assert isinstance(outcome, Undecided)
    assert "redeliver only if it wasn't started" in outcome.message
    assert keboola.jobs == []


def test_a_job_found_on_a_full_page_is_found(action: Action, keboola: Keboola) -> None:
    values = [{"name": "teckochecker_event_id", "value": "evt_1"}]
    ours = {"id": "17", "variableValuesData": {"values": values}}
    keboola.instead(*SEARCH, Answer(content=[{"id": "1"}] * 99 + [ours]))
    assert sent(action, spec(keboola.url), doubt=Doubt.LOOK).receipt.id == "17"


@pytest.mark.parametrize(
    "data",
    [None, [], "text", {"values": None}, {"values": ["x", {}, {"name": "teckochecker_event_id"}]}],
)
def test_odd_variables_of_other_jobs_disturb_no_look(
    action: Action, keboola: Keboola, data: object
) -> None:
    keboola.instead(*SEARCH, Answer(content=[{"id": "1", "variableValuesData": data}, "odd"]))
    outcome = action.deliver(spec(keboola.url), event(), context(Doubt.LOOK))
    assert isinstance(outcome, NotFoundYet)


OURS = {"values": [{"name": "teckochecker_event_id", "value": "evt_1"}]}


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (queue_error(401, "Invalid access token"), Fault.CREDENTIALS),
        (queue_error(429, "Slow down", retry_after=30), Fault.RATE_LIMITED),
        (queue_error(502, "Bad gateway"), Fault.TRANSIENT),
        (DROP, Fault.TRANSIENT),
        (TRUNCATED, Fault.TRANSIENT),
        (HTML, Fault.MALFORMED),
        (Answer(content={"jobs": []}), Fault.MALFORMED),
        (Answer(content=b""), Fault.MALFORMED),
        (Answer(content=b"[" * 20_000), Fault.MALFORMED),
        (Answer(content=b'["\xff"]'), Fault.MALFORMED),
        (Answer(content=[{"variableValuesData": OURS}]), Fault.MALFORMED),
    ],
)
@pytest.mark.parametrize("doubt", [Doubt.LOOK, Doubt.LOOK_AGAIN])
def test_a_failed_look_is_an_error_that_sends_nothing(
    action: Action, keboola: Keboola, reply: Reply, fault: Fault, doubt: Doubt
) -> None:
    keboola.instead(*SEARCH, reply, forever=True)  # a GET on a kept connection may come twice
    error = refused(action, spec(keboola.url), doubt=doubt)
    assert (error.fault, error.maybe_done) == (fault, False)
    assert keboola.jobs == []


def test_a_search_with_large_results_is_read(action: Action, keboola: Keboola) -> None:
    job = {"id": "1", "result": {"message": "x" * 1_000_000}, "variableValuesData": OURS}
    keboola.instead(*SEARCH, Answer(content=[job]))
    receipt = sent(action, spec(keboola.url), doubt=Doubt.LOOK).receipt
    assert receipt.id == "1"
    assert len(receipt.message or "") == 500


# Following a started job


@pytest.mark.parametrize(
    ("status", "finished", "failed"),
    [
        ("created", False, False),
        ("waiting", False, False),
        ("processing", False, False),
        ("terminating", False, False),
        ("success", True, False),
        ("warning", True, False),
        ("error", True, True),
        ("terminated", True, True),
        ("cancelled", True, True),
    ],
)
def test_each_state_of_a_started_job_is_told(
    action: Action, keboola: Keboola, status: str, finished: bool, failed: bool
) -> None:
    keboola.plan("*", status)
    doc = spec(keboola.url)
    started = sent(action, doc).receipt
    news = action.follow_up(doc, started, context())
    assert (news.id, news.url) == (started.id, started.url)
    assert (news.status, news.finished, news.failed) == (status, finished, failed)
    assert (news.message is not None) == finished
    assert len(keboola.asked("GET", f"/jobs/{started.id}")) == 1
    assert len(keboola.asked(*DISCOVERY)) == 1


@pytest.mark.parametrize(
    ("flag", "finished"), [(True, True), (False, False), (None, False), ("yes", False), (1, False)]
)
def test_the_flag_is_trusted_before_the_word(
    action: Action, keboola: Keboola, flag: object, finished: bool
) -> None:
    answer = {"id": "17", "status": "success", "isFinished": flag}
    keboola.instead("GET", "/jobs/17", Answer(content=answer))
    news = action.follow_up(spec(keboola.url), Receipt(id="17"), context())
    assert news.finished is finished


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (queue_error(404, "Job not found"), Fault.NOT_FOUND),
        (queue_error(401, "Invalid access token"), Fault.CREDENTIALS),
        (queue_error(502, "Bad gateway"), Fault.TRANSIENT),
        (maintenance(60), Fault.RATE_LIMITED),
        (DROP, Fault.TRANSIENT),
        (HTML, Fault.MALFORMED),
        (LIST, Fault.MALFORMED),
        (Answer(content={}), Fault.MALFORMED),
        (Answer(content={"id": "18", "status": "success", "isFinished": True}), Fault.MALFORMED),
    ],
)
def test_a_failed_question_is_an_error_without_doubt(
    action: Action, keboola: Keboola, reply: Reply, fault: Fault
) -> None:
    keboola.instead("GET", "/jobs/17", reply, forever=True)
    with pytest.raises(KeboolaError) as raised:
        action.follow_up(spec(keboola.url), Receipt(id="17"), context())
    assert (raised.value.fault, raised.value.maybe_done) == (fault, False)


def test_a_started_jobs_id_cant_lead_elsewhere(action: Action, keboola: Keboola) -> None:
    with pytest.raises(KeboolaError):
        action.follow_up(spec(keboola.url), Receipt(id="../v2/storage?x#y"), context())
    assert keboola.requests[-1].path == "/jobs/..%2Fv2%2Fstorage%3Fx%23y"


# Trying a token


def tried(action: Action, keboola: Keboola, token: str = TOKEN) -> str:
    return action.test(Secret(token), {"keboola_stack_url": keboola.url + "/"}, NOW)


def test_a_valid_token_is_told_with_its_project_and_nothing_else(
    action: Action, keboola: Keboola
) -> None:
    message = "Keboola accepts this token for project Simulated project."
    assert tried(action, keboola) == message
    assert paths(keboola) == ["GET /v2/storage/tokens/verify"]


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (Token("t-1", disabled=True), "disabled or expired"),
        (Token("t-1", expired=True), "disabled or expired"),
        (Token("t-1", creates_jobs=False), "may not start jobs"),
        (Token("another"), "answered 401: Invalid access token; check the secret"),
    ],
)
def test_a_token_that_cant_start_jobs_is_refused_with_the_reason(
    action: Action, token: Token, words: str
) -> None:
    with Keboola(tokens=[token]) as stack, pytest.raises(KeboolaError, match=words) as raised:
        tried(action, stack, "t-1")
    assert raised.value.fault is Fault.CREDENTIALS


@pytest.mark.parametrize(
    "reply",
    [DROP, HTML, LIST, maintenance(60), Answer(content=f'{{"token": "{TOKEN}", '.encode())],
)
def test_a_verdict_that_cant_be_read_is_an_error_that_shows_no_token(
    action: Action, keboola: Keboola, reply: Reply
) -> None:
    keboola.instead(*VERIFY, reply)
    with pytest.raises(OutsideError) as raised:
        tried(action, keboola)
    assert raised.value.fault is not Fault.CREDENTIALS
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize("owner", [None, [], "x", {}, {"name": None}])
def test_an_odd_owner_is_left_out(action: Action, keboola: Keboola, owner: object) -> None:
    keboola.instead(*VERIFY, Answer(content={"token": TOKEN, "owner": owner}))
    assert tried(action, keboola) == "Keboola accepts this token."


# A job's fields


def parsed(action: Action, given: Mapping[str, Any]) -> tuple[Any, str]:
    needed = {
        "keboola_stack_url": "https://connection.keboola.com/",
        "keboola_configuration_id": "123456",
        "keboola_secret": "s",
    }
    fields = Fields({**needed, **given})
    part = action.parse(fields).part
    fields.done("job")
    return part.doc, part.origin


def test_what_isnt_given_has_a_default(action: Action) -> None:
    doc, origin = parsed(action, {})
    assert doc == spec("https://connection.keboola.com")
    assert origin == "https://connection.keboola.com"
    assert action.show(doc) == doc


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"keboola_stack_url": "https://10.0.0.1"}, "keboola_stack_url", "ALLOWED_PRIVATE_HOSTS"),
        ({"keboola_stack_url": "http://connection.keboola.com"}, "keboola_stack_url", "https"),
        ({"keboola_stack_url": "https://a.b/admin/"}, "keboola_stack_url", "the stack alone"),
        ({"keboola_stack_url": "https://a.b/?x=1"}, "keboola_stack_url", "the stack alone"),
        ({"keboola_stack_url": None}, "keboola_stack_url", "null"),
        ({"keboola_configuration_id": ""}, "keboola_configuration_id", "blank"),
        ({"keboola_configuration_id": 123456}, "keboola_configuration_id", "text"),
        ({"keboola_component_id": "a" * 256}, "keboola_component_id", "255"),
        ({"follow_up": "no"}, "follow_up", "true or false"),
        ({"keboola_variables": []}, "keboola_variables", "object"),
        ({"keboola_variables": {f"v{i}": 1 for i in range(51)}}, "keboola_variables", "at most 50"),
        ({"keboola_variables": {"a\nb": 1}}, "keboola_variables", "line breaks"),
        (
            {"keboola_variables": {"teckochecker_event_id": "x", "batch_count_total": 1}},
            "keboola_variables",
            "batch_count_total, teckochecker_event_id",
        ),
    ],
)
def test_a_bad_field_is_refused_by_name(
    action: Action, given: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidInput) as raised:
        parsed(action, given)
    [error] = raised.value.errors
    assert error.field == field
    assert words in error.message


# Through the whole engine


class Moved:
    """The real clock, ahead by what a test says."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock() -> Moved:
    return Moved()


@pytest.fixture
def app(make_settings: Callable[..., Settings], openai: OpenAI, clock: Moved) -> Iterator[App]:
    openai.add("batch_*", "completed")
    assembled = assemble(make_settings(OPENAI_BASE_URL=openai.base_url), now=clock)
    digest = hashlib.sha256(API_TOKEN.encode()).digest()
    assembled.store.secrets.replace_token(digest, clock())
    yield dataclasses.replace(assembled, look_pause_s=0.2)
    assembled.close()


def completed(job: Any) -> bool:
    return bool(job["status"] == "completed")


async def only_delivery(api: Api, path: str) -> Any:
    [delivery] = (await api("GET", f"{path}/deliveries"))["deliveries"]
    return delivery


async def test_a_lost_answer_and_a_lagging_index_lead_to_one_keboola_job(
    api: Api, engine: None, keboola: Keboola, secrets: dict[str, int], job_fields: dict[str, Any]
) -> None:
    keboola.index_lag_searches = 1
    keboola.instead(*START, Afterwards(DROP))
    made = await api("POST", "/api/jobs", job_fields, expect=201)
    path = f"/api/jobs/{made['id']}"
    done = await eventually(api, path, completed)

    [job] = keboola.jobs
    assert done["keboola_job"]["id"] == job["id"]
    assert len(keboola.asked(*SEARCH)) == 2
    delivery = await only_delivery(api, path)
    outcomes = [attempt["outcome"] for attempt in delivery["attempts"]]
    assert sorted(outcomes) == ["found", "looked", "unknown"]


async def test_a_lost_request_is_sent_again_after_two_looks(
    api: Api, engine: None, keboola: Keboola, secrets: dict[str, int], job_fields: dict[str, Any]
) -> None:
    keboola.instead(*START, DROP)
    made = await api("POST", "/api/jobs", job_fields, expect=201)
    await eventually(api, f"/api/jobs/{made['id']}", completed)
    assert len(keboola.jobs) == 1
    assert [call for call in paths(keboola) if "storage" not in call] == [
        "POST /jobs",
        "GET /search/jobs",
        "GET /search/jobs",
        "POST /jobs",
    ]
    first, second = keboola.asked(*START)
    assert first.raw == second.raw


async def test_a_secret_made_again_by_name_never_shows_a_stack_the_other_ones_token(
    api: Api, engine: None, keboola: Keboola, secrets: dict[str, int], job_fields: dict[str, Any]
) -> None:
    made = await api("POST", "/api/jobs", job_fields, expect=201)
    await eventually(api, f"/api/jobs/{made['id']}", completed)
    await api("DELETE", "/api/admin/secrets/keboola-prod", expect=204)
    body = {"name": "keboola-prod", "type": "keboola", "value": "token-of-the-other-stack"}
    again = await api("POST", "/api/admin/secrets", body, expect=201)
    assert again["id"] not in secrets.values()

    with Keboola(tokens=["token-of-the-other-stack"]) as other:
        fields = {**job_fields, "keboola_stack_url": other.url}
        made = await api("POST", "/api/jobs", fields, expect=201)
        await eventually(api, f"/api/jobs/{made['id']}", completed)
        for stack, token in ((keboola, TOKEN), (other, "token-of-the-other-stack")):
            tokens = {call.headers.get("x-storageapi-token") for call in stack.requests}
            assert tokens == {None, token}
            assert len(stack.jobs) == 1


@pytest.mark.parametrize(
    ("end", "word"),
    [("success", "follow_up"), ("warning", "follow_up"), ("error", "follow_up_failed")],
)
async def test_the_end_of_the_started_job_is_shown_and_never_fails_ours(
    api: Api,
    app: App,
    engine: None,
    clock: Moved,
    keboola: Keboola,
    secrets: dict[str, int],
    job_fields: dict[str, Any],
    end: str,
    word: str,
) -> None:
    keboola.plan("123456", end)
    made = await api("POST", "/api/jobs", job_fields, expect=201)
    path = f"/api/jobs/{made['id']}"
    started = await eventually(api, path, completed)
    assert started["keboola_job"]["status"] == "created"

    clock.ahead += timedelta(seconds=6)  # the first question comes after 5 s
    app.wake.poke()
    ended = await eventually(api, path, lambda job: job["keboola_job"]["status"] == end)
    assert ended["status"] == "completed"
    assert ended["keboola_job"]["id"] == started["keboola_job"]["id"]
    logs = (await api("GET", f"{path}/logs"))["logs"]
    [entry] = [log for log in logs if log["status"].startswith("follow_up")]
    assert entry["status"] == word
    assert f"is {end}. Simulated component processing ended with {end}." in entry["message"]
    metrics = (await api.client.get("/metrics")).text
    labels = f'{{action="keboola",status="{end}"}}'
    assert f"teckochecker_started_jobs_total{labels} 1.0" in metrics.splitlines()


async def test_a_job_without_follow_up_is_asked_for_no_more(
    api: Api,
    app: App,
    engine: None,
    clock: Moved,
    keboola: Keboola,
    secrets: dict[str, int],
    job_fields: dict[str, Any],
) -> None:
    unfollowed = {**job_fields, "name": "unfollowed", "follow_up": False}
    first = await api("POST", "/api/jobs", unfollowed, expect=201)
    await eventually(api, f"/api/jobs/{first['id']}", completed)
    second = await api("POST", "/api/jobs", job_fields, expect=201)
    path = f"/api/jobs/{second['id']}"
    await eventually(api, path, completed)
    clock.ahead += timedelta(hours=1)
    app.wake.poke()
    await eventually(api, path, lambda job: job["keboola_job"]["status"] == "waiting")
    [unasked, asked] = keboola.jobs
    assert keboola.asked("GET", f"/jobs/{unasked['id']}") == []
    assert keboola.asked("GET", f"/jobs/{asked['id']}")


async def test_a_token_in_an_answer_is_never_shown(
    api: Api, engine: None, keboola: Keboola, secrets: dict[str, int], job_fields: dict[str, Any]
) -> None:
    keboola.instead(*START, queue_error(422, f"token {TOKEN} is odd"))
    made = await api("POST", "/api/jobs", job_fields, expect=201)
    path = f"/api/jobs/{made['id']}"
    failed = await eventually(api, path, lambda job: job["status"] == "failed")
    assert "token *** is odd" in failed["status_reason"]
    delivery = await only_delivery(api, path)
    assert len(delivery["attempts"]) == 1
    logs = await api("GET", f"{path}/logs")
    assert TOKEN not in json.dumps([failed, delivery, logs])


@pytest.mark.parametrize("cut", [200, 500, 4096])
async def test_no_part_of_a_token_is_left_where_an_answer_is_cut(
    api: Api,
    engine: None,
    keboola: Keboola,
    secrets: dict[str, int],
    job_fields: dict[str, Any],
    cut: int,
) -> None:
    text = "z" * (cut - len(TOKEN) + 1) + TOKEN
    keboola.instead(*START, queue_error(422, text))
    made = await api("POST", "/api/jobs", job_fields, expect=201)
    path = f"/api/jobs/{made['id']}"
    failed = await eventually(api, path, lambda job: job["status"] == "failed")
    delivery = await only_delivery(api, path)
    logs = await api("GET", f"{path}/logs")
    assert TOKEN[:12] not in json.dumps([failed, delivery, logs])


async def test_testing_a_token_shows_nothing_of_the_answer(
    api: Api, keboola: Keboola, secrets: dict[str, int]
) -> None:
    where = {"keboola_stack_url": keboola.url}
    path = "/api/admin/secrets/keboola-prod/test"
    assert await api("POST", path, where) == {
        "valid": True,
        "message": "Keboola accepts this token for project Simulated project.",
    }
    keboola.instead(*VERIFY, Answer(content=f'{{"token": "{TOKEN}", '.encode()))
    failed = await api("POST", path, where, expect=502)
    assert failed["code"] == 2002
    assert TOKEN not in json.dumps(failed)

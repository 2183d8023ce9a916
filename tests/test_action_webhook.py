"""Webhooks: what is sent, how it is signed, and what becomes of each answer."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

from teckochecker import outbox
from teckochecker.actions.webhook import query, signature
from teckochecker.domain import Event, JobId, Secret, Verdict
from teckochecker.errors import WebhookError
from teckochecker.simulators import DROP, Answer, Batch, OpenAI, Receiver
from tests.conftest import Api, eventually
from tests.parts import NOW

SIGNING = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as simulator:
        yield simulator


@pytest.fixture
def webhook_job(secrets: dict[str, int], receiver: Receiver) -> dict[str, Any]:
    return {
        "name": "nightly",
        "batch_id": "batch_a",
        "openai_secret": "openai-prod",
        "webhook_url": f"{receiver.url}/hook",
        "poll_interval_seconds": 1,
    }


def event(**changes: Any) -> Event:
    fields = {
        "id": "evt_1",
        "job_id": JobId(7),
        "job_name": "night & day",
        "verdict": Verdict.SUCCESS,
        "message": "All done",
        "data": {"batches": [{"batch_id": "batch_a"}], "count": 0, "ok": False, "none": None},
        "occurred_at": NOW,
        "execution_time_ms": 12,
    }
    return Event(**{**fields, **changes})


async def add_generic(api: Api, name: str, value: str) -> int:
    body = {"name": name, "type": "generic", "value": value}
    made = await api("POST", "/api/admin/secrets", body, expect=201)
    return int(made["id"])


def completed(openai: OpenAI) -> None:
    openai.add("batch_a", Batch("completed", total=2, completed=2))


async def test_a_completed_batch_calls_the_webhook_with_the_documented_payload(
    api: Api, engine: None, openai: OpenAI, receiver: Receiver, webhook_job: dict[str, Any]
) -> None:
    completed(openai)
    made = await api("POST", "/api/jobs", webhook_job, expect=201)
    await eventually(api, f"/api/jobs/{made['id']}", lambda job: job["status"] == "completed")

    [call] = receiver.requests
    assert (call.method, call.path) == ("POST", "/hook")
    assert call.headers["content-type"] == "application/json"
    body: Any = call.body
    assert body["job_id"] == made["id"]
    assert body["job_name"] == "nightly"
    assert body["check_status"] == "SUCCESS"
    assert body["check_data"]["completed_count"] == 1
    assert body["check_message"].startswith("Batch completed")
    assert body["timestamp"].endswith("Z")
    assert body["execution_time_ms"] >= 0
    assert body["event_id"] == call.headers["webhook-id"]


async def test_a_signed_webhook_is_verified_by_the_public_package_at_every_attempt(
    api: Api, engine: None, openai: OpenAI, receiver: Receiver, webhook_job: dict[str, Any]
) -> None:
    completed(openai)
    await add_generic(api, "signing", SIGNING)
    receiver.instead("POST", "/hook", Answer(503))
    job = {**webhook_job, "webhook_signing_secret": "signing"}
    made = await api("POST", "/api/jobs", job, expect=201)
    await eventually(api, f"/api/jobs/{made['id']}", lambda job: job["status"] == "completed")

    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.raw == second.raw
    for call in (first, second):
        verified = standardwebhooks.Webhook(SIGNING).verify(call.raw, call.headers)
        assert verified == json.loads(call.raw)


async def test_secrets_within_headers_are_sent_and_never_shown(
    api: Api, engine: None, openai: OpenAI, receiver: Receiver, webhook_job: dict[str, Any]
) -> None:
    completed(openai)
    number = await add_generic(api, "hook.token", "very-secret-value")
    headers = {"Authorization": f"Bearer secret_ref:{number}", "X-Both": "a secret_ref:hook.token"}
    receiver.instead("POST", "/hook", Answer(400, {"echo": "very-secret-value"}))
    job = {**webhook_job, "webhook_headers": headers}
    made = await api("POST", "/api/jobs", job, expect=201)
    assert made["webhook_headers"] == headers
    failed = await eventually(api, f"/api/jobs/{made['id']}", lambda job: job["status"] == "failed")

    assert receiver.requests[0].headers["authorization"] == "Bearer very-secret-value"
    assert receiver.requests[0].headers["x-both"] == "a very-secret-value"
    shown = await api("GET", f"/api/jobs/{made['id']}/deliveries")
    assert shown["deliveries"][0]["attempts"][0]["answer"] == '{"echo": "***"}'
    assert "very-secret-value" not in json.dumps([failed, shown])
    opened = [one for log in failed["logs"] for one in log["secrets_opened"]]
    assert {"hook.token", "openai-prod"} == {one["name"] for one in opened}
    refused = await api("DELETE", f"/api/admin/secrets/{number}", expect=409)
    assert refused["code"] == 1004


async def test_a_deleted_mention_survives_as_the_secret_it_was_linked_to(
    api: Api, webhook_job: dict[str, Any]
) -> None:
    first = await add_generic(api, "token-a", "value-of-the-first")
    headers = {"X-Token": "secret_ref:token-a"}
    made = await api("POST", "/api/jobs", {**webhook_job, "webhook_headers": headers}, expect=201)
    await api("PUT", f"/api/jobs/{made['id']}", {"webhook_headers": None})
    await api("DELETE", f"/api/admin/secrets/{first}", expect=204)
    unknown = await api("PUT", f"/api/jobs/{made['id']}", {"webhook_headers": headers}, expect=400)
    assert unknown["code"] == 1001
    assert unknown["errors"][0]["field"] == "webhook_headers"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_webhook_without_body_tells_by_its_query(
    api: Api,
    engine: None,
    openai: OpenAI,
    receiver: Receiver,
    webhook_job: dict[str, Any],
    method: str,
) -> None:
    completed(openai)
    templates = {
        "job": "{job_id}",
        "text": "<{job_name}> {status}: {data.batches.0.batch_id}",
        "event": "{event_id}=ž&{check_status}",
    }
    job = {
        **webhook_job,
        "name": "day & night",
        "webhook_url": f"{receiver.url}/hook?fixed=1",
        "webhook_method": method,
        "webhook_query_params": templates,
    }
    made = await api("POST", "/api/jobs", job, expect=201)
    await eventually(api, f"/api/jobs/{made['id']}", lambda job: job["status"] == "completed")

    [call] = receiver.requests
    assert (call.method, call.raw) == (method, b"")
    assert call.query == {
        "fixed": ["1"],
        "job": [str(made["id"])],
        "text": ["<day & night> SUCCESS: batch_a"],
        "event": [f"{call.headers['webhook-id']}=ž&SUCCESS"],
    }


async def test_keboola_and_webhook_are_both_triggered(
    api: Api,
    engine: None,
    openai: OpenAI,
    keboola: Any,
    receiver: Receiver,
    job_fields: dict[str, Any],
    webhook_job: dict[str, Any],
) -> None:
    completed(openai)
    receiver.instead("POST", "/hook", DROP)
    both = {**job_fields, "webhook_url": webhook_job["webhook_url"]}
    made = await api("POST", "/api/jobs", both, expect=201)
    await eventually(api, f"/api/jobs/{made['id']}", lambda job: job["status"] == "completed")
    shown = await api("GET", f"/api/jobs/{made['id']}/deliveries")
    states = {one["action"]: one["state"] for one in shown["deliveries"]}
    assert states == {"keboola": "delivered", "webhook": "delivered"}
    assert len(keboola.jobs) == 1
    assert len(receiver.requests) == 2


@pytest.mark.parametrize(
    ("status", "state"), [(400, "failed"), (404, "failed"), (410, "failed"), (422, "failed")]
)
async def test_a_refusal_is_final_and_can_be_redelivered(
    api: Api,
    engine: None,
    openai: OpenAI,
    receiver: Receiver,
    webhook_job: dict[str, Any],
    status: int,
    state: str,
) -> None:
    completed(openai)
    receiver.instead("POST", "/hook", Answer(status))
    made = await api("POST", "/api/jobs", webhook_job, expect=201)
    path = f"/api/jobs/{made['id']}"
    await eventually(api, path, lambda job: job["status"] == "failed")
    [delivery] = (await api("GET", f"{path}/deliveries"))["deliveries"]
    assert (delivery["state"], len(delivery["attempts"])) == (state, 1)

    await api("POST", f"/api/deliveries/{delivery['id']}/redeliver")
    await eventually(api, path, lambda job: job["status"] == "completed")
    ids = {call.headers["webhook-id"] for call in receiver.requests}
    assert ids == {delivery["event_id"]}


async def test_an_action_that_was_taken_away_is_told_as_a_failed_delivery(
    api: Api,
    engine: None,
    openai: OpenAI,
    keboola: Any,
    receiver: Receiver,
    job_fields: dict[str, Any],
    webhook_job: dict[str, Any],
) -> None:
    completed(openai)
    receiver.instead("POST", "/hook", Answer(503), forever=True)
    both = {**job_fields, "webhook_url": webhook_job["webhook_url"]}
    made = await api("POST", "/api/jobs", both, expect=201)
    path = f"/api/jobs/{made['id']}"
    await eventually(api, path, lambda job: job["phase"] == "delivering" and job["keboola_job"])
    changed = await api("PUT", path, {"webhook_url": None})
    assert "webhook_url" not in changed
    await api("POST", f"{path}/trigger")
    failed = await eventually(api, path, lambda job: job["status"] == "failed")
    assert "doesn't have this action any more" in failed["status_reason"]


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"webhook_url": "ftp://example.com/"}, "webhook_url", "http"),
        ({"webhook_url": "https://10.0.0.1/"}, "webhook_url", "ALLOWED_PRIVATE_HOSTS"),
        ({"webhook_url": "https://user:pw@example.com/"}, "webhook_url", "password"),
        ({"webhook_method": "post"}, "webhook_method", "POST, GET, PUT, PATCH, DELETE"),
        ({"webhook_timeout_seconds": 4}, "webhook_timeout_seconds", "5 to 60"),
        ({"webhook_timeout_seconds": 61}, "webhook_timeout_seconds", "5 to 60"),
        ({"webhook_headers": {"X A": "b"}}, "webhook_headers", "header name"),
        ({"webhook_headers": {"X-A": "b\r\nX-B: c"}}, "webhook_headers", "line breaks"),
        ({"webhook_headers": {"X-A": "é"}}, "webhook_headers", "ASCII"),
        ({"webhook_headers": {"X-A": 1}}, "webhook_headers", "text"),
        ({"webhook_headers": {"Webhook-Id": "1"}}, "webhook_headers", "we send it"),
        ({"webhook_headers": {"Content-Length": "1"}}, "webhook_headers", "we send it"),
        ({"webhook_headers": {"X-A": "secret_ref:nobody"}}, "webhook_headers", "nobody"),
        ({"webhook_query_params": {"a": "secret_ref:1"}}, "webhook_query_params", "header"),
        ({"webhook_query_params": {"a": 1}}, "webhook_query_params", "text"),
        ({"webhook_signing_secret": "openai-prod"}, "webhook_signing_secret", "generic"),
    ],
)
async def test_it_refuses_a_bad_webhook_by_field(
    api: Api, webhook_job: dict[str, Any], changes: dict[str, Any], field: str, words: str
) -> None:
    refused = await api("POST", "/api/jobs", {**webhook_job, **changes}, expect=400)
    [error] = [one for one in refused["errors"] if one["field"] == field]
    assert words in error["message"]


async def test_a_signing_secret_that_isnt_one_is_said_at_the_delivery(
    api: Api, engine: None, openai: OpenAI, receiver: Receiver, webhook_job: dict[str, Any]
) -> None:
    completed(openai)
    await add_generic(api, "signing", "not-a-signing-secret")
    job = {**webhook_job, "webhook_signing_secret": "signing"}
    made = await api("POST", "/api/jobs", job, expect=201)
    failed = await eventually(api, f"/api/jobs/{made['id']}", lambda job: job["status"] == "failed")
    assert "whsec_" in failed["status_reason"]
    assert receiver.requests == []


def test_templates_keep_falsy_values_and_the_text_around() -> None:
    templates = {
        "zero": "n={data.count}",
        "false": "{data.ok}",
        "null": "<{data.none}>",
        "gone": "<{data.nowhere.at.all}{unknown}>",
        "json": "{data.batches}",
        "plain": "{not closed",
    }
    assert query(templates, event()) == {
        "zero": "n=0",
        "false": "false",
        "null": "<>",
        "gone": "<>",
        "json": '[{"batch_id":"batch_a"}]',
        "plain": "{not closed",
    }


@pytest.mark.parametrize(
    "name",
    [
        "job_id",
        "job_name",
        "check_status",
        "check_message",
        "timestamp",
        "execution_time_ms",
        "event_id",
    ],
)
def test_templates_know_the_names_of_the_body_and_write_them_as_it_does(name: str) -> None:
    told = json.loads(outbox.body(event()))
    assert query({"it": f"<{{{name}}}>"}, event()) == {"it": f"<{told[name]}>"}


def test_templates_take_the_data_by_its_short_and_its_long_name() -> None:
    for name in ("data", "check_data"):
        templates = {
            "one": f"{{{name}.batches.0.batch_id}}",
            "gone": f"<{{{name}.nowhere at all}}>",
            "all": f"{{{name}}}",
        }
        found = query(templates, event())
        assert (found["one"], found["gone"]) == ("batch_a", "<>")
        assert json.loads(found["all"]) == event().data
    gone = {"check": "<{check_job_id}{check_event_id}{check_timestamp}{status.x}{timestamp.x}>"}
    assert query(gone, event()) == {"check": "<>"}


@pytest.mark.parametrize("key", ["a b", "größe", "a/b?c&d=e#f", "50%", '"', "[0]", "🐎", "a\nb"])
def test_a_path_below_data_holds_any_characters_but_braces(key: str) -> None:
    found = query({"it": f"<{{data.deep.{key}}}>"}, event(data={"deep": {key: "x & ž"}}))
    assert found == {"it": "<x & ž>"}


def test_braces_that_are_no_placeholder_stay() -> None:
    templates = {"json": '{"a b": {job_id}}', "blank": "{job id}", "nested": "{data.a{b}}"}
    assert query(templates, event(data={})) == {
        "json": '{"a b": 7}',
        "blank": "{job id}",
        "nested": "{data.a}",
    }


@given(st.binary(min_size=24, max_size=64), st.binary(max_size=200))
def test_signatures_are_those_of_the_public_package(key: bytes, body: bytes) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    text = body.decode("latin-1")
    ours = signature(Secret(secret), "evt_1", int(NOW.timestamp()), text.encode())
    assert ours == standardwebhooks.Webhook(secret).sign("evt_1", NOW, text)


@pytest.mark.parametrize("size", [23, 65])
def test_a_signing_key_has_24_to_64_bytes(size: int) -> None:
    secret = Secret("whsec_" + base64.b64encode(bytes(size)).decode())
    with pytest.raises(WebhookError, match="24 to 64"):
        signature(secret, "evt_1", 1, b"")

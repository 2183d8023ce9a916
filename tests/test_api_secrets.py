"""The API of secrets: added, shown without value, tried, replaced, deleted, never seen again."""

from __future__ import annotations

import base64
import dataclasses
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
import trio

from teckochecker.app import App
from teckochecker.lanes import Lane, Lanes
from teckochecker.simulators import Answer, Keboola, OpenAI, Token, openai_error
from teckochecker.telemetry import configure_logging
from tests.conftest import SECRET_KEY, TOKEN, Api, eventually
from tests.states import INTO

T = TypeVar("T")
PATH = "/api/admin/secrets"
OPENAI_KEY = "sk-test-openai-key-1"
STORAGE_TOKEN = "4711-test-storage-token"
NEW = {"name": "mine", "type": "openai", "value": "sk-another-openai-key"}


@pytest.fixture
async def job(api: Api, secrets: dict[str, int], job_fields: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = await api("POST", "/api/jobs", job_fields, expect=201)
    return made


def faults(problem: dict[str, Any]) -> dict[str, str]:
    return {one["field"]: one["message"] for one in problem["errors"]}


# Add and show


async def test_a_secret_is_shown_without_its_value(api: Api) -> None:
    made = await api("POST", PATH, NEW, expect=201)

    assert set(made) == {
        "id", "name", "type", "created_at", "updated_at", "last_used_at", "used_by",
    }  # fmt: skip
    assert (made["name"], made["type"], made["last_used_at"]) == ("mine", "openai", None)
    assert made["used_by"] == []
    assert made["created_at"] == made["updated_at"]
    assert made["created_at"].endswith("Z")


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("by", ["id", "name"])
async def test_a_secret_is_addressed_by_id_or_name(api: Api, by: str, slash: str) -> None:
    made = await api("POST", PATH + slash, NEW, expect=201)

    assert await api("GET", f"{PATH}/{made[by]}{slash}") == made


async def test_secrets_are_listed_by_name(api: Api, secrets: dict[str, int]) -> None:
    await api("POST", PATH, NEW | {"name": "a", "type": "generic"}, expect=201)

    listed = await api("GET", PATH)

    assert [one["name"] for one in listed["secrets"]] == ["a", "keboola-prod", "openai-prod"]
    assert [one["type"] for one in listed["secrets"]] == ["generic", "keboola", "openai"]
    assert listed["total"] == 3


async def test_a_secret_tells_who_uses_it(api: Api, job: dict[str, Any]) -> None:
    using = {"kind": "polling", "id": job["id"], "name": "nightly"}

    assert (await api("GET", f"{PATH}/openai-prod"))["used_by"] == [using]
    listed = (await api("GET", PATH))["secrets"]
    assert [one["used_by"] for one in listed] == [[using], [using]]


async def test_a_secret_of_several_jobs_names_each_once(
    api: Api, job: dict[str, Any], job_fields: dict[str, Any]
) -> None:
    await api("POST", "/api/jobs", job_fields | {"name": "second"}, expect=201)

    used_by = (await api("GET", f"{PATH}/keboola-prod"))["used_by"]

    assert [use["name"] for use in used_by] == ["nightly", "second"]


@pytest.mark.parametrize("value", ["a\nb\r\n\tc", "ž" * 1000, " padded ", "x", "p" * 65536])
async def test_a_generic_secret_may_be_any_text(api: Api, value: str) -> None:
    await api("POST", PATH, {"name": "any", "type": "generic", "value": value}, expect=201)


async def test_it_refuses_a_bad_secret_by_field(api: Api) -> None:
    bad: list[tuple[dict[str, Any], str, str]] = [
        ({"name": ""}, "name", "blank"),
        ({"name": "a b"}, "name", "letters, digits"),
        ({"name": "a/b"}, "name", "letters, digits"),
        ({"name": "ž"}, "name", "letters, digits"),
        ({"name": "a\n"}, "name", "control"),
        ({"name": ".."}, "name", "'..'"),
        ({"name": "42"}, "name", "digits"),
        ({"name": "n" * 256}, "name", "at most 255"),
        ({"name": None}, "name", "null"),
        ({"type": "OpenAI"}, "type", "openai, keboola, generic"),
        ({"type": ["openai"]}, "type", "a list"),
        ({"type": None}, "type", "null"),
        ({"value": ""}, "value", "blank"),
        ({"value": " \n"}, "value", "blank"),
        ({"value": None}, "value", "null"),
        ({"value": 12345}, "value", "must be text"),
        ({"value": "sk-a\r\nX-Evil: 1"}, "value", "one line"),
        ({"value": "sk-a b"}, "value", "blanks"),
        ({"value": "sk-ž"}, "value", "ASCII"),
        ({"value": "sk-" + "a" * 65536}, "value", "65536 bytes"),
        ({"type": "generic", "value": "ž" * 40000}, "value", "65536 bytes"),
        ({"comment": "x"}, "comment", "isn't a field"),
    ]
    for changes, field, said in bad:
        problem = await api("POST", PATH, NEW | changes, expect=400)
        assert problem["code"] == 1100
        assert said in faults(problem)[field]
    assert (await api("GET", PATH))["total"] == 0


async def test_a_refusal_never_repeats_a_value(api: Api) -> None:
    problem = await api("POST", PATH, NEW | {"name": "", "value": "sk-a b-secret"}, expect=400)

    assert set(faults(problem)) == {"name", "value"}
    assert "b-secret" not in str(problem)


async def test_it_refuses_a_taken_name_and_says_how_to_change_the_value(
    api: Api, secrets: dict[str, int]
) -> None:
    problem = await api("POST", PATH, NEW | {"name": "openai-prod"}, expect=409)

    assert problem["code"] == 1003
    assert "secret set openai-prod" in problem["detail"]


@pytest.mark.parametrize(
    ("method", "part"), [("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/test")]
)
async def test_an_unknown_secret_is_a_404_whatever_is_asked(
    api: Api, secrets: dict[str, int], method: str, part: str
) -> None:
    body = {"value": "sk-x"} if method == "PUT" else None

    for wanted in ("nobody", "4711", str(2**63), "9" * 300, "%00"):
        problem = await api(method, f"{PATH}/{wanted}{part}", body, expect=404)
        assert problem["code"] == 1001
        assert "secret list" in problem["detail"]


# Replace the value


async def test_a_value_is_replaced_in_place(api: Api, job: dict[str, Any]) -> None:
    before = await api("GET", f"{PATH}/openai-prod")

    after = await api("PUT", f"{PATH}/openai-prod", {"value": "sk-new"})

    assert after["updated_at"] > before["updated_at"]
    assert after | {"updated_at": None} == before | {"updated_at": None}


async def test_the_next_check_uses_the_new_value(
    api: Api, engine: None, openai: OpenAI, secrets: dict[str, int], job_fields: dict[str, Any]
) -> None:
    openai.add("batch_a", "in_progress")
    await api("POST", "/api/jobs", job_fields, expect=201)
    await eventually(api, "/api/jobs/nightly", lambda job: job["last_check_status"] == "PENDING")
    openai.api_keys = {"sk-rotated"}

    await api("PUT", f"{PATH}/openai-prod", {"value": "sk-rotated"})

    asked = len(openai.requests)
    await api("POST", "/api/jobs/nightly/trigger")
    with trio.fail_after(30):
        await trio.to_thread.run_sync(openai.wait_for, lambda _: len(openai.requests) > asked)
    assert openai.requests[-1].headers["authorization"] == "Bearer sk-rotated"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "value"),
        ({"value": None}, "value"),
        ({"value": "a b"}, "value"),
        ({"value": "sk-x", "name": "other"}, "name"),
        ({"value": "sk-x", "type": "generic"}, "type"),
    ],
)
async def test_nothing_but_the_value_can_be_changed(
    api: Api, secrets: dict[str, int], body: dict[str, Any], field: str
) -> None:
    problem = await api("PUT", f"{PATH}/openai-prod", body, expect=400)

    assert list(faults(problem)) == [field]


# Delete


async def test_an_unused_secret_is_deleted(api: Api, secrets: dict[str, int]) -> None:
    await api("DELETE", f"{PATH}/openai-prod", expect=204)

    await api("GET", f"{PATH}/{secrets['openai-prod']}", expect=404)


@pytest.mark.parametrize(
    "state", ["polling", "paused", "delivering", "failed delivery", "unconfirmed delivery"]
)
@pytest.mark.parametrize("name", ["openai-prod", "keboola-prod"])
async def test_it_refuses_to_delete_what_is_still_needed_and_says_by_whom(
    app: App, api: Api, job: dict[str, Any], name: str, state: str
) -> None:
    INTO[state](app, job["id"])

    problem = await api("DELETE", f"{PATH}/{name}", expect=409)

    assert problem["code"] == 1004
    assert "'nightly'" in problem["detail"]
    assert "another secret" in problem["detail"]
    await api("GET", f"{PATH}/{name}")


@pytest.mark.parametrize("state", ["completed", "failed"])
async def test_deleting_a_secret_keeps_the_jobs_that_have_ended_with_it(
    app: App, api: Api, job: dict[str, Any], state: str
) -> None:
    INTO[state](app, job["id"])

    await api("DELETE", f"{PATH}/openai-prod", expect=204)

    kept = await api("GET", "/api/jobs/nightly")
    assert kept["status"] == state
    assert "openai_secret_id" not in kept
    assert kept["keboola_secret_name"] == "keboola-prod"


async def test_a_job_that_got_another_secret_frees_its_old_one(
    api: Api, job: dict[str, Any]
) -> None:
    await api("POST", PATH, NEW, expect=201)
    await api("PUT", "/api/jobs/nightly", {"openai_secret": "mine"})

    await api("DELETE", f"{PATH}/openai-prod", expect=204)

    assert (await api("GET", f"{PATH}/mine"))["used_by"][0]["name"] == "nightly"


async def test_a_re_created_name_is_another_secret_with_its_own_value(
    api: Api, openai: OpenAI
) -> None:
    openai.api_keys = {"sk-first", "sk-second"}
    first = await api("POST", PATH, NEW | {"value": "sk-first"}, expect=201)
    await api("POST", f"{PATH}/mine/test")
    await api("DELETE", f"{PATH}/mine", expect=204)

    second = await api("POST", PATH, NEW | {"value": "sk-second"}, expect=201)
    await api("POST", f"{PATH}/mine/test")

    assert second["id"] > first["id"]
    sent = [request.headers["authorization"] for request in openai.requests]
    assert sent == ["Bearer sk-first", "Bearer sk-second"]


# Try


async def test_a_good_openai_key_is_valid_and_then_shows_when_it_was_used(
    api: Api, secrets: dict[str, int]
) -> None:
    tried = await api("POST", f"{PATH}/openai-prod/test")

    assert tried["valid"] is True
    assert "accepts" in tried["message"]
    assert (await api("GET", f"{PATH}/openai-prod"))["last_used_at"] is not None


async def test_a_wrong_openai_key_is_not_valid_and_is_not_repeated(
    api: Api, openai: OpenAI
) -> None:
    await api("POST", PATH, NEW | {"value": "sk-wrong!"}, expect=201)

    tried = await api("POST", f"{PATH}/mine/test")

    assert tried["valid"] is False
    assert "401" in tried["message"]
    assert "sk-wrong!" not in tried["message"]


async def test_a_good_keboola_token_is_valid_on_the_stack_that_is_named(
    api: Api, secrets: dict[str, int], keboola: Keboola
) -> None:
    body = {"keboola_stack_url": keboola.url}

    tried = await api("POST", f"{PATH}/keboola-prod/test", body)

    assert tried["valid"] is True
    assert "Simulated project" in tried["message"]


async def test_a_keboola_token_is_tried_on_the_stack_of_the_newest_job(
    api: Api, job: dict[str, Any], job_fields: dict[str, Any]
) -> None:
    with Keboola(tokens=[STORAGE_TOKEN]) as newer:
        newest = job_fields | {"name": "newest", "keboola_stack_url": newer.url}
        await api("POST", "/api/jobs", newest, expect=201)

        await api("POST", f"{PATH}/keboola-prod/test")

        assert len(newer.asked("GET", "/v2/storage/tokens/verify")) == 1


async def test_a_keboola_token_without_a_job_needs_to_be_told_its_stack(
    api: Api, secrets: dict[str, int], keboola: Keboola
) -> None:
    problem = await api("POST", f"{PATH}/keboola-prod/test", expect=400)

    assert list(faults(problem)) == ["keboola_stack_url"]
    assert keboola.requests == []


@pytest.mark.parametrize("odd", [{"disabled": True}, {"expired": True}, {"creates_jobs": False}])
async def test_a_keboola_token_that_can_start_nothing_is_not_valid(
    api: Api, keboola: Keboola, odd: dict[str, bool]
) -> None:
    keboola.tokens["weak-token"] = Token("weak-token", **odd)
    await api("POST", PATH, {"name": "weak", "type": "keboola", "value": "weak-token"}, expect=201)

    tried = await api("POST", f"{PATH}/weak/test", {"keboola_stack_url": keboola.url})

    assert tried["valid"] is False


async def test_a_wrong_keboola_token_is_not_valid(api: Api, keboola: Keboola) -> None:
    await api("POST", PATH, {"name": "no", "type": "keboola", "value": "wrong-token"}, expect=201)

    tried = await api("POST", f"{PATH}/no/test", {"keboola_stack_url": keboola.url})

    assert tried["valid"] is False


UNREACHABLE = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("openai-prod", {"openai_base_url": f"{UNREACHABLE}/v1"}, 2001),
        ("keboola-prod", {"keboola_stack_url": UNREACHABLE}, 2002),
    ],
)
async def test_a_service_that_can_not_be_reached_is_a_502_of_its_code(
    api: Api, secrets: dict[str, int], name: str, body: dict[str, str], code: int
) -> None:
    problem = await api("POST", f"{PATH}/{name}/test", body, expect=502)

    assert problem["code"] == code
    assert "can't be reached" in problem["detail"]


@pytest.mark.parametrize(
    "reply",
    [openai_error(500), openai_error(429), Answer(content=b"<html>"), Answer(204, b"")],
    ids=["500", "429", "page", "204"],
)
async def test_an_answer_that_decides_nothing_is_a_502(
    api: Api, secrets: dict[str, int], keboola: Keboola, reply: Answer
) -> None:
    keboola.instead("GET", "*", reply)

    problem = await api(
        "POST", f"{PATH}/keboola-prod/test", {"keboola_stack_url": keboola.url}, expect=502
    )

    assert problem["code"] == 2002


async def test_a_service_that_repeats_the_key_does_not_make_us_repeat_it(
    api: Api, secrets: dict[str, int], openai: OpenAI
) -> None:
    openai.instead("GET", "*", Answer(500, {"error": {"message": f"bad {OPENAI_KEY}"}}))

    problem = await api("POST", f"{PATH}/openai-prod/test", expect=502)

    assert problem["code"] == 2001
    assert "bad ***" in problem["detail"]


class Late(Lanes):
    """Every call to the outside takes too long."""

    async def run(
        self,
        lane: Lane,
        fn: Callable[[], T],
        *,
        timeout_s: float | None = None,
        origin: str = "",
    ) -> T:
        if lane is Lane.NETWORK:
            raise trio.TooSlowError
        return await super().run(lane, fn, timeout_s=timeout_s, origin=origin)


async def test_a_trial_goes_where_a_job_of_its_kind_sends_the_secret(
    api: Api, openai: OpenAI, secrets: dict[str, int]
) -> None:
    """A script, or a header, may hold it too: that says nothing about where it belongs."""
    hook = {"webhook_url": "https://hook.example"}
    job = {"name": "a", "batch_id": "batch_a", "openai_secret": "openai-prod", **hook}
    elsewhere = {"openai_base_url": "http://127.0.0.1:9/v1"}
    script = {"name": "b", "script_runtime": "python", "script": "x"}
    mention = {"env_vars": {"KEY": "secret_ref:openai-prod"}}
    await api("POST", "/api/jobs", job | elsewhere, expect=201)
    await api("POST", "/api/custom-checks", script | mention, expect=201)

    await api("POST", "/api/admin/secrets/openai-prod/test", expect=502)
    assert openai.requests == []


async def test_a_trial_that_takes_too_long_is_a_502(app: App, secrets: dict[str, int]) -> None:
    api = Api(dataclasses.replace(app, lanes=Late(network=1)))

    problem = await api("POST", f"{PATH}/openai-prod/test", expect=502)

    assert problem["code"] == 2001
    assert "No answer within 30 s" in problem["detail"]


async def test_a_secret_whose_bytes_were_changed_is_told(
    app: App, api: Api, secrets: dict[str, int], openai: OpenAI
) -> None:
    with app.store._database.write() as db:
        db.execute_sql("UPDATE secrets SET sealed = CAST(sealed || x'00' AS BLOB)")

    problem = await api("POST", f"{PATH}/openai-prod/test", expect=500)

    assert problem["code"] == 3002
    assert "secret set" in problem["detail"]
    assert openai.requests == []


async def test_a_generic_secret_has_nothing_to_be_tried_with(api: Api) -> None:
    await api("POST", PATH, NEW | {"type": "generic"}, expect=201)

    problem = await api("POST", f"{PATH}/mine/test", expect=400)

    assert problem["code"] == 1100
    assert "generic" in problem["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"openai_base_url": "http://10.0.0.1/v1"}, "openai_base_url"),
        ({"openai_base_url": 5}, "openai_base_url"),
        ({"keboola_stack_url": "https://x.example"}, "keboola_stack_url"),
        ({"url": "x"}, "url"),
    ],
)
async def test_a_trial_goes_nowhere_that_a_job_may_not_go(
    api: Api, secrets: dict[str, int], openai: OpenAI, body: dict[str, Any], field: str
) -> None:
    problem = await api("POST", f"{PATH}/openai-prod/test", body, expect=400)

    assert list(faults(problem)) == [field]
    assert openai.requests == []


# Tokens stay where they belong, and values nowhere


async def test_each_stack_gets_its_own_token_only(
    api: Api,
    engine: None,
    openai: OpenAI,
    keboola: Keboola,
    secrets: dict[str, int],
    job_fields: dict[str, Any],
) -> None:
    openai.add("batch_*", "completed")
    other = {"name": "other", "type": "keboola", "value": "0815-other-token"}
    await api("POST", PATH, other, expect=201)
    with Keboola(tokens=["0815-other-token"]) as second:
        elsewhere = {"keboola_secret": "other", "keboola_stack_url": second.url}
        for n in range(6):
            fields = job_fields | {"name": f"job {n}", "batch_id": f"batch_{n}", "follow_up": False}
            await api("POST", "/api/jobs", fields | (elsewhere if n % 2 else {}), expect=201)

        await eventually(api, "/api/jobs?status=completed", lambda page: page["total"] == 6)

        for stack, token in ((keboola, STORAGE_TOKEN), (second, "0815-other-token")):
            sent = {request.headers.get("x-storageapi-token") for request in stack.requests}
            assert sent - {None} == {token}


@pytest.fixture
def output(app: App, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Everything that the program logs, on its stream and in its file."""
    root, stream, file = logging.getLogger(), io.StringIO(), tmp_path / "log" / "all.log"
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    configure_logging(app.redaction, level="DEBUG", file=file, stream=stream)
    yield lambda: stream.getvalue() + file.read_text()
    for handler in root.handlers:
        handler.close()
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def spellings(value: str) -> Iterator[str]:
    plain = value.encode()
    yield value
    yield plain.hex()
    yield plain.hex().upper()
    for shift in range(3):  # base64 of it between other bytes, without what the neighbours decide
        yield base64.b64encode(b"\0" * shift + plain).decode()[4:-4]


async def test_a_value_is_in_no_answer_no_log_and_no_file(
    app: App,
    api: Api,
    engine: None,
    output: Callable[[], str],
    openai: OpenAI,
    keboola: Keboola,
    secrets: dict[str, int],
    job_fields: dict[str, Any],
) -> None:
    echo = {"error": {"message": f"You sent {OPENAI_KEY}", "code": None}}
    openai.add("batch_a", Answer(500, echo), "completed")
    started = {"id": "77", "status": "created", "result": {"message": f"by {STORAGE_TOKEN}"}}
    odd = {"error": f"token {STORAGE_TOKEN} is odd"}
    keboola.instead("POST", "/jobs", Answer(500, odd), Answer(201, started))
    await api("POST", f"{PATH}/openai-prod/test")
    await api("POST", f"{PATH}/keboola-prod/test", {"keboola_stack_url": keboola.url})
    await api("POST", "/api/jobs", job_fields, expect=201)
    await eventually(
        api, "/api/jobs/nightly/logs", lambda page: page["logs"][0]["status"] == "error"
    )
    await api("POST", "/api/jobs/nightly/trigger")

    await eventually(api, "/api/jobs/nightly", lambda job: job["status"] == "completed")

    paths = [
        PATH, "/api/jobs", "/api/jobs/nightly", "/api/jobs/nightly/logs",
        "/api/jobs/nightly/deliveries", "/api/stats", "/api/health", "/metrics", "/openapi.json",
    ]  # fmt: skip
    answers = "".join([(await api.client.get(path)).text for path in paths])
    assert "You sent ***" in answers
    assert "token *** is odd" in answers
    assert '"message":"by ***"' in answers
    folder = app.settings.database.parent
    files = b"".join(file.read_bytes() for file in folder.glob("teckochecker.db*")).decode(
        "latin-1"
    )
    told = output()
    assert "job.checked" in told
    for value in (OPENAI_KEY, STORAGE_TOKEN, TOKEN, SECRET_KEY):
        for spelling in spellings(value):
            assert spelling not in answers
            assert spelling not in files
            assert spelling not in told

"""The API's description of itself, checked against the routes, the validators and real answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, get_args

import jsonschema
import pytest
import schemathesis
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import checks as standard
from schemathesis.specs.openapi import checks as openapi_checks

from teckochecker.app import App, assemble
from teckochecker.errors import (
    AccessDenied,
    Fault,
    InUse,
    InvalidInput,
    JobNotFound,
    NameTaken,
    SecretNotFound,
    SecretUnknown,
    StoreBroken,
    StoreFull,
    TeckoError,
    VaultError,
    WrongState,
)
from teckochecker.pulse import HealthWord
from teckochecker.simulators import Batch, Keboola, OpenAI
from teckochecker.validation import Fields
from teckochecker.web import create_web, schemas
from teckochecker.web.jobs import polling_draft
from teckochecker.web.problems import problem
from tests.conftest import TOKEN, Api, eventually
from tests.serving import served
from tests.states import INTO

HIDDEN = {"/", "/metrics", "/docs", "/static/{name}", "/openapi.json"}
AUTOMATIC = {"head", "options"}


@pytest.fixture
async def description(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = await api("GET", "/openapi.json")
    return found


@pytest.fixture
async def job(api: Api, secrets: dict[str, int], job_fields: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = await api("POST", "/api/jobs", job_fields, expect=201)
    return made


def operations(description: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method, path): one
        for path, methods in description["paths"].items()
        for method, one in methods.items()
    }


# Description and routes


async def test_every_route_is_described_and_every_description_has_a_route(
    app: App, description: dict[str, Any]
) -> None:
    quart = create_web(app)._inner  # type: ignore[attr-defined]
    routes = {
        (method.lower(), re.sub(r"<(\w+)>", r"{\1}", rule.rule))
        for rule in quart.url_map.iter_rules()
        for method in rule.methods
    }

    visible = {(method, path) for method, path in routes if method not in AUTOMATIC}
    assert operations(description).keys() == {
        (method, path) for method, path in visible if path not in HIDDEN
    }


CONTRACT = [
    "post /api/admin/secrets", "get /api/admin/secrets", "delete /api/admin/secrets/{secret}",
    "put /api/admin/secrets/{secret}", "post /api/admin/secrets/{secret}/test",
    "post /api/jobs", "get /api/jobs", "get /api/jobs/{job}", "put /api/jobs/{job}",
    "delete /api/jobs/{job}", "post /api/jobs/{job}/pause", "post /api/jobs/{job}/resume",
    "post /api/jobs/{job}/trigger", "get /api/jobs/{job}/logs", "get /api/jobs/{job}/deliveries",
    "post /api/deliveries/{delivery}/redeliver", "get /api/health", "get /api/stats",
    "post /api/custom-checks", "get /api/custom-checks", "get /api/custom-checks/{job}",
    "put /api/custom-checks/{job}", "delete /api/custom-checks/{job}",
    "post /api/custom-checks/{job}/script/upload", "post /api/custom-checks/{job}/script/git",
    "get /api/custom-checks/{job}/script/info", "post /api/custom-checks/{job}/pause",
    "post /api/custom-checks/{job}/resume", "post /api/custom-checks/{job}/trigger",
    "get /api/custom-checks/{job}/logs", "get /api/custom-checks/{job}/deliveries",
    "post /api/custom-checks/{job}/webhook/test",
]  # fmt: skip


async def test_every_call_of_the_requirements_is_there(description: dict[str, Any]) -> None:
    assert set(CONTRACT) <= {f"{method} {path}" for method, path in operations(description)}


async def test_every_reference_leads_somewhere(description: dict[str, Any]) -> None:
    text = str(description)

    wanted = set(re.findall(r"#/components/schemas/(\w+)", text))

    assert wanted
    assert wanted <= description["components"]["schemas"].keys()
    for name, schema in description["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema), name


async def test_every_operation_has_an_id_of_its_own_a_sentence_and_its_errors(
    description: dict[str, Any],
) -> None:
    found = operations(description)

    assert len({one["operationId"] for one in found.values()}) == len(found)
    for one in found.values():
        assert one["summary"].endswith(".")
        assert one["tags"]
        error = one["responses"]["default"]["content"]["application/problem+json"]["schema"]
        assert error == {"$ref": "#/components/schemas/Problem"}
        assert all(answer["description"] for answer in one["responses"].values())


async def test_only_health_and_signing_in_are_described_as_open(
    description: dict[str, Any],
) -> None:
    open_ = [key for key, one in operations(description).items() if one.get("security") == []]

    assert open_ == [("get", "/api/health"), ("post", "/api/session")]
    assert description["security"] == [{"token": []}]
    assert description["openapi"].startswith("3.1.")


async def test_every_variable_of_a_path_is_described(description: dict[str, Any]) -> None:
    for (_, path), one in operations(description).items():
        named = [found["name"] for found in one["parameters"] if found["in"] == "path"]
        assert named == re.findall(r"{(\w+)}", path)


# Description and validators


def accepted(app: App, stored: dict[str, Any] | None = None) -> set[str]:
    """The fields that the validator reads."""
    fields = Fields({}, stored)
    with pytest.raises(Exception, match="required"):
        polling_draft(app, fields)
    return set(fields._read)


async def test_a_jobs_fields_are_those_that_the_validator_reads(
    app: App, description: dict[str, Any]
) -> None:
    documents = description["components"]["schemas"]

    assert documents["NewJob"]["properties"].keys() == accepted(app)
    assert documents["JobChange"]["properties"].keys() == accepted(app)
    assert not documents["NewJob"]["additionalProperties"]


async def test_a_jobs_required_fields_are_those_that_the_validator_requires(
    api: Api, description: dict[str, Any]
) -> None:
    refused = await api("POST", "/api/jobs", {}, expect=400)

    missing = {one["field"] for one in refused["errors"]}
    either = {"batch_ids", "openai_secret", "keboola_secret"}  # each has another spelling
    required = description["components"]["schemas"]["NewJob"]["required"]
    assert set(required) <= missing - either


async def test_a_secrets_fields_are_those_that_the_validator_reads(
    api: Api, secrets: dict[str, int], description: dict[str, Any]
) -> None:
    for method, path, name in (
        ("POST", "/api/admin/secrets", "NewSecret"),
        ("PUT", "/api/admin/secrets/openai-prod", "SecretValue"),
    ):
        refused = await api(method, path, {"unknown": 1}, expect=400)
        told = next(one["message"] for one in refused["errors"] if one["field"] == "unknown")
        known = told.partition("known are ")[2].split(", ")
        schema = description["components"]["schemas"][name]
        assert sorted(schema["properties"]) == known
        assert sorted(schema["required"]) == known


@pytest.mark.parametrize(
    ("path", "described"),
    [
        ("/api/jobs", schemas.JobQuery),
        ("/api/jobs/nightly/logs", schemas.LogQuery),
        ("/api/jobs/nightly/deliveries", schemas.Paging),
        ("/api/heartbeats", schemas.HeartbeatQuery),
    ],
)
async def test_a_lists_parameters_are_those_that_are_read(
    api: Api, job: dict[str, Any], path: str, described: Any
) -> None:
    refused = await api("GET", f"{path}?unknown=1", expect=400)

    known = refused["errors"][0]["message"].partition("known are ")[2].split(", ")
    assert sorted(known) == sorted(described.__struct_fields__)


def test_the_words_of_the_description_are_the_domains() -> None:
    described = schemas.HealthDocument.__annotations__["status"]
    assert all(word in described for word in get_args(HealthWord))


# Description and answers


def validator(description: dict[str, Any], name: str) -> jsonschema.Draft202012Validator:
    schema = {
        "$ref": f"#/components/schemas/{name}",
        "components": description["components"],
    }
    return jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


def assert_described(description: dict[str, Any], name: str, document: dict[str, Any]) -> None:
    validator(description, name).validate(document)
    unknown = document.keys() - description["components"]["schemas"][name]["properties"].keys()
    assert not unknown, f"{name} doesn't describe {unknown}"


@pytest.mark.parametrize("state", INTO)
async def test_a_job_in_every_state_answers_as_described(
    app: App, api: Api, description: dict[str, Any], job: dict[str, Any], state: str
) -> None:
    INTO[state](app, job["id"])

    assert_described(description, "JobDetail", await api("GET", "/api/jobs/nightly"))
    assert_described(description, "JobList", await api("GET", "/api/jobs"))
    assert_described(description, "LogList", await api("GET", "/api/jobs/nightly/logs"))
    deliveries = await api("GET", "/api/jobs/nightly/deliveries")
    assert_described(description, "DeliveryList", deliveries)
    for one in deliveries["deliveries"]:
        assert_described(description, "DeliveryDocument", one)
    listed = (await api("GET", "/api/jobs"))["jobs"][0]
    assert_described(description, "JobDocument", listed)


async def test_a_job_that_the_engine_ran_answers_as_described(
    api: Api,
    engine: None,
    description: dict[str, Any],
    openai: OpenAI,
    keboola: Keboola,
    job: dict[str, Any],
) -> None:
    openai.add("batch_a", Batch("completed", total=10, completed=9, failed=1))
    keboola.plan("*", "processing", "error")

    done = await eventually(api, "/api/jobs/nightly", lambda found: found["status"] == "completed")

    assert_described(description, "JobDetail", done)
    assert done["keboola_job"] is not None
    assert_described(description, "DeliveryList", await api("GET", "/api/jobs/nightly/deliveries"))
    logs = await api("GET", "/api/jobs/nightly/logs")
    assert_described(description, "LogList", logs)
    opened = [row["secrets_opened"] for row in logs["logs"] if row["secrets_opened"]]
    assert {one["variable"] for row in opened for one in row} == {
        "openai_secret",
        "keboola_secret",
    }


async def test_every_other_answer_is_as_described(
    api: Api, description: dict[str, Any], job: dict[str, Any]
) -> None:
    for path, name in (
        ("/api/admin/secrets", "SecretList"),
        ("/api/admin/secrets/openai-prod", "SecretInfo"),
        ("/api/health", "HealthDocument"),
        ("/api/stats", "StatsDocument"),
        ("/api/system", "SystemDocument"),
        (f"/api/heartbeats?ids={job['id']}", "HeartbeatList"),
    ):
        assert_described(description, name, await api("GET", path))
    for verb in ("trigger", "pause", "resume"):
        assert_described(description, "JobVerb", await api("POST", f"/api/jobs/nightly/{verb}"))
    tried = await api("POST", "/api/admin/secrets/openai-prod/test")
    assert_described(description, "TrialResult", tried)
    for call in (
        api("GET", "/api/jobs/nobody", expect=404),
        api("POST", "/api/jobs", {}, expect=400),
        api("POST", "/api/jobs", {"name": "nightly"}, expect=400),
        api("PATCH", "/api/jobs", expect=405),
    ):
        assert_described(description, "Problem", await call)


# Generated requests

rejection = openapi_checks.negative_data_rejection
CHECKS = [
    standard.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    rejection,
    openapi_checks.unsupported_method,
]


KNOWN = {"job": "nightly", "secret": "openai-prod", "delivery": 1}
KNOWN_CHECK = {"job": "gemini"}


def explore(url: str) -> int:
    """Send generated requests, good and bad ones, to every operation; how many there were.

    Half of them go to something that exists; there a wrong path is no longer wrong.
    """
    sent = 0
    authorized = {"Authorization": f"Bearer {TOKEN}"}
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=authorized)
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == "/api/events":  # an answer without an end
            continue
        for mode in schemathesis.GenerationMode:

            @settings(
                max_examples=8,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
            def one(case: schemathesis.Case, known: bool) -> None:
                nonlocal sent
                sent += 1
                checks = CHECKS
                if known and case.path_parameters and case.method != "DELETE":
                    there = KNOWN_CHECK if "/custom-checks/" in case.path else KNOWN
                    case.path_parameters = {name: there[name] for name in case.path_parameters}
                    checks = [one for one in CHECKS if one is not rejection]
                case.call_and_validate(headers=authorized, checks=checks)

            with suppress(Unsatisfiable):  # where nothing can be said wrongly
                one()
    return sent


async def test_no_generated_request_meets_a_fault_of_ours(
    app: App, api: Api, job: dict[str, Any], job_fields: dict[str, Any]
) -> None:
    ended = await api("POST", "/api/jobs", job_fields | {"name": "ended"}, expect=201)
    INTO["failed delivery"](app, ended["id"])
    custom_check = {"name": "gemini", "script_runtime": "python", "script": "print(1)"}
    await api("POST", "/api/custom-checks", custom_check, expect=201)
    without_dice = replace(app, jitter=lambda: 0.5)  # Hypothesis watches over `random`
    async with served(without_dice) as url:
        sent = await trio.to_thread.run_sync(explore, url)

    assert sent > 150


# Metrics


async def exposition(api: Api) -> str:
    answer = await api.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return answer.text


METRICS = [
    "teckochecker_dispatch_lag_seconds_bucket",
    "teckochecker_oldest_due_seconds",
    "teckochecker_checks_in_flight",
    'teckochecker_deliveries{state="pending"}',
    'teckochecker_deliveries{state="unconfirmed"}',
    "teckochecker_scheduler_pass_seconds_count",
    "teckochecker_db_write_seconds_count",
    'teckochecker_jobs{kind="polling",status="active"}',
]


@pytest.mark.parametrize("name", METRICS)
async def test_a_metric_has_the_name_that_dashboards_ask_for(api: Api, name: str) -> None:
    assert f"\n{name}" in await exposition(api)


async def test_metrics_follow_what_happens(
    app: App, api: Api, engine: None, openai: OpenAI, job: dict[str, Any]
) -> None:
    openai.add("batch_a", "completed")
    await eventually(api, "/api/jobs/nightly", lambda found: found["status"] == "completed")
    await eventually(  # a step is counted after it is stored, and ends after it is counted
        api, "/api/health", lambda found: found["scheduler"]["deliveries_in_flight"] == 0
    )

    text = await exposition(api)

    assert 'teckochecker_checks_total{source="openai",verdict="SUCCESS"} 1.0' in text
    assert 'attempts_total{action="keboola",outcome="delivered"} 1.0' in text
    assert 'teckochecker_deliveries{state="delivered"} 1.0' in text
    assert 'teckochecker_jobs{kind="polling",status="completed"} 1.0' in text
    assert "teckochecker_dispatch_lag_seconds_count 1.0" in text
    assert "teckochecker_checks_in_flight 0.0" in text


async def test_each_program_counts_for_itself(
    api: Api, make_settings: Callable[..., Any], job: dict[str, Any]
) -> None:
    other = assemble(make_settings(DATABASE_URL="sqlite:///other.db"))

    assert b'teckochecker_jobs{kind="polling",status="active"} 1.0' not in (
        other.metrics.exposition()
    )
    other.close()


# The page of the description


async def test_the_docs_page_is_small_and_loads_nothing_from_elsewhere(api: Api) -> None:
    page = await api.client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    size = len(page.content)
    for asset in assets:
        assert asset.startswith("/")
        assert not asset.startswith("//")
        if asset != "/openapi.json":
            found = await api.client.get(asset)
            assert found.status_code == 200
            assert "http" not in found.text
            assert "@import" not in found.text
            size += len(found.content)

    assert len(assets) == 3
    assert size < 20_000


async def test_the_docs_page_has_nothing_inline(api: Api) -> None:
    page = (await api.client.get("/docs")).text
    script = (await api.client.get("/static/docs.js")).text

    assert "<style" not in page
    assert not re.search(r"\s(style|on\w+)=", page)
    assert re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL) == [""]
    for trap in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        ".style",
    ):
        assert trap not in script


@pytest.mark.parametrize(
    "name",
    ["nothing.js", "docs", "docs.html.js", ".js", "%2e%2e%2fwire.py", "x" * 300 + ".js"],
)
async def test_no_other_file_is_served(api: Api, name: str) -> None:
    answer = await api.client.get(f"/static/{name}")

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


# Health, and errors


async def test_health_is_a_503_once_nothing_gets_done(app: App, api: Api) -> None:
    app.pulse.last_pass_at -= timedelta(seconds=61)

    failing = await api("GET", "/api/health", expect=503)

    assert failing["status"] == "failing"
    assert "restart the daemon" in failing["reasons"][0]


async def test_a_degraded_program_is_still_a_200(app: App, api: Api) -> None:
    app.pulse.troubled_deliveries = 1

    assert (await api("GET", "/api/health"))["status"] == "degraded"


def every_kind(kind: type[TeckoError] = TeckoError) -> Iterator[type[TeckoError]]:
    if not kind.__module__.startswith("teckochecker.cli"):  # what only commands raise
        yield kind
    for one in kind.__subclasses__():
        yield from every_kind(one)


@pytest.mark.parametrize("kind", list(dict.fromkeys(every_kind())), ids=lambda kind: kind.__name__)
def test_every_error_of_ours_has_a_status(kind: type[TeckoError]) -> None:
    wanted = getattr(kind.__init__, "__annotations__", ())
    error = kind("said", *[Fault.TRANSIENT] if "fault" in wanted else [])

    status, body = problem(error, "req_1")

    assert 400 <= status < 600
    found = json.loads(body)
    assert (found["detail"], found["status"], found["request_id"]) == ("said", status, "req_1")
    assert found["code"] == (kind.code or None)


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (InvalidInput, 400, 1100), (SecretUnknown, 400, 1001), (AccessDenied, 401, None),
        (JobNotFound, 404, 1002), (SecretNotFound, 404, 1001), (NameTaken, 409, 1003),
        (InUse, 409, 1004), (WrongState, 409, 1005), (StoreFull, 503, 3001),
        (StoreBroken, 503, 3001), (VaultError, 500, 3002),
    ],
)  # fmt: skip
def test_an_error_has_the_status_and_code_of_the_contract(
    kind: type[TeckoError], status: int, code: int | None
) -> None:
    assert problem(kind("said"), "")[0] == status
    assert (kind.code or None) == code


# Stats


async def test_stats_count_what_there_is(
    app: App, api: Api, job: dict[str, Any], job_fields: dict[str, Any]
) -> None:
    for state in ("paused", "completed", "failed", "failed delivery"):
        made = await api("POST", "/api/jobs", job_fields | {"name": state}, expect=201)
        INTO[state](app, made["id"])

    stats = await api("GET", "/api/stats")

    assert (stats["active_jobs"], stats["jobs_processed"]) == (1, 3)
    assert stats["jobs"]["all"] == {"active": 1, "paused": 1, "completed": 1, "failed": 2}
    assert stats["jobs"]["polling"] == stats["jobs"]["all"]
    assert stats["checks_last_day"] == {"success": 2, "failed": 1}
    assert stats["triggers_last_day"] == 1
    assert stats["deliveries"] == {"delivered": 1, "failed": 1}
    assert stats["lag_seconds"] == {"p50": None, "p95": None, "p99": None}
    assert stats["database_bytes"] > 0


async def test_stats_of_an_empty_program_are_zeros(api: Api) -> None:
    stats = await api("GET", "/api/stats")

    assert stats["jobs"]["all"] == {"active": 0, "paused": 0, "completed": 0, "failed": 0}
    assert (stats["active_jobs"], stats["jobs_processed"], stats["triggers_last_day"]) == (0, 0, 0)


async def test_lag_percentiles_are_of_the_latest_checks(app: App, api: Api) -> None:
    app.pulse.lags_s.extend(n / 100 for n in range(100))

    assert (await api("GET", "/api/stats"))["lag_seconds"] == {"p50": 0.5, "p95": 0.95, "p99": 0.99}

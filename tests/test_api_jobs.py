"""The API of polling jobs: paths, verbs, names, lists, changes, and what it refuses."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
import trio

from teckochecker.app import App, assemble
from teckochecker.domain import Finding, Verdict
from teckochecker.errors import Fault, KeboolaError
from teckochecker.simulators import Batch, Keboola, OpenAI
from tests.conftest import Api, eventually
from tests.states import ERROR, INTO, REFUSED, SENT, UNDECIDED, check, deliver, finding

NIGHTLY = "/api/jobs/nightly"
FIELDS = {
    "id", "name", "status", "phase", "status_reason", "kind", "batch_id", "batch_ids", "batches",
    "batch_count", "completed_count", "failed_count", "openai_secret_id", "openai_secret_name",
    "keboola_secret_id", "keboola_secret_name", "keboola_stack_url", "keboola_component_id",
    "keboola_configuration_id", "keboola_variables", "poll_interval_seconds", "openai_base_url",
    "trigger_on", "max_failed_percent", "follow_up", "last_check_at", "next_check_at",
    "created_at", "completed_at", "last_check_status", "last_check_data", "keboola_job",
}  # fmt: skip


@pytest.fixture
async def job(api: Api, secrets: dict[str, int], job_fields: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = await api("POST", "/api/jobs", job_fields, expect=201)
    return made


async def another(api: Api, fields: dict[str, Any], **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = await api("POST", "/api/jobs", fields | changes, expect=201)
    return made


async def listed(api: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api("GET", "/api/jobs"))["jobs"]
    return found


async def alone(api: Api) -> dict[str, Any]:
    """The job `nightly` by itself, in the fields that a list shows."""
    found: dict[str, Any] = await api("GET", NIGHTLY)
    del found["logs"]
    return found


def faults(problem: dict[str, Any]) -> dict[str, str]:
    return {one["field"]: one["message"] for one in problem["errors"]}


# Create


async def test_a_new_job_shows_every_field_of_the_contract(job: dict[str, Any]) -> None:
    assert set(job) == FIELDS
    assert (job["status"], job["phase"]) == ("active", "polling")
    assert job["batches"][0]["batch_id"] == "batch_a"
    assert job["keboola_component_id"] == "keboola.orchestrator"
    assert (job["batch_count"], job["completed_count"], job["failed_count"]) == (1, 0, 0)


async def test_a_new_job_is_due_at_once(job: dict[str, Any]) -> None:
    assert job["next_check_at"] == job["created_at"]


async def test_every_instant_is_rfc_3339_in_utc(app: App, api: Api, job: dict[str, Any]) -> None:
    INTO["completed"](app, job["id"])

    done = await api("GET", NIGHTLY)

    for name in ("created_at", "completed_at", "last_check_at"):
        assert done[name].endswith("Z"), name
    assert done["batches"][0]["created_at"] == "2023-11-14T22:13:20Z"


@pytest.mark.parametrize("how", ["id", "name", "id as text"])
@pytest.mark.parametrize("field", ["openai_secret", "openai_secret_id"])
async def test_a_secret_is_named_by_id_or_name_in_either_field(
    api: Api, secrets: dict[str, int], job_fields: dict[str, Any], field: str, how: str
) -> None:
    del job_fields["openai_secret"]
    spelled = {"id": secrets["openai-prod"], "name": "openai-prod"}
    job_fields[field] = spelled.get(how, str(secrets["openai-prod"]))

    made = await another(api, job_fields)

    assert made["openai_secret_id"] == secrets["openai-prod"]
    assert made["openai_secret_name"] == "openai-prod"


async def test_a_field_may_stand_beside_its_other_spelling_when_that_is_null(
    api: Api, secrets: dict[str, int], job_fields: dict[str, Any]
) -> None:
    made = await another(api, job_fields, batch_ids=None, openai_secret_id=None)

    assert made["batch_ids"] == ["batch_a"]


async def test_up_to_a_hundred_batches_are_taken(
    api: Api, secrets: dict[str, int], job_fields: dict[str, Any]
) -> None:
    del job_fields["batch_id"]
    many = [f"batch_{n}" for n in range(100)]

    made = await another(api, job_fields, batch_ids=many)

    assert made["batch_ids"] == many
    assert made["batch_id"] == "batch_0"
    assert [one["batch_id"] for one in made["batches"]] == many


REFUSED_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"batch_id": "abc"}, "batch_id", "batch_abc123"),
    ({"batch_id": "batch_a\n"}, "batch_id", "control characters"),
    ({"batch_id": None}, "batch_id", "null"),
    ({"batch_id": "batch_a", "batch_ids": ["batch_b"]}, "batch_id", "not both"),
    ({"batch_ids": [], "batch_id": None}, "batch_ids", "1 to 100"),
    ({"batch_ids": [f"batch_{n}" for n in range(101)], "batch_id": None}, "batch_ids", "1 to 100"),
    ({"batch_ids": ["batch_a", "batch_a"], "batch_id": None}, "batch_ids", "twice"),
    ({"batch_ids": "batch_a", "batch_id": None}, "batch_ids", "must be a list, not text"),
    ({"batch_ids": [1], "batch_id": None}, "batch_ids", "must be text, not a number"),
    ({"poll_interval_seconds": 0}, "poll_interval_seconds", "from 1 to 3600 seconds, not 0"),
    ({"poll_interval_seconds": 3601}, "poll_interval_seconds", "from 1 to 3600 seconds"),
    ({"poll_interval_seconds": "60"}, "poll_interval_seconds", "whole number, not text"),
    ({"poll_interval_seconds": 60.0}, "poll_interval_seconds", "whole number, not a decimal"),
    ({"poll_interval_seconds": True}, "poll_interval_seconds", "whole number, not a boolean"),
    ({"max_failed_percent": 100.1}, "max_failed_percent", "from 0 to 100"),
    ({"max_failed_percent": -1}, "max_failed_percent", "from 0 to 100"),
    ({"trigger_on": "SUCCESS"}, "trigger_on", "success, terminal"),
    ({"follow_up": "yes"}, "follow_up", "true or false"),
    ({"keboola_stack_url": "ftp://x"}, "keboola_stack_url", "https://"),
    ({"keboola_stack_url": "http://10.0.0.1"}, "keboola_stack_url", "ALLOWED_PRIVATE_HOSTS"),
    ({"keboola_stack_url": "https://169.254.169.254"}, "keboola_stack_url", "metadata"),
    ({"keboola_stack_url": "https://a.example/v2"}, "keboola_stack_url", "stack alone"),
    ({"keboola_stack_url": "http://public.example"}, "keboola_stack_url", "https://"),
    ({"openai_base_url": "http://192.168.0.1/v1"}, "openai_base_url", "ALLOWED_PRIVATE_HOSTS"),
    ({"openai_base_url": "https://a.example/v1?key=1"}, "openai_base_url", "query"),
    ({"keboola_configuration_id": ""}, "keboola_configuration_id", "blank"),
    ({"keboola_configuration_id": 123456}, "keboola_configuration_id", "must be text"),
    ({"keboola_variables": ["a"]}, "keboola_variables", "must be an object"),
    ({"keboola_variables": {"teckochecker_job_id": 1}}, "keboola_variables", "we send those"),
    ({"keboola_variables": {f"v{n}": 1 for n in range(51)}}, "keboola_variables", "at most 50"),
    ({"name": None}, "name", "null"),
    ({"openai_secret": None}, "openai_secret", "null"),
    ({"openai_secret": True}, "openai_secret", "must be text"),
    ({"openai_secret_id": 1}, "openai_secret_id", "not both"),
    ({"webhook": "x"}, "webhook", "isn't a field of a job"),
    ({"Name": "x"}, "Name", "isn't a field of a job"),
]


async def test_it_refuses_a_bad_field_and_says_what_it_may_be(
    api: Api, secrets: dict[str, int], job_fields: dict[str, Any]
) -> None:
    for changes, field, said in REFUSED_FIELDS:
        problem = await api("POST", "/api/jobs", job_fields | changes, expect=400)
        assert problem["code"] == 1100
        assert said in faults(problem)[field]
    assert (await api("GET", "/api/jobs"))["total"] == 0


async def test_it_refuses_a_name_that_no_path_can_hold(
    api: Api, secrets: dict[str, int], job_fields: dict[str, Any]
) -> None:
    for name, said in (
        ("", "blank"),
        ("   ", "blank"),
        ("\u00a0", "blank"),
        (" nightly", "begin or end"),
        ("nightly ", "begin or end"),
        ("a/b", "'/'"),
        ("..", "'..'"),
        (".", "'.'"),
        ("42", "digits"),
        ("a\tb", "control"),
        ("a\r\nb", "control"),
        ("a\u0085b", "control"),
        ("a\u2028b", "control"),
        ("n" * 256, "at most 255"),
        (7, "must be text"),
    ):
        problem = await api("POST", "/api/jobs", job_fields | {"name": name}, expect=400)
        assert said in faults(problem)["name"]


async def test_an_odd_name_still_addresses_its_job(
    api: Api, secrets: dict[str, int], job_fields: dict[str, Any]
) -> None:
    odd = ["n" * 255, "žluťoučký kůň", "a?b#c%2Fd&e=f", "4 2", "'; DROP TABLE jobs; --", "日報"]
    for name in odd:
        made = await another(api, job_fields, name=name)
        assert (await api("GET", f"/api/jobs/{quote(name, safe='')}"))["id"] == made["id"]


async def test_it_tells_all_faults_of_a_document_at_once(
    api: Api, secrets: dict[str, int], job_fields: dict[str, Any]
) -> None:
    bad = {"name": "", "batch_id": "x", "poll_interval_seconds": 0, "nonsense": 1}
    del job_fields["keboola_secret"], job_fields["keboola_configuration_id"]

    problem = await api("POST", "/api/jobs", job_fields | bad, expect=400)

    assert set(faults(problem)) == {*bad, "keboola_secret", "keboola_configuration_id"}
    assert "(and 5 more)" in problem["detail"]


async def test_an_empty_document_is_told_what_is_required(api: Api) -> None:
    problem = await api("POST", "/api/jobs", {}, expect=400)

    assert set(faults(problem)) == {"name", "batch_ids", "openai_secret", "keboola_stack_url"}
    assert "or a webhook_url" in faults(problem)["keboola_stack_url"]


@pytest.mark.parametrize("field", ["keboola_secret", "keboola_secret_id"])
async def test_it_refuses_unknown_secrets_by_field(
    api: Api, secrets: dict[str, int], job_fields: dict[str, Any], field: str
) -> None:
    del job_fields["keboola_secret"]

    for wanted in ("nobody", 4711, "4711", -1, 2**53):
        problem = await api("POST", "/api/jobs", job_fields | {field: wanted}, expect=400)
        assert problem["code"] == 1001
        assert "secret add" in faults(problem)[field]


async def test_it_names_every_unknown_or_unfit_secret_at_once(
    api: Api, secrets: dict[str, int], job_fields: dict[str, Any]
) -> None:
    wrong = {"openai_secret": "keboola-prod", "keboola_secret": "nobody"}

    problem = await api("POST", "/api/jobs", job_fields | wrong, expect=400)

    assert problem["code"] == 1001
    assert "must be of type openai" in faults(problem)["openai_secret"]
    assert "doesn't exist" in faults(problem)["keboola_secret"]


async def test_a_secret_of_another_type_is_no_unknown_one(
    api: Api, secrets: dict[str, int], job_fields: dict[str, Any]
) -> None:
    wrong = {"openai_secret": "keboola-prod", "keboola_secret": "openai-prod"}

    problem = await api("POST", "/api/jobs", job_fields | wrong, expect=400)

    assert problem["code"] == 1100
    assert "must be of type openai" in faults(problem)["openai_secret"]
    assert "must be of type keboola" in faults(problem)["keboola_secret"]


# Names and ids


async def test_it_refuses_a_name_that_an_open_job_has(
    api: Api, job: dict[str, Any], job_fields: dict[str, Any]
) -> None:
    problem = await api("POST", "/api/jobs", job_fields, expect=409)

    assert problem["code"] == 1003
    assert "nightly" in problem["detail"]
    assert "choose another name" in problem["detail"]


@pytest.mark.parametrize("state", ["completed", "failed", "failed delivery"])
async def test_an_ended_jobs_name_is_free_again(
    app: App, api: Api, job: dict[str, Any], job_fields: dict[str, Any], state: str
) -> None:
    INTO[state](app, job["id"])

    again = await another(api, job_fields)

    assert again["id"] != job["id"]


async def test_a_name_addresses_the_job_that_has_not_ended_else_the_newest(
    app: App, api: Api, job: dict[str, Any], job_fields: dict[str, Any]
) -> None:
    INTO["failed"](app, job["id"])
    second = await another(api, job_fields)
    assert (await api("GET", NIGHTLY))["id"] == second["id"]
    INTO["completed"](app, second["id"])
    assert (await api("GET", NIGHTLY))["id"] == second["id"]

    await api("DELETE", f"/api/jobs/{second['id']}", expect=204)

    assert (await api("GET", NIGHTLY))["id"] == job["id"]


async def test_an_open_job_is_found_by_name_behind_a_newer_ended_one(
    app: App, api: Api, job: dict[str, Any], job_fields: dict[str, Any]
) -> None:
    newer = await another(api, job_fields, name="tmp")
    INTO["failed"](app, newer["id"])
    await api("PUT", f"/api/jobs/{newer['id']}", {"name": "nightly"})

    assert (await api("GET", NIGHTLY))["id"] == job["id"]


async def test_ids_are_never_used_again(
    api: Api, job: dict[str, Any], job_fields: dict[str, Any]
) -> None:
    await api("DELETE", NIGHTLY, expect=204)

    assert (await another(api, job_fields))["id"] > job["id"]


async def test_of_many_jobs_of_one_name_at_once_one_is_made(
    api: Api, secrets: dict[str, int], job_fields: dict[str, Any]
) -> None:
    statuses: list[int] = []

    async def make() -> None:
        statuses.append((await api.client.post("/api/jobs", json=job_fields)).status_code)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(make)

    assert sorted(statuses) == [201] + [409] * 19


async def test_a_job_may_keep_its_own_name_in_a_change(api: Api, job: dict[str, Any]) -> None:
    await api("PUT", NIGHTLY, {"name": "nightly"})


async def test_a_change_of_name_meets_the_open_ones_only(
    app: App, api: Api, job: dict[str, Any], job_fields: dict[str, Any]
) -> None:
    other = await another(api, job_fields, name="other")

    problem = await api("PUT", "/api/jobs/other", {"name": "nightly"}, expect=409)
    assert problem["code"] == 1003
    INTO["failed"](app, job["id"])

    assert (await api("PUT", f"/api/jobs/{other['id']}", {"name": "nightly"}))["name"] == "nightly"


async def test_an_ended_job_can_be_mended_while_a_newer_one_has_its_name(
    app: App, api: Api, job: dict[str, Any], job_fields: dict[str, Any]
) -> None:
    INTO["failed delivery"](app, job["id"])
    await another(api, job_fields)

    mended = await api("PUT", f"/api/jobs/{job['id']}", {"keboola_configuration_id": "9"})

    assert mended["keboola_configuration_id"] == "9"


# Paths

READS = ["/api/jobs", NIGHTLY, f"{NIGHTLY}/logs", f"{NIGHTLY}/deliveries"]


async def test_a_trailing_slash_makes_no_difference(api: Api, job: dict[str, Any]) -> None:
    for path in (*READS, "/api/stats", "/api/health", "/api/admin/secrets"):
        assert (await api("GET", f"{path}/")).keys() == (await api("GET", path)).keys()


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("by", ["id", "name"])
async def test_every_verb_takes_an_id_or_a_name_with_or_without_a_slash(
    api: Api, job: dict[str, Any], by: str, slash: str
) -> None:
    base = f"/api/jobs/{job[by]}"

    assert (await api("GET", base + slash))["id"] == job["id"]
    assert (await api("PUT", base + slash, {"poll_interval_seconds": 7}))["id"] == job["id"]
    for verb, status in (("pause", "paused"), ("resume", "active"), ("trigger", "active")):
        done = await api("POST", f"{base}/{verb}{slash}")
        assert (done["job_id"], done["status"]) == (job["id"], status)
        assert done["message"].startswith("Job ")
    for part in ("logs", "deliveries"):
        assert await api("GET", f"{base}/{part}{slash}")
    await api("DELETE", base + slash, expect=204)
    await api("GET", base + slash, expect=404)


JOB_CALLS = [
    ("GET", ""),
    ("PUT", ""),
    ("DELETE", ""),
    ("POST", "/pause"),
    ("POST", "/resume"),
    ("POST", "/trigger"),
    ("GET", "/logs"),
    ("GET", "/deliveries"),
]
UNFOUND = [
    "nobody",
    "0",
    "4711",
    str(2**53 + 1),
    str(2**63),
    "9" * 400,
    "n" * 400,
    "-1",
    "1.0",
    "%00",
]


@pytest.mark.parametrize(("method", "part"), JOB_CALLS)
async def test_an_unknown_job_is_a_404_that_says_where_to_look(
    api: Api, method: str, part: str
) -> None:
    body = {} if method == "PUT" else None

    for wanted in UNFOUND:
        problem = await api(method, f"/api/jobs/{wanted}{part}", body, expect=404)
        assert problem["code"] == 1002
        assert "job list" in problem["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/api/jobs", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("PATCH", NIGHTLY, {"GET", "HEAD", "OPTIONS", "PUT", "DELETE"}),
        ("POST", NIGHTLY, {"GET", "HEAD", "OPTIONS", "PUT", "DELETE"}),
        ("GET", f"{NIGHTLY}/pause", {"OPTIONS", "POST"}),
        ("POST", f"{NIGHTLY}/logs", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/api/health", {"GET", "HEAD", "OPTIONS"}),
        ("TRACE", "/api/jobs", {"GET", "HEAD", "OPTIONS", "POST"}),
    ],
)
async def test_a_wrong_method_is_a_405_that_lists_the_right_ones(
    api: Api, method: str, path: str, allowed: set[str]
) -> None:
    answer = await api.client.request(method, path)

    assert answer.status_code == 405
    assert answer.headers["content-type"] == "application/problem+json"
    assert {one.strip() for one in answer.headers["allow"].split(",")} == allowed
    assert method in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/api", "/nothing", "/api/jobs/a/b/c", "/api/nonsense"])
async def test_an_unknown_path_is_a_problem_that_says_where_to_look(api: Api, path: str) -> None:
    answer = await api.client.request("GET", f"http://localhost{path}")

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert "/openapi.json" in answer.json()["detail"]


async def test_a_job_of_the_other_kind_is_not_found_here_and_says_where_it_is(
    app: App, api: Api, job: dict[str, Any]
) -> None:
    with app.store._database.write() as db:
        db.execute_sql("UPDATE jobs SET kind = 'custom_check'")

    for method, part in JOB_CALLS:
        body = {} if method == "PUT" else None
        problem = await api(method, f"/api/jobs/{job['id']}{part}", body, expect=404)
        assert f"/api/custom-checks/{job['id']}" in problem["detail"]


# States and verbs

TABLE = {
    # state: (pause, resume, trigger): the status after it, or 409 and a word of its message
    "polling": ("paused", "active", "active"),
    "checking": ("paused", "active", "active"),
    "awaiting_script": ("paused", "active", "upload"),
    "delivering": ("paused", "active", "active"),
    "paused": ("paused", "active", "resume"),
    "paused delivering": ("paused", "active", "resume"),
    "completed": ("redeliver", "redeliver", "redeliver"),
    "failed": ("create a new job", "create a new job", "create a new job"),
    "failed delivery": ("redeliver", "redeliver", "redeliver"),
}
PHASES = {
    "polling": "polling",
    "checking": "checking",
    "awaiting_script": "awaiting_script",
    "delivering": "delivering",
}
ROWS = [
    (state, verb, after)
    for state, row in TABLE.items()
    for verb, after in zip(("pause", "resume", "trigger"), row, strict=True)
]


@pytest.mark.parametrize(("state", "verb", "after"), ROWS)
async def test_each_verb_does_in_each_state_what_the_table_says(
    app: App, api: Api, job: dict[str, Any], state: str, verb: str, after: str
) -> None:
    INTO[state](app, job["id"])
    before = await api("GET", NIGHTLY)

    if after in ("active", "paused"):
        assert (await api("POST", f"{NIGHTLY}/{verb}"))["status"] == after
        return

    problem = await api("POST", f"{NIGHTLY}/{verb}", expect=409)
    assert problem["code"] == 1005
    assert after in problem["detail"]
    assert await api("GET", NIGHTLY) == before


@pytest.mark.parametrize("state", TABLE)
async def test_a_phase_says_what_an_active_job_is_doing_and_no_other_has_one(
    app: App, api: Api, job: dict[str, Any], state: str
) -> None:
    INTO[state](app, job["id"])

    assert (await api("GET", NIGHTLY))["phase"] == PHASES.get(state)


@pytest.mark.parametrize(
    ("state", "verb"),
    [
        ("polling", "resume"),
        ("paused", "pause"),
        ("delivering", "resume"),
        ("paused delivering", "pause"),
    ],
)
async def test_a_verb_that_changes_nothing_leaves_no_trace(
    app: App, api: Api, job: dict[str, Any], state: str, verb: str
) -> None:
    INTO[state](app, job["id"])
    before = await api("GET", NIGHTLY)

    await api("POST", f"{NIGHTLY}/{verb}")

    assert await api("GET", NIGHTLY) == before


async def test_a_resumed_job_is_due_at_once(app: App, api: Api, job: dict[str, Any]) -> None:
    check(app, job["id"], finding(app, job["id"], "in_progress"))
    await api("POST", f"{NIGHTLY}/pause")
    now = app.now()

    await api("POST", f"{NIGHTLY}/resume")

    due = app.store.jobs.view(job["id"]).job.next_check_at
    assert due is not None
    assert abs((due - now).total_seconds()) < 1


async def test_a_resumed_delivery_goes_on_where_it_was(
    app: App, api: Api, job: dict[str, Any]
) -> None:
    INTO["paused delivering"](app, job["id"])

    resumed = await api("POST", f"{NIGHTLY}/resume")

    assert (resumed["status"], resumed["phase"]) == ("active", "delivering")


async def test_triggering_while_delivering_makes_the_delivery_due(
    app: App, api: Api, job: dict[str, Any]
) -> None:
    check(app, job["id"], finding(app, job["id"], "completed"))
    deliver(app, job["id"], KeboolaError("Keboola answered 500", Fault.TRANSIENT))
    listed = await api("GET", f"{NIGHTLY}/deliveries")
    waiting = listed["deliveries"][0]["next_attempt_at"]

    await api("POST", f"{NIGHTLY}/trigger")

    again = (await api("GET", f"{NIGHTLY}/deliveries"))["deliveries"][0]
    assert again["next_attempt_at"] < waiting
    assert again["state"] == "pending"


async def test_a_trigger_makes_a_waiting_check_due(app: App, api: Api, job: dict[str, Any]) -> None:
    check(app, job["id"], ERROR)
    before = await api("GET", NIGHTLY)

    after = await api("POST", f"{NIGHTLY}/trigger")

    assert after["next_check_at"] < before["next_check_at"]


async def test_a_trigger_checks_at_once_and_a_pause_stops_it(
    api: Api,
    engine: None,
    secrets: dict[str, int],
    openai: OpenAI,
    job_fields: dict[str, Any],
) -> None:
    openai.add("batch_a", "in_progress")
    await another(api, job_fields, poll_interval_seconds=3600)
    await eventually(api, NIGHTLY, lambda found: found["last_check_status"] == "PENDING")
    asked = len(openai.requests)

    await api("POST", f"{NIGHTLY}/trigger")

    await eventually(api, NIGHTLY, lambda found: len(openai.requests) > asked)


# Changes

ALL_CHANGES: dict[str, Any] = {
    "name": "renamed",
    "batch_ids": ["batch_x", "batch_y"],
    "openai_base_url": "https://other.example/v1",
    "max_failed_percent": 2.5,
    "keboola_stack_url": "https://connection.north-europe.azure.keboola.com",
    "keboola_component_id": "keboola.python-transformation-v2",
    "keboola_configuration_id": "987",
    "keboola_variables": {"depth": {"a": [1, None, "ž"]}, "text": "x"},
    "follow_up": False,
    "poll_interval_seconds": 3600,
    "trigger_on": "terminal",
}


async def test_any_field_can_be_changed_by_itself(api: Api, job: dict[str, Any]) -> None:
    path, before = f"/api/jobs/{job['id']}", job
    for field, value in ALL_CHANGES.items():
        changed = await api("PUT", path, {field: value})
        touched = {field, "batch_id", "batches", "batch_count", "next_check_at"}
        assert changed[field] == value
        assert {name: one for name, one in changed.items() if name not in touched} == {
            name: one for name, one in before.items() if name not in touched
        }
        before = await api("GET", path)
        assert before[field] == value
        del before["logs"]


async def test_a_change_of_everything_at_once_is_one_change(api: Api, job: dict[str, Any]) -> None:
    changed = await api("PUT", NIGHTLY, ALL_CHANGES)

    assert {name: changed[name] for name in ALL_CHANGES} == ALL_CHANGES


async def test_an_empty_change_changes_nothing(api: Api, job: dict[str, Any]) -> None:
    assert await api("PUT", NIGHTLY, {}) == job


DEFAULTS = {
    "openai_base_url": None,
    "max_failed_percent": 100,
    "keboola_component_id": "keboola.orchestrator",
    "keboola_variables": None,
    "follow_up": True,
    "poll_interval_seconds": 120,
    "trigger_on": "success",
}


async def test_null_brings_a_field_back_to_its_default(api: Api, job: dict[str, Any]) -> None:
    for field, default in DEFAULTS.items():
        await api("PUT", NIGHTLY, {field: ALL_CHANGES[field]})
        assert (await api("PUT", NIGHTLY, {field: None}))[field] == default


async def test_null_is_refused_where_a_job_can_not_be_without(
    api: Api, job: dict[str, Any]
) -> None:
    for field in (
        "name", "batch_id", "batch_ids", "openai_secret", "openai_secret_id", "keboola_secret",
        "keboola_secret_id", "keboola_configuration_id",
    ):  # fmt: skip
        problem = await api("PUT", NIGHTLY, {field: None}, expect=400)
        assert faults(problem) == {field: "must not be null"}
    problem = await api("PUT", NIGHTLY, {"keboola_stack_url": None}, expect=400)
    assert "a job must trigger something" in faults(problem)["keboola_stack_url"]
    assert await api("GET", NIGHTLY) == job | {"logs": (await api("GET", NIGHTLY))["logs"]}


async def test_a_change_is_judged_like_a_new_job(
    api: Api, job: dict[str, Any], job_fields: dict[str, Any]
) -> None:
    for changes, field, said in REFUSED_FIELDS:
        problem = await api("PUT", NIGHTLY, job_fields | changes, expect=400)
        assert said in faults(problem)[field]
    assert await api("GET", NIGHTLY) == job | {"logs": (await api("GET", NIGHTLY))["logs"]}


async def test_other_batches_start_anew_and_are_checked_at_once(
    app: App, api: Api, job: dict[str, Any]
) -> None:
    check(app, job["id"], finding(app, job["id"], "in_progress"))
    now = app.now()

    changed = await api("PUT", NIGHTLY, {"batch_ids": ["batch_a", "batch_b"]})

    assert [one["status"] for one in changed["batches"]] == [None, None]
    due = app.store.jobs.view(job["id"]).job.next_check_at
    assert due is not None
    assert abs((due - now).total_seconds()) < 1


async def test_a_setting_that_is_tightened_later_makes_no_stored_job_invalid(
    make_settings: Any, app: App, api: Api, job: dict[str, Any]
) -> None:
    app.close()
    with_narrow_bounds = assemble(make_settings(MIN_POLL_INTERVAL=30, ALLOWED_PRIVATE_HOSTS=""))
    try:
        narrow = Api(with_narrow_bounds)
        changed = await narrow("PUT", NIGHTLY, {"name": "renamed"})
        assert changed["poll_interval_seconds"] == 1
        problem = await narrow("PUT", "/api/jobs/renamed", {"poll_interval_seconds": 2}, expect=400)
        assert "from 30 to 3600 seconds, not 2" in problem["detail"]
        await narrow.client.aclose()
    finally:
        with_narrow_bounds.close()


LATE = ["delivering", "paused delivering", "completed", "failed", "failed delivery"]
ACTION_FIELDS = {
    "name", "keboola_stack_url", "keboola_component_id", "keboola_configuration_id",
    "keboola_variables", "follow_up",
}  # fmt: skip


@pytest.mark.parametrize("state", LATE)
async def test_what_is_decided_can_only_change_its_name_and_actions(
    app: App, api: Api, job: dict[str, Any], state: str
) -> None:
    INTO[state](app, job["id"])
    path = f"/api/jobs/{job['id']}"

    for field, value in ALL_CHANGES.items():
        if field in ACTION_FIELDS:
            assert (await api("PUT", path, {field: value}))[field] == value
        else:
            problem = await api("PUT", path, {field: value, "follow_up": True}, expect=409)
            assert problem["code"] == 1005
            assert field in problem["detail"]
            assert "Create a new job" in problem["detail"]
    assert (await api("GET", path))["follow_up"] is False


@pytest.mark.parametrize("state", ["delivering", "failed delivery"])
async def test_a_delivery_can_be_given_another_secret(
    app: App, api: Api, job: dict[str, Any], state: str
) -> None:
    await api(
        "POST", "/api/admin/secrets", {"name": "new", "type": "keboola", "value": "9"}, expect=201
    )
    INTO[state](app, job["id"])

    changed = await api("PUT", f"/api/jobs/{job['id']}", {"keboola_secret": "new"})

    assert changed["keboola_secret_name"] == "new"


async def test_an_ended_job_whose_secrets_are_deleted_can_still_be_renamed(
    app: App, api: Api, job: dict[str, Any]
) -> None:
    INTO["completed"](app, job["id"])
    for name in ("openai-prod", "keboola-prod"):
        await api("DELETE", f"/api/admin/secrets/{name}", expect=204)

    changed = await api("PUT", NIGHTLY, {"name": "archived", "keboola_configuration_id": "5"})

    assert changed["name"] == "archived"
    assert "openai_secret_id" not in changed


# Lists


@pytest.fixture
async def five(
    app: App, api: Api, job: dict[str, Any], job_fields: dict[str, Any]
) -> list[dict[str, Any]]:
    """An active job, and then a paused, a completed, a failed and a delivering one."""
    made = [job]
    for state in ("paused", "completed", "failed", "delivering"):
        made.append(await another(api, job_fields, name=state, batch_id=f"batch_{state}_100%"[:-2]))
        INTO[state](app, made[-1]["id"])
    return made


async def test_a_list_is_newest_first_and_counts_what_it_leaves_out(
    api: Api, five: list[dict[str, Any]]
) -> None:
    page = await api("GET", "/api/jobs?limit=2&offset=1")

    assert [one["id"] for one in page["jobs"]] == [five[3]["id"], five[2]["id"]]
    assert {key: page[key] for key in ("total", "limit", "offset")} == {
        "total": 5,
        "limit": 2,
        "offset": 1,
    }


async def test_a_list_shows_the_same_documents_as_the_jobs_alone(
    api: Api, five: list[dict[str, Any]]
) -> None:
    listed = {one["id"]: one for one in (await api("GET", "/api/jobs"))["jobs"]}

    for one in five:
        alone = await api("GET", f"/api/jobs/{one['id']}")
        del alone["logs"]
        assert listed[one["id"]] == alone


async def test_what_may_have_been_started_is_looked_for_where_it_was(
    app: App, api: Api, job: dict[str, Any]
) -> None:
    INTO["delivering"](app, job["id"])
    lost = KeboolaError("The answer was lost.", Fault.TRANSIENT, maybe_done=True)
    deliver(app, job["id"], lost)

    problem = await api("PUT", NIGHTLY, {"keboola_configuration_id": "222"}, expect=409)
    assert problem["code"] == 1005
    assert "being looked for" in problem["detail"]
    assert (await api("GET", NIGHTLY))["keboola_configuration_id"] == "123456"
    await api("PUT", NIGHTLY, {"keboola_secret": "keboola-prod"})

    await api("POST", f"{NIGHTLY}/trigger")
    deliver(app, job["id"], UNDECIDED)
    await api("PUT", NIGHTLY, {"keboola_configuration_id": "222"})


@pytest.mark.parametrize("state", INTO)
async def test_a_list_shows_a_job_as_it_is_now(
    app: App, api: Api, job: dict[str, Any], state: str
) -> None:
    assert await listed(api) == [job]

    INTO[state](app, job["id"])

    assert await listed(api) == [await alone(api)]


async def test_a_list_shows_a_job_after_its_check_as_before(
    app: App, api: Api, job: dict[str, Any]
) -> None:
    app.pulse.jobs[job["id"]] = "http://somewhere:80"
    assert [one["phase"] for one in await listed(api)] == ["checking"]

    del app.pulse.jobs[job["id"]]

    assert [one["phase"] for one in await listed(api)] == ["polling"]


async def test_a_list_shows_a_job_whose_fields_take_much_room(
    app: App, api: Api, job: dict[str, Any]
) -> None:
    data = {"batches": [], "note": "x" * 10_000}
    check(app, job["id"], Finding(verdict=Verdict.PENDING, message="Running.", data=data))
    assert await listed(api) == [await alone(api)]

    await api("POST", f"{NIGHTLY}/pause")

    assert [one["status"] for one in await listed(api)] == ["paused"]


async def test_a_list_can_be_filtered(api: Api, five: list[dict[str, Any]]) -> None:
    for query, names in (
        ("status=active", ["delivering", "nightly"]),
        ("status=paused", ["paused"]),
        ("status=completed", ["completed"]),
        ("status=failed", ["failed"]),
        ("q=NIGHT", ["nightly"]),
        ("q=batch_paused", ["paused"]),
        ("q=_a", ["nightly"]),
        ("q=%25", []),
        ("q=openai_base_url", []),
        ("q=%5C", []),
        ("q=%27", []),
        ("q=", ["delivering", "failed", "completed", "paused", "nightly"]),
        ("q=ed&status=failed", ["failed"]),
        ("kind=polling&limit=1", ["delivering"]),
        ("kind=all&limit=1", ["delivering"]),
        ("offset=5", []),
        ("offset=9007199254740992", []),
    ):
        page = await api("GET", f"/api/jobs?{query}")
        assert [one["name"] for one in page["jobs"]] == names, query


async def test_a_search_takes_wildcards_literally(
    api: Api, job: dict[str, Any], job_fields: dict[str, Any]
) -> None:
    names = ("50% off", "a_c", "back\\slash", "it's", "abc 50 offs")
    for name in names:
        await another(api, job_fields, name=name)
    for name in names:
        answer = await api.client.get("/api/jobs", params={"q": name})
        assert [one["name"] for one in answer.json()["jobs"]] == [name]


async def test_it_refuses_a_bad_parameter_by_name(api: Api, job: dict[str, Any]) -> None:
    for path, query, field in (
        ("/api/jobs", "limit=0", "limit"),
        ("/api/jobs", "limit=1001", "limit"),
        ("/api/jobs", "limit=1e2", "limit"),
        ("/api/jobs", "limit=-1", "limit"),
        ("/api/jobs", "limit=", "limit"),
        ("/api/jobs", "limit=%D9%A1", "limit"),
        ("/api/jobs", "offset=9007199254740993", "offset"),
        ("/api/jobs", "offset=99999999999999999999999", "offset"),
        ("/api/jobs", "status=ACTIVE", "status"),
        ("/api/jobs", "status=", "status"),
        ("/api/jobs", "kind=custom_check", "kind"),
        ("/api/jobs", f"q={'x' * 256}", "q"),
        ("/api/jobs", "q=%00", "q"),
        ("/api/jobs", "limit=1&limit=1", "limit"),
        ("/api/jobs", "Limit=1", "Limit"),
        ("/api/jobs", "%ff=1", "%FF"),
        (f"{NIGHTLY}/logs", "after=-1", "after"),
        (f"{NIGHTLY}/logs", "after=9223372036854775808", "after"),
        (f"{NIGHTLY}/logs", "status=failed", "status"),
        (f"{NIGHTLY}/deliveries", "after=1", "after"),
    ):
        problem = await api("GET", f"{path}?{query}", expect=400)
        assert problem["code"] == 1100
        assert list(faults(problem)) == [field]


# Logs and deliveries


async def test_a_jobs_log_is_newest_first(app: App, api: Api, job: dict[str, Any]) -> None:
    INTO["completed"](app, job["id"])

    page = await api("GET", f"{NIGHTLY}/logs")

    assert [row["status"] for row in page["logs"]] == [
        "completed",
        "triggered",
        "success",
        "created",
    ]
    assert page["total"] == 4
    assert {row["job_id"] for row in page["logs"]} == {job["id"]}
    checked = page["logs"][2]
    assert checked["execution_time_ms"] == 7
    assert checked["created_at"].endswith("Z")


async def test_a_log_is_paged(app: App, api: Api, job: dict[str, Any]) -> None:
    INTO["completed"](app, job["id"])

    page = await api("GET", f"{NIGHTLY}/logs?limit=1&offset=2")

    assert [row["status"] for row in page["logs"]] == ["success"]
    assert (page["total"], page["limit"], page["offset"]) == (4, 1, 2)


async def test_a_log_after_an_entry_has_only_what_came_later(
    app: App, api: Api, job: dict[str, Any]
) -> None:
    seen = (await api("GET", f"{NIGHTLY}/logs"))["logs"][0]["id"]
    INTO["completed"](app, job["id"])

    page = await api("GET", f"{NIGHTLY}/logs?after={seen}")

    assert [row["status"] for row in page["logs"]] == ["completed", "triggered", "success"]
    assert page["total"] == 3


async def test_a_jobs_document_carries_its_newest_twenty_log_entries(
    app: App, api: Api, job: dict[str, Any]
) -> None:
    for _ in range(25):
        check(app, job["id"], finding(app, job["id"], "in_progress"))

    logs = (await api("GET", NIGHTLY))["logs"]

    assert len(logs) == 20
    assert logs == (await api("GET", f"{NIGHTLY}/logs?limit=20"))["logs"]


async def test_every_verb_leaves_a_line_in_the_log(api: Api, job: dict[str, Any]) -> None:
    await api("POST", f"{NIGHTLY}/trigger")
    await api("POST", f"{NIGHTLY}/pause")
    await api("POST", f"{NIGHTLY}/resume")
    await api("PUT", NIGHTLY, {"name": "nightly", "follow_up": False})

    rows = (await api("GET", f"{NIGHTLY}/logs"))["logs"]

    words = [row["status"] for row in rows]
    assert words == ["changed", "resumed", "paused", "triggered", "created"]
    assert "follow_up, name" in rows[0]["message"]


async def test_a_delivery_shows_its_event_and_every_attempt(
    app: App, api: Api, job: dict[str, Any]
) -> None:
    check(app, job["id"], finding(app, job["id"], "completed"))
    late = KeboolaError(
        "Keboola answered 503", Fault.RATE_LIMITED, retry_after_s=60, status_code=503, answer="busy"
    )
    deliver(app, job["id"], late)

    page = await api("GET", f"{NIGHTLY}/deliveries")

    assert (page["total"], page["limit"], page["offset"]) == (1, 100, 0)
    (one,) = page["deliveries"]
    assert (one["action"], one["state"], one["receipt"]) == ("keboola", "pending", None)
    assert one["event_id"] == one["event"]["id"]
    assert one["next_attempt_at"].endswith("Z")
    (attempt,) = one["attempts"]
    assert attempt["started_at"].endswith("Z")
    assert (attempt["status_code"], attempt["duration_ms"]) == (503, 11)
    assert (attempt["answer"], attempt["outcome"]) == ("busy", "failed")


async def test_a_receipt_shows_the_started_job(app: App, api: Api, job: dict[str, Any]) -> None:
    INTO["completed"](app, job["id"])

    started = (await api("GET", NIGHTLY))["keboola_job"]

    assert started["id"] == "1001"
    assert started["url"] == "https://queue.example/jobs/1001"
    assert (await api("GET", f"{NIGHTLY}/deliveries"))["deliveries"][0]["receipt"]["id"] == "1001"


@pytest.mark.parametrize("state", ["failed delivery", "unconfirmed delivery", "completed"])
async def test_redelivering_makes_an_ended_job_deliver_again_under_the_same_event(
    app: App, api: Api, job: dict[str, Any], state: str
) -> None:
    INTO[state](app, job["id"])
    before = (await api("GET", f"{NIGHTLY}/deliveries"))["deliveries"][0]

    again = await api("POST", f"/api/deliveries/{before['id']}/redeliver")

    assert (again["state"], again["event_id"]) == ("pending", before["event_id"])
    assert len(again["attempts"]) == 1
    after = await api("GET", NIGHTLY)
    assert (after["status"], after["phase"]) == ("active", "delivering")
    deliver(app, job["id"], SENT)
    assert (await api("GET", NIGHTLY))["status"] == "completed"


async def test_a_failed_job_without_a_delivery_has_nothing_to_redeliver(
    app: App, api: Api, job: dict[str, Any]
) -> None:
    INTO["failed"](app, job["id"])

    assert (await api("GET", f"{NIGHTLY}/deliveries"))["total"] == 0


async def test_redelivering_is_refused_while_the_job_is_paused(
    app: App, api: Api, job: dict[str, Any]
) -> None:
    INTO["paused delivering"](app, job["id"])
    one = (await api("GET", f"{NIGHTLY}/deliveries"))["deliveries"][0]

    problem = await api("POST", f"/api/deliveries/{one['id']}/redeliver", expect=409)

    assert problem["code"] == 1005
    assert "resume" in problem["detail"]


async def test_redelivering_is_refused_while_it_is_being_sent(
    app: App, api: Api, job: dict[str, Any]
) -> None:
    check(app, job["id"], finding(app, job["id"], "completed"))
    one = (await api("GET", f"{NIGHTLY}/deliveries"))["deliveries"][0]
    app.store.deliveries.begin(one["id"], app.now())

    problem = await api("POST", f"/api/deliveries/{one['id']}/redeliver", expect=409)

    assert problem["code"] == 1005


async def test_redelivering_is_refused_while_a_newer_job_has_the_name(
    app: App, api: Api, job: dict[str, Any], job_fields: dict[str, Any]
) -> None:
    INTO["failed delivery"](app, job["id"])
    listed = await api("GET", f"{NIGHTLY}/deliveries")
    path = f"/api/deliveries/{listed['deliveries'][0]['id']}/redeliver"
    await another(api, job_fields)

    problem = await api("POST", path, expect=409)

    assert problem["code"] == 1003
    assert "choose another name" in problem["detail"]
    await api("PUT", f"/api/jobs/{job['id']}", {"name": "nightly of yesterday"})
    assert (await api("POST", path))["state"] == "pending"


async def test_an_unknown_delivery_is_a_404(api: Api) -> None:
    for wanted in UNFOUND:
        problem = await api("POST", f"/api/deliveries/{wanted}/redeliver", expect=404)
        assert "Delivery" in problem["detail"]


# Delete


@pytest.mark.parametrize("state", INTO)
async def test_a_job_can_be_deleted_in_every_state_with_all_that_is_its_own(
    app: App, api: Api, job: dict[str, Any], state: str
) -> None:
    INTO[state](app, job["id"])

    await api("DELETE", NIGHTLY, expect=204)

    with app.store._database.read() as db:
        for table in ("jobs", "actions", "job_secrets", "logs", "deliveries", "attempts"):
            assert db.execute_sql(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


async def test_a_job_that_is_deleted_while_it_is_checked_stays_deleted(
    api: Api,
    engine: None,
    secrets: dict[str, int],
    openai: OpenAI,
    keboola: Keboola,
    job_fields: dict[str, Any],
) -> None:
    openai.add("batch_a", Batch("completed", delay_s=0.4))
    openai.add("batch_b", "in_progress")
    await another(api, job_fields)
    await eventually(api, NIGHTLY, lambda found: found["phase"] == "checking")

    await api("DELETE", NIGHTLY, expect=204)

    await another(api, job_fields, name="later", batch_id="batch_b")
    await eventually(api, "/api/health", lambda found: found["scheduler"]["checks_in_flight"] == 0)
    await api("GET", NIGHTLY, expect=404)
    assert keboola.jobs == []


async def test_a_used_up_delivery_is_shown_by_the_reason_of_its_job(
    app: App, api: Api, job: dict[str, Any]
) -> None:
    INTO["failed delivery"](app, job["id"])

    found = await api("GET", NIGHTLY)

    assert found["status"] == "failed"
    assert str(REFUSED) in found["status_reason"]
    assert found["last_check_status"] == "SUCCESS"

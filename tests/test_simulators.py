"""The simulators keep their word: what the other tests, the demo and the benchmarks rest on."""

from __future__ import annotations

import ast
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

import teckochecker.simulators
from teckochecker.simulators import (
    API_KEY,
    DROP,
    HANG,
    HTML,
    LIST,
    OTHER_ID,
    STORAGE_TOKEN,
    TRUNCATED,
    Afterwards,
    Answer,
    Batch,
    Keboola,
    OpenAI,
    Recorded,
    Reply,
    Simulator,
    Token,
    maintenance,
    openai_error,
    queue_error,
)

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "tests/data/openai-batch.schema.json").read_text())
STATUSES = SCHEMA["$defs"]["Batch"]["properties"]["status"]["enum"]
BEARER = {"Authorization": f"Bearer {API_KEY}"}
TOKEN = {"X-StorageApi-Token": STORAGE_TOKEN}
JOB = {"component": "keboola.orchestrator", "config": "123"}
READ_TIMEOUT_S = 0.05  # for answers that never come
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # loading certificates is a client's slowest part


class Echo(Simulator):
    """The smallest simulator: answers with the path."""

    def answer(self, request: Recorded) -> Reply:
        if request.path == "/broken":
            raise ZeroDivisionError("a fault of the simulator")
        return Answer(content=request.path)


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as simulator:
        yield simulator


@pytest.fixture
def openai() -> Iterator[OpenAI]:
    with OpenAI() as simulator:
        yield simulator


@pytest.fixture
def keboola() -> Iterator[Keboola]:
    with Keboola() as simulator:
        yield simulator


def call(
    simulator: Simulator, path: str, method: str = "GET", timeout_s: float = 5.0, **options: Any
) -> httpx.Response:
    with httpx.Client(verify=NO_TLS, trust_env=False, timeout=timeout_s) as client:
        return client.request(method, simulator.url + path, **options)


def status_of(simulator: OpenAI, batch_id: str) -> httpx.Response:
    return call(simulator, f"/v1/batches/{batch_id}", headers=BEARER)


def post_job(simulator: Keboola, timeout_s: float = 5.0, **fields: object) -> httpx.Response:
    body = {**JOB, **fields}
    return call(simulator, "/jobs", "POST", timeout_s, headers=TOKEN, json=body)


def search(simulator: Keboola, **query: str) -> httpx.Response:
    return call(simulator, "/search/jobs", headers=TOKEN, params=query)


def test_a_request_is_recorded_as_it_was_read(echo: Echo) -> None:
    before = time.time()
    call(echo, "/a?x=1&x=2&y=", "POST", headers={"X-Own": "Value"}, json={"n": [1]})
    (request,) = echo.requests
    assert (request.method, request.path, request.body) == ("POST", "/a", {"n": [1]})
    assert request.query == {"x": ["1", "2"], "y": [""]}
    assert request.headers["x-own"] == "Value"
    assert before <= request.at <= time.time()


def test_one_connection_serves_many_requests(echo: Echo) -> None:
    with httpx.Client(verify=NO_TLS, trust_env=False, base_url=echo.url) as client:
        streams = {
            client.get("/again").extensions["network_stream"].get_extra_info("client_addr")
            for _ in range(5)
        }
    assert len(streams) == 1


def test_requests_at_once_wait_for_the_latency_together() -> None:
    with Echo(latency_s=0.2) as simulator, ThreadPoolExecutor(30) as pool:
        began = time.monotonic()
        answers = list(pool.map(lambda _: call(simulator, "/slow").status_code, range(30)))
        assert answers == [200] * 30
        assert 0.2 <= time.monotonic() - began < 3.0


def test_hooks_run_when_a_request_is_read_and_when_it_was_answered(echo: Echo) -> None:
    events: list[str] = []
    answered = threading.Event()

    def on_answered(request: Recorded) -> None:
        events.append(f"answered {request.path}")
        answered.set()

    echo.on_read = lambda request: events.append(f"read {request.path}, of {len(echo.requests)}")
    echo.on_answered = on_answered
    call(echo, "/a")
    assert answered.wait(5)
    assert events == ["read /a, of 1", "answered /a"]


def test_on_read_comes_before_anything_is_done(keboola: Keboola) -> None:
    seen: list[int] = []
    keboola.on_read = lambda request: seen.append(len(keboola.jobs))
    post_job(keboola)
    assert seen == [0]
    assert len(keboola.jobs) == 1


def test_what_is_not_answered_is_not_reported_as_answered(echo: Echo) -> None:
    answered: list[Recorded] = []
    echo.on_answered = answered.append
    echo.instead("GET", "/a", DROP)
    with pytest.raises(httpx.RemoteProtocolError):
        call(echo, "/a")
    assert answered == []


def test_a_client_killed_while_its_request_is_read_is_no_fault(keboola: Keboola) -> None:
    script = (
        "import http.client, sys\n"
        "caller = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]))\n"
        "caller.request('POST', '/jobs', sys.argv[2], {'X-StorageApi-Token': sys.argv[3]})\n"
        "caller.getresponse()\n"
    )
    arguments = [str(keboola.port), json.dumps(JOB), STORAGE_TOKEN]
    started = threading.Event()

    def kill(request: Recorded) -> None:
        assert started.wait(5)
        victim.kill()
        victim.wait(5)

    keboola.on_read = kill
    with subprocess.Popen([sys.executable, "-c", script, *arguments]) as victim:
        started.set()
    assert victim.returncode == -signal.SIGKILL
    assert keboola.close() == []
    assert len(keboola.jobs) == 1


def test_half_a_request_is_none(keboola: Keboola) -> None:
    with socket.create_connection(("127.0.0.1", keboola.port)) as client:
        client.sendall(b"POST /jobs HTTP/1.1\r\nContent-Length: 100\r\n\r\n{}")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
    assert keboola.requests == []


@pytest.mark.parametrize("error", [AssertionError("no such header"), TimeoutError("too late")])
def test_a_hook_that_fails_fails_the_test(error: Exception) -> None:
    def fail(request: Recorded) -> None:
        raise error

    with pytest.raises((AssertionError, RuntimeError)), Echo() as simulator:  # noqa: PT012
        simulator.on_read = fail
        with pytest.raises(httpx.RemoteProtocolError):
            call(simulator, "/a")


def test_a_fault_of_a_simulator_is_raised_at_its_end(capfd: pytest.CaptureFixture[str]) -> None:
    simulator = Echo().start()
    with pytest.raises(httpx.RemoteProtocolError):
        call(simulator, "/broken")
    with pytest.raises(ZeroDivisionError):
        simulator.__exit__(None, None, None)
    assert capfd.readouterr() == ("", "")


def test_instead_serves_each_reply_once_and_then_the_usual_answer(echo: Echo) -> None:
    echo.instead("GET", "/a*", Answer(503), Afterwards(), Answer(500))
    assert call(echo, "/other").status_code == 200
    assert [call(echo, "/a/b").status_code for _ in range(4)] == [503, 200, 500, 200]


def test_instead_for_ever_lasts_until_restore(echo: Echo) -> None:
    echo.instead("*", "*", Answer(502), Answer(503), forever=True)
    assert [call(echo, "/a").status_code for _ in range(3)] == [502, 503, 503]
    echo.restore()
    assert call(echo, "/a").status_code == 200


def test_a_hanging_request_is_read_and_never_answered(echo: Echo) -> None:
    echo.instead("GET", "/a", HANG)
    with pytest.raises(httpx.ReadTimeout):
        call(echo, "/a", timeout_s=READ_TIMEOUT_S)
    assert echo.wait_for(lambda request: request.path == "/a") == echo.asked("GET", "/a")[0]


def test_close_ends_hanging_and_idle_connections_and_their_threads() -> None:
    threads = threading.active_count()
    simulator = Echo().start()
    simulator.instead("GET", "/hang", HANG)
    with ThreadPoolExecutor(1) as pool, httpx.Client(verify=NO_TLS, trust_env=False) as idle:
        idle.get(simulator.url)
        hanging = pool.submit(call, simulator, "/hang")
        simulator.wait_for(lambda request: request.path == "/hang")
        assert simulator.close() == []
        with pytest.raises(httpx.RemoteProtocolError):
            hanging.result(5)
    assert threading.active_count() == threads


def test_close_does_not_wait_for_the_latency() -> None:
    with ThreadPoolExecutor(1) as pool:
        with Echo(latency_s=60) as simulator:
            waiting = pool.submit(call, simulator, "/slow")
            simulator.wait_for(lambda request: request.path == "/slow")
            began = time.monotonic()
        assert time.monotonic() - began < 5
        with pytest.raises(httpx.RemoteProtocolError):
            waiting.result(5)


def test_it_comes_back_on_the_same_port_with_its_state(openai: OpenAI) -> None:
    openai.add("batch_a", "in_progress", "completed")
    port = openai.port
    assert status_of(openai, "batch_a").json()["status"] == "in_progress"
    openai.close()
    with pytest.raises(httpx.ConnectError):
        status_of(openai, "batch_a")
    openai.start()
    assert openai.port == port
    assert status_of(openai, "batch_a").json()["status"] == "completed"


def test_wait_for_finds_past_and_coming_requests(echo: Echo) -> None:
    call(echo, "/a")
    assert echo.wait_for(lambda request: request.path == "/a").path == "/a"
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(echo.wait_for, lambda request: request.path == "/a", count=2)
        call(echo, "/a")
        assert coming.result(5) == echo.requests[1]


def test_wait_for_says_what_came_instead(echo: Echo) -> None:
    call(echo, "/a")
    with pytest.raises(TimeoutError, match="GET /a"):
        echo.wait_for(lambda request: request.path == "/b", timeout_s=0.01)


def test_a_truncated_answer_promises_more_than_it_sends(echo: Echo) -> None:
    echo.instead("GET", "/a", TRUNCATED)
    with pytest.raises(httpx.RemoteProtocolError, match="expected 408"):
        call(echo, "/a")


def test_a_dripping_answer_outlives_every_read_timeout(echo: Echo) -> None:
    echo.instead("GET", "/a", Answer(content="drip", drip_s=0.003))
    began = time.monotonic()
    assert call(echo, "/a", timeout_s=0.25).json() == "drip"
    assert time.monotonic() - began > 0.25


def test_html_comes_with_status_200(echo: Echo) -> None:
    echo.instead("GET", "/a", HTML)
    answer = call(echo, "/a")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    assert answer.text.startswith("<!doctype html>")


def test_the_simulators_import_the_standard_library_only() -> None:
    for path in Path(teckochecker.simulators.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            for name in names:
                own = name.startswith("teckochecker.simulators.")
                assert own or name.partition(".")[0] in sys.stdlib_module_names, (path, name)


@pytest.mark.parametrize("status", STATUSES)
def test_a_batch_is_valid_and_complete_in_every_state(openai: OpenAI, status: str) -> None:
    openai.add("batch_a", Batch(status, failed=3))
    document = status_of(openai, "batch_a").json()
    present = {name: value for name, value in document.items() if value is not None}
    jsonschema.validate(present, SCHEMA)
    assert document.keys() == SCHEMA["$defs"]["Batch"]["properties"].keys()
    assert (document["id"], document["status"]) == ("batch_a", status)


@pytest.mark.parametrize("last", ["completed", "expired", "cancelled", "failed"])
def test_instants_follow_each_other_and_never_move(openai: OpenAI, last: str) -> None:
    openai.add("batch_a", "validating", "in_progress", "finalizing", last)
    documents = [status_of(openai, "batch_a").json() for _ in range(5)]
    order = ["created_at", "in_progress_at", "finalizing_at", f"{last}_at"]
    instants = [documents[-1][name] for name in order if documents[-1][name] is not None]
    assert instants == sorted(instants)
    assert documents[-1][f"{last}_at"] is not None
    assert documents[0]["in_progress_at"] is None
    for earlier, later in pairwise(documents):
        kept = [name for name in order if earlier[name] is not None and later[name] is not None]
        assert [earlier[name] for name in kept] == [later[name] for name in kept]


def test_a_batch_expires_a_day_after_its_creation(openai: OpenAI) -> None:
    openai.add("batch_old", "in_progress", created_at=1_700_000_000)
    document = status_of(openai, "batch_old").json()
    assert document["expires_at"] - document["created_at"] == 86_400


def test_counts_and_files_fit_each_other(openai: OpenAI) -> None:
    openai.add("batch_a", Batch("completed", total=10, failed=10), Batch("completed", total=10))
    failed, fine = (status_of(openai, "batch_a").json() for _ in range(2))
    assert failed["request_counts"] == {"total": 10, "completed": 0, "failed": 10}
    assert failed["output_file_id"] is None
    assert failed["error_file_id"] is not None
    assert fine["request_counts"] == {"total": 10, "completed": 10, "failed": 0}
    assert fine["output_file_id"] is not None
    assert fine["error_file_id"] is None


def test_a_script_takes_one_step_per_call_and_repeats_its_last(openai: OpenAI) -> None:
    openai.add(
        "batch_a",
        "in_progress",
        openai_error(429, retry_after=7),
        openai_error(429, "insufficient_quota"),
        openai_error(500),
        HTML,
        LIST,
        OTHER_ID,
        "a_word_nobody_knows",
        "completed",
    )
    replies = [status_of(openai, "batch_a") for _ in range(10)]
    first, limited, quota, broken, html, listed, other, unknown, *ended = replies
    assert first.json()["status"] == "in_progress"
    assert (limited.status_code, limited.headers["Retry-After"]) == (429, "7")
    assert limited.json()["error"]["code"] == "rate_limit_exceeded"
    assert quota.json()["error"]["code"] == "insufficient_quota"
    assert (broken.status_code, broken.json()["error"]["type"]) == (500, "server_error")
    assert html.headers["Content-Type"].startswith("text/html")
    assert isinstance(listed.json(), list)
    assert other.json()["id"] != "batch_a"
    assert unknown.json()["status"] == "a_word_nobody_knows"
    assert [reply.json()["status"] for reply in ended] == ["completed", "completed"]


def test_silent_and_broken_steps_end_the_connection(openai: OpenAI) -> None:
    openai.add("batch_a", DROP, TRUNCATED, "completed")
    for _ in range(2):
        with pytest.raises(httpx.RemoteProtocolError):
            status_of(openai, "batch_a")
    assert status_of(openai, "batch_a").json()["status"] == "completed"


def test_one_batch_can_be_slower_than_the_others(openai: OpenAI) -> None:
    openai.add("batch_slow", Batch("in_progress", delay_s=60))
    with pytest.raises(httpx.ReadTimeout):
        call(openai, "/v1/batches/batch_slow", timeout_s=READ_TIMEOUT_S, headers=BEARER)
    assert status_of(openai, "batch_bench_1").json()["status"] == "in_progress"


def test_a_script_can_follow_the_clock(openai: OpenAI) -> None:
    openai.add("batch_long", "in_progress", "completed", each_s=3600)
    openai.add("batch_short", "in_progress", "completed", each_s=0.001)
    time.sleep(0.002)
    for _ in range(3):
        assert status_of(openai, "batch_long").json()["status"] == "in_progress"
    assert status_of(openai, "batch_short").json()["status"] == "completed"


def test_a_family_of_ids_shares_its_steps_but_not_its_place(openai: OpenAI) -> None:
    openai.add("batch_bench_short_*", "in_progress", "completed")
    for name in ("batch_bench_short_1", "batch_bench_short_2"):
        words = [status_of(openai, name).json()["status"] for _ in range(2)]
        assert words == ["in_progress", "completed"]
    assert [status_of(openai, "batch_bench_9").json()["status"] for _ in range(3)] == [
        "in_progress"
    ] * 3


def test_an_unknown_batch_is_404_in_openais_form(openai: OpenAI) -> None:
    answer = status_of(openai, "batch_none")
    assert answer.status_code == 404
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["/v1/batches/batch_a", "/v1/batches", "/v1/models"])
def test_a_wrong_key_is_401_and_shows_only_its_ends(openai: OpenAI, path: str) -> None:
    openai.add("batch_a", "completed")
    answer = call(openai, path, headers={"Authorization": "Bearer sk-wrong-0123456789"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert "sk-wrong" in answer.json()["error"]["message"]
    assert "sk-wrong-0123456789" not in answer.text
    assert call(openai, path).status_code == 401
    assert call(openai, path, headers=BEARER).status_code == 200


def test_every_answer_has_a_request_id_of_its_own(openai: OpenAI) -> None:
    openai.instead("GET", "/v1/models", HTML)
    ids = [
        call(openai, path, headers=BEARER).headers["x-request-id"]
        for path in ("/v1/models", "/v1/models", "/v1/batches/none", "/nowhere")
    ]
    assert len(set(ids)) == 4


def test_the_list_is_paged_newest_first(openai: OpenAI) -> None:
    for number in range(5):
        openai.add(f"batch_{number}", "in_progress", "completed")

    def page(**query: object) -> dict[str, Any]:
        return call(openai, "/v1/batches", headers=BEARER, params=query).json()

    first = page(limit=3)
    assert [batch["id"] for batch in first["data"]] == ["batch_4", "batch_3", "batch_2"]
    assert (first["object"], first["last_id"], first["has_more"]) == ("list", "batch_2", True)
    rest = page(limit=3, after=first["last_id"])
    assert [batch["id"] for batch in rest["data"]] == ["batch_1", "batch_0"]
    assert rest["has_more"] is False
    assert {batch["status"] for batch in page()["data"]} == {"completed"}


@pytest.mark.parametrize("limit", ["0", "101", "many"])
def test_the_list_refuses_a_limit_out_of_bounds(openai: OpenAI, limit: str) -> None:
    answer = call(openai, "/v1/batches", headers=BEARER, params={"limit": limit})
    assert answer.status_code == 400


def test_discovery_needs_no_token_and_names_the_queue(keboola: Keboola) -> None:
    answer = call(keboola, "/v2/storage?exclude=components").json()
    assert {"id": "queue", "url": keboola.url} in answer["services"]
    assert "components" not in answer


def test_a_token_can_be_verified() -> None:
    tokens = ["4711-1-good", Token("4711-2-off", disabled=True), Token("x", creates_jobs=False)]
    with Keboola(tokens=tokens) as simulator:

        def verify(token: str) -> httpx.Response:
            headers = {"X-StorageApi-Token": token}
            return call(simulator, "/v2/storage/tokens/verify", headers=headers)

        good = verify("4711-1-good").json()
        assert good["owner"] == {"id": 4711, "name": "Simulated project"}
        assert (good["isDisabled"], good["isExpired"], good["canCreateJobs"]) == (
            False,
            False,
            True,
        )
        assert verify("4711-2-off").json()["isDisabled"] is True
        assert verify("x").json()["canCreateJobs"] is False
        refused = verify("4711-3-wrong")
        assert (refused.status_code, refused.json()["code"]) == (401, "storage.tokenInvalid")
        assert refused.json()["exceptionId"]


@pytest.mark.parametrize(
    ("token", "status"),
    [
        (Token("t", disabled=True), 401),
        (Token("t", expired=True), 401),
        (Token("t", creates_jobs=False), 403),
    ],
)
def test_a_limited_token_starts_no_job(token: Token, status: int) -> None:
    with Keboola(tokens=[token]) as simulator:
        headers = {"X-StorageApi-Token": "t"}
        assert call(simulator, "/jobs", "POST", headers=headers, json=JOB).status_code == status
        assert simulator.jobs == []


def test_two_stacks_refuse_each_others_tokens() -> None:
    with Keboola(tokens=["1-1-a"]) as one, Keboola(tokens=["2-2-b"]) as two:
        numbers = set()
        for stack, own, other in ((one, "1-1-a", "2-2-b"), (two, "2-2-b", "1-1-a")):
            refused = call(stack, "/jobs", "POST", headers={"X-StorageApi-Token": other}, json=JOB)
            assert (refused.status_code, refused.json()["code"]) == (401, 401)
            started = call(stack, "/jobs", "POST", headers={"X-StorageApi-Token": own}, json=JOB)
            numbers.add(started.json()["id"])
        assert len(numbers) == 2


def test_a_new_job_is_created_and_repeats_what_was_sent(keboola: Keboola) -> None:
    data = {"values": [{"name": "teckochecker_event_id", "value": "evt_1"}]}
    answer = call(
        keboola,
        "/jobs",
        "POST",
        headers={**TOKEN, "X-KBC-RunId": "77"},
        json={**JOB, "variableValuesData": data},
    )
    job = answer.json()
    assert answer.status_code == 201
    assert (job["status"], job["isFinished"], job["mode"]) == ("created", False, "run")
    assert (job["component"], job["config"]) == ("keboola.orchestrator", "123")
    assert job["variableValuesData"] == data
    assert isinstance(job["id"], str)
    assert (job["parentRunId"], job["runId"]) == ("77", f"77.{job['id']}")
    assert job["url"] == f"{keboola.url}/jobs/{job['id']}"
    assert keboola.jobs == [job]


def test_a_job_runs_to_its_end(keboola: Keboola) -> None:
    number = post_job(keboola).json()["id"]
    looks = [call(keboola, f"/jobs/{number}", headers=TOKEN).json() for _ in range(4)]
    assert [job["status"] for job in looks] == ["waiting", "processing", "success", "success"]
    assert [job["isFinished"] for job in looks] == [False, False, True, True]
    assert looks[0]["startTime"] is None
    assert looks[1]["startTime"] <= looks[2]["endTime"]
    assert (looks[1]["result"], looks[2]["result"]["message"] != "") == ([], True)


@pytest.mark.parametrize("end", ["warning", "error", "terminated", "cancelled"])
def test_a_plan_decides_how_jobs_of_a_configuration_end(keboola: Keboola, end: str) -> None:
    keboola.plan("123", end)
    ended, other = post_job(keboola).json()["id"], post_job(keboola, config="9").json()["id"]
    document = call(keboola, f"/jobs/{ended}", headers=TOKEN).json()
    assert (document["status"], document["isFinished"]) == (end, True)
    assert call(keboola, f"/jobs/{other}", headers=TOKEN).json()["status"] == "waiting"


def test_an_unknown_job_is_404_in_the_queues_form(keboola: Keboola) -> None:
    answer = call(keboola, "/jobs/1", headers=TOKEN)
    assert answer.status_code == 404
    assert answer.json().keys() == {"error", "code", "exceptionId", "status", "context"}


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"component": None}, "component"),
        ({"config": 123}, "job.config"),
        ({"mode": "fast"}, "fast"),
        ({"label": "x"}, "label"),
        ({"delay": 5, "delayedStartTime": "2030-01-01T00:00:00Z"}, "together"),
        ({"variableValuesData": {}}, "values"),
        ({"variableValuesData": {"values": [{"name": "n", "value": 1}]}}, "values.0.value"),
        ({"variableValuesData": {"values": [{"name": "n"}]}}, "values.0"),
    ],
)
def test_a_job_that_keboola_would_refuse_is_refused(
    keboola: Keboola, fields: dict[str, object], word: str
) -> None:
    answer = post_job(keboola, **fields)
    assert (answer.status_code, answer.json()["status"]) == (400, "error")
    assert word in answer.json()["error"]
    assert keboola.jobs == []


def test_a_body_that_is_no_object_is_refused(keboola: Keboola) -> None:
    for content in (b"", b"[]", b"{"):
        answer = call(keboola, "/jobs", "POST", headers=TOKEN, content=content)
        assert answer.status_code == 400


def test_a_search_answers_a_list_newest_first(keboola: Keboola) -> None:
    one, two = (post_job(keboola).json()["id"] for _ in range(2))
    post_job(keboola, config="9")
    found = search(keboola, componentId="keboola.orchestrator", configId="123").json()
    assert [job["id"] for job in found] == [two, one]
    assert len(search(keboola, limit="1").json()) == 1
    assert search(keboola, componentId="other").json() == []
    assert len(search(keboola, **{"configId[]": "9"}).json()) == 1


def test_a_search_can_begin_at_an_instant(keboola: Keboola) -> None:
    post_job(keboola)
    assert len(search(keboola, createdTimeFrom="2020-01-01T00:00:00Z").json()) == 1
    assert search(keboola, createdTimeFrom="2999-01-01T00:00:00+00:00").json() == []
    assert search(keboola, createdTimeFrom="yesterday").status_code == 400


def test_a_search_refuses_what_it_does_not_know(keboola: Keboola) -> None:
    assert search(keboola, eventId="evt_1").status_code == 400


def test_the_index_lags_by_searches() -> None:
    with Keboola(index_lag_searches=2) as simulator:
        number = post_job(simulator).json()["id"]
        assert search(simulator, configId="9").json() == []
        lengths = [len(search(simulator, configId="123").json()) for _ in range(3)]
        assert lengths == [0, 0, 1]
        assert call(simulator, f"/jobs/{number}", headers=TOKEN).status_code == 200


def test_the_index_lags_by_seconds() -> None:
    with Keboola(index_lag_s=3600) as simulator:
        post_job(simulator)
        assert search(simulator).json() == []
        simulator.index_lag_s = 0
        assert len(search(simulator).json()) == 1


def test_a_post_can_be_lost_before_or_after_the_job_exists(keboola: Keboola) -> None:
    keboola.instead(
        "POST", "/jobs", DROP, Afterwards(DROP), Afterwards(HANG), queue_error(500, "x")
    )
    counts = []
    for expected in (httpx.RemoteProtocolError, httpx.RemoteProtocolError, httpx.ReadTimeout):
        with pytest.raises(expected):
            post_job(keboola, timeout_s=0.5)
        counts.append(len(keboola.jobs))
    assert counts == [0, 1, 2]
    assert post_job(keboola).status_code == 500
    assert post_job(keboola).status_code == 201
    assert len(keboola.jobs) == 3
    assert len(keboola.asked("POST", "/jobs")) == 5


def test_maintenance_says_when_to_come_back(keboola: Keboola) -> None:
    keboola.instead("POST", "/jobs", maintenance(30))
    answer = post_job(keboola)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
    assert answer.json()["status"] == "maintenance"
    assert keboola.jobs == []


def spawn(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "teckochecker.simulators", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return str(json.loads(process.stdout.readline())["url"])


def test_openai_as_a_process_serves_until_its_input_ends() -> None:
    before = time.time()
    with spawn("openai", "--latency-ms", "1", "--batch", "batch_a=429,completed@1") as process:
        with httpx.Client(
            verify=NO_TLS, trust_env=False, base_url=url_of(process), headers=BEARER
        ) as client:
            assert client.get("/v1/batches/batch_a").status_code == 429
            assert client.get("/v1/batches/batch_a").json()["status"] == "completed"
            assert client.get("/v1/batches/batch_bench_7").json()["status"] == "in_progress"
            recorded = client.get("/_sim/requests").json()
            assert len(client.get("/_sim/requests?after=2").json()) == 1
        assert [request["path"] for request in recorded] == [
            "/v1/batches/batch_a",
            "/v1/batches/batch_a",
            "/v1/batches/batch_bench_7",
        ]
        assert before <= recorded[0]["at"] <= recorded[2]["at"] <= time.time()
        assert process.communicate(timeout=5) == ("", "")
    assert process.returncode == 0


def test_keboola_as_a_process_serves_until_it_is_terminated() -> None:
    options = ["--posts", "create-drop,503", "--states", "error", "--index-lag-searches", "1"]
    with spawn("keboola", "--token", "t", *options) as process:
        headers = {"X-StorageApi-Token": "t"}
        with httpx.Client(
            verify=NO_TLS, trust_env=False, base_url=url_of(process), headers=headers
        ) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                client.post("/jobs", json=JOB)
            assert client.post("/jobs", json=JOB).status_code == 503
            assert [len(client.get("/search/jobs").json()) for _ in range(2)] == [0, 1]
            (job,) = client.get("/search/jobs").json()
            assert client.get(f"/jobs/{job['id']}").json()["status"] == "error"
        os.kill(process.pid, signal.SIGTERM)
        assert process.communicate(timeout=5) == ("", "")
    assert process.returncode == 0


@pytest.mark.parametrize("arguments", [["--batch", "batch_a"], ["--batch", "=completed"]])
def test_a_process_refuses_a_batch_without_steps(arguments: list[str]) -> None:
    with spawn("openai", *arguments) as process:
        _, errors = process.communicate(timeout=5)
    assert process.returncode == 2
    assert "ID=STEP" in errors

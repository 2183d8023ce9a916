"""Custom checks end to end: from the API to the webhook, with a real engine, threads, sockets."""

from __future__ import annotations

import gc
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
import trio
import trustme

from teckochecker import scheduler, upkeep
from teckochecker.app import App, assemble, instance_of
from teckochecker.config import Settings
from teckochecker.simulators import Keboola, OpenAI, Receiver
from tests.conftest import TOKEN, Api, eventually
from tests.engine_proxy import EngineProxy
from tests.gate import GATED, Gate
from tests.sandboxed import (
    ENVIRONMENT,
    WHEEL,
    containers_of,
    node_dependency,
    purge,
    ready,
    wheel,
)
from tests.sandboxed import (
    engine as docker_engine,
)
from tests.test_api_custom_checks import CHECKS, GEMINI, SIGNING, packed, posted, upload
from tests.test_scripts_git import Server, Upstream
from tests.test_scripts_git import authority as authority

pytestmark = [pytest.mark.docker, pytest.mark.slow]

VERDICTS = {"success", "failed", "pending", "error"}
LONG_S = 60.0  # for what takes a second on a machine that isn't busy
FIELDS = {"name": "gemini", "script_runtime": "python", "poll_interval_seconds": 1}
COUNTS = """
import json, os
seen = json.loads(os.environ["PREVIOUS_DATA"]).get("seen", 0) + 1
print("some other line")
print(json.dumps({
    "status": "SUCCESS" if seen == 3 else "PENDING",
    "message": f"{os.environ['BATCH_ID']} seen {seen} times",
    "data": {"seen": seen, "number": int(os.environ["CHECK_NUMBER"])},
}))
"""
SAYS_WORD = GATED + 'print(json.dumps({"status": word(), "data": {"let": "through"}}))'
MakeApp = Callable[..., App]


@pytest.fixture
def make_app(make_settings: Callable[..., Settings], openai: OpenAI) -> Iterator[MakeApp]:
    """Makes apps over one home; what they leave on the engine is told, and removed."""
    ready()
    made: list[App] = []

    def make(**settings: object) -> App:
        given = {"OPENAI_BASE_URL": openai.base_url, **ENVIRONMENT, **settings}
        app = assemble(make_settings(**given))
        app.store.secrets.replace_token(hashlib.sha256(TOKEN.encode()).digest(), now())
        made.append(app)
        return app

    yield make
    for instance in {instance_of(app.store) for app in made}:
        purge(instance)
    for app in made:
        app.close()


@pytest.fixture
def app(make_app: MakeApp) -> App:
    return make_app()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as simulator:
        yield simulator


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as made:
        yield made


def now() -> datetime:
    return datetime.now(UTC)


async def add(api: Api, script: str, **fields: Any) -> Any:
    return await api("POST", CHECKS, {**FIELDS, "script": script, **fields}, expect=201)


async def until(wanted: Callable[[], bool], seconds: float = LONG_S) -> None:
    with trio.fail_after(seconds):
        while not wanted():
            await trio.sleep(0.02)


async def ended(api: Api, path: str = GEMINI) -> Any:
    return await eventually(api, path, lambda job: job["status"] in ("completed", "failed"), LONG_S)


async def checked(api: Api, count: int, path: str = GEMINI) -> list[Any]:
    """The lines of the log about checks, oldest first, once there are so many."""
    found: list[Any] = []

    def enough(page: Any) -> bool:
        found[:] = [
            one
            for one in page["logs"]
            if one["status"] in VERDICTS and one["execution_time_ms"] is not None
        ]
        return len(found) >= count

    await eventually(api, f"{path}/logs", enough, LONG_S)
    return found[::-1]


def containers(app: App) -> list[Any]:
    return containers_of(instance_of(app.store))


# From the upload to the webhook


async def test_an_upload_is_checked_until_it_succeeds_and_the_webhook_is_called(
    app: App, api: Api, engine: None, receiver: Receiver
) -> None:
    await api(
        "POST",
        "/api/admin/secrets",
        {"name": "signing", "type": "generic", "value": SIGNING},
        expect=201,
    )
    fields = {
        **FIELDS,
        "check_params": {"batch_id": "b-1"},
        "webhook_url": f"{receiver.url}/hook",
        "webhook_signing_secret": "signing",
    }
    made = await api("POST", CHECKS, fields, expect=201)
    assert made["phase"] == "awaiting_script"
    await upload(api, packed({"check/main.py": COUNTS.encode()}))

    done = await ended(api)

    assert (done["status"], done["last_check_status"]) == ("completed", "SUCCESS")
    assert done["last_check_data"] == {"seen": 3, "number": 3}
    (call,) = receiver.requests
    body = standardwebhooks.Webhook(SIGNING).verify(call.raw, call.headers)
    assert (body["job_id"], body["check_status"]) == (made["id"], "SUCCESS")
    assert body["check_message"] == "b-1 seen 3 times"
    assert body["check_data"] == {"seen": 3, "number": 3}
    lines = await checked(api, 3)
    assert [line["status"] for line in lines] == ["pending", "pending", "success"]
    assert all(line["exit_code"] == 0 for line in lines)
    assert all(line["peak_memory_bytes"] > 1_000_000 for line in lines)
    assert all("some other line" in line["stdout"] for line in lines)
    assert lines[0]["script_output"]["data"] == {"seen": 1, "number": 1}
    (delivery,) = (await api("GET", f"{GEMINI}/deliveries"))["deliveries"]
    assert (delivery["state"], delivery["event_id"]) == ("delivered", call.headers["webhook-id"])
    assert containers(app) == []
    await assert_measured(api)


async def assert_measured(api: Api) -> None:
    """The metrics of the check above, by the names and labels of the requirements."""
    await eventually(
        api, "/api/health", lambda found: found["scheduler"]["deliveries_in_flight"] == 0
    )
    text = (await api.client.get("/metrics")).text
    for line in (
        'custom_check_executions_total{runtime="python",status="PENDING"} 2.0',
        'custom_check_executions_total{runtime="python",status="SUCCESS"} 1.0',
        'custom_check_duration_seconds_count{runtime="python"} 3.0',
        'custom_check_jobs_total{status="completed"} 1.0',
        "custom_check_jobs_active 0.0",
        "docker_containers_active 0.0",
        "docker_container_startup_seconds_count 3.0",
        'webhook_calls_total{status_code="200"} 1.0',
        "webhook_duration_seconds_count 1.0",
        'teckochecker_checks_waiting{source="script"} 0.0',
    ):
        assert f"\n{line}\n" in text, line
    assert "\nscript_storage_bytes_total " in text


async def test_too_many_errors_are_told_to_the_webhook_and_counted(
    api: Api, engine: None, receiver: Receiver
) -> None:
    await add(
        api,
        "import sys; sys.exit('the service is down')",
        max_consecutive_errors=2,
        webhook_url=receiver.url,
    )
    await checked(api, 1)
    await api("POST", f"{GEMINI}/trigger")

    done = await ended(api)

    assert done["status_reason"].endswith("the service is down (2 errors in a row)")
    (call,) = receiver.requests
    told = json.loads(call.raw)
    assert told["check_status"] == "ERROR"
    assert "the service is down" in told["check_message"]
    lines = await checked(api, 2)
    assert [line["exit_code"] for line in lines] == [1, 1], lines
    text = (await api.client.get("/metrics")).text
    assert 'custom_check_errors_total{error_type="transient"} 2.0' in text


REMEMBERS = """
import json, os, sys
number = int(os.environ["CHECK_NUMBER"])
told = {"numbers": json.loads(os.environ["PREVIOUS_DATA"]).get("numbers", []) + [number]}
if number % 2:
    print(json.dumps({"status": "PENDING", "data": told}))
else:
    print("this one fails")
    sys.exit(3 if number == 2 else 0)
"""


async def test_what_a_script_knows_outlives_its_errors_and_a_restart(make_app: MakeApp) -> None:
    await run_until(make_app(), REMEMBERS, 3)
    lines = await run_until(make_app(), None, 5)

    assert [line["status"] for line in lines] == ["pending", "error"] * 2 + ["pending"]
    assert lines[-1]["script_output"]["data"] == {"numbers": [1, 3, 5]}


async def run_until(app: App, script: str | None, count: int) -> list[Any]:
    """Run the program over the check until it was checked so often; its lines."""
    api = Api(app)
    async with trio.open_nursery() as nursery:
        await nursery.start(scheduler.run, app)
        if script is not None:
            await add(api, script)
        with trio.fail_after(LONG_S):
            for wanted in range(1, count + 1):
                lines = await checked(api, wanted)
                if len(lines) < count:
                    await api("POST", f"{GEMINI}/trigger")  # overrules the wait after an error
        app.stop.set()
        app.wake.poke()
    await api.client.aclose()
    return lines


# Dependencies


PYTHON_FILES = {
    "requirements.txt": f"./{WHEEL}\n".encode(),
    WHEEL: wheel(),
    "main.py": b"""
import json, tinydep
print(json.dumps({"status": "PENDING", "data": {"n": tinydep.VALUE}}))
""",
}
NODE_FILES = {
    **{
        name: text.encode() if isinstance(text, str) else text
        for name, text in node_dependency().items()
    },
    "index.js": b"console.log(JSON.stringify({status: 'PENDING', data: {n: require('tinynode')}}))",
}


@pytest.mark.parametrize("runtime", ["python", "node"])
async def test_the_second_check_installs_nothing(
    app: App, api: Api, engine: None, runtime: str
) -> None:
    begun = now()
    files = PYTHON_FILES if runtime == "python" else NODE_FILES
    parts = {
        "config": (None, json.dumps({**FIELDS, "script_runtime": runtime})),
        "script": ("check.tgz", packed(files)),
    }
    await posted(api, CHECKS, parts, 201)

    lines = await checked(api, 2)

    assert [line["message"] for line in lines] == ["The script said PENDING."] * len(lines)
    assert lines[-1]["script_output"]["data"] == {"n": 42}
    made = created(app, begun)
    assert sum(name.startswith("teckochecker-install-") for name in made) == 1
    assert sum(name.startswith("teckochecker-bake-") for name in made) == 1


def created(app: App, since: datetime) -> list[str]:
    """The names of the containers that an app has made."""
    client = docker_engine()
    try:
        label = f"teckochecker.instance={instance_of(app.store)}"
        events = client.api.events(
            since=since,
            until=now() + timedelta(seconds=1),
            filters={"label": label, "event": "create", "type": "container"},
            decode=True,
        )
        return [event["Actor"]["Attributes"]["name"] for event in events]
    finally:
        client.close()


async def test_a_failed_install_is_an_error_with_the_installers_last_words(
    api: Api, engine: None
) -> None:
    await api("POST", CHECKS, FIELDS, expect=201)
    await upload(api, packed({"requirements.txt": b"./not-there.whl\n", "main.py": b""}))

    (line, *_) = await checked(api, 1)

    assert line["status"] == "error"
    assert "not-there.whl" in line["message"]


# Git


@pytest.fixture
def git_server(tmp_path: Path) -> Iterator[Server]:
    """Repositories over HTTPS; its authority lies in authorities.pem."""
    authority, root = trustme.CA(), tmp_path / "served"
    authority.cert_pem.write_to_path(str(tmp_path / "authorities.pem"))
    root.mkdir()
    with Server(root, authority) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_a_moved_branch_brings_its_new_script_and_an_unmoved_one_nothing(
    make_app: MakeApp,
    git_server: Server,
    authority: trustme.CA,
    tmp_path: Path,
) -> None:
    app = make_app(GIT_CA_BUNDLE=tmp_path / "authorities.pem")
    upstream = Upstream(git_server)
    first = upstream.commit({"main.py": b'print(\'{"status": "PENDING", "message": "first"}\')'})
    api = Api(app)
    async with trio.open_nursery() as nursery:
        await nursery.start(scheduler.run, app)
        url = f"https://127.0.0.1:{git_server.port}/checks"
        await api("POST", CHECKS, {**FIELDS, "script_git_url": url}, expect=201)
        await checked(api, 3)
        assert sum(asked.fetches for asked in git_server.requests) == 1
        assert (await api("GET", GEMINI))["script"]["commit"] == first

        second = upstream.commit({"main.py": b'print(\'{"status": "SUCCESS", "message": "2nd"}\')'})
        done = await ended(api)
        nursery.cancel_scope.cancel()

    assert sum(asked.fetches for asked in git_server.requests) == 2
    assert done["script"]["commit"] == second
    lines = await checked(api, 4)
    assert [line["message"] for line in lines] == ["first"] * (len(lines) - 1) + ["2nd"]
    await api.client.aclose()


# Secrets


HASHES = """
import hashlib, json, os
key = os.environ["KEY"]
print("the key is", key)
digest = hashlib.sha256(key.encode()).hexdigest()
print(json.dumps({"status": "PENDING", "message": f"with {key}", "data": {"digest": digest}}))
"""


async def test_a_new_value_of_a_secret_is_used_by_the_next_check(api: Api, engine: None) -> None:
    values = ["first-planted-value", "second-planted-value"]
    secret = {"name": "key", "type": "generic", "value": values[0]}
    await api("POST", "/api/admin/secrets", secret, expect=201)
    await add(api, HASHES, env_vars={"KEY": "x-secret_ref:key"})
    await checked(api, 1)

    await api("PUT", "/api/admin/secrets/key", {"value": values[1]})
    await eventually(
        api, GEMINI, lambda job: job["last_check_data"] == {"digest": digest(values[1])}, LONG_S
    )

    lines = await checked(api, 2)
    assert lines[0]["script_output"]["data"] == {"digest": digest(values[0])}
    assert {line["message"] for line in lines} == {"with x-***"}
    assert all("the key is x-***" in line["stdout"] for line in lines)
    (opened,) = lines[-1]["secrets_opened"]
    assert (opened["name"], opened["variable"]) == ("key", "KEY")
    assert opened["updated_at"] > lines[0]["secrets_opened"][0]["updated_at"]


def digest(value: str) -> str:
    return hashlib.sha256(f"x-{value}".encode()).hexdigest()


# While a script runs


async def test_a_pause_a_change_and_a_delete_win_over_a_running_check(
    app: App, api: Api, engine: None, gate: Gate, receiver: Receiver
) -> None:
    for name in ("paused", "changed", "deleted"):
        await add(api, SAYS_WORD, name=name, env_vars=gate.env_vars, webhook_url=receiver.url)
    await until(lambda: gate.came == 3)
    assert (await api("GET", f"{CHECKS}/changed"))["phase"] == "checking"
    await api("POST", f"{CHECKS}/paused/pause")
    await api("PUT", f"{CHECKS}/changed", {"script": "print(1)"})
    await api("POST", f"{CHECKS}/changed/pause")
    await api("DELETE", f"{CHECKS}/deleted", expect=204)

    gate.open("SUCCESS")

    (paused,) = await checked(api, 1, f"{CHECKS}/paused")
    assert "not acted on, the job is paused" in paused["message"]
    (changed,) = await checked(api, 1, f"{CHECKS}/changed")
    assert "stale" in changed["message"]
    await until(lambda: not app.pulse.scripts)
    assert [job["status"] for job in (await api("GET", CHECKS))["jobs"]] == ["paused", "paused"]
    assert receiver.requests == []
    assert containers(app) == []


async def test_a_check_that_is_triggered_while_it_runs_isnt_doubled(
    app: App, api: Api, engine: None, gate: Gate
) -> None:
    await add(api, SAYS_WORD, env_vars=gate.env_vars)
    await until(lambda: gate.came == 1)
    for _ in range(3):
        await api("POST", f"{GEMINI}/trigger")
    assert len(containers(app)) == 1

    gate.open("SUCCESS")

    await ended(api)
    assert gate.came == 1


async def test_a_stop_removes_the_containers_of_what_it_cut_off(
    make_app: MakeApp, gate: Gate
) -> None:
    app = make_app(DRAIN_SECONDS=0)
    api = Api(app)
    async with trio.open_nursery() as nursery:
        await nursery.start(scheduler.run, app)
        for name in ("one", "two", "three"):
            await add(api, SAYS_WORD, name=name, env_vars=gate.env_vars)
        await until(lambda: gate.came == 3)
        app.stop.set()
        app.wake.poke()

    assert containers(app) == []
    assert [job["last_check_status"] for job in (await api("GET", CHECKS))["jobs"]] == [None] * 3
    await api.client.aclose()


# Many, and hanging ones


async def test_hanging_checks_delay_nobody_and_five_hundred_that_wait_are_counted(
    make_app: MakeApp,
    gate: Gate,
    openai: OpenAI,
    keboola: Keboola,
    receiver: Receiver,
    job_fields: dict[str, Any],
) -> None:
    """As many scripts hang as there are places; one of them until its time is over."""
    openai.add("batch_a", "in_progress", "in_progress", "completed")
    app = make_app(MAX_CONCURRENT_CHECKS=2)
    api = Api(app)
    for name, kind, value in (
        ("openai-prod", "openai", "sk-test-openai-key-1"),
        ("keboola-prod", "keboola", "4711-test-storage-token"),
    ):
        secret = {"name": name, "type": kind, "value": value}
        await api("POST", "/api/admin/secrets", secret, expect=201)
    first = await add(api, SAYS_WORD, env_vars=gate.env_vars, timeout_seconds=10)
    copy_jobs(app, first["id"], 500)
    async with trio.open_nursery() as nursery:
        await nursery.start(scheduler.run, app)
        await nursery.start(upkeep.run, app)
        await until(lambda: gate.came == 2)
        begun = trio.current_time()
        await api("POST", "/api/jobs", job_fields, expect=201)

        done = await eventually(
            api, "/api/jobs/nightly", lambda job: job["status"] == "completed", 10
        )

        assert done["keboola_job"] is not None
        polls = [one.at for one in openai.asked("GET", "*/batch_a")]
        assert all(1.0 <= later - earlier < 2.5 for earlier, later in pairwise(polls))
        assert gate.came == 2, "the places are taken for ten seconds"
        text = (await api.client.get("/metrics")).text
        assert '\nteckochecker_checks_waiting{source="script"} 498.0\n' in text
        assert "\ncustom_check_jobs_active 500.0\n" in text
        assert "\ndocker_containers_active 2.0\n" in text
        await until(lambda: gate.came > 2)  # the first two ran out of time
        assert 8 < trio.current_time() - begun < 20
        listed = await api("GET", f"{CHECKS}?limit=1000")
        late = [job["id"] for job in listed["jobs"] if job["last_check_status"] == "ERROR"]
        (line, *_) = await checked(api, 1, f"{CHECKS}/{late[0]}")
        assert "ran longer than 10 s" in line["message"]
        nursery.cancel_scope.cancel()
    await api.client.aclose()


def copy_jobs(app: App, job_id: int, total: int) -> None:
    """Copies of a custom check, until there are so many."""
    with app.store.jobs._database.write() as db:
        names = [row[1] for row in db.execute_sql("PRAGMA table_info(jobs)")]
        chosen = ", ".join(
            {"id": "NULL", "name": "name || '-' || ?"}.get(one, one) for one in names
        )
        for number in range(1, total):
            db.execute_sql(
                f"INSERT INTO jobs SELECT {chosen} FROM jobs WHERE id = ?", (number, job_id)
            )


# Without an engine, or without an image


@pytest.fixture
def proxy() -> Iterator[EngineProxy]:
    ready()
    with EngineProxy(ENVIRONMENT) as made:
        yield made
    gc.collect()  # the SDK forgets sockets that couldn't connect


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_checks_wait_for_an_engine_that_stops_and_go_on_when_it_is_back(
    make_app: MakeApp, proxy: EngineProxy, gate: Gate, receiver: Receiver
) -> None:
    app = make_app(DOCKER_HOST=proxy.address)
    api = Api(app)
    async with trio.open_nursery() as nursery:
        await nursery.start(scheduler.run, app)
        for name in ("one", "two"):
            await add(
                api,
                SAYS_WORD,
                name=name,
                env_vars=gate.env_vars,
                max_consecutive_errors=1,
                webhook_url=receiver.url,
            )
        await until(lambda: gate.came == 2)
        orphans = len(containers(app))

        proxy.cut()

        for name in ("one", "two"):
            line = (await checked(api, 1, f"{CHECKS}/{name}"))[0]
            assert line["status"] == "error"
            assert "Docker engine" in line["message"]
            job = await api("GET", f"{CHECKS}/{name}")
            assert (job["status"], job["phase"]) == ("active", "polling")
        await upkeep.look_at_sandbox(app)
        health = await api("GET", "/api/health")
        assert health["status"] == "degraded"
        assert "systemctl start docker" in " ".join(health["reasons"])
        assert len(containers(app)) == orphans == 2

        proxy.mend()
        gate.open("SUCCESS")

        for name in ("one", "two"):
            assert (await ended(api, f"{CHECKS}/{name}"))["status"] == "completed"
        await upkeep.look_at_sandbox(app)
        assert (await api("GET", "/api/health"))["status"] == "ok"
        nursery.cancel_scope.cancel()
    assert len(receiver.requests) == 2
    assert 'error_type="engine"' in (await api.client.get("/metrics")).text
    await api.client.aclose()


async def test_a_missing_image_is_told_with_its_remedy_and_openai_jobs_go_on(
    make_app: MakeApp,
    proxy: EngineProxy,
    openai: OpenAI,
    keboola: Keboola,
    job_fields: dict[str, Any],
) -> None:
    proxy.hidden.add(b"teckochecker/runner:node-20")
    openai.add("batch_a", "completed")
    app = make_app(DOCKER_HOST=proxy.address)
    api = Api(app)
    for name, kind, value in (
        ("openai-prod", "openai", "sk-test-openai-key-1"),
        ("keboola-prod", "keboola", "4711-test-storage-token"),
    ):
        secret = {"name": name, "type": kind, "value": value}
        await api("POST", "/api/admin/secrets", secret, expect=201)
    async with trio.open_nursery() as nursery:
        await nursery.start(scheduler.run, app)
        await add(
            api,
            'console.log(\'{"status": "SUCCESS"}\')',
            script_runtime="node",
            max_consecutive_errors=1,
        )
        await api("POST", "/api/jobs", job_fields, expect=201)

        assert (await ended(api, "/api/jobs/nightly"))["status"] == "completed"
        (line, *_) = await checked(api, 1)
        assert "teckochecker runners build" in line["message"]
        assert (await api("GET", GEMINI))["status"] == "active"
        await upkeep.look_at_sandbox(app)
        health = await api("GET", "/api/health")
        assert (health["status"], health["sandbox"]["ready"]) == ("degraded", False)
        assert "run `teckochecker runners build node`" in health["sandbox"]["missing"][0]

        proxy.hidden.clear()
        assert (await ended(api))["status"] == "completed"
        nursery.cancel_scope.cancel()
    await api.client.aclose()

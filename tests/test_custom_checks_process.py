"""Custom checks of the real program: killed, stopped, and searched for what it must not keep."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from teckochecker.sandbox.images import RUNNERS
from teckochecker.sandbox.settings import INSTANCE, RUN
from teckochecker.simulators import Receiver
from tests.benchmarks.harness import wait_for
from tests.benchmarks.kill_soak import Victim, make_home
from tests.gate import GATED, Gate
from tests.sandboxed import ENVIRONMENT, containers_of, engine, purge, ready

pytestmark = [pytest.mark.docker, pytest.mark.slow]

CHECKS = "/api/custom-checks"
LONG_S = 90.0  # for what takes some seconds on a machine that isn't busy
GONE_WITHIN_S = 5.0
SAYS_WORD = GATED + 'print(json.dumps({"status": word()}))'
Make = Callable[..., Victim]


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("made"))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as simulator:
        yield simulator


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as made:
        yield made


@pytest.fixture
def make_daemon(tmp_path: Path, made_home: Path) -> Iterator[Make]:
    """Makes daemons over one home; what they leave on the engine is removed at the end."""
    ready()
    home = tmp_path / "home"
    shutil.copytree(made_home, home)
    made: list[Victim] = []
    with ExitStack() as stack:

        def make(**settings: object) -> Victim:
            made.append(stack.enter_context(Victim(home, **ENVIRONMENT, **settings)))
            return made[-1]

        yield make
        instance = instance_of(made[0])
    purge(instance)


def instance_of(daemon: Victim) -> str:
    ((found,),) = daemon.rows("SELECT value FROM meta WHERE key = 'instance'")
    return str(found)


def add(daemon: Victim, name: str, script: str, **fields: Any) -> Any:
    body = {
        "name": name,
        "script_runtime": "python",
        "script": script,
        "poll_interval_seconds": 3600,
        **fields,
    }
    return daemon.call("POST", CHECKS, body)


def statuses(daemon: Victim) -> set[str]:
    return {job["status"] for job in daemon.call("GET", CHECKS)["jobs"]}


def came(gate: Gate, count: int) -> None:
    wait_for(f"{count} scripts at the gate", lambda: gate.came >= count, seconds=LONG_S)


def test_what_a_killed_daemon_leaves_is_gone_soon_after_its_next_start_and_nothing_is_lost(
    make_daemon: Make, gate: Gate, receiver: Receiver
) -> None:
    daemon = make_daemon()
    daemon.start()
    names = [f"check-{number}" for number in range(20)]
    for name in names:
        add(daemon, name, SAYS_WORD, env_vars=gate.env_vars, webhook_url=f"{receiver.url}/{name}")
    came(gate, 20)
    instance = instance_of(daemon)
    foreign = foreign_container(instance)
    try:
        daemon.kill()
        left = {one["Id"] for one in containers_of(instance)}
        assert len(left) == 20

        daemon.start()

        wait_for(
            "end of the containers of the last life",
            lambda: not left & {one["Id"] for one in containers_of(instance)},
            seconds=GONE_WITHIN_S,
        )
        came(gate, 40)
        gate.open("SUCCESS")
        wait_for("end of all", lambda: statuses(daemon) == {"completed"}, seconds=LONG_S)
        assert {call.path for call in receiver.requests} == {f"/{name}" for name in names}
        wait_for("end of the containers", lambda: not containers_of(instance), seconds=LONG_S)
        foreign.reload()
        assert foreign.status == "running"
    finally:
        foreign.remove(force=True)
        foreign.client.close()


def foreign_container(instance: str) -> Any:
    """A running container of another installation."""
    return engine().containers.run(
        RUNNERS["python"],
        entrypoint=["sleep", "300"],
        labels={INSTANCE: f"{instance}-other", RUN: "theirs"},
        detach=True,
    )


def test_a_stopped_daemon_leaves_no_container_and_checks_again_after_its_next_start(
    make_daemon: Make, gate: Gate
) -> None:
    daemon = make_daemon(DRAIN_SECONDS=1)
    daemon.start()
    for number in range(5):
        add(daemon, f"check-{number}", SAYS_WORD, env_vars=gate.env_vars)
    came(gate, 5)

    daemon.signal(signal.SIGTERM)

    assert daemon.wait_ended(15) == 0
    assert containers_of(instance_of(daemon)) == []
    gate.open("SUCCESS")
    daemon.start()
    wait_for("end of all", lambda: statuses(daemon) == {"completed"}, seconds=LONG_S)


# A planted secret

SECRETS = {
    "word": "SUCCESS",
    "part": "planted-part",
    "whole": "planted-part-of-another-0123",
    "quoted": "planted-pl\"anted'quo\\tes-55",
    "border": "planted-cut-by-a-border-7777",
}
TRACES = ("planted", "border-7777", "anted'quo", "of-another-0123")
PRINTS = (
    GATED
    + """
import base64, sys, urllib.parse
values = [os.environ[name] for name in ("WORD", "PART", "WHOLE", "QUOTED", "BORDER")]
status = word()
for stream in (sys.stdout, sys.stderr):
    stream.write((os.environ["BORDER"] + " ") * 50_000)  # whatever is cut, it is cut within one
    print(file=stream)
    for value in values:
        encoded = base64.b64encode(value.encode()).decode()
        quoted = urllib.parse.quote(value)
        print(value, repr(value), json.dumps(value), encoded, quoted, file=stream)
data = {value: [value, {"inner": f"<{value}>"}] for value in values}
print(json.dumps({"status": status, "message": " and ".join(values), "data": data}), flush=True)
"""
)


def test_a_secret_is_nowhere_in_what_is_written_shown_or_sent(
    make_daemon: Make, gate: Gate, receiver: Receiver
) -> None:
    daemon = make_daemon(LOG_LEVEL="DEBUG")
    daemon.start()
    for name, value in SECRETS.items():
        body = {"name": name, "type": "generic", "value": value}
        daemon.call("POST", "/api/admin/secrets", body)
    variables = {name.upper(): f"secret_ref:{name}" for name in SECRETS}
    fields = {
        "env_vars": {**variables, **gate.env_vars},
        "webhook_url": f"{receiver.url}/hook",
        "webhook_query_params": {"said": "{message}", "data": "{data}"},
    }
    add(daemon, "spills", PRINTS, **fields)
    came(gate, 1)
    assert_no_trace(inspected(instance_of(daemon)), "inspection of the running container")
    assert_nowhere_on_the_engine()

    gate.open("SUCCESS")

    job = wait_for(
        "the job's end",
        lambda: (found := daemon.call("GET", f"{CHECKS}/1"))["status"] == "completed" and found,
        seconds=LONG_S,
    )
    assert job["last_check_status"] == "SUCCESS"  # though that word is a secret
    (call,) = receiver.requests
    told = json.loads(call.raw)
    assert told["check_status"] == "SUCCESS"
    assert told["check_message"] == " and ".join(["***"] * 5)
    assert_no_trace(call.raw, "the webhook's body")
    assert_no_trace(json.dumps([call.path, call.query, call.headers]), "the webhook's URL")
    for path in ("", "/1", "/1/logs", "/1/deliveries", "/1/script/info"):
        assert_no_trace(json.dumps(daemon.call("GET", f"{CHECKS}{path}")), path)
    (line, *_) = [
        line for line in daemon.call("GET", f"{CHECKS}/1/logs")["logs"] if line["exit_code"] == 0
    ]
    assert "***" in line["stdout"]
    assert "***" in line["stderr"]
    assert {one["variable"] for one in line["secrets_opened"]} == set(variables)
    daemon.kill()  # as it lies there, without a checkpoint
    for file in daemon.home.rglob("*"):
        if file.is_file():
            assert_no_trace(file.read_bytes(), str(file))
    assert_nowhere_on_the_engine()


def assert_no_trace(text: str | bytes, where: str) -> None:
    data = text.encode() if isinstance(text, str) else text
    for trace in TRACES:
        assert trace.encode() not in data, f"{trace} in {where}"
    for value in SECRETS.values():
        if value != "SUCCESS":
            assert b64encode(value.encode()).rstrip(b"=")[:-2] not in data, where


def inspected(instance: str) -> str:
    client = engine()
    try:
        (found,) = containers_of(instance)
        container = client.containers.get(found["Id"])
        return json.dumps([container.attrs, container.top()])
    finally:
        client.close()


def assert_nowhere_on_the_engine() -> None:
    """In no file of the engine's, where it is on this machine and we may read them."""
    client = engine()
    try:
        root = Path(client.info()["DockerRootDir"])
    finally:
        client.close()
    if not os.access(root, os.R_OK):
        return
    command = ["grep", "--recursive", "--files-with-matches", "--fixed-strings", "--text"]
    found = subprocess.run(
        [*command, "--regexp", SECRETS["border"], "--regexp", SECRETS["whole"], str(root)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG_S,
    )
    assert found.stdout == ""

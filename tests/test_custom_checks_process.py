"""Custom checks of the real program: killed, stopped, and searched for what it must not keep."""

from __future__ import annotations

import functools
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from teckochecker.sandbox.images import RUNNERS
from teckochecker.sandbox.settings import INSTANCE, RUN
from teckochecker.simulators import Answer, Receiver
from tests.benchmarks.harness import wait_for
from tests.benchmarks.kill_soak import Victim, make_home
from tests.gate import GATED, Gate
from tests.sandboxed import ENVIRONMENT, containers_of, engine, purge, ready
from tests.test_masking import forms, shifted

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
HEADER = "planted-in-a-header-4444"
TRACES = ("planted", "border-7777", "anted'quo", "of-another-0123", "a-header-4444")
PRINTS = (
    GATED
    + """
import base64, sys, urllib.parse
values = [os.environ[name] for name in ("WORD", "PART", "WHOLE", "QUOTED", "BORDER")]

def forms(value):
    data = value.encode()
    yield from (value, data.hex(), data.hex().upper())
    yield from (urllib.parse.quote(value, safe=""), urllib.parse.quote_plus(value))
    for before in (b"", b"u", b"u:"):
        yield base64.b64encode(before + data).decode()
        yield base64.urlsafe_b64encode(before + data + b"@").decode()

status = word()
for stream in (sys.stdout, sys.stderr):
    stream.write((os.environ["BORDER"] + " ") * 50_000)  # whatever is cut, it is cut within one
    print(file=stream)
    for value in values:
        print(repr(value), json.dumps(value), *forms(value), file=stream)
data = {value: [*forms(value), {"inner": f"<{value}>"}] for value in values}
print(json.dumps({"status": status, "message": " and ".join(values), "data": data}), flush=True)
"""
)


def test_a_secret_is_nowhere_in_what_is_written_shown_or_sent(
    make_daemon: Make, gate: Gate, receiver: Receiver
) -> None:
    daemon = make_daemon(LOG_LEVEL="DEBUG")
    url = daemon.start()
    for name, value in {**SECRETS, "header": HEADER}.items():
        body = {"name": name, "type": "generic", "value": value}
        daemon.call("POST", "/api/admin/secrets", body)
    receiver.instead("POST", "/hook", Answer(200, {"echo": list(forms(HEADER).values())}))
    variables = {name.upper(): f"secret_ref:{name}" for name in SECRETS}
    fields = {
        "env_vars": {**variables, **gate.env_vars},
        "webhook_url": f"{receiver.url}/hook",
        "webhook_headers": {"X-Token": "Bearer secret_ref:header"},
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
    sent = dict(call.headers)
    assert sent.pop("x-token") == f"Bearer {HEADER}"  # here, and nowhere else
    assert_no_trace(json.dumps([call.path, call.query, sent]), "the webhook's URL")
    for path in SHOWN:
        assert_no_trace(shown(daemon, url, path), path)
    assert_no_trace(changes(daemon, url), "/api/events")
    (line, *_) = [
        line for line in daemon.call("GET", f"{CHECKS}/1/logs")["logs"] if line["exit_code"] == 0
    ]
    assert "***" in line["stdout"]
    assert "***" in line["stderr"]
    assert {one["variable"] for one in line["secrets_opened"]} == set(variables)
    (delivery,) = daemon.call("GET", f"{CHECKS}/1/deliveries")["deliveries"]
    assert "***" in delivery["attempts"][0]["answer"]
    backup = backed_up(daemon)
    daemon.kill()  # as it lies there, without a checkpoint
    for file in daemon.home.rglob("*"):
        if file.is_file():
            assert_no_trace(unpacked(file), str(file))
    assert b"SQLite format 3" in unpacked(backup)
    assert_nowhere_on_the_engine()


SHOWN = (
    *(f"{CHECKS}{path}" for path in ("", "/1", "/1/logs", "/1/deliveries", "/1/script/info")),
    "/",
    "/api/jobs?kind=all&limit=1000",
    "/api/heartbeats?ids=1&limit=30",
    "/api/stats",
    "/api/system",
    "/api/admin/secrets",
    "/api/health",
    "/metrics",
)
"""What the API lists, and all that the page asks for."""


def shown(daemon: Victim, url: str, path: str) -> bytes:
    answer = httpx.get(f"{url}{path}", headers=bearer(daemon), trust_env=False)
    assert answer.status_code == 200, f"{path}: {answer.text}"
    return answer.content


def changes(daemon: Victim, url: str) -> str:
    """What a browser that comes back is told of all that happened to the jobs."""
    headers = {**bearer(daemon), "last-event-id": "0"}
    with httpx.stream("GET", f"{url}/api/events", headers=headers, trust_env=False) as answer:
        lines = answer.iter_lines()
        assert "event: jobs" in lines  # reads up to there
        return next(lines)


def bearer(daemon: Victim) -> dict[str, str]:
    return {"authorization": f"Bearer {daemon.token}"}


def backed_up(daemon: Victim) -> Path:
    """A backup within the home, made while the daemon runs."""
    target = daemon.home / "backup.tar.gz"
    done = subprocess.run(
        [sys.executable, "-m", "teckochecker", "backup", "create", target],
        env=daemon.env,
        capture_output=True,
        text=True,
        timeout=LONG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_no_trace(done.stdout + done.stderr, "what `backup create` says")
    return target


def unpacked(file: Path) -> bytes:
    data = file.read_bytes()
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def assert_no_trace(text: str | bytes, where: str) -> None:
    data = text.encode() if isinstance(text, str) else text
    for trace in (*TRACES, *encodings()):
        at = data.find(trace.encode())
        assert at < 0, f"{trace} in {where}: {data[max(0, at - 300) : at + 300]!r}"


@functools.cache
def encodings() -> frozenset[str]:
    """The planted values as programs print them; the word SUCCESS by itself is no trace."""
    found = {HEADER, *SECRETS.values()}
    for value in tuple(found):
        found.update(forms(value).values())
        found.update((json.dumps(value)[1:-1], repr(value)[1:-1]))
        for before in (b"", b"u", b"u:"):
            # Its middle: the characters that no neighbour's bits are in.
            first, end = -(-8 * len(before) // 6), 8 * len(before + value.encode()) // 6
            middle = shifted(value, before, b"")[first:end]
            found.update((middle, middle.replace("+", "-").replace("/", "_")))
    return frozenset(one for one in found if SECRETS["word"] not in one)


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
    of_the_word = set(forms(SECRETS["word"]).values())  # any program may have that one
    found = subprocess.run(
        [*command, "--file=-", str(root)],
        input="\n".join(one for one in encodings() if len(one) >= 12 and one not in of_the_word),
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG_S,
    )
    assert found.stdout == ""

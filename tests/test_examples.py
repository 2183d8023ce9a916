"""The examples: run as plain processes, in the sandbox, and against the product's signatures."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import standardwebhooks

from teckochecker.actions.webhook import signature
from teckochecker.domain import Finding, Secret, Verdict
from teckochecker.masking import Mask
from teckochecker.sandbox import Needs, Sandbox
from teckochecker.sandbox.settings import Runtime
from teckochecker.scripts import archive, shelf
from teckochecker.simulators import DROP, HTML, LIST, TRUNCATED, Answer, Receiver
from teckochecker.verdicts import Limits, RunResult, Stream, finding
from tests.benchmarks.kill_soak import Victim, make_home
from tests.required import absent
from tests.sandboxed import (
    ENVIRONMENT,
    TESTS,
    engine,
    found,
    leftovers,
    nobody_cancels,
    now,
    ready,
    request,
)

pytestmark = pytest.mark.slow  # they run processes

EXAMPLES = Path(__file__).parents[1] / "examples"
RUNTIMES: Mapping[str, Runtime] = {
    "mock-checker": "python",
    "gemini-python": "python",
    "gemini-node": "node",
    "python-basic": "python",
    "python-api": "python",
}
MAIN: Mapping[Runtime, str] = {"python": "main.py", "node": "index.js"}
SIGNING = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
OTHER = "whsec_" + base64.b64encode(b"another-key-of-some-32-bytes-too").decode()
API_KEY = "AIza-a-key-for-tests"

gemini = pytest.mark.parametrize("example", ["gemini-python", "gemini-node"])


@functools.cache
def node() -> str:
    """Node 20 or newer; skips where there is none."""
    found = shutil.which("node")
    version = found and subprocess.run([found, "--version"], capture_output=True, text=True)
    if not (found and version and int(version.stdout[1:].split(".")[0]) >= 20):
        pytest.skip("Node 20 isn't on this machine")
    return found


@functools.cache
def folder_of(example: str) -> Path:
    return next(path.parent for path in EXAMPLES.rglob("*") if path.parent.name == example)


def run(example: str, **variables: str) -> Finding:
    """Runs an example as a plain process, and reads its verdict as the product does."""
    runtime = RUNTIMES[example]
    done = subprocess.run(
        [sys.executable if runtime == "python" else node(), folder_of(example) / MAIN[runtime]],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert API_KEY not in done.stdout + done.stderr
    return finding(
        RunResult(
            exit_code=done.returncode,
            stdout=Stream(head=done.stdout),
            stderr=Stream(head=done.stderr),
            duration_ms=1,
        ),
        Limits(),
        Mask([]),
    )


@pytest.fixture
def service() -> Iterator[Receiver]:
    """An API that answers as a test says."""
    with Receiver() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """On the engine; the images that were prepared for examples are removed."""
    yield ready()
    Sandbox(ENVIRONMENT, TESTS, lambda: now() + timedelta(hours=2)).prune(())


class TestGemini:
    @pytest.mark.parametrize(
        ("state", "verdict"),
        [
            ("BATCH_STATE_PENDING", Verdict.PENDING),
            ("JOB_STATE_RUNNING", Verdict.PENDING),
            ("BATCH_STATE_SUCCEEDED", Verdict.SUCCESS),
            ("JOB_STATE_FAILED", Verdict.FAILED),
            ("BATCH_STATE_CANCELLED", Verdict.FAILED),
            ("BATCH_STATE_EXPIRED", Verdict.FAILED),
            ("BATCH_STATE_DREAMING", Verdict.ERROR),
            ("constructor", Verdict.ERROR),
        ],
    )
    @gemini
    def test_a_state_becomes_a_verdict(
        self, example: str, service: Receiver, state: str, verdict: Verdict
    ) -> None:
        service.instead("GET", "/batches/abc", Answer(content=_operation(state)))
        said = _asked(example, service)
        assert said.verdict is verdict
        assert "abc" in said.message

    @gemini
    def test_a_success_tells_what_came_out(self, example: str, service: Receiver) -> None:
        operation = _operation("BATCH_STATE_SUCCEEDED", requests=4, succeeded=3, failed=1)
        operation["metadata"] |= {
            "endTime": "2026-11-22T01:02:03Z",
            "output": {"responsesFile": "files/out"},
        }
        service.instead("GET", "/batches/abc", Answer(content=operation))
        said = _asked(example, service)
        assert said.message == "Batch abc completed, 1 of its requests failed"
        assert said.data == {
            "batch_id": "abc",
            "state": "SUCCEEDED",
            "request_count": 4,
            "result_count": 3,
            "failed_count": 1,
            "progress": 100,
            "completed_at": "2026-11-22T01:02:03Z",
            "results_file": "files/out",
        }

    @gemini
    def test_a_failure_tells_its_reason(self, example: str, service: Receiver) -> None:
        operation = {**_operation("BATCH_STATE_FAILED"), "error": {"message": "quota is used up"}}
        service.instead("GET", "/batches/abc", Answer(content=operation))
        said = _asked(example, service)
        assert said.message == "Batch abc ended as FAILED: quota is used up"

    @gemini
    def test_progress_is_told_while_it_runs(self, example: str, service: Receiver) -> None:
        operation = _operation("BATCH_STATE_RUNNING", requests=8, succeeded=3, failed=1)
        service.instead("GET", "/batches/abc", Answer(content=operation))
        assert _asked(example, service).message == "Batch abc is running (50 %)"

    @gemini
    def test_a_batch_that_comes_without_an_operation_is_read_too(
        self, example: str, service: Receiver
    ) -> None:
        service.instead("GET", "/batches/abc", Answer(content={"state": "COMPLETED"}))
        assert _asked(example, service).verdict is Verdict.SUCCESS

    @gemini
    def test_the_key_goes_in_a_header_and_the_id_may_have_its_prefix(
        self, example: str, service: Receiver
    ) -> None:
        _asked(example, service, BATCH_ID="batches/abc", GEMINI_BASE_URL=f"{service.url}/v1beta/")
        (asked,) = service.requests
        assert asked.path == "/v1beta/batches/abc"
        assert asked.headers["x-goog-api-key"] == API_KEY

    @pytest.mark.parametrize(
        ("answer", "told"),
        [
            (Answer(401), "answered 401: is the key right"),
            (Answer(404), "answered 404: is BATCH_ID right"),
            (Answer(429), "answered 429: too many requests"),
            (Answer(500), "answered 500"),
            (Answer(302, headers={"Location": "/elsewhere"}), "answered 302"),
            (HTML, "isn't JSON"),
            (Answer(content=b"\xff{"), "isn't JSON"),
            (LIST, "isn't a JSON object"),
            (Answer(content={"name": "batches/other"}), "another batch"),
            (Answer(content={"name": "batches/abc", "metadata": [1]}), "doesn't know"),
            (TRUNCATED, "can't be reached|isn't JSON"),
            (DROP, "can't be reached"),
        ],
        ids=str,
    )
    @gemini
    def test_any_other_answer_is_an_error_that_says_what_came(
        self, example: str, service: Receiver, answer: Any, told: str
    ) -> None:
        service.instead("GET", "/batches/abc", answer)
        said = _asked(example, service)
        assert said.verdict is Verdict.ERROR
        assert re.search(told, said.message), said.message
        assert service.asked("*", "/elsewhere") == []

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"BATCH_ID": ""}, "BATCH_ID is missing"),
            ({"GEMINI_API_KEY": ""}, "GEMINI_API_KEY is missing"),
            ({"BATCH_ID": "../files/x"}, "BATCH_ID isn't the id"),
            ({"BATCH_ID": "abc\n"}, "BATCH_ID isn't the id"),
            ({"GEMINI_API_KEY": f"{API_KEY}\nx: y"}, "can't be used as it is"),
            ({"GEMINI_BASE_URL": "nonsense"}, "can't be used as it is"),
            ({"GEMINI_BASE_URL": "http://127.0.0.1:1"}, "can't be reached"),
        ],
    )
    @gemini
    def test_a_wrong_setting_is_an_error_that_names_it(
        self, example: str, service: Receiver, changes: dict[str, str], told: str
    ) -> None:
        said = _asked(example, service, **changes)
        assert said.verdict is Verdict.ERROR
        assert told in said.message
        assert service.requests == []


class TestMockChecker:
    def test_it_carries_its_count_by_what_it_said_last(self) -> None:
        verdicts = []
        carried: dict[str, str] = {}
        for number in range(1, 5):
            said = run("mock-checker", CHECK_NUMBER=str(number), **carried)
            carried = {"PREVIOUS_DATA": json.dumps(said.data)}
            verdicts.append(said.verdict.value)
        assert verdicts == ["PENDING", "PENDING", "PENDING", "SUCCESS"]

    def test_its_own_tests_pass(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_checker.py"],
            cwd=EXAMPLES / "mock-checker",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


class TestTemplates:
    def test_the_basic_one_looks_once_and_is_pending(self) -> None:
        said = run("python-basic", TASK_ID="task_1")
        assert said.verdict is Verdict.PENDING
        assert said.data == {"task_id": "task_1", "state": "running"}

    def test_the_basic_one_says_what_it_lacks(self) -> None:
        said = run("python-basic")
        assert said.verdict is Verdict.ERROR
        assert "TASK_ID is missing" in said.message

    @pytest.mark.parametrize(
        ("answer", "verdict", "told"),
        [
            (Answer(content={"status": "running", "progress": 7}), Verdict.PENDING, "is running"),
            (Answer(content={"status": "completed"}), Verdict.SUCCESS, "is completed"),
            (Answer(content={"status": "failed"}), Verdict.FAILED, "is failed"),
            (Answer(content={"status": "odd"}), Verdict.ERROR, "doesn't know: odd"),
            (Answer(503), Verdict.ERROR, "answered 503"),
            (Answer(302, headers={"Location": "/elsewhere"}), Verdict.ERROR, "answered 302"),
            (HTML, Verdict.ERROR, "can't be asked"),
            (LIST, Verdict.ERROR, "isn't a JSON object"),
            (DROP, Verdict.ERROR, "can't be asked"),
        ],
        ids=str,
    )
    def test_the_one_with_an_api_reads_each_answer(
        self, service: Receiver, answer: Any, verdict: Verdict, told: str
    ) -> None:
        pytest.importorskip("requests")
        service.instead("GET", "/tasks/a%2Fb", answer)
        said = run("python-api", TASK_ID="a/b", API_KEY=API_KEY, API_BASE_URL=service.url)
        assert said.verdict is verdict
        assert told in said.message
        assert service.requests[0].headers["authorization"] == f"Bearer {API_KEY}"
        assert len(service.requests) == 1

    def test_the_one_with_an_api_says_what_it_lacks(self) -> None:
        pytest.importorskip("requests")
        said = run("python-api", TASK_ID="task_1")
        assert said.verdict is Verdict.ERROR
        assert "API_KEY must be in" in said.message


class TestBuild:
    def test_each_archive_is_accepted_as_an_upload(self, tmp_path: Path) -> None:
        built = _built(tmp_path)
        assert {path.stem for path in built} == set(RUNTIMES)
        for path in built:
            entrypoint = MAIN[RUNTIMES[path.stem]]
            script = archive.accept(path, tmp_path / "shelf", entrypoint=entrypoint)
            assert script.entrypoint == entrypoint

    def test_the_same_files_give_the_same_bytes(self, tmp_path: Path) -> None:
        copied = tmp_path / "elsewhere"
        shutil.copytree(EXAMPLES, copied, copy_function=shutil.copyfile)  # other times and modes
        (copied / "build.sh").chmod(0o755)
        (copied / "mock-checker" / "__pycache__").mkdir(exist_ok=True)
        first, second = _built(tmp_path / "1"), _built(tmp_path / "2", copied)
        assert [_digest(path) for path in first] == [_digest(path) for path in second]

    def test_what_tar_alone_makes_is_accepted_too(self, tmp_path: Path) -> None:
        folder, packed = EXAMPLES / "mock-checker", tmp_path / "mock-checker.tgz"
        subprocess.run(
            ["tar", "-czf", packed, "main.py", "requirements.txt"], cwd=folder, check=True
        )
        assert archive.accept(packed, tmp_path / "shelf", entrypoint="main.py").files == 2

    def test_only_what_runs_is_packed(self, tmp_path: Path) -> None:
        packed = next(path for path in _built(tmp_path) if path.stem == "mock-checker")
        listed = subprocess.run(["tar", "tzf", packed], capture_output=True, text=True, check=True)
        assert listed.stdout.split() == ["main.py", "requirements.txt"]


@pytest.mark.docker
class TestInTheSandbox:
    @pytest.fixture(autouse=True)
    def _nothing_is_left(self, sandbox: Sandbox) -> Iterator[None]:
        yield
        assert leftovers() == []

    def test_the_mock_checker_ends_after_four_checks(self, tmp_path: Path) -> None:
        check = _Check("mock-checker", tmp_path)
        carried: dict[str, str] = {}
        verdicts = []
        for number in range(1, 5):
            said = check.run(CHECK_NUMBER=str(number), **carried)
            carried = {"PREVIOUS_DATA": json.dumps(said.data)}
            verdicts.append(said.verdict.value)
        assert verdicts == ["PENDING", "PENDING", "PENDING", "SUCCESS"]

    @pytest.mark.parametrize(
        ("state", "verdict"),
        [
            ("BATCH_STATE_RUNNING", Verdict.PENDING),
            ("BATCH_STATE_SUCCEEDED", Verdict.SUCCESS),
            ("BATCH_STATE_FAILED", Verdict.FAILED),
            ("BATCH_STATE_DREAMING", Verdict.ERROR),
        ],
    )
    @gemini
    def test_a_gemini_batch_is_asked_for(
        self, example: str, state: str, verdict: Verdict, tmp_path: Path
    ) -> None:
        with _on_the_bridge(_operation(state)) as url:
            said = _Check(example, tmp_path).run(
                BATCH_ID="abc", GEMINI_API_KEY=API_KEY, GEMINI_BASE_URL=url
            )
        assert said.verdict is verdict
        assert "Batch abc" in said.message

    def test_the_basic_template_runs(self, tmp_path: Path) -> None:
        said = _Check("python-basic", tmp_path).run(TASK_ID="task_1")
        assert said.verdict is Verdict.PENDING

    def test_the_template_with_an_api_finds_what_it_depends_on(self, tmp_path: Path) -> None:
        with _on_the_bridge({"status": "completed"}) as url:
            said = _Check("python-api", tmp_path).run(
                TASK_ID="task_1", API_KEY=API_KEY, API_BASE_URL=url
            )
        assert (said.verdict, said.message) == (Verdict.SUCCESS, "Task task_1 is completed")


class Running(NamedTuple):
    """A receiver's process, and where it listens."""

    process: subprocess.Popen[str]
    url: str

    def call(self, body: bytes = b"{}", method: str = "POST", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.request(method, f"{self.url}/webhook", content=body, headers=named)


@pytest.fixture(params=["python", "node"])
def command(request: pytest.FixtureRequest) -> list[str | Path]:
    folder = EXAMPLES / "webhook-receiver"
    if request.param == "python":
        return [sys.executable, folder / "receiver.py"]
    return [node(), folder / "receiver.js"]


@pytest.fixture
def receiver(command: list[str | Path]) -> Iterator[Running]:
    """A receiver that takes two keys, as while one is replaced."""
    with _receiving(command, f"{SIGNING} {OTHER}") as running:
        yield running


class TestReceivers:
    def test_it_takes_what_the_product_signs(self, receiver: Running) -> None:
        body = b'{"job_name": "night & day", "check_status": "SUCCESS"}'
        answer = receiver.call(body, **_signed(body))
        assert (answer.status_code, answer.json()) == (200, {"status": "received"})
        shown = httpx.get(f"{receiver.url}/webhooks").json()
        assert shown == {"total": 1, "webhooks": [json.loads(body)]}

    def test_it_takes_what_the_public_package_signs(self, receiver: Running) -> None:
        at = datetime.now(UTC)
        made = standardwebhooks.Webhook(SIGNING).sign("evt_1", at, "{}")
        headers = {**_signed(b"{}", at=int(at.timestamp())), "webhook_signature": made}
        assert receiver.call(b"{}", **headers).status_code == 200

    def test_it_takes_either_key_and_any_of_several_signatures(self, receiver: Running) -> None:
        right = _signed(b"{}", OTHER)
        several = f"v1a,x v1,{'A' * 44} {right['webhook_signature']}"
        answer = receiver.call(b"{}", **{**right, "webhook_signature": several})
        assert answer.status_code == 200

    @pytest.mark.parametrize(
        "changes",
        [
            {"webhook_id": "evt_2"},
            {"webhook_timestamp": "1700000000"},
            {"webhook_timestamp": ""},
            {"webhook_timestamp": "soon"},
            {"webhook_timestamp": "-1"},
            {"webhook_signature": ""},
            {"webhook_signature": "v1,"},
            {"webhook_signature": f"v1,{'A' * 43}="},
            {"webhook_signature": f"v1,{'A' * 5000}"},
        ],
        ids=lambda changes: " ".join(changes),
    )
    def test_it_refuses_what_was_altered(self, receiver: Running, changes: dict[str, str]) -> None:
        answer = receiver.call(b"{}", **{**_signed(b"{}"), **changes})
        assert answer.status_code == 401
        assert _total(receiver) == 0

    def test_it_refuses_another_body_another_key_and_no_signature(self, receiver: Running) -> None:
        unknown = "whsec_" + base64.b64encode(b"x" * 32).decode()
        assert receiver.call(b'{"a": 1}', **_signed(b"{}")).status_code == 401
        assert receiver.call(b"{}", **_signed(b"{}", unknown)).status_code == 401
        assert receiver.call(b"{}").status_code == 401
        version = _signed(b"{}")["webhook_signature"].replace("v1,", "v2,")
        answer = receiver.call(b"{}", **{**_signed(b"{}"), "webhook_signature": version})
        assert answer.status_code == 401
        assert _total(receiver) == 0

    @pytest.mark.parametrize(("off_s", "status"), [(-250, 200), (-400, 401), (400, 401)])
    def test_it_refuses_what_is_old_or_from_the_future(
        self, receiver: Running, off_s: int, status: int
    ) -> None:
        headers = _signed(b"{}", at=int(time.time()) + off_s)
        assert receiver.call(b"{}", **headers).status_code == status

    def test_it_takes_each_event_once_also_when_it_arrives_twice_at_once(
        self, receiver: Running
    ) -> None:
        headers = _signed(b"{}")
        with ThreadPoolExecutor(8) as threads:
            calls = [threads.submit(receiver.call, b"{}", **headers) for _ in range(8)]
            said = sorted(call.result().json()["status"] for call in calls)
        assert said == ["received"] + ["received before"] * 7
        assert _total(receiver) == 1

        assert httpx.post(f"{receiver.url}/webhooks/clear").status_code == 200
        assert _total(receiver) == 0
        again = receiver.call(b"{}", **_signed(b"{}", at=int(time.time()) + 1))
        assert again.json() == {"status": "received before"}

    def test_a_get_is_signed_without_a_body_and_shown_by_its_query(self, receiver: Running) -> None:
        headers = {name.replace("_", "-"): text for name, text in _signed(b"").items()}
        asked = f"{receiver.url}/webhook?status=SUCCESS&name=night%20%26%20day"
        assert httpx.get(asked, headers=headers).json() == {"status": "received"}
        shown = httpx.get(f"{receiver.url}/webhooks").json()["webhooks"]
        assert shown == [{"status": "SUCCESS", "name": "night & day"}]

    def test_what_it_can_not_handle_comes_again(self, receiver: Running) -> None:
        body = b"no JSON"
        for _ in range(2):
            try:
                assert receiver.call(body, **_signed(body)).status_code == 500
            except httpx.RemoteProtocolError:  # Python's server closes the connection
                continue
        assert receiver.call(b"{}", **_signed(b"{}")).json() == {"status": "received"}

    def test_it_reads_no_more_than_a_webhook_can_have(self, receiver: Running) -> None:
        try:
            answer = receiver.call(bytes(2 << 20), **_signed(b"{}"))
        except (httpx.WriteError, httpx.ReadError):  # it closes before all was sent
            assert _total(receiver) == 0
        else:
            assert answer.status_code == 413

    def test_other_paths_are_not_found(self, receiver: Running) -> None:
        assert httpx.get(f"{receiver.url}/elsewhere").status_code == 404

    @pytest.mark.parametrize("secret", ["", "whsec_", "whsec_%%%", "whsec_c2hvcnQ="])
    def test_it_does_not_start_without_a_secret_that_can_be_used(
        self, command: list[str | Path], secret: str
    ) -> None:
        done = subprocess.run(
            command,
            env={"PATH": os.environ["PATH"], "WEBHOOK_SECRET": secret, "PORT": "0"},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("WEBHOOK_SECRET can't be used: ")


class TestReadme:
    def test_its_commands_can_be_read_by_a_shell(self) -> None:
        assert len(_blocks()) >= 6
        for block in _blocks():
            subprocess.run(["bash", "-n"], input=block, text=True, check=True)

    def test_its_calls_carry_a_token_and_a_config_that_is_json(self) -> None:
        text = (EXAMPLES / "README.md").read_text()
        calls = re.findall(r"^curl (?:.*\\\n)*.*", text, re.MULTILINE)
        assert len(calls) >= 4
        assert all("Authorization: Bearer $TOKEN" in call for call in calls)
        for config in re.findall(r"'config=(.*)'", text):
            assert json.loads(config)["name"]

    def test_what_it_names_is_there(self) -> None:
        text = (EXAMPLES / "README.md").read_text()
        named = set(re.findall(r"(?:--script|custom-check run) ([\w/-]+)", text))
        assert {"mock-checker", "gemini-python", "gemini-node"} <= named
        assert [name for name in named if not (EXAMPLES / name).is_dir()] == []

    def test_its_calls_of_the_api_make_jobs(self, tmp_path: Path) -> None:
        """In a copy, since they name what `build.sh` has packed; no engine is there."""
        if shutil.which("curl") is None:
            absent("curl", "curl isn't on this machine")
        folder, home = tmp_path / "examples", tmp_path / "home"
        shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("dist", "__pycache__"))
        _built(folder / "dist", folder)
        (tmp_path / ".curlrc").write_text(r'write-out = "\n%{http_code} %{method}\n"')
        home.mkdir()
        upload, later = (text for text in _blocks() if "\ncurl " in f"\n{text}")
        with Victim(make_home(home), DOCKER_HOST=f"unix://{tmp_path}/none.sock") as daemon:
            more = {"TECKOCHECKER_URL": daemon.start(), "HOME": str(tmp_path)}
            env = {**daemon.env, **more}
            first = _shell(upload, folder, env)
            (number,) = (job["id"] for job in _listed(folder, env))
            called = upload[: upload.index("curl ")] + later.replace("/123/", f"/{number}/")
            then = _shell(called, folder, env)
            jobs = {job["name"]: job for job in _listed(folder, env)}
            script = daemon.call("GET", f"/api/custom-checks/{number}/script/info")

        assert re.findall(r"^\d{3} [A-Z]+$", first, re.MULTILINE) == ["201 POST", "200 GET"]
        assert re.findall(r"^\d{3} [A-Z]+$", then, re.MULTILINE) == ["200 POST", "201 POST"]
        assert set(jobs) == {"Mock Test", "My Job"}
        assert jobs["Mock Test"]["env_vars"]["TASK_ID"] == "test_123"
        assert jobs["My Job"]["script_git_url"] == "https://github.com/your-company/checks.git"
        assert (home / script["file_path"]).is_file()


def _blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", (EXAMPLES / "README.md").read_text(), re.DOTALL)


def _shell(text: str, folder: Path, env: Mapping[str, str]) -> str:
    """What it prints, with the program on the path; it must succeed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        env={**env, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _listed(folder: Path, env: Mapping[str, str]) -> list[dict[str, Any]]:
    told = _shell("teckochecker custom-check list --output json", folder, env)
    listed: list[dict[str, Any]] = json.loads(told)["jobs"]
    return listed


def _operation(
    state: str, *, requests: int = 2, succeeded: int = 0, failed: int = 0
) -> dict[str, Any]:
    """A batch as Google's API answers: numbers are text."""
    stats = {
        "requestCount": str(requests),
        "successfulRequestCount": str(succeeded),
        "failedRequestCount": str(failed),
    }
    return {"name": "batches/abc", "metadata": {"state": state, "batchStats": stats}}


def _asked(example: str, service: Receiver, **changes: str) -> Finding:
    variables = {
        "BATCH_ID": "abc",
        "GEMINI_API_KEY": API_KEY,
        "GEMINI_BASE_URL": service.url,
    }
    return run(example, **{**variables, **changes})


def _built(target: Path, examples: Path = EXAMPLES) -> list[Path]:
    done = subprocess.run(
        [examples / "build.sh", target], capture_output=True, text=True, check=True
    )
    return [Path(line) for line in done.stdout.splitlines()]


def _digest(path: Path) -> tuple[str, str]:
    return path.name, hashlib.sha256(path.read_bytes()).hexdigest()


class _Check:
    """An example that was built, uploaded and prepared."""

    def __init__(self, example: str, folder: Path) -> None:
        self._runtime = RUNTIMES[example]
        packed = next(path for path in _built(folder / "dist") if path.stem == example)
        kept = folder / "shelf"
        accepted = archive.accept(packed, kept, entrypoint=MAIN[self._runtime])
        self._script = shelf.path(kept, accepted.sha256)
        needs = Needs(
            runtime=self._runtime, script=self._script, dependencies=accepted.dependencies
        )
        self._image = ready().prepare(needs, _clean, nobody_cancels)

    def run(self, **variables: str) -> Finding:
        wanted = request(
            "",
            runtime=self._runtime,
            network="open",
            image=self._image,
            environment=variables,
            script=self._script,
        )
        return found(wanted)[0]


def _clean(printed: Path, clean: Path) -> None:
    with printed.open("rb") as source, clean.open("wb") as target:
        archive.inspect_installed(source, target)


@contextmanager
def _on_the_bridge(content: Mapping[str, Any]) -> Iterator[str]:
    """A service on this machine that containers reach: its URL."""
    body = json.dumps(content).encode()

    class Call(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    client = engine()
    try:
        config = client.networks.get("bridge").attrs["IPAM"]["Config"][0]
    finally:
        client.close()
    address = next(ip_network(config["Subnet"]).hosts())
    with ThreadingHTTPServer(("0.0.0.0", 0), Call) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://{address}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def _receiving(command: list[str | Path], secrets: str) -> Iterator[Running]:
    with subprocess.Popen(
        command,
        env={"PATH": os.environ["PATH"], "WEBHOOK_SECRET": secrets, "PORT": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        listening = re.fullmatch(r"Listening on (http://\S+)/webhook\n", process.stdout.readline())
        try:
            assert listening is not None
            yield Running(process, listening[1])
        finally:
            process.kill()


def _signed(body: bytes, secret: str = SIGNING, *, at: int | None = None) -> dict[str, str]:
    """Headers as the product sends them; `_` stands for `-`."""
    timestamp = int(time.time()) if at is None else at
    return {
        "webhook_id": "evt_1",
        "webhook_timestamp": str(timestamp),
        "webhook_signature": signature(Secret(secret), "evt_1", timestamp, body),
    }


def _total(receiver: Running) -> int:
    return int(httpx.get(f"{receiver.url}/webhooks").json()["total"])

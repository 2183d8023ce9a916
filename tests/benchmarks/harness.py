"""The real daemon and the simulators as processes, and what the system says about them.

Every process is this program's own child, ended by its pid when its `with` block ends; every
wait has an end. Nothing but loopback is called.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import apsw
import httpx

from teckochecker.config import NAMES
from teckochecker.simulators import API_KEY, STORAGE_TOKEN
from teckochecker.store import Store

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("teckochecker")
TOKEN = "tck_benchmarks"
KEY = "QmVuY2htYXJrcy1vbmx5LW5vdC1hLXJlYWwta2V5LTAxMjM0NTY3"
END_S = 40.0  # for a process to end after SIGTERM, until it is killed
START = (sys.executable, "-m", "teckochecker", "start", "--port", "0")
TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """The measuring itself went wrong; the message says what."""


def say(text: str) -> None:
    """How far it is, for whoever watches."""
    print(f"    {text}", file=sys.stderr, flush=True)


def wait_for(what: str, found: Callable[[], Any], *, seconds: float, every_s: float = 0.02) -> Any:
    """The first true `found()`; Failed when there is none within `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(every_s)
    raise Failed(f"no {what} within {seconds:g} s")


class Daemon:
    """The real program over a home of its own; use as a context manager after `start`."""

    def __init__(self, home: Path, settings: Mapping[str, object]) -> None:
        self.home = home
        self.database = home / "teckochecker.db"
        self.environment = _environment(home, settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._address = ("127.0.0.1", 0)
        _give_token(self.database, home)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> float:
        """Seconds from the command to the first answer."""
        begun = time.perf_counter()
        with (self.home / "daemon.out").open("ab") as out:
            self._process = subprocess.Popen(
                START,
                env=self.environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        self._address = wait_for("address of the daemon", self._told, seconds=30, every_s=0.005)
        wait_for("answer of the daemon", self._answers, seconds=30, every_s=0.005)
        return time.perf_counter() - begun

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            end(process)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise Failed("the daemon isn't running")
        return self._process.pid

    @property
    def port(self) -> int:
        return self._address[1]

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The JSON that the API answers; Failed for any status but 2xx."""
        connection = http.client.HTTPConnection(*self._address, timeout=30)
        try:
            content = None if body is None else json.dumps(body).encode()
            headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise Failed(f"{method} {path} answered {answer.status}: {text[:500]!r}")
        return json.loads(text) if text else None

    def upload(self, job: int, files: Mapping[str, bytes]) -> None:
        """Gives a custom check its script, as a form."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        answer = httpx.post(
            f"http://127.0.0.1:{self.port}/api/custom-checks/{job}/script/upload",
            files={"file": ("script.tgz", packed.getvalue())},
            headers={"authorization": f"Bearer {TOKEN}"},
            trust_env=False,
        )
        if not answer.is_success:
            raise Failed(f"the upload was answered {answer.status_code}: {answer.text[:500]}")

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Read from the database's file, as any other program could."""
        connection = apsw.Connection(str(self.database), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.set_busy_timeout(5000)
            return list(connection.execute(statement, values))
        finally:
            connection.close()

    def cpu_s(self) -> float:
        """User and system time of the daemon so far."""
        return cpu_s(self.pid)

    def pss_mb(self) -> float:
        """Memory of the daemon and all its descendants, shared pages divided by their users."""
        return sum(_pss_bytes(pid) for pid in _tree(self.pid)) / 2**20

    def _told(self) -> tuple[str, int] | None:
        if self._process is not None and self._process.poll() is not None:
            said = (self.home / "daemon.out").read_text(errors="replace")[-2000:]
            raise Failed(f"the daemon ended with {self._process.returncode}: {said}")
        try:
            document = json.loads((self.home / "daemon.lock").read_text())
        except (OSError, ValueError):
            return None  # not there yet, or about to be written
        if document["pid"] != self.pid or not document["url"]:
            return None
        host, _, port = document["url"].removeprefix("http://").rpartition(":")
        return host, int(port)

    def _answers(self) -> bool:
        try:
            self.call("GET", "/api/health")
        except OSError:
            return False
        return True


class Simulated:
    """A simulator of OpenAI in a process of its own; `port` 0 takes a free one."""

    def __init__(self, *options: str, port: int = 0) -> None:
        command = [sys.executable, "-m", "teckochecker.simulators", "openai"]
        self._process = subprocess.Popen(
            [*command, "--port", str(port), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"the simulator ended with {self._process.wait()}")
        self.url: str = json.loads(line)["url"]
        self.port = int(self.url.rpartition(":")[2])
        self.base_url = f"{self.url}/v1"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        end(self._process)

    def asked(self, after: int = 0) -> list[tuple[str, float]]:
        """Batch id and instant (unix seconds) of each request, without the first `after`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", f"/_sim/requests?after={after}")
            document = json.load(connection.getresponse())
        finally:
            connection.close()
        return [(one["path"].rpartition("/")[2], one["at"]) for one in document]


@contextmanager
def simulated(*options: str) -> Iterator[Simulated]:
    with Simulated(*options) as simulator:
        yield simulator


@contextmanager
def installation(openai: Simulated | None = None, **settings: object) -> Iterator[Daemon]:
    """A daemon, not started yet, over a home that is removed afterwards."""
    if openai is not None:
        settings = {"OPENAI_BASE_URL": openai.base_url, **settings}
    with (
        tempfile.TemporaryDirectory(prefix="teckochecker-bench-") as folder,
        Daemon(Path(folder), settings) as daemon,
    ):
        yield daemon


def add_secrets(daemon: Daemon, *names: str) -> None:
    """The Keboola secret `keboola`, and an OpenAI secret of each name."""
    secrets = [
        ("keboola", "keboola", STORAGE_TOKEN),
        *((name, "openai", API_KEY) for name in names),
    ]
    for name, kind, value in secrets:
        body = {"name": name, "type": kind, "value": value}
        daemon.call("POST", "/api/admin/secrets", body)


def job_fields(name: str, batch_id: str, interval_s: int, **more: object) -> dict[str, object]:
    return {
        "name": name,
        "batch_id": batch_id,
        "openai_secret": "openai",
        "keboola_secret": "keboola",
        "keboola_stack_url": "http://127.0.0.1:9",  # nothing is ever triggered
        "keboola_configuration_id": "1",
        "poll_interval_seconds": interval_s,
        **more,
    }


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS  # utime, stime: fields 14 and 15


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to this very process, SIGKILL when that isn't enough; closes its pipes."""
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def run_module(module: str, *arguments: str, given: object = None, seconds: float) -> Any:
    """The JSON that `python -m tests.benchmarks.MODULE` prints, from a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments],
        input=json.dumps(given).encode(),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        timeout=seconds,
        check=True,
    )
    return json.loads(done.stdout)


def _environment(home: Path, settings: Mapping[str, object]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in NAMES and not name.startswith("TECKOCHECKER_")
    }
    ours = {
        "TECKOCHECKER_HOME": str(home),
        "SECRET_KEY": KEY,
        "ALLOWED_PRIVATE_HOSTS": "127.0.0.1",
        "DRAIN_SECONDS": "2",
    }
    return kept | ours | {name: str(value) for name, value in settings.items()}


def _give_token(database: Path, home: Path) -> None:
    store = Store(database, backups=home / "backups")
    store.secrets.replace_token(hashlib.sha256(TOKEN.encode()).digest(), datetime.now(UTC))
    store.close()
    (home / "token").write_text(TOKEN)
    (home / "token").chmod(0o600)


def _tree(pid: int) -> Sequence[int]:
    found = [pid]
    for parent in found:  # grows while it is walked
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split()]
    return found


def _pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise Failed(f"/proc/{pid}/smaps_rollup tells no Pss")

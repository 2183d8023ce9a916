"""The daemon killed at random instants, again and again: nothing may be lost or stuck.

Each round starts the real program on the same data, adds a few random jobs, and kills it with
SIGKILL up to 300 ms after it was up, or after it has taken the jobs. At the end it runs
undisturbed until everything is delivered. What the simulators have seen then is compared with
the jobs that were asked for. The same seed gives the same jobs and the same delays; where a kill
lands is chance.

    python -m tests.benchmarks.kill_soak --rounds 1000 [--seed N]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import apsw
import httpx

from teckochecker.simulators import API_KEY, STORAGE_TOKEN, Keboola, OpenAI, Receiver
from tests.benchmarks.harness import end, say, wait_for

KILL_WITHIN_S = 0.3
START_WITHIN_S = 30.0
SETTLE_S = 90.0  # several looks of 10 s, each after a start
LATENCIES_S = (0.0, 0.01, 0.05)


class Victim:
    """The real daemon over a home that `init` has made; ended by its pid on exit."""

    def __init__(self, home: Path, **settings: object) -> None:
        self.home = home
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TECKOCHECKER_HOME": str(home),
            "ALLOWED_PRIVATE_HOSTS": "127.0.0.1",
            "MIN_POLL_INTERVAL": "1",
            **{name: str(value) for name, value in settings.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(trust_env=False, timeout=10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        if self.process is not None:
            end(self.process)

    @property
    def token(self) -> str:
        return (self.home / "token").read_text().strip()

    @property
    def log(self) -> list[dict[str, Any]]:
        """The events that it has logged so far, over all its lives."""
        try:
            lines = (self.home / "teckochecker.log").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def spawn(self, port: int = 0) -> None:
        """A new process, which needn't be up yet."""
        command = [sys.executable, "-m", "teckochecker", "start", "--port", str(port)]
        with (self.home / "out").open("ab") as out:
            self.process = subprocess.Popen(
                command,
                env=self.env,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def start(self) -> str:
        """A new process that answers; its address."""
        self.spawn()
        return self.wait_up()

    def wait_up(self) -> str:
        url: str = wait_for("address", self._told, seconds=START_WITHIN_S, every_s=0.005)
        self._client.base_url = httpx.URL(url)
        self._client.headers["authorization"] = f"Bearer {self.token}"
        return url

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait_ended(self, seconds: float) -> int:
        """The exit code."""
        assert self.process is not None
        return self.process.wait(seconds)

    def call(self, method: str, path: str, body: object = None) -> Any:
        answer = self._client.request(method, path, json=body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def add_secrets(self) -> None:
        for kind, value in (("openai", API_KEY), ("keboola", STORAGE_TOKEN)):
            self.call("POST", "/api/admin/secrets", {"name": kind, "type": kind, "value": value})

    def job(self, name: str) -> Any:
        return self.call("GET", f"/api/jobs/{name}")

    def wait_job(self, name: str, wanted: Callable[[Any], bool], *, seconds: float = 30) -> Any:
        """The job's document once it is as wanted."""
        seen: list[Any] = []

        def found() -> Any:
            seen[:] = [self.job(name)]
            return seen[0] if wanted(seen[0]) else None

        try:
            return wait_for(f"job {name} as wanted", found, seconds=seconds, every_s=0.03)
        except Exception as error:
            error.add_note(f"last seen: {seen}")
            error.add_note(f"deliveries: {self.deliveries(name)}")
            raise

    def deliveries(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("GET", f"/api/jobs/{name}/deliveries")["deliveries"]
        return found

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement on the database's file, as any other program could."""
        connection = apsw.Connection(str(self.home / "teckochecker.db"))
        try:
            connection.set_busy_timeout(5000)
            return list(connection.execute(statement, values))
        finally:
            connection.close()

    def _told(self) -> str | None:
        assert self.process is not None
        if self.process.poll() is not None:
            said = (self.home / "out").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the daemon ended with {self.process.returncode}: {said}")
        try:
            document = json.loads((self.home / "daemon.lock").read_text())
        except (OSError, ValueError):
            return None  # not there yet, or about to be written
        return document["url"] if document["pid"] == self.process.pid else None


def make_home(folder: Path) -> Path:
    """A fresh installation by the program's own `init`; copy it, for `init` takes half a second."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "TECKOCHECKER_HOME": str(folder)}
    command = [sys.executable, "-m", "teckochecker", "init"]
    subprocess.run(command, env=env, cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


@dataclass(frozen=True)
class Figures:
    """What came of a soak; `lost` and `stuck` must be 0."""

    rounds: int
    jobs: int
    triggers: int
    doubles: int
    started_doubles: int
    lost: int
    stuck: int


class Soak:
    """The simulators, the victim, and the jobs that it has taken."""

    def __init__(
        self, victim: Victim, openai: OpenAI, keboola: Keboola, receiver: Receiver, seed: int
    ) -> None:
        self.victim = victim
        self.openai = openai
        self.keboola = keboola
        self.receiver = receiver
        self.random = random.Random(seed)
        self.taken: dict[str, str] = {}  # names of jobs that were confirmed to us, and actions
        self._asked_for = 0

    def round(self) -> None:
        for simulator in (self.openai, self.keboola, self.receiver):
            simulator.latency_s = self.random.choice(LATENCIES_S)
        jobs = [self._job() for _ in range(self.random.randint(0, 3))]
        delay_s = self.random.uniform(0, KILL_WITHIN_S)
        killer = threading.Timer(delay_s, self.victim.kill)
        late = self.random.random() < 0.5
        self.victim.start()
        if not late:
            killer.start()
        try:
            for name, action, fields in jobs:
                self.victim.call("POST", "/api/jobs", fields)
                self.taken[name] = action
        except httpx.TransportError:
            pass  # killed while it was asked: it may have taken the job, and need not
        finally:
            if late:
                killer.start()
            killer.join()

    def figures(self, rounds: int) -> Figures:
        """Run undisturbed until all is delivered, and compare with what the simulators saw."""
        self.victim.start()
        end_at = time.monotonic() + SETTLE_S
        while (stuck := self._unfinished()) and time.monotonic() < end_at:
            time.sleep(0.1)
        started = Counter(_event_id(job) for job in self.keboola.jobs)
        called = Counter(call.headers["webhook-id"] for call in self.receiver.requests)
        seen = {"keboola": started, "webhook": called}
        events = self.victim.rows(
            "SELECT jobs.name, deliveries.action, deliveries.event_id FROM deliveries "
            "JOIN jobs ON jobs.id = deliveries.job_id"
        )
        delivered = {name for name, action, event_id in events if seen[action][event_id]}
        return Figures(
            rounds=rounds,
            jobs=len(self.taken),
            triggers=len(started) + len(called),
            doubles=started.total() + called.total() - len(started) - len(called),
            started_doubles=started.total() - len(started),
            lost=len(self.taken.keys() - delivered - stuck),
            stuck=len(stuck),
        )

    def _job(self) -> tuple[str, str, dict[str, object]]:
        self._asked_for += 1
        number = self._asked_for
        steps = ["in_progress"] * self.random.choice((0, 0, 0, 1, 2))
        self.openai.add(f"batch_{number}", *steps, "completed")
        action = self.random.choice(("keboola", "webhook"))
        return f"job-{number}", action, job_fields(number, action, self.keboola, self.receiver)

    def _unfinished(self) -> set[str]:
        rows = self.victim.rows("SELECT name FROM jobs WHERE status <> 'completed'")
        return {name for (name,) in rows}


def job_fields(
    number: int, action: str, keboola: Keboola, receiver: Receiver, **more: object
) -> dict[str, object]:
    """A polling job `job-N` on `batch_N`."""
    actions: dict[str, dict[str, object]] = {
        "keboola": {
            "keboola_secret": "keboola",
            "keboola_stack_url": keboola.url,
            "keboola_configuration_id": "123456",
        },
        "webhook": {"webhook_url": f"{receiver.url}/hook"},
    }
    return {
        "name": f"job-{number}",
        "batch_id": f"batch_{number}",
        "openai_secret": "openai",
        "poll_interval_seconds": 1,
        **actions[action],
        **more,
    }


def _event_id(job: dict[str, Any]) -> str:
    values = {one["name"]: one["value"] for one in job["variableValuesData"]["values"]}
    found: str = values["teckochecker_event_id"]
    return found


@contextmanager
def soaked(folder: Path, seed: int) -> Iterator[Soak]:
    """A soak over a fresh home, with the secrets in it."""
    home = folder / "home"
    home.mkdir()
    make_home(home)
    with ExitStack() as stack:
        openai = stack.enter_context(OpenAI())
        keboola = stack.enter_context(Keboola())
        receiver = stack.enter_context(Receiver())
        victim = stack.enter_context(Victim(home, OPENAI_BASE_URL=openai.base_url))
        victim.start()
        victim.add_secrets()
        victim.kill()
        yield Soak(victim, openai, keboola, receiver, seed)


def soak(folder: Path, rounds: int, seed: int) -> Figures:
    with soaked(folder, seed) as running:
        for number in range(1, rounds + 1):
            running.round()
            if number % 50 == 0:
                say(f"{number} of {rounds} rounds, {len(running.taken)} jobs")
        return running.figures(rounds)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="kill_soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="teckochecker-soak-"))
    figures = soak(folder, options.rounds, options.seed)
    print(json.dumps({"seed": options.seed, **asdict(figures)}))
    if figures.lost or figures.stuck or figures.started_doubles:
        print(f"The data is kept in {folder}.", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())

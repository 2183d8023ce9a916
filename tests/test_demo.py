"""The demo as people run it: the real program, its output in a file, and what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from teckochecker.cli.demo import ACTS, faults
from teckochecker.cli.demo_view import Watched
from teckochecker.simulators import Keboola, OpenAI

JOBS = ("nightly-summaries", "review-sentiment", "product-tags")
FOREIGN = {  # settings of the user's own installation, which the demo must not meet
    "TECKOCHECKER_HOME": "/nonexistent",
    "TECKOCHECKER_URL": "http://127.0.0.1:9",
    "TECKOCHECKER_TOKEN": "tck_of-another-installation",
    "SECRET_KEY": "short",
    "OPENAI_BASE_URL": "http://169.254.169.254/v1",
    "API_PORT": "not a number",
}


@dataclass(frozen=True)
class Play:
    """A running demo; `temporary` is the folder in which it makes its own."""

    process: subprocess.Popen[bytes]
    temporary: Path
    began: float

    @property
    def output(self) -> str:
        return (self.temporary.parent / "output").read_text()

    def wait_for(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        while not (found := re.search(pattern, self.output)):
            assert self.process.poll() is None, self.output
            assert time.monotonic() - self.began < seconds, self.output
            time.sleep(0.05)
        return found

    def end(self, number: signal.Signals | None = None) -> int:
        """The exit code, after the signal if one is given."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(60 - (time.monotonic() - self.began))

    def left_behind(self) -> list[str]:
        """Files, and processes that know of the folder."""
        marks = str(self.temporary).encode()
        files = [str(path) for path in self.temporary.iterdir()]
        return files + [pid for pid in os.listdir("/proc") if marks in _environment_of(pid)]


def _environment_of(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "environ").read_bytes()
    except OSError:  # no process, somebody else's, or just gone
        return b""


@contextmanager
def playing(folder: Path, *options: str) -> Iterator[Play]:
    temporary = folder / "temporary"
    temporary.mkdir(parents=True)
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "teckochecker", "demo", *options],
            env={**os.environ, **FOREIGN, "TMPDIR": str(temporary)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Play(process, temporary, time.monotonic())
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def plays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Play]]:
    """A usual run and a kept one, side by side to save time."""
    usual, kept = tmp_path_factory.mktemp("usual"), tmp_path_factory.mktemp("kept")
    with playing(usual) as one, playing(kept, "--keep") as other:
        yield {"usual": one, "kept": other}


def test_it_tells_what_was_triggered_and_which_trouble_was_met(plays: dict[str, Play]) -> None:
    play = plays["usual"]

    assert play.end() == 0, play.output
    story, summary = play.output.split("\nEverything went as it must")
    for job in JOBS:
        assert job in story
        assert job in summary
    for trouble in ("answered 429", "answered 500"):
        assert trouble in story
        assert trouble in summary
    triggered, untriggered = summary.split("\nNot triggered\n")
    assert len(re.findall(r"http://127.0.0.1:\d+/jobs/\d+\n", triggered)) == 2
    assert untriggered.strip().startswith("review-sentiment: FAILED")
    assert play.left_behind() == []


def test_it_sends_no_control_characters_to_a_file(plays: dict[str, Play]) -> None:
    play = plays["usual"]
    play.end()

    assert re.findall(r"[^\x20-\x7e\n]", play.output) == []


def test_what_it_offers_for_copying_works_until_it_is_interrupted(plays: dict[str, Play]) -> None:
    play = plays["kept"]
    url = play.wait_for(r"TECKOCHECKER_URL=(\S+)\n")[1]
    token = play.wait_for(r"TECKOCHECKER_TOKEN=(\S+)\n")[1]
    commands = play.wait_for(r"  export (?:.+\n)+\n")[0]

    headers = {"authorization": f"Bearer {token}"}
    assert httpx.get(f"{url}/api/jobs", headers=headers).json()["total"] == 3
    tried = subprocess.run(["sh", "-e", "-c", commands], capture_output=True, text=True)
    assert tried.returncode == 0, tried.stderr
    assert all(job in tried.stdout for job in JOBS)
    assert httpx.get(f"{url}/api/jobs/mine", headers=headers).status_code == 200

    assert play.end(signal.SIGINT) == 0
    assert play.left_behind() == []


@pytest.mark.parametrize("moment", ["Starting", "product-tags"])
def test_an_interruption_leaves_nothing_behind(tmp_path: Path, moment: str) -> None:
    with playing(tmp_path) as play:
        play.wait_for(moment)

        assert play.end(signal.SIGINT) == 130
        assert play.output.endswith("Stopped: the daemon is ended and its folder removed.\n")
        assert "Traceback" not in play.output
        assert play.left_behind() == []


def test_it_shows_the_last_words_of_a_daemon_that_dies(tmp_path: Path) -> None:
    with playing(tmp_path) as play:
        daemon = int(play.wait_for(r"process (\d+) and answers")[1])
        os.kill(daemon, signal.SIGKILL)

        assert play.end() == 1
        assert "The daemon ended with exit code -9" in play.output
        assert "daemon.started" in play.output
        assert play.left_behind() == []


def test_it_names_all_that_did_not_happen(openai: OpenAI, keboola: Keboola) -> None:
    stuck = {"status": "active", "keboola_job": None}

    assert faults([Watched({"name": act.name, **stuck}) for act in ACTS], openai, keboola) == [
        "nightly-summaries is active, and not completed.",
        "nightly-summaries started 0 Keboola jobs, and not 1.",
        "The Keboola job of nightly-summaries is not started, and not success.",
        "review-sentiment is active, and not failed.",
        "product-tags is active, and not completed.",
        "product-tags started 0 Keboola jobs, and not 1.",
        "The Keboola job of product-tags is not started, and not success.",
        "product-tags didn't tell of the 429.",
        "product-tags asked again sooner than Retry-After allows.",
        "product-tags didn't tell of the 500.",
    ]

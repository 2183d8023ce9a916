"""The README's commands, run in order in an empty home."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from teckochecker.lock import holder

README = Path(__file__).parent.parent / "README.md"
_BLOCK = re.compile(
    r"(?:<!-- not run here: (?P<why>[^>]+) -->\n)?```sh\n(?P<text>.*?)```", re.DOTALL
)


def blocks() -> list[re.Match[str]]:
    return list(_BLOCK.finditer(README.read_text()))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    left = holder(home)
    if left is not None:
        os.kill(left.pid, signal.SIGTERM)


def test_every_block_that_cannot_run_here_says_why() -> None:
    assert [block["why"] for block in blocks() if block["why"]] == [
        "the test suite runs them one by one",
        "waits for a batch at OpenAI",
    ]


@pytest.mark.slow
def test_its_commands_work_in_order_in_an_empty_home(home: Path, tmp_path: Path) -> None:
    env = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "TECKOCHECKER_HOME": str(home),
    }
    runnable = [block["text"] for block in blocks() if not block["why"]]
    assert len(runnable) >= 6
    for text in runnable:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            env=env,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


def test_its_tables_name_every_setting() -> None:
    from teckochecker.config import NAMES

    missing = [name for name in NAMES if f"`{name}`" not in README.read_text()]
    assert missing == []

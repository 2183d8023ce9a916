"""The README's commands, run in order in an empty home."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from teckochecker.lock import SUPERVISOR, holder
from tests.sandboxed import ENVIRONMENT, ready

README = Path(__file__).parent.parent / "README.md"
_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>not run here|needs): (?P<why>[^>]+) -->\n)?```sh\n(?P<text>.*?)```",
    re.DOTALL,
)


class Block(NamedTuple):
    """A fenced `sh` block: why it isn't run here, or what it needs, where it says so."""

    text: str
    not_run: str | None
    needs: str | None


def blocks(document: Path) -> list[Block]:
    return [
        Block(
            found["text"],
            found["why"] if found["mark"] == "not run here" else None,
            found["why"] if found["mark"] == "needs" else None,
        )
        for found in _BLOCK.finditer(document.read_text())
    ]


def run_in_order(
    texts: Iterable[str], home: Path, folder: Path, more: Mapping[str, str] | None = None
) -> None:
    """Each text in a shell of its own in `folder`, with the program on the path."""
    env = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(folder),
        "TECKOCHECKER_HOME": str(home),
        **(more or {}),
    }
    for text in texts:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            env=env,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """An empty home, in which no daemon is left running."""
    home = tmp_path / "home"
    yield home
    left = holder(home, SUPERVISOR) or holder(home)
    if left is not None:
        os.kill(left.pid, signal.SIGTERM)


def test_every_block_that_cannot_run_here_says_why() -> None:
    assert [block.not_run for block in blocks(README) if block.not_run] == [
        "the test suite runs them one by one",
        "waits for a batch at OpenAI",
        "it pulls the usual base images, and the tests build on bases of their own",
    ]


@pytest.mark.slow
def test_its_commands_work_in_order_in_an_empty_home(home: Path, tmp_path: Path) -> None:
    runnable = [block.text for block in blocks(README) if not (block.not_run or block.needs)]
    assert len(runnable) >= 6
    run_in_order(runnable, home, tmp_path)


@pytest.mark.docker
def test_its_commands_for_an_engine_work(home: Path, tmp_path: Path) -> None:
    ready()
    needing = [block.text for block in blocks(README) if block.needs == "a Docker engine"]
    assert needing
    run_in_order(["teckochecker init", *needing], home, tmp_path, ENVIRONMENT)


def test_its_tables_name_every_setting() -> None:
    from teckochecker.config import NAMES

    missing = [name for name in NAMES if f"`{name}`" not in README.read_text()]
    assert missing == []

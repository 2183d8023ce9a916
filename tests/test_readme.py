"""The README's commands, run in order in an empty home."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from teckochecker.lock import SUPERVISOR, holder
from tests.required import absent
from tests.sandboxed import ENVIRONMENT, ready

README = Path(__file__).parent.parent / "README.md"
PATH = f"{Path(sys.executable).parent}:/usr/bin:/bin"
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
        "PATH": PATH,
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


def run_document(document: Path, home: Path, folder: Path, path: str = PATH) -> None:
    """Its blocks in order, but for those that need an engine.

    Where there is no curl, those that need it are left out, and then the test skips.
    """
    has_curl = shutil.which("curl", path=path) is not None
    able = {None, "curl"} if has_curl else {None}
    mine = [block for block in blocks(document) if not block.not_run]
    run_in_order([one.text for one in mine if one.needs in able], home, folder, {"PATH": path})
    if not has_curl and any(one.needs == "curl" for one in mine):
        absent("curl", f"{document.name}: the blocks that need curl were left out, it isn't here")


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
        "`.ci/run` runs them",
        "waits for a batch at OpenAI",
        "it pulls the usual base images, and the tests build on bases of their own",
    ]


@pytest.mark.slow
def test_its_commands_work_in_order_in_an_empty_home(home: Path, tmp_path: Path) -> None:
    assert len([block for block in blocks(README) if not block.not_run]) >= 7
    run_document(README, home, tmp_path)


@pytest.mark.parametrize(
    "document", [README, *sorted(README.parent.glob("docs/*.md"))], ids=lambda path: path.name
)
def test_a_block_that_calls_curl_says_so(document: Path) -> None:
    calling = [one for one in blocks(document) if re.search(r"\bcurl\b", one.text)]
    assert [one.text for one in calling if not (one.not_run or one.needs == "curl")] == []


@pytest.mark.parametrize(
    ("required", "outcome"), [("", pytest.skip.Exception), ("docker,curl", pytest.fail.Exception)]
)
def test_without_curl_the_other_blocks_run_and_the_test_skips_or_where_it_must_not_fails(
    required: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TECKO_REQUIRE", required)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "bash").symlink_to(str(shutil.which("bash")))
    document = tmp_path / "some.md"
    document.write_text(
        "```sh\n: >first\n```\n<!-- needs: curl -->\n```sh\n: >asked\n```\n```sh\n: >last\n```\n"
    )
    with pytest.raises(outcome, match="curl"):
        run_document(document, tmp_path, tmp_path, str(programs))
    assert {one.name for one in tmp_path.iterdir()} == {"programs", "some.md", "first", "last"}


def test_what_is_said_to_run_in_ci_does() -> None:
    said = "\n".join(one.text for one in blocks(README) if one.not_run == "`.ci/run` runs them")
    goals = re.findall(r"^make (\w+)", said, re.MULTILINE)
    steps = re.findall(r"^make --\S+ (\w+)", (README.parent / ".ci/run").read_text(), re.MULTILINE)
    assert goals == ["demo", "test"]
    assert set(goals) <= set(steps)


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

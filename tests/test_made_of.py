"""`--version` and `--licenses` in a checkout; `test_binary` has those of the executable."""

from __future__ import annotations

import platform

import apsw
import pytest

from teckochecker import __version__, cli
from teckochecker.cli.exits import Exit


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == Exit.OK
    assert capsys.readouterr().out == f"teckochecker {__version__}\n"


@pytest.mark.parametrize("flag", ["-v", "--verbose"])
def test_more_of_it_tells_the_parts(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version", flag]) == Exit.OK
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == f"teckochecker {__version__}"
    told = dict(line.split(maxsplit=1) for line in rest)
    assert told["Python"] == platform.python_version()
    assert told["SQLite"] == apsw.sqlite_lib_version()
    assert told["platform"] == platform.platform()
    assert told["commit"] == "unknown" or len(told["commit"].removesuffix("-dirty")) == 40


def test_licences_are_in_the_executable_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--licenses"]) == Exit.NOT_FOUND
    assert "each is a package of its own" in capsys.readouterr().err


def test_anything_else_behind_them_is_refused() -> None:
    assert cli.run(["--version", "job"]) == Exit.USAGE

"""`--version` and `--licenses`: what this program is made of, and on what it runs."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from teckochecker import __version__
from teckochecker.cli.exits import Exit
from teckochecker.cli.output import say
from teckochecker.errors import NotFound

_DESCRIBE: Final = ("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
_UNKNOWN: Final = "unknown"


def version(
    *, verbose: Annotated[bool, Parameter(alias="-v", help="Of its parts too.")] = False
) -> int:
    """Tell the version.

    Example: teckochecker --version -v
    """
    say(f"teckochecker {__version__}")
    if verbose:
        for name, value in _parts():
            say(f"{name:<9} {value}")
    return Exit.OK


def licenses() -> int:
    """Print the licences of all works of others that the executable holds.

    Example: teckochecker --licenses
    """
    text = _packaged("THIRD_PARTY_LICENSES")
    if text is None:
        raise NotFound(
            "Only the executable holds works of others; here each is a package of its own, with "
            "its licence in its folder."
        )
    say(text)
    return Exit.OK


def _parts() -> Iterator[tuple[str, str]]:
    from teckochecker.store import sqlite_version

    yield "commit", _commit()
    yield "Python", platform.python_version()
    yield "SQLite", sqlite_version()
    yield "platform", platform.platform()


def _commit() -> str:
    """Written into an executable when it is built; in a checkout git knows."""
    packaged = _packaged("COMMIT")
    if packaged is not None:
        return packaged or _UNKNOWN
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or not shutil.which("git"):
        return _UNKNOWN
    asked = ["git", "-C", str(root), *_DESCRIBE]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() or _UNKNOWN


def _packaged(name: str) -> str | None:
    """The text of a file that is put into executables only."""
    file = resources.files("teckochecker") / name
    return file.read_text() if file.is_file() else None

"""The `.env` of an installation: written by `init`, edited by `secret rotate-key`.

Files are replaced as a whole, so that a crash leaves the old one or the new one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from teckochecker.errors import ConfigError, FolderError

_HEAD = """\
# Settings of this TeckoChecker installation. Flags and environment variables are stronger.
# Relative paths start at this folder. `teckochecker config show` tells what is in force.
"""


def template(key: str | None) -> str:
    """Every setting with its default, commented out, and SECRET_KEY unless it is set elsewhere."""
    from teckochecker.config import SETTINGS

    blocks = [_HEAD]
    for setting in SETTINGS:
        given = key if setting.name == "SECRET_KEY" else None
        line = f"{setting.name}={given}" if given else f"#{setting.name}={setting.default}"
        blocks.append(f"# {setting.help}\n{line}\n")
    return "\n".join(blocks)


def changed(text: str, values: Mapping[str, str | None]) -> str:
    """The file's text with these settings; None takes one out. All other lines stay.

    Raises ConfigError where a line can't be told from its neighbours, as inside quotes.
    """
    lines: list[str] = []
    left = dict(values)
    for line in text.splitlines(keepends=True):
        name = _assigned(line)
        if name not in values:
            lines.append(line)
        elif (value := left.pop(name, None)) is not None:
            lines.append(f"{name}={value}\n")
    if lines and not lines[-1].endswith("\n"):
        lines.append("\n")
    lines += [f"{name}={value}\n" for name, value in left.items() if value is not None]
    made = "".join(lines)
    wanted = {**_parsed(text), **values}
    if _parsed(made) != {name: value for name, value in wanted.items() if value is not None}:
        raise ConfigError(
            f".env can't be edited safely: write {' and '.join(values)} on lines of their own, "
            f"without quotes."
        )
    return made


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise FolderError(f"{path} can't be read ({error.strerror}): check its rights.") from error


def write_private(path: Path, text: str) -> None:
    """Put a file there at once and durably, readable by its owner only."""
    path = path.resolve()  # a link goes on pointing at its file
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise FolderError(
            f"{path} can't be written ({error.strerror}): check the folder's owner and rights, "
            f"or set TECKOCHECKER_HOME to another place."
        ) from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _assigned(line: str) -> str:
    """The name that a line sets, or nothing."""
    found = re.match(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=", line)
    return found[1] if found else ""


def _parsed(text: str) -> dict[str, str]:
    from dotenv import dotenv_values

    found = dotenv_values(stream=StringIO(text), interpolate=False)
    return {name: value for name, value in found.items() if value is not None}

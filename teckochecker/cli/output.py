"""What is printed: tables and sentences for people, the API's own bytes for programs.

Answers go to standard output, notes and errors to standard error. Texts come from services
and from other people, so what isn't printable is replaced before a terminal sees it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from io import StringIO
from typing import Annotated, Any, Final, Literal

from cyclopts import Parameter

from teckochecker.cli.exits import Refusal
from teckochecker.errors import FolderError, InvalidInput, TeckoError

Output = Annotated[
    Literal["table", "json"],
    Parameter(help="Tables for people (default), or the API's JSON as it came."),
]
_UNBOUNDED: Final = 100_000  # columns of a pipe: nothing is cut or wrapped there
_NARROW: Final = 110  # with fewer columns lists of jobs say less, each in one line
_OPTIONS: Final = {  # what the API calls otherwise
    **{
        name: f"--{name}"
        for name in ("kind", "limit", "name", "network", "offset", "status", "type")
    },
    "batch_ids": "--batch-id",
    "openai_secret": "--openai-secret",
    "openai_base_url": "--openai-base-url",
    "max_failed_percent": "--max-failed-percent",
    "poll_interval_seconds": "--poll-interval",
    "trigger_on": "--trigger-on",
    "keboola_secret": "--keboola-secret",
    "keboola_stack_url": "--keboola-stack",
    "keboola_component_id": "--component-id",
    "keboola_configuration_id": "--config-id",
    "keboola_variables": "--variable",
    "webhook_url": "--webhook-url",
    "webhook_method": "--webhook-method",
    "webhook_headers": "--webhook-header",
    "webhook_query_params": "--webhook-query",
    "webhook_signing_secret": "--webhook-signing-secret",
    "webhook_timeout_seconds": "--webhook-timeout",
    "script": "--script",
    "script_runtime": "--runtime",
    "script_entrypoint": "--entrypoint",
    "script_git_url": "--git-url",
    "script_git_branch": "--git-branch",
    "script_git_subfolder": "--git-subfolder",
    "script_git_secret": "--git-secret",
    "check_params": "--param",
    "env_vars": "--env",
    "timeout_seconds": "--timeout",
    "resource_limits.memory_mb": "--memory-mb",
    "resource_limits.cpu_cores": "--cpu-cores",
    "max_consecutive_errors": "--max-consecutive-errors",
}


def say(text: str) -> None:
    """One line, or several, of an answer."""
    write(f"{text}\n".encode(sys.stdout.encoding or "utf-8", errors="replace"))


def note(text: str) -> None:
    """A line beside the answer, on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def answer(body: bytes, output: str, show: Callable[[], None]) -> None:
    """The API's bytes and a line's end, or what `show` makes of them."""
    if output == "table":
        show()
    elif body:
        write(body + b"\n")


def complain(error: TeckoError) -> None:
    """An error as a line, or one for each field that it is about."""
    said, faults = str(error), _faults(error)
    repeats = any(said.startswith(f"{field} {message}") for field, message in faults[:1])
    lines = [f"{_OPTIONS.get(field, field)}: {message}" for field, message in faults]
    if repeats and len(lines) == 1:
        said = lines.pop()
    elif repeats:
        said = f"{len(lines)} things must be mended:"
    note(f"Error: {printable(said)}")
    for line in lines:
        note(f"  {printable(line)}")


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows under headings; texts are wrapped on a terminal and never cut."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column == "ID")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    _print(made)


def show_fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Names and values below each other."""
    from rich.table import Table

    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(no_wrap=True, style="bold")
    made.add_column(overflow="fold")
    for name, value in pairs:
        made.add_row(name, _cell(value))
    _print(made)


def local_time(text: str | None) -> str:
    """An instant of the API in this machine's zone, like `2026-11-21 23:04:05 CET`."""
    if text is None:
        return "-"
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def counted(number: int, thing: str) -> str:
    """A number and its thing, like `1 script` or `2 scripts`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def is_narrow() -> bool:
    """Whether a table of many columns would be wrapped."""
    return sys.stdout.isatty() and shutil.get_terminal_size().columns < _NARROW


def from_now(text: str | None) -> str:
    """An instant of the API in a few letters, like `12 s ago` or `in 3 min`."""
    if text is None:
        return "-"
    seconds = (datetime.fromisoformat(text) - datetime.now(UTC)).total_seconds()
    size = round(abs(seconds))
    units = {"d": 86_400, "h": 3600, "min": 60}
    unit = next((unit for unit, length in units.items() if size >= 2 * length), "s")
    count = f"{size // units.get(unit, 1)} {unit}"
    return f"in {count}" if seconds > 0 else f"{count} ago"


def printable(text: str) -> str:
    """Without the characters that would steer a terminal."""
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)


def write(data: bytes) -> None:
    """Bytes to standard output at once; FolderError when it can't take them."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard()
        raise FolderError(f"The output can't be written ({error.strerror}).") from error


def discard() -> None:
    """Let what is still to be written go nowhere, so that the interpreter's end is silent."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _print(renderable: Any) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else _UNBOUNDED
    made = StringIO()  # `write` alone writes to standard output
    terminal = sys.stdout.isatty() or None  # None leaves it to FORCE_COLOR
    common: Any = {"file": made, "force_terminal": terminal, "width": width, "emoji": False}
    console = Console(**common, highlight=False, markup=False)
    if console.no_color:  # NO_COLOR; rich would leave bold letters
        console = Console(**common, highlight=False, markup=False, color_system=None)
    console.print(renderable)
    say("\n".join(line.rstrip() for line in made.getvalue().rstrip("\n").split("\n")))


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else printable(str(value))


def _faults(error: TeckoError) -> tuple[tuple[str, str], ...]:
    if isinstance(error, Refusal):
        return error.errors
    if isinstance(error, InvalidInput):
        return tuple((one.field, one.message) for one in error.errors)
    return ()

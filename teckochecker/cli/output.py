"""What is printed: tables and sentences for people, the API's own bytes for programs.

Answers go to standard output, notes and errors to standard error. Texts come from services
and from other people, so what isn't printable is replaced before a terminal sees it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from cyclopts import Parameter

from teckochecker.cli.exits import Refusal
from teckochecker.errors import FolderError, InvalidInput, TeckoError

Output = Annotated[
    Literal["table", "json"],
    Parameter(help="Tables for people (default), or the API's JSON as it came."),
]
_UNBOUNDED: Final = 100_000  # columns of a pipe: nothing is cut or wrapped there


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
    """An error as a line, and one more for each field that it names."""
    note(f"Error: {printable(str(error))}")
    for field, message in _field_errors(error):
        note(f"  {printable(field)}: {printable(message)}")


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
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    if console.no_color:  # NO_COLOR; rich would leave bold letters
        console = Console(width=width, color_system=None, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(renderable)
    say("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else printable(str(value))


def _field_errors(error: TeckoError) -> tuple[tuple[str, str], ...]:
    if isinstance(error, Refusal):
        return error.errors
    if isinstance(error, InvalidInput):
        return tuple((one.field, one.message) for one in error.errors)
    return ()

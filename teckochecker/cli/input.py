"""What people and pipes give: answers to questions, and the values of secrets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from teckochecker.cli.output import note, printable
from teckochecker.errors import FolderError, InvalidInput

MASKED_CHARS: Final = 6  # as in masking.py: a shorter value stands in innocent text too often

Yes = Annotated[bool, Parameter(name="--yes", help="Don't ask.")]
ValueFile = Annotated[
    Path | None,
    Parameter(
        name="--value-file",
        help="File that holds the value; else it is read from a pipe, or asked for unseen.",
    ),
]


def confirmed(question: str) -> bool:
    """Whether somebody at a terminal says yes; no answer is no."""
    if not sys.stdin.isatty():
        note(f"{question} Nobody is there to answer: nothing was done. Use --yes not to be asked.")
        return False
    sys.stderr.write(f"{printable(question)} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    note("Nothing was done.")
    return False


def secret_value(file: Path | None) -> str:
    """A secret's value from a file, a pipe or an unseen prompt; never from an argument.

    One line's end at the end of a file or pipe doesn't belong to the value.
    """
    if file is not None:
        value = _content(file)
    elif sys.stdin.isatty():
        value = _prompted()
    else:
        value = _decoded(sys.stdin.buffer.read(), "Standard input")
    if not value:
        raise InvalidInput("The value is empty: give one by --value-file, a pipe or the prompt.")
    if len(value) < MASKED_CHARS:
        note(f"Note: a value of less than {MASKED_CHARS} characters can't be masked in logs.")
    return value


def _content(file: Path) -> str:
    try:
        return _decoded(file.read_bytes(), str(file))
    except OSError as error:
        raise FolderError(
            f"{file} can't be read ({error.strerror}): check --value-file."
        ) from error


def _prompted() -> str:
    from getpass import getpass

    try:
        return getpass("Value (it isn't shown): ")
    except EOFError:
        return ""


def _decoded(data: bytes, what: str) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:  # its message would quote the value
        raise InvalidInput(f"{what} isn't UTF-8 text: a value must be.") from None
    return text.removesuffix("\n").removesuffix("\r")

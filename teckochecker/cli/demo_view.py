"""What `teckochecker demo` shows: a live table on a terminal, else a plain line for each change.

Both are made of the API's documents alone; nothing here asks, waits or decides.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from teckochecker.cli.output import printable, say
from teckochecker.domain import Document

WIDE: Final = 120  # columns: from there on ids and the last message have room in the table
NEWS_SHOWN: Final = 6  # below the table, which fits into 24 lines so
_STYLES: Final = {
    "active": "cyan",
    "completed": "green",
    "failed": "red",
    "error": "red",
    "follow_up_failed": "red",
    "warning": "yellow",
    "triggered": "green",
    "success": "green",
    "follow_up": "green",
    "pending": "dim",
}

Section = tuple[str, Sequence[str]]
"""A heading and its lines."""


@dataclass(slots=True)
class Watched:
    """A job as it was last seen, and its log so far, oldest entry first."""

    job: Document
    entries: list[Document] = field(default_factory=list)


Show = Callable[[Sequence[Watched]], None]


class Narrator:
    """Prints the story as it goes; every line bears the seconds since the narrator was made."""

    def __init__(self) -> None:
        self._console = _console()
        self._begun = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._begun

    def tell(self, text: str, style: str = "") -> None:
        self._print(Text(f"{self.elapsed_s:5.1f} s  {printable(text)}", style))

    @contextmanager
    def watching(self) -> Iterator[Show]:
        """Call what it gives at every look; the table is live until the block ends."""
        news = _News()
        if not _can_be_live(self._console):
            yield lambda watched: self._tell_all(news.since(watched))
            return
        told: list[Text] = []
        with Live(console=self._console, auto_refresh=False) as live:

            def show(watched: Sequence[Watched]) -> None:
                told.extend(self._stamped(line) for line in news.since(watched))
                table = _table(watched, datetime.now(UTC), wide=self._console.width >= WIDE)
                # Ends in an empty line: a terminal's echo of ^C behind a full one moves the table.
                live.update(Group(table, *told[-NEWS_SHOWN:], ""), refresh=True)

            yield show

    def sum_up(self, headline: str, sections: Sequence[Section], *, well: bool) -> None:
        """The end of the story; on a terminal its lines are wrapped between words."""
        self._print(Text(f"\n{headline}", "bold green" if well else "bold red"))
        for heading, lines in sections:
            self._print(Text(f"\n{heading}", "bold"))
            for line in lines:
                self._print(Text(self._wrapped(line)))
        self._print(Text())

    def offer(self, heading: str, commands: Sequence[str]) -> None:
        """Lines to copy, which are never broken."""
        self._print(Text(heading, "bold"))
        for command in commands:
            self._print(Text(f"  {command}"))
        self._print(Text())

    def _wrapped(self, line: str) -> str:
        if not self._console.is_terminal:
            return f"  {line}"
        indent = " " * (4 + len(line) - len(line.lstrip()))
        return textwrap.fill(
            line.lstrip(),
            self._console.width,
            initial_indent=indent[2:],
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )

    def _tell_all(self, lines: Sequence[Text]) -> None:
        for line in lines:
            self._print(self._stamped(line))

    def _stamped(self, line: Text) -> Text:
        stamped = Text(no_wrap=True, overflow="ellipsis")
        return stamped.append(f"{self.elapsed_s:5.1f} s  ", "dim").append_text(line)

    def _print(self, text: Text) -> None:
        if self._console.is_terminal:
            self._console.print(text, soft_wrap=True)
        else:
            say(text.plain)  # which knows what to do about a closed pipe or a full disk


class _News:
    """What is new in the logs from look to look, without what a job has just said already."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._said: dict[int, tuple[str, str]] = {}

    def since(self, watched: Sequence[Watched]) -> list[Text]:
        fresh: list[tuple[int, Text]] = []
        for one in watched:
            job_id = one.job["id"]
            for entry in one.entries[self._counts.get(job_id, 0) :]:
                words = entry["status"], entry["message"]
                if words != self._said.get(job_id):
                    fresh.append((entry["id"], _line(one.job["name"], *words)))
                self._said[job_id] = words
            self._counts[job_id] = len(one.entries)
        return [line for _, line in sorted(fresh, key=lambda pair: pair[0])]


def _console() -> Console:
    if sys.stdout.isatty():
        return Console(highlight=False)  # looks at NO_COLOR and TERM itself
    return Console(force_terminal=False)  # whatever FORCE_COLOR says


def _can_be_live(console: Console) -> bool:
    utf8 = console.encoding.startswith("utf")
    return console.is_terminal and not console.is_dumb_terminal and utf8


def _line(name: str, status: str, message: str) -> Text:
    line = Text(f"{name:<18} ")
    line.append(f"{status:<10} ", _STYLES.get(status, ""))
    return line.append(printable(message))


def _table(watched: Sequence[Watched], now: datetime, *, wide: bool) -> Table:
    table = Table(box=box.ROUNDED, expand=True)
    for heading in ("Job", "Status", "Batches", "Requests", "Next", "Keboola"):
        table.add_column(heading, no_wrap=True)
    if wide:
        table.add_column("Last message", no_wrap=True, overflow="ellipsis", ratio=1)
    for one in watched:
        last = [one.entries[-1]["message"] if one.entries else ""] if wide else []
        table.add_row(*_cells(one.job, now, wide=wide), *last)
    return table


def _cells(job: Document, now: datetime, *, wide: bool) -> tuple[str | Text, ...]:
    ended = job["completed_count"] + job["failed_count"]
    return (
        job["name"],
        _status(job, wide=wide),
        f"{ended}/{job['batch_count']}",
        _requests(job),
        _countdown(job, now),
        _keboola_job(job, wide=wide),
    )


def _status(job: Document, *, wide: bool) -> Text:
    """Only an active job has a phase, so without room the phase alone says both."""
    status, phase = job["status"], job["phase"]
    shown = status if phase is None else f"{status}, {phase}" if wide else phase
    return Text(shown, _STYLES.get(status, ""))


def _requests(job: Document) -> str:
    counts = [batch["request_counts"] for batch in job["batches"] if batch["request_counts"]]
    total = sum(count["total"] for count in counts)
    done = sum(count["completed"] + count["failed"] for count in counts)
    return f"{done}/{total}" if total else "-"


def _countdown(job: Document, now: datetime) -> str:
    if job["next_check_at"] is None:
        return "-"
    left_s = (datetime.fromisoformat(job["next_check_at"]) - now).total_seconds()
    return f"in {left_s:.1f} s" if left_s > 0 else "now"


def _keboola_job(job: Document, *, wide: bool) -> Text:
    started = job["keboola_job"]
    if started is None:
        return Text("-")
    shown = f"{started['id']} {started['status']}" if wide else started["status"]
    return Text(shown, _STYLES.get(started["status"], "yellow"))

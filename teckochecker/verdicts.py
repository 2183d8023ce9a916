"""From what a script printed to what its check found.

The verdict is the last line of standard output that is a JSON object whose `status` is one of
the four words; everything else on standard output is the script's own business. Whatever is
wrong with the run or with that line becomes an ERROR whose message says what to do about it.
Output is hostile text: bounded by the sandbox, and parsed here with bounds of its own.
"""

from __future__ import annotations

import json
import math
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from teckochecker.domain import MAX_DATA_BYTES, Document, Finding, Value, Verdict, replace
from teckochecker.errors import Fault
from teckochecker.masking import Mask

MAX_DEPTH: Final = 32
MAX_MESSAGE_CHARS: Final = 2000
RAW_OUTPUT_CHARS: Final = 1000
EDGE_CHARS: Final = 8192  # at a cut, half of a secret may stand there, which no mask finds
_STDERR_CHARS: Final = 500  # of its end, in a message
_QUOTED_CHARS: Final = 60
_WORDS: Final = frozenset(verdict.value for verdict in Verdict)
_INT64: Final = 2**63


class Stream(Value, frozen=True, kw_only=True):
    """What is kept of one output stream: its beginning and, after a cut, its end."""

    head: str = ""
    tail: str = ""
    cut_bytes: int = 0  # that stood between the two

    def lines(self) -> Iterator[str]:
        """Whole lines, the last first; the two that a cut went through are left out."""
        if not self.cut_bytes:
            yield from reversed(_lines(self.head + self.tail))
            return
        yield from reversed(_lines(self.tail)[1:])
        yield from reversed(_lines(self.head)[:-1])

    def shown(self, mask: Mask) -> str:
        """The stream for people, masked; says how much is missing and where."""
        if not self.cut_bytes:
            return mask.text(self.head + self.tail)
        head, tail = mask.text(self.head)[:-EDGE_CHARS], mask.text(self.tail)[EDGE_CHARS:]
        return f"{head}\n[... {self.cut_bytes} bytes or more are cut here ...]\n{tail}"


class Limits(Value, frozen=True, kw_only=True):
    """What one run may use."""

    memory_mb: int = 512
    cpu_cores: float = 0.5
    timeout_s: float = 300


class RunResult(Value, frozen=True, kw_only=True):
    """How one run in the sandbox ended.

    `exit_code` is the script's, 128 + n when signal n ended it, and None when that was never
    told. `script_ms` is the script's own time, `duration_ms` that of the whole container,
    `startup_ms` what of it the engine took to start it.
    `error` is a sentence when the script could not be started or watched to its end.
    """

    exit_code: int | None
    stdout: Stream
    stderr: Stream
    duration_ms: int
    startup_ms: int = 0
    script_ms: int | None = None
    peak_memory_bytes: int | None = None
    timed_out: bool = False
    oom_killed: bool = False
    output_limit_hit: bool = False
    error: str | None = None
    warnings: tuple[str, ...] = ()


def finding(result: RunResult, limits: Limits, mask: Mask) -> Finding:
    """The verdict of a run: read from what was printed, and masked after that.

    `data` is None where the script could not say any.
    """
    found = _found(result, limits, mask)
    data = None if found.data is None else mask.document(dict(found.data))
    message = _bounded(mask.text(found.message))
    return replace(found, message=message, data=data, warnings=result.warnings)


def _found(result: RunResult, limits: Limits, mask: Mask) -> Finding:
    stopped = _stopped(result, limits)
    if stopped is not None:
        return _error(stopped, Fault.TRANSIENT)
    said = _said(result.stdout)
    if result.exit_code != 0:
        data = said.data if isinstance(said, _Line) and said.fault is None else None
        return _error(_exit_message(result, said, mask), Fault.TRANSIENT, data)
    return _spoken(result, said, mask)


class _Line(Value, frozen=True, kw_only=True):
    """A line of standard output that is a verdict by its status."""

    verdict: Verdict
    message: str
    data: Document
    fault: str | None  # why it can't be accepted all the same


class _NoLine(Value, frozen=True, kw_only=True):
    """No line is a verdict; `hint` says what came nearest."""

    hint: str | None


def _stopped(result: RunResult, limits: Limits) -> str | None:
    """Why the run was stopped from outside, or never got to its end."""
    if result.output_limit_hit:
        return (
            "The script printed more than 16 MiB and was stopped: "
            "print less, one JSON line with the verdict is all that is read."
        )
    if result.oom_killed and result.exit_code != 0:
        return (
            f"The script needed more than {limits.memory_mb} MB of memory and was stopped: "
            f"use less, or raise resource_limits.memory_mb (up to 4096)."
        )
    if result.timed_out:
        return (
            f"The script ran longer than {limits.timeout_s:g} s and was stopped: "
            f"give its own calls a time-out, or raise timeout_seconds (up to 3600)."
        )
    return result.error


def _spoken(result: RunResult, said: _Line | _NoLine, mask: Mask) -> Finding:
    """The finding of a script that ended well."""
    if isinstance(said, _NoLine):
        raw = _clean(result.stdout.shown(mask)[:RAW_OUTPUT_CHARS])
        return _error(_missing_message(result, said), Fault.MALFORMED, {"raw_output": raw})
    if said.fault is not None:
        return _error(said.fault, Fault.MALFORMED)
    if said.verdict is Verdict.ERROR:
        message = said.message or "The script said ERROR and gave no message."
        return _error(message, Fault.TRANSIENT, said.data)
    message = said.message or f"The script said {said.verdict}."
    return Finding(verdict=said.verdict, message=message, data=said.data)


def _exit_message(result: RunResult, said: _Line | _NoLine, mask: Mask) -> str:
    if isinstance(said, _Line) and said.message:
        return said.message
    code = result.exit_code
    ended = "The script ended and its exit code is unknown"
    if code is not None:
        ended = f"The script ended with exit code {code}{_signal_name(code)}"
    last = _end(result.stderr.shown(mask))
    if last:
        return f"{ended}: {last}"
    return f"{ended} and printed nothing on standard error: print there what went wrong."


def _missing_message(result: RunResult, said: _NoLine) -> str:
    if said.hint is not None:
        return said.hint
    if not (result.stdout.head + result.stdout.tail).strip():
        return (
            "The script ended well but printed nothing: it must print one line like "
            '{"status": "PENDING", "message": "...", "data": {}} to standard output.'
        )
    return (
        "No line of standard output is a JSON object with a status: print one like "
        '{"status": "SUCCESS", "message": "...", "data": {}}, on a line of its own.'
    )


def _signal_name(code: int) -> str:
    try:
        return f" ({signal.Signals(code - 128).name})" if code > 128 else ""
    except ValueError:
        return ""


def _end(text: str) -> str:
    text = text.strip()
    if len(text) <= _STDERR_CHARS:
        return text
    end = text[-_STDERR_CHARS:]
    return "... " + (end.split("\n", 1)[1] if "\n" in end else end)


def _said(stdout: Stream) -> _Line | _NoLine:
    """The last line that is a verdict, else what comes nearest."""
    hint: str | None = None
    parser = _Parser()
    for line in stdout.lines():
        if not (line.startswith("{") and line.endswith("}") and '"status"' in line):
            continue
        try:
            found = parser.parse(line)
        except RecursionError:
            hint = hint or f"A line of standard output is JSON deeper than {MAX_DEPTH} levels."
            continue
        except ValueError:
            continue
        status = found.get("status")
        if isinstance(status, str) and status in _WORDS:
            return _line(found, Verdict(status), parser.fault)
        if "status" in found:
            hint = hint or _odd_status(status)
    return _NoLine(hint=hint)


def _line(found: Document, verdict: Verdict, fault: str | None) -> _Line:
    message = found.get("message")
    if message is None:
        text = ""
    elif isinstance(message, str):
        text = message.strip()
    else:
        text = json.dumps(message)
    data = found.get("data")
    data = {} if data is None else data
    fault = fault or _data_fault(data) or _text_fault(text)
    usable: Document = {} if fault else data
    return _Line(verdict=verdict, message=_clean(text), data=usable, fault=fault)


def _odd_status(status: object) -> str:
    shown = json.dumps(status)
    if len(shown) > _QUOTED_CHARS:
        shown = shown[:_QUOTED_CHARS] + "..."
    return (
        f"The script's status is {shown}, which is none of SUCCESS, FAILED, PENDING and ERROR: "
        f"print one of these words, in upper case."
    )


def _data_fault(data: object) -> str | None:
    if not isinstance(data, dict):
        return "The script's data isn't a JSON object: print data as {...}, or leave it out."
    try:
        size = len(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode())
    except UnicodeEncodeError:
        return "The script's data holds half a character (a lone surrogate): print valid text."
    if size > MAX_DATA_BYTES:
        return (
            f"The script's data is {size} bytes as JSON, at most {MAX_DATA_BYTES} are kept: "
            f"print less, it is also what the next check gets as PREVIOUS_DATA."
        )
    return None


def _text_fault(text: str) -> str | None:
    return None if _clean(text) == text else "The script's message isn't valid text."


def _clean(text: str) -> str:
    return text.encode(errors="replace").decode()


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE_CHARS else text[:MAX_MESSAGE_CHARS] + " ..."


class _Parser:
    """JSON as the standard has it: what Python would add to it is noted in `fault`."""

    def __init__(self) -> None:
        self.fault: str | None = None
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_constant=self._constant,
            parse_float=self._float,
            parse_int=self._int,
        )

    def parse(self, line: str) -> dict[str, Any]:
        """The object of a line; ValueError for anything else, RecursionError when too deep."""
        self.fault = None
        found = self._decoder.decode(line)
        if not isinstance(found, dict):
            raise ValueError("not an object")
        if _deeper(found, MAX_DEPTH):
            self.fault = f"The script's verdict is JSON deeper than {MAX_DEPTH} levels: flatten it."
        return found

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            self.fault = f"The script's verdict has {json.dumps(twice)[:_QUOTED_CHARS]} twice."
        return found

    def _constant(self, text: str) -> float:
        self.fault = f"The script's verdict holds {text}, which isn't JSON: print null or a text."
        return 0.0

    def _float(self, text: str) -> float:
        number = float(text)
        return number if math.isfinite(number) else self._constant(text[:_QUOTED_CHARS])

    def _int(self, text: str) -> int:
        if len(text) > 20 or not -_INT64 <= int(text) < _INT64:
            self.fault = f"The script's verdict holds a number beyond 64 bits ({text[:24]}...)."
            return 0
        return int(text)


def _deeper(value: object, levels: int) -> bool:
    """Whether objects and lists are nested deeper than `levels`."""
    layer: list[object] = [value]
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return any(isinstance(inner, dict | list) for inner in layer)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n")]


def _error(message: str, fault: Fault, data: Document | None = None) -> Finding:
    return Finding(verdict=Verdict.ERROR, message=message, data=data, fault=fault)

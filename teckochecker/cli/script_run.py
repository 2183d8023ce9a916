"""`custom-check run`: a local script in the sandbox of a daemon, without one.

What runs is the source's own code over a shelf that is gone afterwards, so a script that
behaves here behaves as a job.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from cyclopts import Parameter

from teckochecker.cli import environment
from teckochecker.cli.engine import RUNTIMES, Runtime, sandbox
from teckochecker.cli.exits import Exit
from teckochecker.cli.job_options import pairs, parsed
from teckochecker.cli.job_tables import megabytes, show_text
from teckochecker.cli.output import Output, answer, note, printable, show_fields
from teckochecker.cli.script_options import RunFields
from teckochecker.errors import FieldError, InvalidInput, NotReachable, OutsideError

if TYPE_CHECKING:
    from teckochecker.domain import Document, Finding, Secret
    from teckochecker.sandbox import Sandbox
    from teckochecker.sources import CheckContext, Script
    from teckochecker.verdicts import RunResult

T = TypeVar("T")

_SUFFIXES: Final[dict[str, Runtime]] = {
    ".py": "python",
    ".js": "node",
    ".mjs": "node",
    ".cjs": "node",
}


def run(
    script: Annotated[
        Path, Parameter(name="DIR", help="The script's folder, or a .tgz, or its only file.")
    ],
    /,
    fields: RunFields | None = None,
    *,
    runtime: Annotated[
        Runtime | None, Parameter(help="Guessed from main.py or index.js where it isn't given.")
    ] = None,
    env: Annotated[
        tuple[str, ...],
        Parameter(
            name="--env",
            help="NAME=VALUE for the script, or NAME to take it from here, masked in what is "
            "printed; may be repeated.",
        ),
    ] = (),
    previous_data: Annotated[
        str | None, Parameter(help="JSON object: the data of the check before (PREVIOUS_DATA).")
    ] = None,
    check_number: Annotated[int, Parameter(help="Counts from 1 (CHECK_NUMBER).")] = 1,
    output: Output = "table",
) -> int:
    """Run a local script once in the sandbox: no job, no daemon, no installation.

    0: SUCCESS. 10: FAILED. 20: PENDING. 30: ERROR. Ctrl-C removes the container.
    It needs the Docker engine, and images by `teckochecker runners build`.

    Example: teckochecker custom-check run ./check --param task_id=nightly
      --env API_KEY
    """
    given = (fields or RunFields()).body()
    wanted = runtime or _guessed(script, given.get("script_entrypoint"))
    texts, opened = _variables(env)
    document = given | {"script_runtime": wanted, "env_vars": texts}
    previous = None if previous_data is None else _previous(previous_data)
    if check_number < 1:
        raise InvalidInput("--check-number must be 1 or more: it counts the checks of a job.")
    with tempfile.TemporaryDirectory(prefix="teckochecker-") as folder:
        source, doc, state = _prepared(Path(folder), script, wanted, document)
        with _uninterrupted() as checkpoint:
            context = _context(state, check_number, previous, opened, checkpoint)
            found, result = _ran(source, doc, context)
    for warning in found.warnings:
        note(f"Note: {printable(warning)}")
    told = _told(found, result, context)
    answer(json.dumps(told).encode(), output, lambda: _show(told))
    return _exit(found)


def _prepared(
    folder: Path, script: Path, runtime: Runtime, document: dict[str, Any]
) -> tuple[Script, Document, Document]:
    """The source over a shelf in `folder`, the checked document, and where the script is."""
    from teckochecker.cli.packing import pack
    from teckochecker.scripts import archive
    from teckochecker.sources.script import stored

    box = sandbox((runtime,))
    box.remove_orphans()  # of runs like this one that were killed
    source, packed, shelf = _source(box, folder / "shelf"), folder / "packed", folder / "shelf"
    doc = _checked(source, document)
    entrypoint = doc["script_entrypoint"]
    packed.write_bytes(pack(script, entrypoint=entrypoint))
    accepted = _apart(partial(archive.accept, packed, shelf, entrypoint=entrypoint))
    return source, doc, stored(accepted, datetime.now(UTC))


def _source(box: Sandbox, shelf: Path) -> Script:
    from teckochecker.scripts import archive
    from teckochecker.scripts.git import Access
    from teckochecker.sources import Script

    def inspect(printed: Path, clean: Path) -> None:
        _apart(partial(archive.inspect, printed, clean))

    return Script(box, shelf, Access, inspect, os.cpu_count() or 1)


def _checked(source: Script, document: dict[str, Any]) -> Document:
    """The document of a job with this script; InvalidInput names every fault."""
    from teckochecker.validation import Fields

    fields = Fields(document)
    part = source.parse(fields).part
    fields.done("option of a script")
    return part.doc


def _context(
    state: Document,
    number: int,
    previous: Document | None,
    opened: dict[str, Secret],
    checkpoint: Callable[[], None],
) -> CheckContext:
    from teckochecker.domain import JobId
    from teckochecker.sources import CheckContext

    return CheckContext(
        job_id=JobId(0),
        number=number,
        state=state,
        now=datetime.now(UTC),
        secrets=opened,
        pool_key="",
        previous=previous,
        checkpoint=checkpoint,
    )


def _ran(source: Script, doc: Document, context: CheckContext) -> tuple[Finding, RunResult | None]:
    """What the script found; no result where what it depends on can't be had."""
    from teckochecker.sandbox import DockerError
    from teckochecker.sources.script import not_run

    try:
        return source.run_once(doc, context.state or {}, context, _progress)
    except DockerError as error:
        raise NotReachable(str(error)) from error
    except (OutsideError, InvalidInput) as error:
        return not_run(error), None


def _progress(step: str) -> None:
    note(f"... {printable(step)}")


def _guessed(script: Path, entrypoint: str | None) -> Runtime:
    from teckochecker.cli import starters

    if entrypoint is None and script.is_dir():
        mains = (starters.FILES[one][0] for one in RUNTIMES)
        names = [main for main in mains if (script / main).exists()]
    else:
        names = [entrypoint or script.name]
    found = {_SUFFIXES[suffix] for name in names if (suffix := Path(name).suffix) in _SUFFIXES}
    if len(found) != 1:
        raise InvalidInput(
            f"{script} doesn't tell its runtime, by one of main.py and index.js: give --runtime."
        )
    return found.pop()


def _variables(texts: Iterable[str]) -> tuple[dict[str, str], dict[str, Secret]]:
    """The variables as a job would have them, and what it would call its secrets.

    A NAME alone is such a secret: its value comes from the environment.
    """
    from teckochecker.domain import Secret

    written = pairs("env_vars", (text for text in texts if "=" in text))
    for name, value in written.items():
        if "secret_ref:" in value:
            raise InvalidInput(
                f"{name} names a stored secret, and none can be opened here: set {name} in the "
                f"environment, and give --env {name}."
            )
    opened = {}
    for name in (text for text in texts if "=" not in text):
        if (found := environment.variable(name)) is None:
            raise InvalidInput(
                f"{name} isn't in the environment: set it there, or give --env NAME=VALUE."
            )
        written[name] = f"secret_ref:{name}"
        opened[f"secret_ref:{name}"] = Secret(found)
    return written, opened


def _previous(text: str) -> Document:
    found = parsed("previous_data", text)
    if not isinstance(found, dict):
        message = "must be a JSON object"
        raise InvalidInput(f"--previous-data {message}.", (FieldError("previous_data", message),))
    return found


@contextmanager
def _uninterrupted() -> Iterator[Callable[[], None]]:
    """Ctrl-C and SIGTERM are seen by the checkpoint that this gives, and nowhere else.

    So neither one, nor two, keep the container from being removed.
    """
    came: list[int] = []

    def checkpoint() -> None:
        if came:
            raise KeyboardInterrupt

    before = {
        one: signal.signal(one, lambda number, _: came.append(number))
        for one in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield checkpoint
        checkpoint()
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _apart(fn: Callable[[], T]) -> T:
    """In a process of its own, as a daemon reads what strangers packed."""
    import trio

    from teckochecker.lanes import Lanes

    return trio.run(Lanes(network=1).archive, fn)


def _told(found: Finding, result: RunResult | None, context: CheckContext) -> dict[str, Any]:
    from teckochecker.sources.script import mask_of

    mask = mask_of(context)
    return {
        "status": found.verdict.value,
        "message": found.message,
        "data": found.data,
        "detail": found.detail,
        "exit_code": result.exit_code if result else None,
        "execution_time_ms": result.duration_ms if result else None,
        "script_time_ms": result.script_ms if result else None,
        "peak_memory_bytes": result.peak_memory_bytes if result else None,
        "stdout": result.stdout.shown(mask) if result else "",
        "stderr": result.stderr.shown(mask) if result else "",
    }


def _show(told: dict[str, Any]) -> None:
    show_fields(_fields(told))
    show_text("installer", told["detail"])
    if told["status"] == "ERROR":
        show_text("standard output", told["stdout"])
    show_text("standard error", told["stderr"])


def _fields(told: dict[str, Any]) -> Iterator[tuple[str, object]]:
    yield "Verdict", told["status"]
    yield "Message", told["message"]
    if told["data"]:
        yield "Data", json.dumps(told["data"], indent=2, ensure_ascii=False)
    if told["execution_time_ms"] is None:
        return
    yield "Exit code", told["exit_code"]
    script_ms = told["script_time_ms"]
    of_it = "" if script_ms is None else f", {script_ms / 1000:.2f} s of it in the script"
    yield "Time", f"{told['execution_time_ms'] / 1000:.2f} s{of_it}"
    if told["peak_memory_bytes"] is not None:
        yield "Peak memory", megabytes(told["peak_memory_bytes"])


def _exit(found: Finding) -> Exit:
    from teckochecker.domain import Verdict

    codes = {
        Verdict.SUCCESS: Exit.OK,
        Verdict.FAILED: Exit.WAIT_FAILED,
        Verdict.PENDING: Exit.WAIT_PENDING,
    }
    return codes.get(found.verdict, Exit.WAIT_OTHERWISE)

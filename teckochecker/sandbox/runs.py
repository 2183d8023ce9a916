"""One run of a program in a container of its own, from its creation to its removal.

Whatever happens in between, cancellation included, the container is removed; what a killed
process leaves behind is found again by its labels. On every path but a clean end the stream
is cut before the kill: the engine waits for a reader of what the container has printed.
"""

from __future__ import annotations

import json
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final

import msgspec

from teckochecker.domain import Value
from teckochecker.errors import FolderError, InvalidInput
from teckochecker.sandbox.container import Container, need_open_network, remove
from teckochecker.sandbox.engine import SLOW_TIMEOUT_S, DockerError, Engine, RunCutOff
from teckochecker.sandbox.settings import DEADLINE, GUEST, INSTANCE, JOB, RUN, Shape, settings
from teckochecker.sandbox.stream import PIECE_BYTES, Capture, End, Frames, Sink, exchange
from teckochecker.sandbox.turns import Turns

if TYPE_CHECKING:
    from docker import APIClient

MAX_REQUEST_BYTES: Final = 2 * 1024 * 1024  # the entry program reads no longer line
REMOVED_AT_ONCE: Final = 8  # 20 take 1.2 s so, and 3.5 s one after the other
STARTS_PER_CPU: Final = 2  # more starts at a time take longer in all: 50 by 16 % on two cores
STOPPED: Final = 128 + signal.SIGTERM
_GRACE_S: Final = 120  # beyond its time-out, until a guest's container is an orphan


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What is run: `argv` in /work/script, into which `script` (a clean tar) is unpacked."""

    run_id: str
    job_id: str
    image: str
    shape: Shape
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    script: bytes | Path = field(repr=False)
    max_output_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a program ended; the fields are those of RunResult."""

    end: End
    startup_ms: int
    duration_ms: int
    exit_code: int | None = None
    script_ms: int | None = None
    peak_memory_bytes: int | None = None
    oom_killed: bool = False
    error: str | None = None
    leftover: str | None = None


class Runs:
    """The runs of one process; `guest` is one that lives beside the daemon of its instance."""

    def __init__(
        self, engine: Engine, instance: str, now: Callable[[], datetime], *, guest: bool
    ) -> None:
        self._engine = engine
        self._instance = instance
        self._now = now
        self._guest = guest
        self._lock = threading.Lock()
        self._live: set[str] = set()
        self._starts = Turns()

    @property
    def containers(self) -> int:
        """How many live now, those that are just being made or removed among them."""
        with self._lock:
            return len(self._live)

    def play(
        self, program: Program, stdout: Sink, stderr: Capture, checkpoint: Callable[[], None]
    ) -> Ending:
        """Runs a program to its end, time-out or cap; DockerError when the engine fails.

        `checkpoint` is called often; what it raises ends the run and leaves here.
        """
        nonce = secrets.token_hex(16)
        pieces = _pieces(program, nonce)
        host = self._engine.host()
        places = max(1, STARTS_PER_CPU * host.cpus)
        with self._engine.client() as api, ExitStack() as turn:
            turn.enter_context(self._starts.turn(places, checkpoint))
            begun = time.monotonic()
            labels = self._labels(program.run_id, program.job_id, program.shape.limits.timeout_s)
            body = settings(program.image, program.shape, host, labels)
            if program.shape.network == "open":
                need_open_network(self._engine, api)
            checkpoint()
            with self._container(api, program.run_id, body) as container, _begun(container):
                frames = Frames(stdout, stderr)
                end = _watched(container, program, pieces, frames, turn.close, checkpoint)
                line = stderr.pick(nonce.encode())
                ending = Ending(
                    end=end,
                    startup_ms=_ms(container.started_at - begun),
                    duration_ms=_ms(time.monotonic() - begun),
                    **_told(end, line, container),
                )
        return replace(ending, leftover=container.leftover)

    def bake(
        self, image: str, folder: str, tar: BinaryIO, made: str, labels: Mapping[str, str]
    ) -> None:
        """Makes the image `made` of `image` and a tar unpacked in `folder`; nothing is run."""
        run_id = f"bake-{secrets.token_hex(8)}"
        body = {
            "Image": image,
            "Labels": self._labels(run_id, "", timeout_s=0),
            "HostConfig": {"NetworkMode": "none"},
        }
        with (
            self._engine.client(timeout_s=SLOW_TIMEOUT_S) as api,
            self._container(api, run_id, body) as container,
        ):
            container.put(folder, tar)
            container.commit(made, {INSTANCE: self._instance, **labels})

    def remove_orphans(self) -> int:
        """Removes what killed processes of this instance left behind, and says how many.

        The live ones are looked at after the engine was asked: a run is live before it has
        a container. A guest's container has its time, since no list of its runs is here.
        """
        with self._engine.client() as api, self._engine.told("list its containers"):
            label = {"label": f"{INSTANCE}={self._instance}"}
            found = api.containers(all=True, filters=label)
        orphans = [one["Id"] for one in found if self._orphaned(one["Labels"])]
        with ThreadPoolExecutor(REMOVED_AT_ONCE) as threads:
            removals = [threads.submit(self._remove, container) for container in orphans]
        for removal in removals:
            removal.result()  # the first failure is raised here, when all have been tried
        return len(orphans)

    def _remove(self, container: str) -> None:
        with self._engine.client() as api:
            remove(self._engine, api, container)

    @contextmanager
    def _container(self, api: APIClient, run_id: str, body: dict[str, Any]) -> Iterator[Container]:
        """A container that is gone afterwards, whatever happened."""
        container = Container(self._engine, api, f"teckochecker-{run_id}")
        with self._lock:
            self._live.add(run_id)
        try:
            container.create(body)
            yield container
        finally:
            container.discard()
            with self._lock:
                self._live.discard(run_id)

    def _labels(self, run_id: str, job_id: str, timeout_s: float) -> dict[str, str]:
        last = self._now().timestamp() + timeout_s + _GRACE_S
        return {
            INSTANCE: self._instance,
            JOB: job_id,
            RUN: run_id,
            DEADLINE: str(int(last)),
            GUEST: str(int(self._guest)),
        }

    def _orphaned(self, labels: Mapping[str, str]) -> bool:
        with self._lock:
            if labels.get(RUN) in self._live:
                return False
        over = self._now().timestamp() > float(labels.get(DEADLINE, 0))
        return over or labels.get(GUEST) != "1"


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _watched(
    container: Container,
    program: Program,
    pieces: Iterator[bytes],
    frames: Frames,
    started: Callable[[], None],
    checkpoint: Callable[[], None],
) -> End:
    """Starts the container, says that it has `started`, and reads it to its end or ours."""
    with container.attached() as sock:
        container.start()
        started()
        try:
            end = exchange(
                sock,
                pieces,
                frames,
                deadline=container.started_at + program.shape.limits.timeout_s,
                max_bytes=program.max_output_bytes,
                checkpoint=checkpoint,
            )
        except OSError as error:
            raise DockerError("The connection to the Docker engine broke.") from error
    if end is End.CLOSED:
        container.ended()
    return end


@contextmanager
def _begun(container: Container) -> Iterator[None]:
    """Tells a failure of the engine after the start from one before it."""
    try:
        yield
    except DockerError as error:
        if not container.started_at:
            raise
        raise RunCutOff(str(error), answer=error.answer) from error


def _pieces(program: Program, nonce: str) -> Iterator[bytes]:
    """The request line and the tar; InvalidInput when the line is too long."""
    script = program.script
    with _readable(script):
        length = len(script) if isinstance(script, bytes) else script.stat().st_size
    request = {
        "nonce": nonce,
        "argv": program.argv,
        "environment": dict(program.environment),
        "length": length,
    }
    line = json.dumps(request).encode() + b"\n"
    if len(line) > MAX_REQUEST_BYTES:
        raise InvalidInput("The variables of a script are 2 MiB at most: use fewer or shorter.")
    return _sent(line, script)


def _sent(line: bytes, script: bytes | Path) -> Iterator[bytes]:
    yield line
    if isinstance(script, bytes):
        yield script
        return
    with _readable(script), script.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


@contextmanager
def _readable(script: bytes | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FolderError(f"The script's file {script!s} can't be read: {error}.") from error


_Number = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**62)]  # what the database can keep


class _Report(Value, frozen=True, kw_only=True):
    """What the entry program tells."""

    exit_code: _Number
    script_ms: _Number
    peak_memory_bytes: _Number | None
    oom_kills: _Number | None
    error: str | None


def _told(end: End, line: bytes | None, container: Container) -> dict[str, Any]:
    """Fields of an Ending: what the entry program told, else what the engine knows."""
    if end is not End.CLOSED:
        return {}
    report = None if line is None else _report(line)
    if report is None:
        code, oom_killed = container.fate()
        if code == STOPPED and not oom_killed:
            raise DockerError(
                "The container was stopped from outside (SIGTERM), as the Docker engine does when "
                "it is stopped."
            )
        error = f"The script ended the program that watched it (exit code {code}): it must not."
        return {"exit_code": code, "oom_killed": oom_killed, "error": error}
    return {
        "exit_code": report.exit_code,
        "script_ms": report.script_ms,
        "peak_memory_bytes": report.peak_memory_bytes,
        "oom_killed": bool(report.oom_kills),
        "error": report.error and f"The script could not be started: {report.error}.",
    }


def _report(line: bytes) -> _Report | None:
    """None for what our entry program can't have written: a script may read its memory."""
    try:
        return msgspec.json.decode(line, type=_Report)
    except msgspec.DecodeError:
        return None

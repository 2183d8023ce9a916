"""Runs a script once in a hardened container, and returns how it ended and what it printed.

The only door to the Docker engine. Synchronous; many threads may use one Sandbox.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from teckochecker.sandbox.engine import DockerError, Engine, Host, ImageMissing
from teckochecker.sandbox.runs import Program, Runs
from teckochecker.sandbox.settings import RunRequest, Shape
from teckochecker.sandbox.stream import Capture, End
from teckochecker.verdicts import RunResult

__all__ = ["DockerError", "Host", "ImageMissing", "RunRequest", "Sandbox"]

MAX_OUTPUT_BYTES: Final = 16 * 1024 * 1024
_PROGRAMS: Final = {"python": "/opt/teckochecker/venv/bin/python3", "node": "node"}


class Sandbox:
    """The sandbox of one installation.

    `environment` holds DOCKER_HOST and its companions. `instance` marks everything that is
    made on the engine. A `guest` lives beside the daemon that owns the instance.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        instance: str,
        now: Callable[[], datetime],
        *,
        guest: bool = False,
    ) -> None:
        self._engine = Engine(environment)
        self._runs = Runs(self._engine, instance, now, guest=guest)

    def run(self, request: RunRequest, checkpoint: Callable[[], None]) -> RunResult:
        """Runs a script once; DockerError when the engine fails, ImageMissing among them.

        `checkpoint` raises when nobody wants the answer any more: the container is removed,
        and what it raised leaves here.
        """
        program = Program(
            run_id=request.run_id,
            job_id=request.job_id,
            image=request.image,
            shape=Shape(limits=request.limits, network=request.network),
            argv=(_PROGRAMS[request.runtime], f"/work/script/{request.entrypoint}"),
            environment=request.environment,
            script=request.script,
            max_output_bytes=MAX_OUTPUT_BYTES,
        )
        stdout, stderr = Capture(), Capture()
        ending = self._runs.play(program, stdout, stderr, checkpoint)
        return RunResult(
            exit_code=ending.exit_code,
            stdout=stdout.stream(),
            stderr=stderr.stream(),
            duration_ms=ending.duration_ms,
            script_ms=ending.script_ms,
            peak_memory_bytes=ending.peak_memory_bytes,
            timed_out=ending.end is End.DEADLINE,
            oom_killed=ending.oom_killed,
            output_limit_hit=ending.end is End.FULL,
            error=ending.error,
            warnings=() if ending.leftover is None else (ending.leftover,),
        )

    def remove_orphans(self) -> int:
        """Removes containers of this instance that no live run owns; others are not touched."""
        return self._runs.remove_orphans()

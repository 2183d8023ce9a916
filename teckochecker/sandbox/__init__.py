"""Runs a script once in a hardened container, and returns how it ended and what it printed.

The only door to the Docker engine. Synchronous; many threads may use one Sandbox.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from teckochecker.sandbox import images
from teckochecker.sandbox.engine import DockerError, Engine, Host, ImageMissing, RunCutOff
from teckochecker.sandbox.images import Image, Missing
from teckochecker.sandbox.prepared import Inspect, InstallFailed, Needs, Prepared
from teckochecker.sandbox.runs import Program, Runs
from teckochecker.sandbox.settings import RunRequest, Runtime, Shape
from teckochecker.sandbox.stream import Capture, End
from teckochecker.verdicts import RunResult

__all__ = [
    "DockerError",
    "Host",
    "Image",
    "ImageMissing",
    "Inspect",
    "InstallFailed",
    "Missing",
    "Needs",
    "RunCutOff",
    "RunRequest",
    "Sandbox",
]

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
        self._prepared = Prepared(self._engine, self._runs, instance, now)

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
            startup_ms=ending.startup_ms,
            script_ms=ending.script_ms,
            peak_memory_bytes=ending.peak_memory_bytes,
            timed_out=ending.end is End.DEADLINE,
            oom_killed=ending.oom_killed,
            output_limit_hit=ending.end is End.FULL,
            error=ending.error,
            warnings=() if ending.leftover is None else (ending.leftover,),
        )

    @property
    def containers(self) -> int:
        """How many containers of this process live now: scripts and what prepares images."""
        return self._runs.containers

    def remove_orphans(self) -> int:
        """Removes containers of this instance that no live run owns; others are not touched."""
        return self._runs.remove_orphans()

    def host(self) -> Host:
        """What the engine's machine offers; asked for once."""
        return self._engine.host()

    def missing(self, runtimes: Iterable[Runtime] = ("python", "node")) -> list[Missing]:
        """What checks of these runtimes would lack now, each with the way to get it."""
        return images.missing(self._engine, runtimes)

    def images(self) -> list[Image]:
        """The runner images and those prepared from them, of all installations."""
        return images.there(self._engine)

    def build(
        self,
        runtime: Runtime,
        base: str | None = None,
        *,
        ca_bundle: Path | None = None,
        index_url: str | None = None,
        registry: str | None = None,
        progress: Callable[[str], None],
    ) -> str:
        """Builds a runtime's image and gives its id; `images.build` tells about the options."""
        return images.build(
            self._engine,
            runtime,
            base,
            ca_bundle=ca_bundle,
            index_url=index_url,
            registry=registry,
            progress=progress,
        )

    def image(self, needs: Needs) -> str:
        """The name of the image that a script runs in, there or not; what `prune` shall keep."""
        return self._prepared.image(needs)

    def prepare(self, needs: Needs, inspect: Inspect, checkpoint: Callable[[], None]) -> str:
        """The image that a script runs in, made if it isn't there.

        InstallFailed when what the script depends on can't be installed; `inspect` raises when
        what was installed can't be accepted.
        """
        return self._prepared.prepare(needs, inspect, checkpoint)

    def prune(self, keep: Collection[str]) -> int:
        """Removes prepared images of this instance but those in `keep`, used or young."""
        return self._prepared.prune(keep)

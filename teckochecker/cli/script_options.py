"""Options of a script's run, for a job and for `custom-check run` alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from teckochecker.cli.job_options import given, params


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunFields:
    """How a script runs; the same for a job and for a single run."""

    script_entrypoint: Annotated[
        str | None,
        Parameter(name="--entrypoint", help="File to run: main.py or index.js by default."),
    ] = None
    check_params: Annotated[
        tuple[str, ...] | None,
        Parameter(
            name="--param",
            help="KEY=TEXT, or KEY:=JSON for anything else; the script reads KEY in capitals. "
            "May be repeated.",
        ),
    ] = None
    params_file: Annotated[
        Path | None, Parameter(help="JSON object with parameters; --param adds and overrides.")
    ] = None
    timeout_seconds: Annotated[
        int | None, Parameter(name="--timeout", help="Seconds of a run, 10 to 3600 (300).")
    ] = None
    memory_mb: Annotated[int | None, Parameter(help="MB, 64 to 4096 (512).")] = None
    cpu_cores: Annotated[float | None, Parameter(help="Cores, from 0.1 (0.5).")] = None
    network: Annotated[
        Literal["open", "none"] | None, Parameter(help="`open` (default), or `none` at all.")
    ] = None

    def body(self) -> dict[str, Any]:
        """The API's document of what was given."""
        found = given(self)
        if self.check_params is not None or self.params_file is not None:
            found["check_params"] = params(self.params_file, self.check_params or ())
        limits = {name: found.pop(name) for name in ("memory_mb", "cpu_cores") if name in found}
        if limits:
            found["resource_limits"] = limits
        found.pop("params_file", None)
        return found

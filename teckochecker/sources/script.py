"""A user's own script, run once in a container for each check.

The script comes by upload, as one text, or from a git repository, which is looked at before
every run. What it needs is installed once, in an image; secrets and parameters reach it by
standard input only. What it printed becomes the finding (`verdicts`).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from teckochecker import verdicts
from teckochecker.domain import (
    MAX_DATA_BYTES,
    SANDBOXED,
    Document,
    Execution,
    Finding,
    Secret,
    SecretType,
    Verdict,
    replace,
)
from teckochecker.errors import Fault, FolderError, InvalidInput, OutsideError
from teckochecker.masking import Mask
from teckochecker.sandbox import Needs, RunCutOff, RunRequest, Sandbox
from teckochecker.scripts import git, shelf
from teckochecker.scripts.shelf import Script as Archive
from teckochecker.sources.interface import CheckContext, Inspect
from teckochecker.sources.script_fields import (
    MAX_VARIABLE_BYTES,
    OURS,
    Network,
    Runtime,
    SourceType,
    parsed,
)
from teckochecker.validation import Fields, Parsed, mentioned_in, with_secrets
from teckochecker.verdicts import Limits, RunResult

MAX_LOGGED_BYTES: Final = 8 * 1024  # of a finding's data: ten thousand entries are kept per job
STREAM_CHARS: Final = 4000  # of the end of each stream, kept with the log
GIT_DEADLINE_S: Final = 60.0
_PREPARING_S: Final = 900.0  # what installing and the engine may take beyond the script's time
_SHOUTED: Final = re.compile(r"[A-Z][A-Z0-9_]*")
_TAKEN: Final = OURS | {"PATH", "HOME"}
_TAKEN_PREFIXES: Final = ("LD_", "PYTHON", "NODE_")


class Script:
    """The source `script`; `inspect` reads what an installer printed, in a process of its own.

    `access` says how git servers are reached, anew for each fetch; `cpus` bounds `cpu_cores`.
    """

    kind: ClassVar[str] = SANDBOXED
    tests: ClassVar[SecretType | None] = None

    def __init__(
        self,
        sandbox: Sandbox,
        folder: Path,
        access: Callable[[], git.Access],
        inspect: Inspect,
        cpus: int,
    ) -> None:
        self._sandbox = sandbox
        self._shelf = folder
        self._access = access
        self._inspect = inspect
        self._cpus = cpus

    def parse(self, fields: Fields) -> Parsed:
        return parsed(fields, self._access().allowed, self._cpus)

    def show(self, doc: Document) -> dict[str, object]:
        return dict(doc)

    def roles(self, doc: Document) -> Mapping[str, str]:
        return {"script_git_secret": "script_git_secret", **mentioned_in(doc["env_vars"] or {})}

    def progress(
        self, doc: Document, data: Document | None, state: Document | None
    ) -> dict[str, object]:
        if state is None:
            return {"script": None}
        shown = ("sha256", "size_bytes", "files", "commit", "stored_at")
        return {"script": {name: state.get(name) for name in shown}}

    def timeout_s(self, doc: Document, previous: Document | None) -> float:
        return float(doc["timeout_seconds"]) + _PREPARING_S

    def check(self, doc: Document, context: CheckContext) -> Finding:
        try:
            state = self._fetched(doc, context)
        except (OutsideError, InvalidInput, FolderError) as error:
            return not_run(error)
        try:
            found, _ = self.run_once(doc, state, context)
        except (OutsideError, InvalidInput, FolderError) as error:
            found = not_run(error)
        return replace(found, state=state, data=_kept(found, context.previous))

    def run_once(
        self,
        doc: Document,
        state: Document,
        context: CheckContext,
        progress: Callable[[str], None] = lambda step: None,
    ) -> tuple[Finding, RunResult]:
        """One run of the script that is stored: what it found, and how it ended.

        `progress` gets a sentence before each step. The errors are those that `not_run` takes;
        a DockerError among them is no fault of the script's.
        """
        variables = environment(doc, context)
        needs, limits = self.needs(doc, state), limits_of(doc)
        if needs.installs:
            progress("Preparing the image: what the script depends on is installed once.")
        image = self._sandbox.prepare(needs, self._inspect, context.checkpoint)
        progress(f"Running {doc['script_entrypoint']}, for {limits.timeout_s:g} s at most.")
        result = self._sandbox.run(
            RunRequest(
                run_id=secrets.token_hex(12),
                job_id=str(context.job_id),
                image=image,
                runtime=needs.runtime,
                script=needs.script,
                entrypoint=doc["script_entrypoint"],
                environment=variables,
                limits=limits,
                network=Network(doc["network"]).value,
            ),
            context.checkpoint,
        )
        mask = mask_of(context)
        found = verdicts.finding(result, limits, mask)
        return replace(found, execution=execution_of(result, found, mask)), result

    def trial_url(self, fields: Fields) -> str:
        return ""

    def test(self, secret: Secret, doc: Document, now: datetime) -> str:
        raise OutsideError("A script's secrets can't be tried by themselves.", Fault.REFUSED)

    def needs(self, doc: Document, state: Document) -> Needs:
        """What a job's script needs to be installed."""
        return Needs(
            runtime=Runtime(doc["script_runtime"]).value,
            script=shelf.path(self._shelf, state["sha256"]),
            dependencies=tuple((path, digest) for path, digest in state["dependencies"]),
        )

    def _fetched(self, doc: Document, context: CheckContext) -> Document:
        """Where the script is, after a look at its repository."""
        state = context.state
        if doc["script_source_type"] == SourceType.UPLOAD:
            if state is None:
                raise InvalidInput("The job has no script yet: upload it.")
            return state
        place = placed(doc)
        known = state if state and state.get("place") == place and self._has(state) else None
        found = git.refresh(
            repository(doc, context.secrets.get("script_git_secret")),
            self._shelf,
            entrypoint=doc["script_entrypoint"],
            known_commit=known["commit"] if known else None,
            access=self._access(),
            deadline_s=GIT_DEADLINE_S,
            checkpoint=context.checkpoint,
        )
        if isinstance(found, git.NotMoved):
            assert known is not None
            return known
        return {**stored(found.script, context.now), "commit": found.commit, "place": place}

    def _has(self, state: Document) -> bool:
        try:
            shelf.path(self._shelf, state["sha256"])
        except FolderError:
            return False
        return True


def stored(archive: Archive, now: datetime) -> Document:
    """What a job keeps of an accepted script."""
    return {
        "sha256": archive.sha256,
        "size_bytes": archive.size_bytes,
        "files": archive.files,
        "dependencies": [list(pair) for pair in archive.dependencies],
        "stored_at": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def placed(doc: Document) -> list[object]:
    """What a known commit is about: with another of these it says nothing."""
    names = ("script_git_url", "script_git_branch", "script_git_subfolder", "script_entrypoint")
    return [doc[name] for name in names]


def repository(doc: Document, credentials: Secret | None) -> git.Repository:
    return git.Repository(
        url=doc["script_git_url"],
        branch=doc["script_git_branch"],
        subfolder=doc["script_git_subfolder"] or "",
        credentials=credentials,
    )


def limits_of(doc: Document) -> Limits:
    limits = doc["resource_limits"]
    return Limits(
        memory_mb=limits["memory_mb"],
        cpu_cores=limits["cpu_cores"],
        timeout_s=float(doc["timeout_seconds"]),
    )


def environment(doc: Document, context: CheckContext) -> dict[str, str]:
    """The variables of one run: the job's own, its parameters, and what is known of before.

    A parameter becomes a variable where its name in capitals is free; text as it is, numbers
    and booleans as JSON. Raises InvalidInput for a value too long, and OutsideError for a
    secret that is gone.
    """
    own = dict(doc["env_vars"] or {})
    try:
        opened = {name: with_secrets(text, context.secrets) for name, text in own.items()}
    except KeyError as missing:
        raise OutsideError(
            f"env_vars names {missing.args[0]}, which was deleted: name another secret.",
            Fault.CREDENTIALS,
        ) from None
    params = doc["check_params"]
    variables = {
        **_shouted(params, own),
        **opened,
        "CHECK_PARAMS": _json(params),
        "CHECK_NUMBER": str(context.number),
        "PREVIOUS_DATA": _json(context.previous or {}),
    }
    for name, text in variables.items():
        if len(text.encode()) > MAX_VARIABLE_BYTES:
            raise InvalidInput(
                f"The variable {name} is longer than {MAX_VARIABLE_BYTES} bytes: shorten it."
            )
        if "\0" in text:
            raise InvalidInput(f"The variable {name} holds a NUL character: set it anew.")
    return variables


def mask_of(context: CheckContext) -> Mask:
    return Mask(tuple(secret.reveal() for secret in context.secrets.values()))


def not_run(error: OutsideError | InvalidInput | FolderError) -> Finding:
    """What a check found whose script couldn't be had, prepared or started."""
    if isinstance(error, OutsideError):
        return Finding(
            verdict=Verdict.ERROR,
            message=str(error),
            fault=error.fault,
            retry_after_s=error.retry_after_s,
            detail=error.answer or None,
            execution=Execution() if isinstance(error, RunCutOff) else None,
        )
    ours = isinstance(error, FolderError)  # such as a full disk; not to be held against the script
    fault = Fault.ENGINE if ours else Fault.MALFORMED
    return Finding(verdict=Verdict.ERROR, message=_capital(str(error)), fault=fault)


def _shouted(params: Document, own: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in params.items():
        name = key.upper()
        if not _SHOUTED.fullmatch(name) or name in own or name in _TAKEN:
            continue
        if name.startswith(_TAKEN_PREFIXES):
            continue
        if isinstance(value, str):
            found[name] = value
        elif isinstance(value, bool | int | float):
            found[name] = _json(value)
    return found


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _kept(found: Finding, previous: Document | None) -> Document | None:
    """An ERROR adds to what was known, so that a script's own state outlives it."""
    if found.verdict is not Verdict.ERROR or not previous:
        return found.data
    both = {**previous, **(found.data or {})}
    return both if len(msgspec.json.encode(both)) <= MAX_DATA_BYTES else None


def execution_of(result: RunResult, found: Finding, mask: Mask) -> Execution:
    told = found.verdict is not Verdict.ERROR or "raw_output" not in (found.data or {"raw_output"})
    data = found.data
    size = len(msgspec.json.encode(data))
    if size > MAX_LOGGED_BYTES:  # the job itself keeps the whole
        data = {"left_out_bytes": size}
    said = {"status": found.verdict.value, "message": found.message, "data": data}
    return Execution(
        exit_code=result.exit_code,
        peak_memory_bytes=result.peak_memory_bytes,
        stdout=result.stdout.shown(mask)[-STREAM_CHARS:],
        stderr=result.stderr.shown(mask)[-STREAM_CHARS:],
        output=said if told else None,
        startup_ms=result.startup_ms,
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

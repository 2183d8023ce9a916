"""`custom-check`: jobs that run a script of one's own, and scripts before they become one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cyclopts import App, Parameter

from teckochecker.cli.client import Reply, call, segment
from teckochecker.cli.engine import Runtime
from teckochecker.cli.exits import Exit
from teckochecker.cli.job_commands import (
    JobName,
    Limit,
    Offset,
    OfStatus,
    View,
    add_common,
    reminded,
)
from teckochecker.cli.job_options import (
    ActionFields,
    Clear,
    Name,
    PollInterval,
    cleared,
    given,
    pairs,
)
from teckochecker.cli.job_tables import Document, named, script_line, show_jobs, show_text
from teckochecker.cli.output import Output, answer, note, say, show_fields
from teckochecker.cli.script_options import RunFields
from teckochecker.cli.script_run import run
from teckochecker.errors import InvalidInput

app = App(name="custom-check", help="Custom checks: jobs that run a script of your own.")
_VIEW: Final = View(command="custom-check", path="/api/custom-checks")
add_common(app, _VIEW)
app.command(run)

ScriptPath = Annotated[
    Path, Parameter(name="SCRIPT", help="Folder, .tgz, or a single .py or .js file.")
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CheckFields:
    """What a custom check is, besides how its script runs."""

    name: Name = None
    script_runtime: Annotated[
        Runtime | None, Parameter(name="--runtime", help="What runs the script.")
    ] = None
    script: Annotated[
        Path | None, Parameter(help="Folder, .tgz, or a single .py or .js file, to upload.")
    ] = None
    script_source_type: Annotated[
        Literal["upload", "git"] | None,
        Parameter(name="--source", help="Where the script comes from; a --git-url says `git`."),
    ] = None
    script_git_url: Annotated[
        str | None, Parameter(name="--git-url", help="Repository, by HTTPS.")
    ] = None
    script_git_branch: Annotated[
        str | None, Parameter(name="--git-branch", help="`main` by default.")
    ] = None
    script_git_subfolder: Annotated[
        str | None, Parameter(name="--git-subfolder", help="Folder of the script within it.")
    ] = None
    script_git_secret: Annotated[
        str | None, Parameter(name="--git-secret", help="Id or name of a generic secret.")
    ] = None
    env_vars: Annotated[
        tuple[str, ...] | None,
        Parameter(
            name="--env",
            help="NAME=VALUE for the script, where secret_ref:ID_OR_NAME stands for a secret; "
            "may be repeated.",
        ),
    ] = None
    poll_interval_seconds: PollInterval = None
    trigger_on: Annotated[
        str | None, Parameter(help="`terminal` (default), or `success` only.")
    ] = None
    max_consecutive_errors: Annotated[
        int | None, Parameter(help="ERRORs in a row that fail the job; without it never.")
    ] = None

    def body(self) -> dict[str, Any]:
        """The API's document of what was given, without the script."""
        found = given(self)
        found.pop("script", None)
        if self.env_vars is not None:
            found["env_vars"] = pairs("env_vars", self.env_vars)
        return found


@app.command
def create(
    fields: CheckFields | None = None,
    run_fields: RunFields | None = None,
    actions: ActionFields | None = None,
    *,
    output: Output = "table",
) -> int:
    """Create a custom check; it runs at once, or waits for its script.

    Name and runtime are required. The script comes along, by `upload-script`,
    or from git.

    Example: teckochecker custom-check create --name nightly --runtime python
      --script ./check --param task_id=nightly --env API_KEY=secret_ref:api-key
      --webhook-url https://example.com/hook

    Example: teckochecker custom-check create --name from-git --runtime node
      --git-url https://github.com/your-company/checks.git --git-subfolder nightly
    """
    script = fields.script if fields else None
    body = _body(fields, run_fields, actions)
    if script is None:
        reply = call("POST", _VIEW.path, body=body)
    else:
        packed = _packed(script, _entrypoint(body))
        form: dict[str, str | bytes] = {"config": json.dumps(body), "script": packed}
        reply = call("POST", _VIEW.path, form=form)
    answer(reply.body, output, lambda: say(f"Custom check {named(reply.document())} created."))
    _note_awaited(reply.document())
    return reminded(reply)


@app.command(name="list")
def list_(
    *,
    status: OfStatus = None,
    q: Annotated[str | None, Parameter(help="Only with this in the name.")] = None,
    limit: Limit = None,
    offset: Offset = None,
    output: Output = "table",
) -> int:
    """List custom checks, newest first.

    Example: teckochecker custom-check list --status active
    """
    query = {"status": status, "q": q, "limit": limit, "offset": offset}
    reply = call("GET", _VIEW.path, query=query)
    all_ = status is None and q is None
    answer(reply.body, output, lambda: show_jobs(reply.document(), _VIEW.command, all_=all_))
    return Exit.OK


@app.command
def update(
    job: JobName,
    /,
    fields: CheckFields | None = None,
    run_fields: RunFields | None = None,
    actions: ActionFields | None = None,
    *,
    clear: Clear = (),
    output: Output = "table",
) -> int:
    """Change a custom check; what isn't given stays.

    Parameters, variables and headers are replaced as a whole. A script is
    uploaded after the change.

    Example: teckochecker custom-check update nightly --poll-interval 300 --timeout 60

    Example: teckochecker custom-check update nightly --clear env_vars
    """
    script = fields.script if fields else None
    body = cleared(_body(fields, run_fields, actions), clear)
    if not body and script is None:
        hint = "`teckochecker custom-check update --help`"
        raise InvalidInput(f"Nothing to change was given: {hint}.")
    before = call("GET", _VIEW.of(job)).document()
    if body.get("resource_limits"):  # the API takes them as a whole
        body["resource_limits"] = before["resource_limits"] | body["resource_limits"]
    entrypoint = _entrypoint({**before, **body})
    packed = None if script is None else _packed(script, entrypoint)
    path = _VIEW.of(before["id"])
    reply = call("PUT", path, body=body) if body else None
    if packed is not None:
        call("POST", f"{path}/script/upload", form={"file": packed})
    if packed is not None or reply is None:
        reply = call("GET", path)
    answer(reply.body, output, lambda: say(f"Custom check {named(reply.document())} changed."))
    return Exit.OK


@app.command
def upload_script(job: JobName, script: ScriptPath, /, *, output: Output = "table") -> int:
    """Upload a script: the job is checked with it at once.

    Example: teckochecker custom-check upload-script nightly ./check
    """
    info = _info(job).document()
    form = {"file": _packed(script, info["entrypoint"])}
    reply = call("POST", f"{_VIEW.of(info['job_id'])}/script/upload", form=form)
    found = reply.document()
    line = f"{found['message']}: {found['sha256'][:12]}, {found['size_bytes']} bytes."
    answer(reply.body, output, lambda: say(line))
    return reminded(reply)


@app.command
def script_info(job: JobName, /, *, output: Output = "table") -> int:
    """Where a script comes from, its files, and its text when it is one small file.

    Example: teckochecker custom-check script-info nightly
    """
    reply = _info(job)
    answer(reply.body, output, lambda: _show_info(reply.document()))
    return Exit.OK


@app.command
def init(
    runtime: Annotated[Runtime, Parameter(name="RUNTIME")],
    folder: Annotated[Path, Parameter(name="DIR", help="New, or without these files.")],
    /,
    *,
    output: Output = "table",
) -> int:
    """Write a starter: a script that runs as it is, its test, and a README.

    Example: teckochecker custom-check init python ./check
    """
    from teckochecker.cli import starters

    made = starters.write(runtime, folder)
    document = {"runtime": runtime, "files": [str(path) for path in made]}
    names = ", ".join(path.name for path in made)
    answer(
        json.dumps(document).encode(),
        output,
        lambda: say(
            f"{folder}: {names}.\nTry it with `teckochecker custom-check run {folder}`; "
            f"README.md there says how to go on."
        ),
    )
    return Exit.OK


def _body(
    fields: CheckFields | None, run_fields: RunFields | None, actions: ActionFields | None
) -> dict[str, Any]:
    parts = (fields or CheckFields(), run_fields or RunFields(), actions or ActionFields())
    return {name: value for part in parts for name, value in part.body().items()}


def _entrypoint(job: Document) -> str | None:
    """The file that a script starts with: the runtime's own where none is named."""
    from teckochecker.cli import starters

    if job.get("script_entrypoint"):
        return str(job["script_entrypoint"])
    runtime: Runtime | None = job.get("script_runtime")
    return starters.FILES[runtime][0] if runtime else None  # without one the API refuses


def _packed(script: Path, entrypoint: str | None) -> bytes:
    from teckochecker.cli.packing import pack

    return pack(script, entrypoint=entrypoint)


def _info(job: str) -> Reply:
    return call("GET", f"{_VIEW.path}/{segment(job)}/script/info")


def _show_info(info: Document) -> None:
    stored = info["metadata"]
    origin = [("Source", info["source_type"])]
    if info["git_url"]:
        origin += [("Repository", info["git_url"]), ("Branch", info["git_branch"])]
        origin += [("Subfolder", info["git_subfolder"])]
    show_fields([*origin, ("Entry point", info["entrypoint"]), ("Stored", script_line(stored))])
    if stored:
        files = "\n".join(f"{file['path']}  {file['size_bytes']} bytes" for file in stored["files"])
        show_text("files", files)
        show_text("text", stored["text"])


def _note_awaited(job: Document) -> None:
    if job["phase"] == "awaiting_script":
        hint = f"`teckochecker custom-check upload-script {job['id']} DIR`"
        note(f"Note: it waits for its script: {hint}.")

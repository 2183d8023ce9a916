"""`job`: polling jobs, their logs and deliveries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from cyclopts import App, Parameter

from teckochecker.cli.client import call
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
from teckochecker.cli.job_options import ActionFields, Clear, Name, PollInterval, cleared, given
from teckochecker.cli.job_tables import named, show_jobs
from teckochecker.cli.output import Output, answer, say
from teckochecker.errors import InvalidInput

app = App(name="job", help="Polling jobs: create, list, follow, change, delete.")
_VIEW: Final = View(command="job", path="/api/jobs")
add_common(app, _VIEW)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class JobFields:
    """What a polling job waits for, and how."""

    name: Name = None
    batch_ids: Annotated[
        tuple[str, ...] | None,
        Parameter(name="--batch-id", help="OpenAI batch to wait for; repeat it for up to 100."),
    ] = None
    openai_secret: Annotated[str | None, Parameter(help="Id or name of the API key.")] = None
    openai_base_url: Annotated[
        str | None, Parameter(help="Instead of OPENAI_BASE_URL, like https://api.openai.com/v1.")
    ] = None
    max_failed_percent: Annotated[
        float | None, Parameter(help="Failed requests, 0 to 100, that still count as success.")
    ] = None
    poll_interval_seconds: PollInterval = None
    trigger_on: Annotated[
        str | None, Parameter(help="`success` (default), or `terminal` for a failed end too.")
    ] = None


@app.command
def create(
    fields: JobFields | None = None,
    actions: ActionFields | None = None,
    *,
    output: Output = "table",
) -> int:
    """Create a job; its first check runs at once.

    Name, batch and its secret are required, and what to trigger: a Keboola job
    (secret, stack and configuration), a webhook (URL), or both.

    Example: teckochecker job create --name nightly --batch-id batch_abc123
      --openai-secret openai-prod --keboola-secret keboola-prod
      --keboola-stack https://connection.keboola.com --config-id 123456

    Example: teckochecker job create --name hook --batch-id batch_abc123
      --openai-secret openai-prod --webhook-url https://example.com/hook
      --webhook-header "Authorization=Bearer secret_ref:hook-token"
    """
    reply = call("POST", _VIEW.path, body=_body(fields, actions))
    answer(reply.body, output, lambda: say(f"Job {named(reply.document())} created."))
    return reminded(reply)


@app.command(name="list")
def list_(
    *,
    status: OfStatus = None,
    q: Annotated[str | None, Parameter(help="Only with this in the name or a batch id.")] = None,
    kind: Annotated[str | None, Parameter(help="`all` lists custom checks too.")] = None,
    limit: Limit = None,
    offset: Offset = None,
    output: Output = "table",
) -> int:
    """List jobs, newest first.

    Example: teckochecker job list --status active
    """
    query = {"status": status, "q": q, "kind": kind, "limit": limit, "offset": offset}
    reply = call("GET", _VIEW.path, query=query)
    all_ = status is None and q is None
    answer(reply.body, output, lambda: show_jobs(reply.document(), _VIEW.command, all_=all_))
    return Exit.OK


@app.command
def update(
    job: JobName,
    /,
    fields: JobFields | None = None,
    actions: ActionFields | None = None,
    *,
    clear: Clear = (),
    output: Output = "table",
) -> int:
    """Change a job; what isn't given stays.

    Example: teckochecker job update nightly --poll-interval 300 --config-id 654321

    Example: teckochecker job update nightly --clear webhook_url
    """
    body = cleared(_body(fields, actions), clear)
    if not body:
        raise InvalidInput("Nothing to change was given: `teckochecker job update --help`.")
    reply = call("PUT", _VIEW.of(job), body=body)
    answer(reply.body, output, lambda: say(f"Job {named(reply.document())} changed."))
    return Exit.OK


def _body(fields: JobFields | None, actions: ActionFields | None) -> dict[str, object]:
    return given(fields or JobFields()) | (actions or ActionFields()).body()

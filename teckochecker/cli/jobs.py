"""`job`: polling jobs, their logs and deliveries."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Final

from cyclopts import App, Parameter

from teckochecker.cli.client import Reply, call, daemon_runs, segment
from teckochecker.cli.duration import Duration
from teckochecker.cli.exits import Exit
from teckochecker.cli.input import Yes, confirmed
from teckochecker.cli.job_tables import (
    Document,
    named,
    outcome_line,
    show_deliveries,
    show_job,
    show_jobs,
    show_logs,
    state,
)
from teckochecker.cli.output import Output, answer, note, say
from teckochecker.errors import FieldError, InvalidInput

app = App(name="job", help="Polling jobs: create, list, follow, change, delete.")

LOOK_EVERY_S: Final = 1.0  # of `wait` and `logs --follow`
MAX_ROWS: Final = 1000  # that one call gives
NO_DAEMON: Final = "No daemon runs, so nothing is checked: start one with `teckochecker start`."

JobName = Annotated[str, Parameter(name="JOB", help="Id or name.")]
Limit = Annotated[int | None, Parameter(help="Rows at most, 1 to 1000 (100 by default).")]
Offset = Annotated[int | None, Parameter(help="Rows to skip.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class JobFields:
    """The options of a job, under the names of the API's fields."""

    name: Annotated[str | None, Parameter(help="Unique among the jobs that haven't ended.")] = None
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
    keboola_secret: Annotated[str | None, Parameter(help="Id or name of the token.")] = None
    keboola_stack_url: Annotated[
        str | None, Parameter(name="--keboola-stack", help="Like https://connection.keboola.com.")
    ] = None
    keboola_configuration_id: Annotated[
        str | None, Parameter(name="--config-id", help="The configuration to run.")
    ] = None
    keboola_component_id: Annotated[
        str | None,
        Parameter(name="--component-id", help="Its component: keboola.orchestrator by default."),
    ] = None
    keboola_variables: Annotated[
        tuple[str, ...] | None,
        Parameter(name="--variable", help="KEY=VALUE for the run; may be repeated."),
    ] = None
    follow_up: Annotated[
        bool | None,
        Parameter(negative="--no-follow-up", help="Watch the Keboola job until it has ended."),
    ] = None
    webhook_url: Annotated[
        str | None, Parameter(help="Call it, instead of or beside a Keboola job.")
    ] = None
    webhook_method: Annotated[str | None, Parameter(help="POST by default.")] = None
    webhook_headers: Annotated[
        tuple[str, ...] | None,
        Parameter(
            name="--webhook-header",
            help="NAME=VALUE, where secret_ref:ID_OR_NAME stands for a secret; may be repeated.",
        ),
    ] = None
    webhook_query_params: Annotated[
        tuple[str, ...] | None,
        Parameter(
            name="--webhook-query",
            help="NAME=TEMPLATE, like job={job_id} or id={data.batches.0.batch_id}; repeatable.",
        ),
    ] = None
    webhook_signing_secret: Annotated[
        str | None, Parameter(help="Id or name of a generic secret, `whsec_...`.")
    ] = None
    webhook_timeout_seconds: Annotated[
        int | None, Parameter(name="--webhook-timeout", help="Seconds, 5 to 60 (30).")
    ] = None
    poll_interval_seconds: Annotated[
        int | None,
        Parameter(name="--poll-interval", help="Seconds between checks (120 for new jobs)."),
    ] = None
    trigger_on: Annotated[
        str | None, Parameter(help="`success` (default), or `terminal` for a failed end too.")
    ] = None

    def body(self) -> dict[str, object]:
        """The API's document of what was given."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        for name in ("keboola_variables", "webhook_headers", "webhook_query_params"):
            if name in given:
                given[name] = _pairs(name, given[name])
        return given


@app.command
def create(fields: JobFields | None = None, *, output: Output = "table") -> int:
    """Create a job; its first check runs at once.

    Name, batch and its secret are required, and what to trigger: a Keboola job (secret, stack
    and configuration), a webhook (URL), or both.

    Example: teckochecker job create --name nightly --batch-id batch_abc123
      --openai-secret openai-prod --keboola-secret keboola-prod
      --keboola-stack https://connection.keboola.com --config-id 123456

    Example: teckochecker job create --name hook --batch-id batch_abc123
      --openai-secret openai-prod --webhook-url https://example.com/hook
      --webhook-header "Authorization=Bearer secret_ref:hook-token"
    """
    reply = call("POST", "/api/jobs", body=(fields or JobFields()).body())
    job = reply.document()
    answer(reply.body, output, lambda: say(f"Job {named(job)} created."))
    return _reminded(reply)


@app.command(name="list")
def list_(
    *,
    status: Annotated[
        str | None, Parameter(help="Only these: active, paused, completed or failed.")
    ] = None,
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
    reply = call("GET", "/api/jobs", query=query)
    all_ = status is None and q is None
    answer(reply.body, output, lambda: show_jobs(reply.document(), all_))
    return Exit.OK


@app.command
def show(job: JobName, /, *, output: Output = "table") -> int:
    """Everything about a job, and the newest entries of its log.

    Example: teckochecker job show nightly
    """
    reply = call("GET", f"/api/jobs/{segment(job)}")
    answer(reply.body, output, lambda: show_job(reply.document()))
    return Exit.OK


@app.command
def update(job: JobName, /, fields: JobFields | None = None, *, output: Output = "table") -> int:
    """Change a job; what isn't given stays.

    Example: teckochecker job update nightly --poll-interval 300 --config-id 654321
    """
    body = (fields or JobFields()).body()
    if not body:
        raise InvalidInput("Nothing to change was given: `teckochecker job update --help`.")
    reply = call("PUT", f"/api/jobs/{segment(job)}", body=body)
    answer(reply.body, output, lambda: say(f"Job {named(reply.document())} changed."))
    return Exit.OK


@app.command
def pause(job: JobName, /, *, output: Output = "table") -> int:
    """Stop checking and delivering until resumed.

    Example: teckochecker job pause nightly
    """
    return _verb(job, "pause", output)


@app.command
def resume(job: JobName, /, *, output: Output = "table") -> int:
    """Go on with a paused job: it is checked at once.

    Example: teckochecker job resume nightly
    """
    return _verb(job, "resume", output)


@app.command
def trigger(job: JobName, /, *, output: Output = "table") -> int:
    """Check now, or try the waiting delivery now.

    Example: teckochecker job trigger nightly
    """
    return _verb(job, "trigger", output)


@app.command
def logs(
    job: JobName,
    /,
    *,
    follow: Annotated[bool, Parameter(help="Go on with what comes, until Ctrl-C.")] = False,
    limit: Limit = None,
    offset: Offset = None,
    output: Output = "table",
) -> int:
    """A job's log: the newest entry last, and first in JSON.

    Example: teckochecker job logs nightly --follow
    """
    path = f"/api/jobs/{segment(job)}/logs"
    reply = call("GET", path, query={"limit": limit, "offset": offset})
    answer(reply.body, output, lambda: show_logs(reply.document()))
    if follow:
        _follow(path, reply.document(), output)
    return Exit.OK


@app.command
def deliveries(
    job: JobName, /, *, limit: Limit = None, offset: Offset = None, output: Output = "table"
) -> int:
    """What a job triggers: each delivery with every attempt.

    Example: teckochecker job deliveries nightly
    """
    path = f"/api/jobs/{segment(job)}/deliveries"
    reply = call("GET", path, query={"limit": limit, "offset": offset})
    answer(reply.body, output, lambda: show_deliveries(reply.document()))
    return Exit.OK


@app.command
def redeliver(
    delivery: Annotated[str, Parameter(name="DELIVERY", help="Id; `job deliveries` shows it.")],
    /,
    *,
    output: Output = "table",
) -> int:
    """Send an outcome again, under the same event id.

    Example: teckochecker job redeliver 7
    """
    reply = call("POST", f"/api/deliveries/{segment(delivery)}/redeliver")
    state = reply.document()["state"]
    answer(reply.body, output, lambda: say(f"Delivery {delivery} is {state} again."))
    return _reminded(reply)


@app.command
def wait(
    job: JobName,
    /,
    *,
    timeout: Annotated[
        Duration | None, Parameter(help="Like 90, 90s, 15m, 2h or 1d; without it for ever.")
    ] = None,
    output: Output = "table",
) -> int:
    """Wait until a job has ended; the exit code tells how.

    0: SUCCESS, and what it had to trigger is triggered. 10: FAILED.
    30: ended otherwise, as by a delivery that failed.
    20: not ended when the time ran out.

    Example: teckochecker job wait nightly --timeout 2h
    """
    until = None if timeout is None else time.monotonic() + timeout
    reply = call("GET", f"/api/jobs/{segment(job)}")
    path = f"/api/jobs/{reply.document()['id']}"  # a name may come to mean a newer job
    noted: set[str] = set()
    while (code := _outcome(reply.document())) is None:
        _note_obstacles(reply.document(), noted)
        left_s = LOOK_EVERY_S if until is None else min(LOOK_EVERY_S, until - time.monotonic())
        if left_s <= 0:
            code = Exit.WAIT_PENDING
            break
        time.sleep(left_s)
        reply = call("GET", path)
    answer(reply.body, output, lambda: say(outcome_line(reply.document())))
    return code


@app.command
def delete(job: JobName, /, *, yes: Yes = False) -> int:
    """Delete a job, its log and its deliveries.

    Example: teckochecker job delete nightly --yes
    """
    found = call("GET", f"/api/jobs/{segment(job)}").document()
    if not yes and not confirmed(f"Delete job {named(found)}, its log and its deliveries?"):
        return Exit.FAILURE
    call("DELETE", f"/api/jobs/{found['id']}")
    say(f"Job {named(found)} deleted.")
    return Exit.OK


def _verb(job: str, verb: str, output: str) -> int:
    reply = call("POST", f"/api/jobs/{segment(job)}/{verb}")
    found = reply.document()
    answer(reply.body, output, lambda: say(f"{found['message']}: {named(found)}, {state(found)}."))
    return Exit.OK if verb == "pause" else _reminded(reply)


def _pairs(field: str, pairs: Iterable[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InvalidInput(
                f"{pair!r} isn't KEY=VALUE.", (FieldError(field, "must be given as KEY=VALUE"),)
            )
        found[key] = value
    return found


def _reminded(reply: Reply) -> int:
    if reply.local:
        note(f"Note: {NO_DAEMON}")
    return Exit.OK


def _outcome(job: Document) -> Exit | None:
    """What `wait` returns for an ended job; None while it hasn't ended."""
    from teckochecker.domain import ENDED, Status, TriggerOn, Verdict

    status = Status(job["status"])
    if status not in ENDED:
        return None
    verdict = Verdict(job["last_check_status"])
    delivered = status is Status.COMPLETED or not TriggerOn(job["trigger_on"]).covers(verdict)
    if not delivered:
        return Exit.WAIT_OTHERWISE
    codes = {Verdict.SUCCESS: Exit.OK, Verdict.FAILED: Exit.WAIT_FAILED}
    return codes.get(verdict, Exit.WAIT_OTHERWISE)


def _note_obstacles(job: Document, noted: set[str]) -> None:
    """Tell once why waiting may be in vain."""
    obstacles = [] if daemon_runs() else [NO_DAEMON]
    if job["status"] == "paused":
        obstacles.append(f"Job {named(job)} is paused: `teckochecker job resume {job['id']}`.")
    for obstacle in obstacles:
        if obstacle not in noted:
            noted.add(obstacle)
            note(f"Note: {obstacle}")


def _follow(path: str, shown: Document, output: str) -> None:
    """Until Ctrl-C; in JSON one line for each answer that brings entries."""
    after = max((row["id"] for row in shown["logs"]), default=0)
    if not daemon_runs():
        note(f"Note: {NO_DAEMON}")
    while True:
        time.sleep(LOOK_EVERY_S)
        reply = call("GET", path, query={"after": after, "limit": MAX_ROWS})
        page = reply.document()
        if page["logs"]:
            after = page["logs"][0]["id"]
            answer(reply.body, output, partial(show_logs, page))

"""What both kinds of jobs can be told: the commands that need nothing but where the API has them.

`job` and `custom-check` are two views of one thing; each adds what only it has.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import cleandoc
from typing import Annotated, Final

from cyclopts import App, Parameter

from teckochecker.cli.client import ANSWER_S, Reply, call, daemon_runs, segment
from teckochecker.cli.duration import Duration
from teckochecker.cli.exits import AWAY, Exit, Refusal, TimedOut
from teckochecker.cli.input import Yes, confirmed
from teckochecker.cli.job_tables import (
    Document,
    named,
    outcome_line,
    show_deliveries,
    show_job,
    show_logs,
    state,
)
from teckochecker.cli.output import Output, answer, note, say
from teckochecker.errors import NotReachable, TeckoError

LOOK_EVERY_S: Final = 1.0  # of `wait` and `logs --follow`
MAX_ROWS: Final = 1000  # that one call gives
NO_DAEMON: Final = "No daemon runs, so nothing is checked: start one with `teckochecker start`."

JobName = Annotated[str, Parameter(name="JOB", help="Id or name.")]
Limit = Annotated[int | None, Parameter(help="Rows at most, 1 to 1000 (100 by default).")]
Offset = Annotated[int | None, Parameter(help="Rows to skip.")]
OfStatus = Annotated[str | None, Parameter(help="Only these: active, paused, completed or failed.")]


@dataclass(frozen=True)
class View:
    """One of the two views: what the command line and the API call it."""

    command: str
    path: str

    def of(self, job: object) -> str:
        return f"{self.path}/{segment(str(job))}"


def add_common(app: App, view: View) -> None:
    """The commands of both views; in their help, JOBS stands for the view's own command."""

    def command(told: Callable[..., int]) -> None:
        app.command(told, help=cleandoc(told.__doc__ or "").replace("JOBS", view.command))

    def verb(job: str, word: str, output: str) -> Reply:
        reply = call("POST", f"{view.of(job)}/{word}")
        found = reply.document()
        line = f"{found['message']}: {named(found)}, {state(found)}."
        answer(reply.body, output, lambda: say(line))
        return reply

    @command
    def show(job: JobName, /, *, output: Output = "table") -> int:
        """Everything about a job, and the newest entries of its log.

        Example: teckochecker JOBS show nightly
        """
        reply = call("GET", view.of(job))
        answer(reply.body, output, lambda: show_job(reply.document()))
        return Exit.OK

    @command
    def pause(job: JobName, /, *, output: Output = "table") -> int:
        """Stop checking and delivering until resumed.

        Example: teckochecker JOBS pause nightly
        """
        verb(job, "pause", output)
        return Exit.OK

    @command
    def resume(job: JobName, /, *, output: Output = "table") -> int:
        """Go on with a paused job: it is checked at once.

        Example: teckochecker JOBS resume nightly
        """
        return reminded(verb(job, "resume", output))

    @command
    def trigger(job: JobName, /, *, output: Output = "table") -> int:
        """Check now, or try the waiting delivery now.

        Example: teckochecker JOBS trigger nightly
        """
        return reminded(verb(job, "trigger", output))

    @command
    def logs(
        job: JobName,
        /,
        *,
        follow: Annotated[bool, Parameter(help="Go on with what comes, until Ctrl-C.")] = False,
        verbose: Annotated[
            bool, Parameter(name=("--verbose", "-v"), help="With what was printed, or answered.")
        ] = False,
        limit: Limit = None,
        offset: Offset = None,
        output: Output = "table",
    ) -> int:
        """A job's log: the newest entry last, and first in JSON.

        Example: teckochecker JOBS logs nightly --follow
        """
        path = f"{view.of(job)}/logs"
        reply = call("GET", path, query={"limit": limit, "offset": offset})
        answer(reply.body, output, lambda: show_logs(reply.document(), verbose=verbose))
        if follow:
            _follow(path, reply.document(), output, verbose=verbose)
        return Exit.OK

    @command
    def deliveries(
        job: JobName, /, *, limit: Limit = None, offset: Offset = None, output: Output = "table"
    ) -> int:
        """What a job triggers: each delivery with every attempt.

        Example: teckochecker JOBS deliveries nightly
        """
        query = {"limit": limit, "offset": offset}
        reply = call("GET", f"{view.of(job)}/deliveries", query=query)
        answer(reply.body, output, lambda: show_deliveries(reply.document()))
        return Exit.OK

    @command
    def redeliver(
        delivery: Annotated[
            str, Parameter(name="DELIVERY", help="Id; the command `deliveries` shows it.")
        ],
        /,
        *,
        output: Output = "table",
    ) -> int:
        """Send an outcome again, under the same event id.

        Example: teckochecker JOBS redeliver 7
        """
        reply = call("POST", f"/api/deliveries/{segment(delivery)}/redeliver")
        word = reply.document()["state"]
        answer(reply.body, output, lambda: say(f"Delivery {delivery} is {word} again."))
        return reminded(reply)

    @command
    def test_webhook(job: JobName, /, *, output: Output = "table") -> int:
        """Send the job's webhook a test event, marked as one; nothing else happens.

        Example: teckochecker JOBS test-webhook nightly
        """
        reply = call("POST", f"{view.of(job)}/webhook/test")
        found = reply.document()
        line = (
            f"{found['message']} It answered {found['status_code']} in {found['duration_ms']} ms."
        )
        answer(reply.body, output, lambda: say(line))
        return Exit.OK

    @command
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
        20: not ended when the time ran out; 6 or 7: nobody answered then.

        Example: teckochecker JOBS wait nightly --timeout 2h
        """
        until = None if timeout is None else time.monotonic() + timeout
        reply = call("GET", view.of(job))
        watched = _Watched(view.of(reply.document()["id"]))  # a name may come to mean a newer job
        noted: set[str] = set()
        while (code := _outcome(reply.document())) is None:
            _note_obstacles(view, reply.document(), noted)
            left_s = ANSWER_S if until is None else until - time.monotonic()
            if left_s <= 0:
                code = Exit.WAIT_PENDING
                break
            time.sleep(min(LOOK_EVERY_S, left_s))
            reply = watched.ask(patience_s=max(LOOK_EVERY_S, min(ANSWER_S, left_s))) or reply
        if code is Exit.WAIT_PENDING and watched.trouble is not None:
            raise watched.trouble  # how the job stands now isn't known
        answer(reply.body, output, lambda: say(outcome_line(reply.document())))
        return code

    @command
    def delete(job: JobName, /, *, yes: Yes = False, output: Output = "table") -> int:
        """Delete a job, its log and its deliveries.

        Example: teckochecker JOBS delete nightly --yes
        """
        found = call("GET", view.of(job)).document()
        if not yes and not confirmed(f"Delete job {named(found)}, its log and its deliveries?"):
            return Exit.FAILURE
        call("DELETE", view.of(found["id"]))
        told = {"id": found["id"], "name": found["name"], "deleted": True}
        answer(json.dumps(told).encode(), output, lambda: say(f"Job {named(found)} deleted."))
        return Exit.OK


def reminded(reply: Reply) -> int:
    """Exit code 0, and a note where nobody will act on what was asked."""
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


def _note_obstacles(view: View, job: Document, noted: set[str]) -> None:
    """Tell once why waiting may be in vain."""
    obstacles = [] if daemon_runs() else [NO_DAEMON]
    tell = f"`teckochecker {view.command}"
    if job["status"] == "paused":
        obstacles.append(f"Job {named(job)} is paused: {tell} resume {job['id']}`.")
    if job["phase"] == "awaiting_script":
        obstacles.append(f"Job {named(job)} has no script: {tell} upload-script {job['id']} DIR`.")
    for obstacle in obstacles:
        if obstacle not in noted:
            noted.add(obstacle)
            note(f"Note: {obstacle}")


class _Watched:
    """An address that is asked again and again; a daemon that restarts meanwhile is waited for."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.trouble: TeckoError | None = None
        """Why the last question got no answer."""

    def ask(
        self, query: Mapping[str, object] | None = None, *, patience_s: float = ANSWER_S
    ) -> Reply | None:
        try:
            reply = call("GET", self._path, query=query, patience_s=patience_s)
        except (NotReachable, TimedOut, Refusal) as error:
            if isinstance(error, Refusal) and error.status not in AWAY:
                raise
            if self.trouble is None:
                note(f"Note: {error} Waiting for it.")
            self.trouble = error
            return None
        self.trouble = None
        return reply


def _follow(path: str, shown: Document, output: str, *, verbose: bool) -> None:
    """Until Ctrl-C; in JSON one line for each answer that brings entries."""
    after = max((row["id"] for row in shown["logs"]), default=0)
    if not daemon_runs():
        note(f"Note: {NO_DAEMON}")
    watched = _Watched(path)
    while True:
        time.sleep(LOOK_EVERY_S)
        reply = watched.ask({"after": after, "limit": MAX_ROWS})
        if reply is None:
            continue
        page = reply.document()
        if page["logs"]:
            after = page["logs"][0]["id"]
            answer(reply.body, output, partial(show_logs, page, verbose=verbose))

"""`teckochecker demo`: the real daemon at work on simulated services, in about twenty seconds.

The simulators of OpenAI and Keboola run in this process, on loopback. What happens is asked of
the daemon's API, and held against what must happen and what the simulators have seen.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from teckochecker.cli.demo_stage import Daemon, Pause, Stopped, daemon_in, own_folder, pausing
from teckochecker.cli.demo_view import Narrator, Watched
from teckochecker.cli.exits import Exit
from teckochecker.domain import ENDED, Document, Status
from teckochecker.errors import NotReachable
from teckochecker.simulators import (
    API_KEY,
    STORAGE_TOKEN,
    Answer,
    Batch,
    Keboola,
    OpenAI,
    openai_error,
)
from teckochecker.simulators.queue_job import FINISHED

STORY_S: Final = 50.0  # what must happen takes 18; a busy machine gets the rest
LOOK_PAUSE_S: Final = 0.25
SCENE_PAUSE_S: Final = 0.3  # between two new jobs, so that people can follow
RETRY_AFTER_S: Final = 2

Step = str | Batch | Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """A job of the demo: what its batches and its Keboola job go through, and how it must end."""

    name: str
    batches: Mapping[str, Sequence[Step]]
    interval_s: int
    configuration: str
    keboola: Sequence[str] = ()
    ends: Status = Status.COMPLETED

    @property
    def triggers(self) -> bool:
        return self.ends is Status.COMPLETED

    def refusals(self) -> list[tuple[str, int, int]]:
        """The answers that are errors: batch id, place in its course, HTTP status."""
        return [
            (batch_id, place, step.status)
            for batch_id, steps in self.batches.items()
            for place, step in enumerate(steps)
            if isinstance(step, Answer)
        ]

    def fields(self, stack_url: str) -> dict[str, object]:
        """The body that creates the job."""
        return {
            "name": self.name,
            "batch_ids": list(self.batches),
            "openai_secret": "demo-openai",
            "keboola_secret": "demo-keboola",
            "keboola_stack_url": stack_url,
            "keboola_configuration_id": self.configuration,
            "poll_interval_seconds": self.interval_s,
        }


# A 429 holds back every job of its secret, so it comes when the first job has just completed.
ACTS: Final = (
    Act(
        name="nightly-summaries",
        batches={
            "batch_summaries": (
                "validating",
                Batch("in_progress", total=120, completed=48),
                Batch("completed", total=120, failed=2),
            )
        },
        interval_s=1,
        configuration="1001",
        keboola=("processing", "success"),
    ),
    Act(
        name="review-sentiment",
        batches={
            "batch_reviews_1": (Batch("in_progress", total=80), Batch("completed", total=80)),
            "batch_reviews_2": ("validating", "failed"),
            "batch_reviews_3": (
                Batch("in_progress", total=80, completed=20),
                Batch("in_progress", total=80, completed=60),
                Batch("completed", total=80),
            ),
        },
        interval_s=2,
        configuration="1002",
        ends=Status.FAILED,
    ),
    Act(
        name="product-tags",
        batches={
            "batch_tags": (
                Batch("in_progress", total=60, completed=15),
                Batch("in_progress", total=60, completed=45),
                openai_error(429, retry_after=RETRY_AFTER_S),
                openai_error(500),
                Batch("completed", total=60),
            )
        },
        interval_s=1,
        configuration="1003",
        keboola=("success",),  # a quick one: looked at once, five seconds after its start
    ),
)


def demo(
    *, keep: Annotated[bool, Parameter(help="Let it run on until Ctrl-C, to try things.")] = False
) -> int:
    """Watch the real daemon poll batches and start jobs, on simulated services.

    It takes about twenty seconds and leaves nothing behind. Exit code 0 if all went as it must.

    Example: teckochecker demo --keep
    """
    narrator = Narrator()
    with pausing() as pause:
        try:
            return _played(narrator, pause, keep=keep)
        except Stopped:
            narrator.tell("Stopped: the daemon is ended and its folder removed.")
            return Exit.INTERRUPTED
        except NotReachable as error:
            narrator.tell(str(error), "red")
            return Exit.FAILURE


def faults(watched: Sequence[Watched], openai: OpenAI, keboola: Keboola) -> list[str]:
    """What didn't happen as it must, in sentences; none when all is well."""
    found = []
    for act, one in zip(ACTS, watched, strict=True):
        found += _wrong_end(act, one.job, _starts(keboola, act))
        for batch_id, place, status in act.refusals():
            if not any(f"answered {status}" in entry["message"] for entry in one.entries):
                found.append(f"{act.name} didn't tell of the {status}.")
            waited_s = _waited_s(openai, batch_id, place)
            if status == 429 and (waited_s is None or round(waited_s, 1) < RETRY_AFTER_S):
                found.append(f"{act.name} asked again sooner than Retry-After allows.")
    return found


def _played(narrator: Narrator, pause: Pause, *, keep: bool) -> int:
    narrator.tell("Starting simulators of OpenAI and Keboola, and the daemon ...")
    with own_folder() as home, OpenAI() as openai, Keboola() as keboola:
        _rehearse(openai, keboola)
        with daemon_in(home, _settings(openai, keboola), pause) as daemon:
            narrator.tell(f"The daemon runs as process {daemon.pid} and answers at {daemon.url}")
            watched = _story(daemon, keboola, narrator, pause)
            missing = faults(watched, openai, keboola)
            _close(narrator, daemon, watched, openai, missing)
            if keep:
                _keep(narrator, daemon, keboola, pause)
    return Exit.FAILURE if missing else Exit.OK


def _rehearse(openai: OpenAI, keboola: Keboola) -> None:
    for act in ACTS:
        for batch_id, steps in act.batches.items():
            openai.add(batch_id, *steps)
        if act.triggers:
            keboola.plan(act.configuration, *act.keboola)
    openai.add("batch_*", "validating", "in_progress", "completed")  # for whoever keeps the demo


def _settings(openai: OpenAI, keboola: Keboola) -> dict[str, str]:
    return {
        "MIN_POLL_INTERVAL": "1",
        "OPENAI_BASE_URL": openai.base_url,
        "ALLOWED_PRIVATE_HOSTS": f"127.0.0.1:{openai.port},127.0.0.1:{keboola.port}",
    }


def _story(daemon: Daemon, keboola: Keboola, narrator: Narrator, pause: Pause) -> Sequence[Watched]:
    """Create secrets and jobs, and watch until all has ended or time is up."""
    for name, kind, value in (
        ("demo-openai", "openai", API_KEY),
        ("demo-keboola", "keboola", STORAGE_TOKEN),
    ):
        secret = {"name": name, "type": kind, "value": value}
        daemon.ask("POST", "/api/admin/secrets", secret)
    narrator.tell("Two secrets are stored, encrypted. Now three jobs, one after the other.")
    deadline = time.monotonic() + STORY_S
    watched: list[Watched] = []
    with narrator.watching() as show:
        for act in ACTS:
            watched.append(Watched(daemon.ask("POST", "/api/jobs", act.fields(keboola.url))))
            _look(daemon, watched)
            show(watched)
            pause(SCENE_PAUSE_S)
        while time.monotonic() < deadline and not all(_is_settled(one.job) for one in watched):
            _look(daemon, watched)
            show(watched)
            pause(LOOK_PAUSE_S)
    return watched


def _look(daemon: Daemon, watched: Sequence[Watched]) -> None:
    for one in watched:
        one.job = daemon.ask("GET", f"/api/jobs/{one.job['id']}")
        seen = one.entries[-1]["id"] if one.entries else 0
        one.entries += [entry for entry in reversed(one.job["logs"]) if entry["id"] > seen]


def _is_settled(job: Document) -> bool:
    started = job["keboola_job"]
    return job["status"] in ENDED and (started is None or started["status"] in FINISHED)


def _keep(narrator: Narrator, daemon: Daemon, keboola: Keboola, pause: Pause) -> None:
    commands = [
        f"export TECKOCHECKER_URL={daemon.url}",
        f"export TECKOCHECKER_TOKEN={daemon.token}",
        f"{_as_typed()} job list",
        f"{_as_typed()} job create --name mine --batch-id batch_mine --openai-secret demo-openai "
        f"--keboola-secret demo-keboola --keboola-stack {keboola.url} --config-id 1004 "
        "--poll-interval 1",
    ]
    narrator.offer("It goes on running until Ctrl-C. In another terminal:", commands)
    try:
        while True:
            daemon.refuse_dead()
            pause(LOOK_PAUSE_S)
    except Stopped:
        narrator.tell("Ending the daemon and removing its folder.")


def _wrong_end(act: Act, job: Document, starts: int) -> list[str]:
    wanted = 1 if act.triggers else 0
    started = job["keboola_job"] or {"status": "not started"}
    wrong = {
        f"{act.name} is {job['status']}, and not {act.ends}.": job["status"] != act.ends,
        f"{act.name} started {starts} Keboola jobs, and not {wanted}.": starts != wanted,
        f"The Keboola job of {act.name} is {started['status']}, and not success.": act.triggers
        and started["status"] != "success",
    }
    return [sentence for sentence, is_so in wrong.items() if is_so]


def _starts(keboola: Keboola, act: Act) -> int:
    """How many jobs the simulator, which can't be fooled, was asked to start."""
    return sum(job["config"] == act.configuration for job in keboola.jobs)


def _waited_s(openai: OpenAI, batch_id: str, place: int) -> float | None:
    """How long after the refused request the next one came; None when none did."""
    asked = openai.asked("GET", f"/v1/batches/{batch_id}")
    return asked[place + 1].at - asked[place].at if place + 1 < len(asked) else None


def _close(
    narrator: Narrator,
    daemon: Daemon,
    watched: Sequence[Watched],
    openai: OpenAI,
    missing: Sequence[str],
) -> None:
    headline = f"Everything went as it must, in {narrator.elapsed_s:.0f} s."
    if missing:
        headline = f"Not everything went as it must, in {narrator.elapsed_s:.0f} s."
    sections = [
        ("What is missing", missing),
        ("Triggered", _triggered(watched)),
        ("Not triggered", _untriggered(watched)),
        ("Trouble met and survived", _troubles(watched, openai)),
        ("In figures", _figures(daemon.ask("GET", "/api/stats"))),
        ("What to do next", _next_steps()),
    ]
    filled = [(heading, lines) for heading, lines in sections if lines]
    narrator.sum_up(headline, filled, well=not missing)


def _triggered(watched: Sequence[Watched]) -> list[str]:
    lines = []
    for job in (one.job for one in watched):
        if started := job["keboola_job"]:
            lines += [
                f"{job['name']}: {job['last_check_status']}, so Keboola job {started['id']} was "
                f"started; it is {started['status']} now.",
                f"    {started['url']}",
            ]
    return lines


def _untriggered(watched: Sequence[Watched]) -> list[str]:
    lines = []
    for job in (one.job for one in watched):
        if job["keboola_job"] is None:
            lines.append(f"{job['name']}: {job['last_check_status']}. {job['status_reason'] or ''}")
            lines.append(f"    It triggers on {job['trigger_on']} only, so no job was started.")
    return lines


def _troubles(watched: Sequence[Watched], openai: OpenAI) -> list[str]:
    lines = []
    for act, one in zip(ACTS, watched, strict=True):
        waits_s = {
            status: _waited_s(openai, batch_id, place) for batch_id, place, status in act.refusals()
        }
        for entry in one.entries:
            if entry["status"] == "error":
                message = entry["message"].partition(" (request")[0]
                lines.append(f"{act.name}: {message}")
                lines += [
                    f"    Asked again {waited_s:.1f} s later{_wish(status)}."
                    for status, waited_s in waits_s.items()
                    if waited_s is not None and f"answered {status}" in message
                ]
    return lines


def _wish(status: int) -> str:
    return f", as its Retry-After of {RETRY_AFTER_S} s wants" if status == 429 else ""


def _figures(stats: Document) -> list[str]:
    checks: Mapping[str, int] = stats["checks_last_day"]
    kinds = ", ".join(f"{count} {verdict}" for verdict, count in sorted(checks.items()))
    return [f"{sum(checks.values())} checks ({kinds}), {stats['triggers_last_day']} triggers"]


def _next_steps() -> list[str]:
    program = _as_typed()
    return [
        f"{program} init     writes the settings and the key of your own installation",
        f"{program} start    runs it; then add your secrets and jobs",
    ]


def _as_typed() -> str:
    """How this program was called, so that a line can be copied."""
    if shutil.which("teckochecker"):
        return "teckochecker"
    if Path(sys.argv[0]).name == "__main__.py":
        return f"{sys.executable} -m teckochecker"
    return sys.argv[0]

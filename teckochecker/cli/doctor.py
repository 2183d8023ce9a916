"""`doctor`: looks at everything that keeps an installation from working, with a remedy each.

It changes nothing that a start wouldn't change.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from teckochecker.cli import doctor_here as here
from teckochecker.cli import doctor_outside as outside
from teckochecker.cli import environment, installation
from teckochecker.cli.doctor_here import Check
from teckochecker.cli.exits import Exit
from teckochecker.cli.output import Output, answer, show_table
from teckochecker.errors import TeckoError

if TYPE_CHECKING:
    from teckochecker.config import Settings
    from teckochecker.lock import Holder


def doctor(
    *,
    offline: Annotated[bool, Parameter(help="Don't reach for the services of the jobs.")] = False,
    output: Output = "table",
) -> int:
    """Look for what is wrong, and say how to mend it: exit code 1 if anything is bad.

    It looks at settings, key, database, disk, clock, port, backups, git and the
    Docker engine, and reaches for every service that an active job uses.

    Example: teckochecker doctor
    """
    checks = list(_checks(offline))
    answer(
        json.dumps({"checks": [asdict(check) for check in checks]}).encode(),
        output,
        lambda: show_table(
            ("State", "What", "Finding", "Remedy"),
            ((check.state, check.name, check.detail, check.remedy) for check in checks),
        ),
    )
    return Exit.FAILURE if any(check.state == "bad" for check in checks) else Exit.OK


def _checks(offline: bool) -> Iterator[Check]:
    home = environment.home()
    yield here.folder(home)
    for file in (environment.settings_file(), environment.token_file()):
        yield here.private(file)
    try:
        settings = environment.settings()
    except TeckoError as error:
        yield Check("settings", "bad", str(error), "mend them where they come from")
        return
    yield Check("settings", "ok", "all are valid")
    yield here.clock(settings.database)  # before anything touches the file
    running = installation.settled(home)
    yield here.daemon(running)
    yield here.key(settings)
    yield here.database(settings, running)
    yield here.sqlite()
    yield from here.space(home, settings.database.parent)
    yield here.port(settings, running)
    yield from _jobs(settings, running, offline)


def _jobs(settings: Settings, running: Holder | None, offline: bool) -> Iterator[Check]:
    """What depends on the jobs that there are."""
    try:
        jobs = outside.active_jobs() if settings.database.exists() else []
    except TeckoError as error:
        jobs = []
        yield Check("jobs", "bad", str(error), "mend this first: what they need can't be told")
    yield here.backups(settings.home, jobs)
    yield from outside.sandbox(settings, [job for job in jobs if job["kind"] == "custom_check"])
    if not offline:
        yield from outside.services(settings, jobs)

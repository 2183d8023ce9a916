"""`doctor`: looks at everything that keeps an installation from working, with a remedy each.

It changes nothing that a start wouldn't change.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import Parameter

from teckochecker.cli import environment, installation
from teckochecker.cli.client import call, health
from teckochecker.cli.exits import Exit
from teckochecker.cli.output import Output, answer, show_table
from teckochecker.errors import HttpError, TeckoError
from teckochecker.lock import Holder

if TYPE_CHECKING:
    from teckochecker.config import Settings
    from teckochecker.http import Http

SOUND_SQLITE: Final = (3, 51, 3)  # before it, two connections can corrupt a WAL database
LITTLE_SPACE_BYTES: Final = 100 * 1024 * 1024
SOME_SPACE_BYTES: Final = 1024 * 1024 * 1024
SKEW_S: Final = 60.0
REACH_S: Final = 10.0
_PRIVATE: Final = 0o077  # rights of others on what holds secrets

State = Literal["ok", "warning", "bad"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at, and what to do about it."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def doctor(
    *,
    online: Annotated[
        bool, Parameter(help="Also reach OpenAI and the Keboola stacks that jobs use.")
    ] = False,
    output: Output = "table",
) -> int:
    """Look for what is wrong, and say how to mend it: exit code 1 if anything is bad.

    Example: teckochecker doctor --online
    """
    checks = list(_checks(online))
    answer(
        json.dumps({"checks": [asdict(check) for check in checks]}).encode(),
        output,
        lambda: show_table(
            ("State", "What", "Finding", "Remedy"),
            ((check.state, check.name, check.detail, check.remedy) for check in checks),
        ),
    )
    return Exit.FAILURE if any(check.state == "bad" for check in checks) else Exit.OK


def _checks(online: bool) -> Iterator[Check]:
    home = environment.home()
    yield _folder(home)
    for file in (environment.settings_file(), environment.token_file()):
        yield _private(file)
    try:
        settings = environment.settings()
    except TeckoError as error:
        yield Check("settings", "bad", str(error), "mend them where they come from")
        return
    yield Check("settings", "ok", "all are valid")
    yield _clock(settings.database)  # before anything touches the file
    running = installation.settled(home)
    yield _daemon(running)
    yield _database(settings, running)
    yield _sqlite()
    yield _space(home if home.is_dir() else Path("/"))
    yield _port(settings, running)
    if online:
        yield from _services(settings)


def _folder(home: Path) -> Check:
    name = "folder"
    if not home.is_dir():
        return Check(name, "bad", f"{home} doesn't exist", "run `teckochecker init`")
    if home.stat().st_mode & _PRIVATE:
        return Check(name, "warning", f"{home} is open to other users", f"chmod 700 {home}")
    return Check(name, "ok", str(home))


def _private(file: Path) -> Check:
    if not file.exists():
        remedy = "run `teckochecker init`, unless the environment gives what it would hold"
        return Check(file.name, "warning", f"{file} doesn't exist", remedy)
    if file.stat().st_mode & _PRIVATE:
        return Check(file.name, "bad", f"{file} is open to other users", f"chmod 600 {file}")
    return Check(file.name, "ok", f"{file}, for its owner only")


def _daemon(running: Holder | None) -> Check:
    name = "daemon"
    if running is None:
        return Check(name, "warning", "none runs", "run `teckochecker start`")
    if running.url is None:
        detail = f"process {running.pid} holds the data and tells no address"
        return Check(name, "bad", detail, "wait until it has started, or end it")
    try:
        found = health(running.url).document()
    except TeckoError as error:
        return Check(name, "bad", str(error), "stop it and start it again; see its log")
    states: dict[str, State] = {"ok": "ok", "degraded": "warning"}
    detail = "; ".join([f"{found['status']} at {running.url}", *found["reasons"]])
    return Check(name, states.get(found["status"], "bad"), detail)


def _database(settings: Settings, running: Holder | None) -> Check:
    name = "database"
    if not settings.database.exists():
        detail = f"{settings.database} doesn't exist"
        return Check(name, "bad", detail, "run `teckochecker init`, or restore a backup")
    if running is not None:
        return Check(name, "ok", f"{settings.database}, opened by the daemon")
    try:
        with installation.opened(settings) as app:
            number = installation.open_all(app)
    except TeckoError as error:
        return Check(name, "bad", str(error), "mend this first: the daemon can't start")
    return Check(name, "ok", f"{settings.database}; SECRET_KEY opens all {number} secrets")


def _sqlite() -> Check:
    from teckochecker.store import sqlite_version

    version = sqlite_version()
    if tuple(int(part) for part in version.split(".")[:3]) < SOUND_SQLITE:
        remedy = "install apsw 3.51.3 or later"
        return Check("SQLite", "bad", f"{version} can corrupt a database", remedy)
    return Check("SQLite", "ok", version)


def _space(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    detail = f"{free // (1024 * 1024)} MB free on the disk of {folder}"
    remedy = "free some, before writing fails"
    if free < LITTLE_SPACE_BYTES:
        return Check("disk", "bad", detail, remedy)
    if free < SOME_SPACE_BYTES:
        return Check("disk", "warning", detail, remedy)
    return Check("disk", "ok", detail)


def _clock(database: Path) -> Check:
    """A clock that was set back lets every job wait for the time that it knows."""
    behind_s = database.stat().st_mtime - time.time() if database.exists() else 0.0
    if behind_s > SKEW_S:
        detail = f"{behind_s:.0f} s behind the database's last change"
        return Check("clock", "bad", detail, "set the clock, best by NTP")
    return Check("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S %Z"))


def _port(settings: Settings, running: Holder | None) -> Check:
    where = f"{settings.api_host}:{settings.api_port}"
    if running is not None:
        return Check("port", "ok", "in use by the daemon")
    from teckochecker.daemon import listen

    try:
        listen(settings.api_host, settings.api_port).close()
    except TeckoError as error:
        return Check("port", "bad", str(error), "set API_PORT to a free one")
    return Check("port", "ok", f"{where} can be listened on")


def _services(settings: Settings) -> Iterator[Check]:
    from teckochecker.http import Http

    try:
        urls = _urls(settings)
    except TeckoError as error:
        yield Check("jobs", "bad", str(error), "mend this first: no job's services can be told")
        urls = [settings.openai_base_url]
    http = Http(settings.allowed_private_hosts, max_connections=1)
    try:
        for url in urls:
            yield _service(http, url)
    finally:
        http.close()


def _urls(settings: Settings) -> list[str]:
    """What active jobs call, each once; the installation's OpenAI address is always among it."""
    jobs = call("GET", "/api/jobs", query={"status": "active", "limit": 1000}).document()["jobs"]
    urls = {settings.openai_base_url: None}
    for job in jobs:
        for field in ("openai_base_url", "keboola_stack_url"):
            if job.get(field):
                urls[job[field]] = None
    return list(urls)


def _service(http: Http, url: str) -> Check:
    """Any answer will do: it says that the way there is open, and what time it is there."""
    try:
        reply = http.request("GET", url, timeout_s=REACH_S, connect_timeout_s=REACH_S)
    except HttpError as error:
        remedy = "check the address, the network, and ALLOWED_PRIVATE_HOSTS for a private one"
        return Check(url, "bad", str(error), remedy)
    skew_s = _skew_s(reply.headers.get("date"))
    if abs(skew_s) > SKEW_S:
        detail = f"its clock differs from ours by {skew_s:.0f} s"
        return Check(url, "bad", detail, "set the clock, best by NTP")
    return Check(url, "ok", f"answers ({reply.status_code})")


def _skew_s(date: str | None) -> float:
    if date is None:
        return 0.0
    try:
        return parsedate_to_datetime(date).timestamp() - time.time()
    except ValueError:
        return 0.0

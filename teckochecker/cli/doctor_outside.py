"""What `doctor` looks at beyond this program: git, the Docker engine, and the jobs' services."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from teckochecker.cli.client import call
from teckochecker.cli.doctor_here import SKEW_S, Check, State
from teckochecker.errors import HttpError, OutsideError

if TYPE_CHECKING:
    from teckochecker.config import Settings
    from teckochecker.http import Http
    from teckochecker.sandbox import Host

Document = Mapping[str, Any]
Runtime = Literal["python", "node"]

REACH_S: Final = 8.0
AT_ONCE: Final = 16
MAX_SERVICES: Final = 64  # 4 rounds, half a minute where none of them answers
PAGE: Final = 1000
MAX_JOBS: Final = 20_000  # a second's worth of reading
_METADATA: Final = "169.254.169.254"
_RUNTIMES: Final[tuple[Runtime, ...]] = ("python", "node")
_ADDRESSES: Final = ("openai_base_url", "keboola_stack_url", "webhook_url", "script_git_url")


@dataclass(frozen=True, slots=True)
class Reached:
    """What came of reaching for a service; `skew_s` is how far its clock is ahead of ours."""

    check: Check
    skew_s: float | None = None


def active_jobs() -> list[Document]:
    """Those of both kinds, the newest first; at most 20,000."""
    found: list[Document] = []
    while True:
        query = {"status": "active", "kind": "all", "limit": PAGE, "offset": len(found)}
        page = call("GET", "/api/jobs", query=query).document()
        found += page["jobs"]
        if len(page["jobs"]) < PAGE or len(found) >= MAX_JOBS:
            return found


# Custom checks


def sandbox(settings: Settings, checks: Sequence[Document]) -> Iterator[Check]:
    """What custom checks need; only a note as long as there are none."""
    from teckochecker.sandbox import Sandbox

    lack: State = "bad" if checks else "note"
    yield _git([check for check in checks if check["script_git_url"]])
    yield from _network(sum(check["network"] == "open" for check in checks))
    used = {check["script_runtime"] for check in checks}
    box = Sandbox(settings.docker, "doctor", partial(datetime.now, UTC), guest=True)
    missing = box.missing([one for one in _RUNTIMES if one in used or not used])
    for one in missing:
        if one.what == "engine":
            remedy = "start it, or set DOCKER_HOST; custom checks wait meanwhile"
            yield Check("engine", lack, one.message, remedy)
            return
    yield _engine(box.host())
    lacking = {one.what: one.message for one in missing}
    for runtime in _RUNTIMES:
        if runtime in lacking:
            remedy = f"run `teckochecker runners build {runtime}`"
            yield Check(f"image of {runtime}", lack, lacking[runtime], remedy)
        elif runtime in used:
            yield Check(f"image of {runtime}", "ok", "is there")
    yield _memory(checks, settings.max_concurrent_checks, box.host().memory_bytes)


def _git(users: Sequence[Document]) -> Check:
    from teckochecker.scripts.git_command import PATH, check_version

    try:
        check_version(PATH)
    except OutsideError as error:
        state: State = "bad" if users else "note"
        return Check("git", state, str(error), "install git by the system's packages")
    return Check("git", "ok", "is new enough")


def _network(number: int) -> Iterator[Check]:
    """A note on checks that reach a lot: nothing is wrong, but it has to be known."""
    if number:
        which = f"{number} active checks on an open network reach"
        if number == 1:
            which = "1 active check on an open network reaches"
        detail = f"{which} what the engine's machine reaches, the metadata address {_METADATA} too"
        remedy = "give checks that call nothing `--network none`"
        yield Check("network", "note", detail, remedy)


def _engine(host: Host) -> Check:
    apparmor = "present" if host.apparmor else "absent"
    calls = "used" if host.seccomp else "not used"
    detail = f"Docker {host.version}, AppArmor {apparmor}, our filter of system calls {calls}"
    return Check("engine", "ok", detail)


def _memory(checks: Sequence[Document], places: int, host_bytes: int) -> Check:
    """What the daemon warns of as `sandbox.overcommitted`, by the same sum of the same jobs."""
    from teckochecker.sources.script_fields import memory_wanted_mb

    wanted_mb, host_mb = memory_wanted_mb(checks, places), host_bytes // (1024 * 1024)
    detail = f"{places} custom checks at once may take {wanted_mb} MB; the engine has {host_mb} MB"
    if wanted_mb <= host_mb:
        return Check("memory", "ok", detail)
    fitting = max(1, host_mb * places // wanted_mb)  # at least one has to run
    remedy = f"set MAX_CONCURRENT_CHECKS to {fitting}, or lower the largest memory_mb"
    return Check("memory", "warning" if checks else "note", detail, remedy)


# Services


def services(
    settings: Settings, jobs: Iterable[Document], *, reach_s: float = REACH_S
) -> Iterator[Check]:
    """Reach for each origin that jobs use, many at once; their clocks judge ours."""
    from teckochecker.http import Http

    found = origins(jobs, settings.openai_base_url)
    if not found:
        yield Check("services", "note", "no active job uses any")
        return
    http = Http(settings.allowed_private_hosts, max_connections=AT_ONCE)
    try:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            reached = list(threads.map(partial(_reached, http, reach_s), found[:MAX_SERVICES]))
    finally:
        http.close()
    yield from (one.check for one in reached)
    if len(found) > MAX_SERVICES:
        yield Check("services", "note", f"{len(found) - MAX_SERVICES} more weren't reached for")
    yield from _skew(one.skew_s for one in reached)


def origins(jobs: Iterable[Document], openai_base_url: str) -> list[str]:
    """Scheme, host and port of everything that jobs call, each once."""
    found: dict[str, None] = {}
    for job in jobs:
        given = {name: job.get(name) for name in _ADDRESSES}
        if job["kind"] == "polling":
            given["openai_base_url"] = given["openai_base_url"] or openai_base_url
        found |= dict.fromkeys(origin(url) for url in given.values() if url)
    return list(found)


def origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()


def _reached(http: Http, reach_s: float, url: str) -> Reached:
    """Any answer will do: the root is asked for, so that no webhook is called by this."""
    try:
        reply = http.request("GET", f"{url}/", timeout_s=reach_s, connect_timeout_s=reach_s)
    except HttpError as error:
        if error.status_code is None:
            remedy = "check the address, the network, and ALLOWED_PRIVATE_HOSTS for a private one"
            return Reached(Check(url, "bad", str(error), remedy))
        return Reached(Check(url, "ok", f"answers ({error.status_code})"))
    return Reached(
        Check(url, "ok", f"answers ({reply.status_code})"), _ahead_s(reply.headers.get("date"))
    )


def _ahead_s(date: str | None) -> float | None:
    if date is None:
        return None
    try:
        return parsedate_to_datetime(date).timestamp() - time.time()
    except ValueError:
        return None


def _skew(skews_s: Iterable[float | None]) -> Iterator[Check]:
    """Our clock is wrong when no service that tells the time agrees with it."""
    told = [skew_s for skew_s in skews_s if skew_s is not None]
    least_s = min(told, key=abs, default=0.0)
    if abs(least_s) > SKEW_S:
        detail = f"{least_s:+.0f} s to the services' clocks"
        yield Check("clock and services", "bad", detail, "set the clock, best by NTP")

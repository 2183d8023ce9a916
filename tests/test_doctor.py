"""`doctor`: what it finds, and that there is a remedy for it."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from teckochecker.cli import doctor_here as here
from teckochecker.cli import doctor_outside as outside
from teckochecker.cli.doctor_here import Check
from teckochecker.config import Settings
from teckochecker.sandbox import Host
from teckochecker.simulators import Keboola, OpenAI
from tests import test_cli
from tests.parts import plain_settings
from tests.required import absent
from tests.test_cli import JOB, OTHER_KEY, Done, Shell

bare, machine, prepared = test_cli.bare, test_cli.machine, test_cli.prepared
sh, stocked = test_cli.sh, test_cli.stocked


def findings(done: Done) -> dict[str, tuple[str, str]]:
    return {one["name"]: (one["state"], one["remedy"]) for one in done.json["checks"]}


def test_it_finds_nothing_bad_in_a_good_installation(stocked: Shell) -> None:
    stocked.env(API_PORT="0")
    done = stocked.good("doctor", "--output=json")
    found = findings(done)
    assert found.pop("daemon") == ("warning", "run `teckochecker start`")
    assert {state for state, _ in found.values()} <= {"ok", "note"}
    shown = stocked.good("doctor").out
    assert "SECRET_KEY opens all 2 secrets" in shown
    assert re.search(r"schema \d+ of \d+;", shown)


def test_before_init_it_says_what_is_missing(bare: Shell) -> None:
    done = bare("doctor", "--output=json")
    assert done.code == 1
    assert findings(done)["folder"] == ("bad", "run `teckochecker init`")
    assert not bare.machine.home.exists()


def test_there_is_a_remedy_for_each_bad_thing(stocked: Shell) -> None:
    (stocked.machine.home / "token").chmod(0o644)
    os.utime(stocked.machine.home / "teckochecker.db", (time.time() + 9999,) * 2)
    stocked.env(SECRET_KEY=OTHER_KEY)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        stocked.env(API_PORT=str(taken.getsockname()[1]))
        done = stocked("doctor", "--output=json")
    assert done.code == 1
    bad = {name: remedy for name, (state, remedy) in findings(done).items() if state == "bad"}
    assert bad.keys() == {"token", "database", "clock", "port", "jobs"}
    assert all(bad.values())
    stocked.env(API_PORT="no")
    assert findings(stocked("doctor", "--output=json"))["settings"][0] == "bad"


def test_a_weak_key_and_an_unfinished_rotation_are_told(tmp_path: Path) -> None:
    assert here.key(plain_settings(tmp_path, SECRET_KEY="x" * 40)).state == "bad"
    rotating = here.key(plain_settings(tmp_path, SECRET_KEY_OLD=OTHER_KEY))
    assert (rotating.state, rotating.detail) == ("note", "SECRET_KEY_OLD is still set")
    assert here.key(plain_settings(tmp_path)).state == "ok"


# Backups


def test_the_newest_backup_has_an_age(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    assert here.backups(tmp_path, []).state == "note"
    assert here.backups(tmp_path, [{}]).state == "warning"
    folder.mkdir()
    old, young = folder / "a.tar.gz", folder / "b.tar.gz"
    for file, age_s in ((old, 9 * 86400), (young, 3600), (folder / ".new-c.tar.gz", 0)):
        file.touch()
        os.utime(file, (time.time() - age_s,) * 2)
    assert here.backups(tmp_path, []).state == "ok"
    young.unlink()
    found = here.backups(tmp_path, [])
    assert (found.state, "9.0 days old" in found.detail) == ("warning", True)
    assert "backup create" in found.remedy


def test_each_disk_has_one_line(tmp_path: Path) -> None:
    (found,) = here.space(tmp_path, tmp_path)
    assert found.name == "disk"


# Services


def job(**fields: Any) -> dict[str, Any]:
    return {"kind": "polling", "openai_base_url": None, **fields}


def test_an_origin_is_named_once_whatever_refers_to_it() -> None:
    jobs = [
        job(keboola_stack_url="https://Connection.keboola.com"),
        job(
            keboola_stack_url="https://connection.keboola.com/", webhook_url="https://h.example/a?b"
        ),
        job(openai_base_url="https://proxy.example:8443/v1", webhook_url="https://h.example/other"),
        {"kind": "custom_check", "script_git_url": "https://git.example/a/b.git"},
    ]

    assert outside.origins(jobs, "https://api.openai.com/v1") == [
        "https://api.openai.com",
        "https://connection.keboola.com",
        "https://h.example",
        "https://proxy.example:8443",
        "https://git.example",
    ]


def test_the_services_of_active_jobs_are_reached(stocked: Shell) -> None:
    with OpenAI() as openai, Keboola() as keboola:
        stocked.env(OPENAI_BASE_URL=openai.base_url, API_PORT="0")
        stack = f"--keboola-stack={keboola.url}"
        stocked.good("job", "create", "--name=a", *JOB[:3], stack, "--config-id=1")
        found = findings(stocked.good("doctor", "--output=json"))
        assert found[outside.origin(openai.base_url)] == ("ok", "")
        assert found[keboola.url] == ("ok", "")
        assert found["backups"][0] == "warning"
    done = stocked("doctor", "--output=json")
    assert done.code == 1
    assert findings(done)[keboola.url][0] == "bad"
    assert "ALLOWED_PRIVATE_HOSTS" in findings(done)[keboola.url][1]
    assert keboola.url not in findings(stocked.good("doctor", "--offline", "--output=json"))
    stocked.good("job", "pause", "a")
    assert findings(stocked.good("doctor", "--output=json"))["services"][0] == "note"


class _Odd(BaseHTTPRequestHandler):
    """Tells a time that the test sets; asked for the root alone."""

    ahead_s = 0.0

    def do_GET(self) -> None:
        assert self.path == "/"
        self.send_response_only(404)
        self.send_header("date", self.date_time_string(time.time() + self.ahead_s))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Be silent."""


@contextmanager
def clock_ahead(seconds: float) -> Iterator[str]:
    handler = type("Handler", (_Odd,), {"ahead_s": seconds})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.02))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return plain_settings(tmp_path, ALLOWED_PRIVATE_HOSTS="127.0.0.1")


def test_our_clock_is_wrong_when_no_service_agrees_with_it(settings: Settings) -> None:
    with clock_ahead(500) as wrong, clock_ahead(400) as too:
        jobs = [{"kind": "custom_check", "webhook_url": f"{url}/hook"} for url in (wrong, too)]
        found = list(outside.services(settings, jobs))
        assert [one.state for one in found] == ["ok", "ok", "bad"]
        assert found[2].name == "clock and services"
        assert found[2].detail.startswith(("+400 s", "+399 s"))
        with clock_ahead(0) as right:
            jobs.append({"kind": "custom_check", "webhook_url": right})
            assert {one.state for one in outside.services(settings, jobs)} == {"ok"}


def test_services_that_hang_are_waited_for_together(settings: Settings) -> None:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(10)]
    jobs = [
        {"kind": "custom_check", "webhook_url": f"http://127.0.0.1:{one.getsockname()[1]}"}
        for one in servers
    ]
    begun = time.monotonic()

    found = list(outside.services(settings, jobs, reach_s=0.5))

    assert time.monotonic() - begun < 3
    assert [one.state for one in found] == ["bad"] * 10
    for one in servers:
        one.close()


def test_private_addresses_stay_closed(tmp_path: Path) -> None:
    jobs = [{"kind": "custom_check", "webhook_url": "http://127.0.0.1:9/x"}]
    (found,) = outside.services(plain_settings(tmp_path), jobs)
    assert found.state == "bad"
    assert "isn't a public address" in found.detail


# Custom checks


def check(memory_mb: int = 512, **fields: Any) -> dict[str, Any]:
    return {
        "kind": "custom_check",
        "script_git_url": None,
        "script_runtime": "python",
        "resource_limits": {"memory_mb": memory_mb, "cpu_cores": 0.5},
        "network": "open",
        **fields,
    }


def without_engine(tmp_path: Path) -> Settings:
    return plain_settings(tmp_path, DOCKER_HOST=f"unix://{tmp_path}/none.sock")


def test_an_engine_is_missed_only_where_custom_checks_need_it(tmp_path: Path) -> None:
    settings = without_engine(tmp_path)
    needless = {one.name: one.state for one in outside.sandbox(settings, [])}
    needed = {one.name: one for one in outside.sandbox(settings, [check()])}
    assert needless["engine"] == "note"
    assert needed["engine"].state == "bad"
    assert "DOCKER_HOST" in needed["engine"].remedy


def test_checks_on_an_open_network_are_told_with_what_they_reach(tmp_path: Path) -> None:
    settings, closed = without_engine(tmp_path), check(network="none")
    some = {one.name: one for one in outside.sandbox(settings, [check(), check(), closed])}
    one_open = {one.name: one for one in outside.sandbox(settings, [check(), closed])}
    assert some["network"].state == "note"
    assert some["network"].detail.startswith("2 active checks on an open network reach ")
    assert "169.254.169.254" in some["network"].detail
    assert "--network none" in some["network"].remedy
    assert one_open["network"].detail.startswith("1 active check on an open network reaches ")
    assert "network" not in {one.name for one in outside.sandbox(settings, [closed])}


def test_the_engines_line_tells_its_safeguards() -> None:
    host = Host(cpus=2, memory_bytes=1, seccomp=True, apparmor=False, version="28.0.1")
    bare = replace(host, seccomp=False, apparmor=True)
    assert outside._engine(host) == Check(
        "engine", "ok", "Docker 28.0.1, AppArmor absent, our filter of system calls used"
    )
    assert outside._engine(bare).detail.endswith(
        "AppArmor present, our filter of system calls not used"
    )


def test_memory_that_checks_may_take_at_once_is_compared_with_the_engines() -> None:
    mb = 1024 * 1024
    fits = outside._memory([check(64)], 4, 2048 * mb)
    too_much = outside._memory([check(1024), check(64)], 4, 2048 * mb)
    assert (fits.state, too_much.state) == ("ok", "warning")
    assert "4 custom checks at once may take 4096 MB; the engine has 2048 MB" in too_much.detail
    assert "set MAX_CONCURRENT_CHECKS to 2" in too_much.remedy
    assert "to 1," in outside._memory([check(4096)], 50, 1024 * mb).remedy
    assert [outside._memory([], 4, size * mb).state for size in (2048, 2047)] == ["ok", "note"]


@pytest.mark.docker
def test_the_engine_and_its_images_are_looked_at(tmp_path: Path) -> None:
    host = os.environ.get("DOCKER_HOST", "")
    settings = plain_settings(tmp_path, DOCKER_HOST=host)
    found = {one.name: one for one in outside.sandbox(settings, [check()])}
    if found["engine"].state == "bad":
        absent("docker", found["engine"].detail)
    assert re.fullmatch(
        r"Docker \S+, AppArmor (present|absent), our filter of system calls (not )?used",
        found["engine"].detail,
    )
    assert found["image of python"].state in ("ok", "bad")
    assert found["memory"].state in ("ok", "warning")

"""What is kept in order beside the scheduler: images and scripts that nobody needs any more."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from teckochecker import upkeep
from teckochecker.app import App
from teckochecker.cli.doctor_outside import _memory
from teckochecker.sandbox import Host, Missing, Needs
from tests.conftest import Api
from tests.test_api_custom_checks import CHECKS, FIELDS


class FakeSandbox:
    """An engine with all runner images and no container; remembers what a pruning kept."""

    containers = 0

    def __init__(self, memory_mb: int = 65536) -> None:
        self.kept: list[set[str]] = []
        self._memory_mb = memory_mb

    def host(self) -> Host:
        size_bytes = self._memory_mb * 2**20
        return Host(cpus=2, memory_bytes=size_bytes, seccomp=True, apparmor=True, version="28")

    def missing(self, runtimes: Collection[str] = ()) -> list[Missing]:
        return []

    def remove_orphans(self) -> int:
        return 0

    def image(self, needs: Needs) -> str:
        return f"image of {needs.script.stem}"

    def prune(self, keep: Collection[str]) -> int:
        self.kept.append(set(keep))
        return 0


async def test_a_script_that_is_gone_keeps_no_image_from_being_pruned(app: App, api: Api) -> None:
    sandbox: Any = FakeSandbox()
    made = [
        await api("POST", CHECKS, {**FIELDS, "name": text, "script": text}, expect=201)
        for text in ("gone", "there")
    ]
    (app.settings.scripts / f"{made[0]['script']['sha256']}.tar").unlink()

    await upkeep.prune(replace(app, sandbox=sandbox))

    assert sandbox.kept == [{f"image of {made[1]['script']['sha256']}"}]


async def warnings_at_start(app: App, sandbox: Any, nursery: trio.Nursery) -> list[Any]:
    """What upkeep says of memory by the time it has pruned for the first time."""
    with capture_logs() as lines:
        await nursery.start(upkeep.run, replace(app, sandbox=sandbox))
        with trio.fail_after(10):
            while not sandbox.kept:
                await trio.sleep(0.01)
    return [line for line in lines if line["event"] == "sandbox.overcommitted"]


@pytest.mark.parametrize(
    ("memory_mb", "wanted_mb"), [(64, 50 * 512), (512, 50 * 512), (1024, 50 * 1024)]
)
async def test_a_start_warns_when_all_places_could_take_more_than_the_host_has(
    app: App, api: Api, nursery: trio.Nursery, memory_mb: int, wanted_mb: int
) -> None:
    limits = {"memory_mb": memory_mb}
    await api("POST", CHECKS, {**FIELDS, "script": "x", "resource_limits": limits}, expect=201)

    (line,) = await warnings_at_start(app, FakeSandbox(wanted_mb - 1), nursery)

    nursery.cancel_scope.cancel()
    assert line["log_level"] == "warning"
    figures = ("max_concurrent_checks", "wanted_mb", "host_mb")
    assert [line[name] for name in figures] == [50, wanted_mb, wanted_mb - 1]
    assert "MAX_CONCURRENT_CHECKS" in line["remedy"]


async def test_a_start_doesnt_warn_of_what_fits_nor_of_jobs_that_arent_active(
    app: App, api: Api, nursery: trio.Nursery
) -> None:
    limits = {"memory_mb": 4096}
    made = await api(
        "POST", CHECKS, {**FIELDS, "script": "x", "resource_limits": limits}, expect=201
    )
    await api("POST", f"{CHECKS}/{made['id']}/pause")

    assert await warnings_at_start(app, FakeSandbox(50 * 512), nursery) == []

    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("host_mb", [50 * 1024 - 1, 50 * 1024])
async def test_doctor_and_the_daemon_agree_about_memory(
    app: App, api: Api, nursery: trio.Nursery, host_mb: int
) -> None:
    for name, memory_mb in (("large", 1024), ("small", 64)):
        fields = {"name": name, "script": "x", "resource_limits": {"memory_mb": memory_mb}}
        await api("POST", CHECKS, {**FIELDS, **fields}, expect=201)
    active = (await api("GET", f"{CHECKS}?status=active"))["jobs"]

    warned = await warnings_at_start(app, FakeSandbox(host_mb), nursery)

    nursery.cancel_scope.cancel()
    told = _memory(active, app.settings.max_concurrent_checks, host_mb * 2**20)
    assert (told.state == "warning") is bool(warned) is (host_mb < 50 * 1024)

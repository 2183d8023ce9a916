"""What is kept in order beside the scheduler: images and scripts that nobody needs any more."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from teckochecker import upkeep
from teckochecker.app import App
from teckochecker.sandbox import Missing, Needs
from tests.conftest import Api
from tests.test_api_custom_checks import CHECKS, FIELDS


class FakeSandbox:
    """An engine with all runner images; remembers what a pruning kept."""

    def __init__(self) -> None:
        self.kept: list[set[str]] = []

    def missing(self) -> list[Missing]:
        return []

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

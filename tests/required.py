"""What a test needs of this machine: without it the test skips and says why, or, where
TECKO_REQUIRE names its kind (`docker,browser,binary,promtool,compose,curl`), fails."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def absent(kind: str, reason: str) -> NoReturn:
    """What `kind` stands for isn't here."""
    if kind in os.environ.get("TECKO_REQUIRE", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)

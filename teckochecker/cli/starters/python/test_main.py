"""Tests of the check, which run it as TeckoChecker does: python3 -m unittest"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unittest
from pathlib import Path
from typing import Any

MAIN = Path(__file__).with_name("main.py")


def checked(**variables: str) -> dict[str, Any]:
    """What the check says when it gets these variables."""
    done = subprocess.run(
        [sys.executable, MAIN], env=os.environ | variables, stdout=subprocess.PIPE, check=True
    )
    return dict(json.loads(done.stdout))


class Checks(unittest.TestCase):
    def test_a_running_task_is_pending(self) -> None:
        found = checked(TASK_ID="a", PREVIOUS_DATA="")
        assert found["status"] == "PENDING"
        assert found["data"] == {"task_id": "a", "looks": 1}

    def test_a_done_task_is_a_success(self) -> None:
        found = checked(TASK_ID="a", PREVIOUS_DATA=json.dumps({"looks": 2}))
        assert found["status"] == "SUCCESS"


if __name__ == "__main__":
    unittest.main()

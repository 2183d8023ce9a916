"""Tests of the mock checker, run as a check runs it: pytest test_checker.py -v"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

MAIN = Path(__file__).with_name("main.py")
OURS = ("PREVIOUS_DATA", "CHECK_NUMBER", "TASK_ID", "CHECKS_UNTIL_COMPLETE", "SHOULD_FAIL")


def checked(previous: dict[str, Any] | None = None, **variables: str) -> dict[str, Any]:
    """What the checker says; `previous` is the data of its last verdict."""
    environment = {name: value for name, value in os.environ.items() if name not in OURS}
    if previous is not None:
        environment["PREVIOUS_DATA"] = json.dumps(previous)
    done = subprocess.run(
        [sys.executable, MAIN],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


def test_it_says_status_data_and_message() -> None:
    assert set(checked(TASK_ID="test_123")) == {"status", "data", "message"}


def test_it_is_pending_until_its_last_check_and_counts_on_from_its_own_data() -> None:
    data = None
    for number in (1, 2, 3):
        said = checked(data, TASK_ID="test_123", CHECKS_UNTIL_COMPLETE="4")
        data = said["data"]
        assert (said["status"], data["checks_performed"]) == ("PENDING", number)
    said = checked(data, TASK_ID="test_123", CHECKS_UNTIL_COMPLETE="4")
    assert said["status"] == "SUCCESS"
    assert said["data"]["task_id"] == "test_123"
    assert "completed_at" in said["data"]


def test_it_fails_where_it_should() -> None:
    said = checked({"checks_performed": 3}, SHOULD_FAIL="true")
    assert said["status"] == "FAILED"
    assert said["data"]["error_code"] == "MOCK_FAILURE"


def test_without_earlier_data_it_goes_by_the_number_of_the_check() -> None:
    assert checked(CHECK_NUMBER="4")["status"] == "SUCCESS"


def test_it_starts_anew_where_the_last_verdict_had_no_data() -> None:
    assert checked({}, CHECK_NUMBER="2")["data"]["checks_performed"] == 2


def test_a_setting_that_is_no_number_is_an_error_that_names_it() -> None:
    said = checked(CHECKS_UNTIL_COMPLETE="four")
    assert said["status"] == "ERROR"
    assert "CHECKS_UNTIL_COMPLETE" in said["message"]

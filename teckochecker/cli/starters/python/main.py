"""A check for TeckoChecker: looks once, and prints what it found as one line of JSON.

What a check gets are environment variables: the job's env_vars as they are, its check_params in
upper case (task_id is TASK_ID), CHECK_NUMBER, and in PREVIOUS_DATA the data of its last verdict
as JSON. Each check runs in a new container, so no file outlives it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

VERDICTS = {"running": "PENDING", "done": "SUCCESS", "broken": "FAILED"}


def state_of(task_id: str, looks: int) -> str:
    """Ask your own service here, with a time-out. This task is done at the third look."""
    return "done" if looks >= 3 else "running"


def check(environment: Mapping[str, str]) -> dict[str, Any]:
    """The verdict: a status, a message for people, and data for the webhook and the next check.

    PENDING is looked at again, SUCCESS and FAILED end the job, ERROR is tried again.
    """
    task_id = environment.get("TASK_ID", "example")
    previous = json.loads(environment.get("PREVIOUS_DATA") or "null") or {}
    looks = previous.get("looks", 0) + 1
    state = state_of(task_id, looks)
    return {
        "status": VERDICTS.get(state, "ERROR"),
        "message": f"Task {task_id} is {state}",
        "data": {"task_id": task_id, "looks": looks},
    }


if __name__ == "__main__":
    # An exception ends this with exit code 1: that is an ERROR with the last words on stderr.
    print(json.dumps(check(os.environ)))

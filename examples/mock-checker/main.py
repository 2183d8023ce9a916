"""Checks an imaginary task that ends after a few checks: to try jobs, webhooks and alerts.

Every check runs in a new container, so a file would not outlive it: the count comes back in
PREVIOUS_DATA, the data of the last verdict. Variables: TASK_ID, CHECKS_UNTIL_COMPLETE (4),
SHOULD_FAIL (false).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def check(environment: Mapping[str, str]) -> dict[str, Any]:
    """The verdict: `status`, `message` and `data`."""
    try:
        needed = int(environment.get("CHECKS_UNTIL_COMPLETE", "4"))
    except ValueError:
        message = "CHECKS_UNTIL_COMPLETE isn't a whole number: set it to one, like 4."
        return {"status": "ERROR", "message": message, "data": {}}
    count = checks_performed(environment)
    data = {"task_id": environment.get("TASK_ID", "mock_task_123"), "checks_performed": count}
    if count < needed:
        progress = 100 * count // needed
        message = f"Task in progress: {progress}%"
        return {"status": "PENDING", "message": message, "data": {**data, "progress": progress}}
    if environment.get("SHOULD_FAIL", "false").lower() == "true":
        data["error_code"] = "MOCK_FAILURE"
        return {"status": "FAILED", "message": "Task failed (simulated)", "data": data}
    data |= {"completed_at": datetime.now(UTC).isoformat(), "result_count": 42}
    return {"status": "SUCCESS", "message": "Task completed successfully", "data": data}


def checks_performed(environment: Mapping[str, str]) -> int:
    """How many checks there were, this one included.

    CHECK_NUMBER counts too, but all checks of the job: also those that ended in an error.
    """
    previous = json.loads(environment.get("PREVIOUS_DATA") or "null") or {}
    if "checks_performed" in previous:
        return int(previous["checks_performed"]) + 1
    return int(environment.get("CHECK_NUMBER") or 1)


if __name__ == "__main__":
    print(json.dumps(check(os.environ)))

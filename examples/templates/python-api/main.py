"""A check that asks an API: prints what it found as one line of JSON.

Variables: TASK_ID, API_KEY and API_BASE_URL. What is in requirements.txt is installed once.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any
from urllib.parse import quote

import requests

BASE_URL = "https://api.example.com"
TIMEOUT_S = (10, 30)  # to connect, and for each wait after that
VERDICTS = {
    "queued": "PENDING",
    "running": "PENDING",
    "completed": "SUCCESS",
    "failed": "FAILED",
    "cancelled": "FAILED",
}


def check(task_id: str, api_key: str, base_url: str) -> dict[str, Any]:
    """The verdict: `status`, `message` and `data`."""
    try:
        response = requests.get(
            f"{base_url.rstrip('/')}/tasks/{quote(task_id, safe='')}",
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=TIMEOUT_S,
            allow_redirects=False,
        )
        if response.status_code != 200:
            return error(f"The API answered {response.status_code} {response.reason}.")
        task = response.json()
    except requests.RequestException as failed:
        return error(f"The API can't be asked: {failed}.")
    if not isinstance(task, dict):
        return error("The API's answer isn't a JSON object.")
    state = str(task.get("status"))
    if state not in VERDICTS:
        return error(f"Task {task_id} has a state that this check doesn't know: {state}")
    # Say what the next step needs, not all there is: data may have 64 KiB.
    data = {"task_id": task_id, "state": state, "progress": task.get("progress", 0)}
    return {"status": VERDICTS[state], "message": f"Task {task_id} is {state}", "data": data}


def error(message: str) -> dict[str, Any]:
    return {"status": "ERROR", "message": message, "data": {}}


if __name__ == "__main__":
    missing = [name for name in ("TASK_ID", "API_KEY") if not os.environ.get(name)]
    if missing:
        sys.exit(f"{' and '.join(missing)} must be in the job's env_vars or check_params.")
    base_url = os.environ.get("API_BASE_URL") or BASE_URL
    print(json.dumps(check(os.environ["TASK_ID"], os.environ["API_KEY"], base_url)))

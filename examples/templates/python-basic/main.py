"""A check that needs nothing but Python: prints what it found as one line of JSON.

`task_id` in the job's check_params is the variable TASK_ID here.
"""

import json
import os
import sys

VERDICTS = {"running": "PENDING", "done": "SUCCESS", "broken": "FAILED"}


def state_of(task_id: str) -> str:
    """Put your own question here: a file, a queue, a database."""
    return "running"


task_id = os.environ.get("TASK_ID")
if not task_id:
    # Whatever ends with another exit code than 0 is an ERROR with the last words on stderr.
    sys.exit("TASK_ID is missing: add task_id to the job's check_params.")

state = state_of(task_id)
result = {
    "status": VERDICTS[state],  # PENDING, SUCCESS, FAILED or ERROR
    "data": {"task_id": task_id, "state": state},
    "message": f"Task {task_id} is {state}",
}
print(json.dumps(result))

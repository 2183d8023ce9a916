"""Checks a batch of the Gemini API, and prints what it found as one line of JSON.

Variables: BATCH_ID (`abc` or `batches/abc`), GEMINI_API_KEY, and GEMINI_BASE_URL where another
server than Google's speaks the same API (https://ai.google.dev/api/batch-api).
"""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError

BASE_URL = "https://generativelanguage.googleapis.com/v1beta"
TIMEOUT_S = 30  # of each wait; the job's time-out bounds the whole check
MAX_ANSWER_BYTES = 32 * 1024 * 1024  # an ended batch may bring all its results along
VERDICTS = {
    "PENDING": "PENDING",
    "RUNNING": "PENDING",
    "SUCCEEDED": "SUCCESS",
    "COMPLETED": "SUCCESS",
    "FAILED": "FAILED",
    "CANCELLED": "FAILED",
    "EXPIRED": "FAILED",
}
ADVICE = {
    400: "is the key right?",
    401: "is the key right?",
    403: "may this key see the batch?",
    404: "is BATCH_ID right, and the key of the same project?",
    429: "too many requests, the next check tries again",
}


class CheckError(Exception):
    """The check can't tell the batch's state; the text says why."""


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key goes to the address that was given, and to no other."""

    def redirect_request(self, *args: object) -> None:
        return None


def check(environment: Mapping[str, str]) -> dict[str, Any]:
    """The verdict: `status`, `message` and `data`."""
    try:
        batch_id = id_in(wanted(environment, "BATCH_ID"))
        api_key = wanted(environment, "GEMINI_API_KEY")
        base_url = environment.get("GEMINI_BASE_URL") or BASE_URL
        return verdict(batch_id, answer(base_url, batch_id, api_key))
    except CheckError as error:
        return {"status": "ERROR", "message": str(error), "data": {}}


def wanted(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise CheckError(f"{name} is missing: add it to the job's env_vars.")
    return value


def id_in(name: str) -> str:
    found = re.fullmatch(r"(?:batches/)?([A-Za-z0-9_-]+)", name)
    if found is None:
        raise CheckError("BATCH_ID isn't the id of a batch: give one like batches/abc123.")
    return found[1]


def answer(base_url: str, batch_id: str, api_key: str) -> dict[str, Any]:
    """The API's JSON object about a batch."""
    url = f"{base_url.rstrip('/')}/batches/{batch_id}"
    opener = urllib.request.build_opener(NoRedirect)
    try:
        request = urllib.request.Request(url, headers={"x-goog-api-key": api_key})
        with opener.open(request, timeout=TIMEOUT_S) as response:
            body = response.read(MAX_ANSWER_BYTES + 1)
    except HTTPError as error:
        with error:
            advice = ADVICE.get(error.code, "the next check tries again")
            raise CheckError(f"The API answered {error.code}: {advice}.") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise CheckError(f"The API can't be reached: {reason}.") from error
    except ValueError as error:
        raise CheckError("GEMINI_BASE_URL or GEMINI_API_KEY can't be used as it is.") from error
    return parsed(body)


def parsed(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_ANSWER_BYTES:
        raise CheckError(f"The API's answer is larger than {MAX_ANSWER_BYTES >> 20} MiB.")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CheckError("The API's answer isn't JSON: is GEMINI_BASE_URL right?") from error
    if not isinstance(found, dict):
        raise CheckError("The API's answer isn't a JSON object: is GEMINI_BASE_URL right?")
    return found


def verdict(batch_id: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    """What the API's answer means; Google's wraps the batch in an operation's `metadata`."""
    if operation.get("name", f"batches/{batch_id}") != f"batches/{batch_id}":
        raise CheckError("The API answered about another batch.")
    batch = mapping(operation.get("metadata") or operation)
    error = mapping(operation.get("error") or batch.get("error")).get("message")
    state = re.sub(r"^(BATCH|JOB)_STATE_", "", str(batch.get("state")))
    status = VERDICTS.get(state, "ERROR")
    data = {"batch_id": batch_id, "state": state, **counts(mapping(batch.get("batchStats")))}
    if status == "SUCCESS":
        data["completed_at"] = batch.get("endTime")
        data["results_file"] = mapping(batch.get("output")).get("responsesFile")
        message = f"Batch {batch_id} completed, {data['failed_count']} of its requests failed"
    elif status == "FAILED":
        data["error"] = error
        message = f"Batch {batch_id} ended as {state}: {error or 'no reason was given'}"
    elif status == "PENDING":
        message = f"Batch {batch_id} is {state.lower()} ({data['progress']} %)"
    else:
        message = f"Batch {batch_id} has a state that this check doesn't know: {state}"
    return {"status": status, "message": message, "data": data}


def mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def counts(stats: Mapping[str, Any]) -> dict[str, Any]:
    """How many requests the batch has, and what became of them; Google sends numbers as text."""

    def number(name: str) -> int:
        text = str(stats.get(name, 0))
        return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0

    total, done = number("requestCount"), number("successfulRequestCount")
    failed = number("failedRequestCount")
    return {
        "request_count": total,
        "result_count": done,
        "failed_count": failed,
        "progress": 100 * (done + failed) // total if total else 0,
    }


if __name__ == "__main__":
    print(json.dumps(check(os.environ)))

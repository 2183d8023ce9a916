"""One job of Keboola's queue: what may be sent for it, its course, and its document.

Shapes: Keboola's public Job Queue API document 1.3.8 and the tests of its PHP client. That the
queue is written in PHP shows: an empty `result` or `metrics` is a list, and instants have whole
seconds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime

from teckochecker.simulators.script import Script

PROJECT_ID = 4711
FINISHED = ("success", "warning", "error", "terminated", "cancelled")
STOPPED = ("terminating", "terminated", "cancelled")
UNSTARTED = ("created", "waiting", "cancelled")
MODES = ("run", "debug", "forceRun")

# What may be sent for a new job, with its JSON type.
FIELDS: dict[str, type] = {
    "component": str,
    "mode": str,
    "config": str,
    "configRowIds": list,
    "configData": dict,
    "tag": str,
    "branchId": str,
    "variableValuesId": str,
    "variableValuesData": dict,
    "backend": dict,
    "executor": str,
    "delayedStartTime": str,
    "delay": int,
    "parallelism": str,
}

# What a job's document holds for every job alike, here.
CONSTANTS: dict[str, object] = {
    "project": {"id": str(PROJECT_ID)},
    "usageData": [],
    "metrics": [],
    "behavior": {"onError": None},
    "type": "standard",
    "orchestrationJobId": None,
    "orchestrationTaskId": None,
    "onlyOrchestrationTaskIds": None,
    "previousJobId": None,
}


class Job:
    """A job as it was sent, and as far as it has come.

    `parent` is the sender's `X-KBC-RunId` or "", `token` the `{id, description}` it came with.
    """

    def __init__(
        self,
        number: str,
        sent: Mapping[str, object],
        *,
        parent: str,
        token: Mapping[str, str],
        script: Script[str],
    ) -> None:
        self.searches = 0  # how many searches it should have shown in
        self.created_at = time.time()
        self._number = number
        self._sent = sent
        self._parent = parent
        self._token = token
        self._script = script
        self._status = "created"
        self._started_at: float | None = None
        self._ended_at: float | None = None

    def advance(self) -> None:
        """Take the next step of the course."""
        self._status = self._script.take()
        now = time.time()
        if self._status not in UNSTARTED:
            self._started_at = self._started_at or now
        if self._status in FINISHED:
            self._ended_at = self._ended_at or now

    def matches(self, wanted: Mapping[str, list[str]], since: float) -> bool:
        """Whether a search by componentId, configId, status and creation (unix seconds) fits.

        The index knows whole seconds only: a job of 12:00:00.7 isn't one since 12:00:00.5.
        """
        shown = {
            "componentId": self._sent.get("component"),
            "configId": self._sent.get("config"),
            "status": self._status,
        }
        fits = all(value in wanted[name] for name, value in shown.items() if name in wanted)
        return fits and int(self.created_at) >= since

    def document(self, queue_url: str) -> dict[str, object]:
        sent, started, ended = self._sent, self._started_at, self._ended_at
        return {
            **CONSTANTS,
            "id": self._number,
            "runId": f"{self._parent}.{self._number}" if self._parent else self._number,
            "parentRunId": self._parent,
            "token": self._token,
            "status": self._status,
            "desiredStatus": "terminating" if self._status in STOPPED else "processing",
            "mode": sent.get("mode", "run"),
            "component": sent["component"],
            "config": sent.get("config"),
            "configData": sent.get("configData", {}),
            "configRowIds": sent.get("configRowIds"),
            "tag": sent.get("tag"),
            "createdTime": iso(self.created_at),
            "delayedStartTime": sent.get("delayedStartTime"),
            "startTime": None if started is None else iso(started),
            "endTime": None if ended is None else iso(ended),
            "durationSeconds": int(ended - started) if ended and started else 0,
            "result": self._result(),
            "isFinished": self._status in FINISHED,
            "url": f"{queue_url}/jobs/{self._number}",
            "branchId": sent.get("branchId"),
            "variableValuesId": sent.get("variableValuesId"),
            "variableValuesData": sent.get("variableValuesData", {"values": []}),
            "backend": sent.get("backend", []),
            "executor": sent.get("executor", "dind"),
            "parallelism": sent.get("parallelism"),
        }

    def _result(self) -> object:
        if self._status not in FINISHED:
            return []
        message = f"Simulated component processing ended with {self._status}."
        return {"message": message, "images": [], "configVersion": "1"}


def complaint_about(body: object) -> str | None:
    """The first thing in a new job that the queue wouldn't take, in the manner of its messages."""
    if not isinstance(body, dict):
        return "The request body must be a JSON object."
    for name, value in body.items():
        if name not in FIELDS:
            return f'Unrecognized option "{name}" under "job".'
        if value is not None and not isinstance(value, FIELDS[name]):
            return _wrong_type(f"job.{name}", FIELDS[name], value)
    if not body.get("component"):
        return 'The child config "component" under "job" must be configured.'
    if body.get("mode", "run") not in MODES:
        return f'The value "{body["mode"]}" is not allowed for path "job.mode".'
    if body.get("delay") is not None and body.get("delayedStartTime") is not None:
        return 'The options "delay" and "delayedStartTime" can\'t be used together.'
    if body.get("variableValuesData") is not None:
        return _complaint_about_values(body["variableValuesData"].get("values"))
    return None


def _complaint_about_values(values: object) -> str | None:
    path = "job.variableValuesData.values"
    if not isinstance(values, list):
        return f'The child config "values" must be configured as a list: "{path}".'
    for number, pair in enumerate(values):
        if not isinstance(pair, dict) or pair.keys() != {"name", "value"}:
            return f'The child configs "name" and "value" under "{path}.{number}" are needed.'
        for key, value in pair.items():
            if not isinstance(value, str):
                return _wrong_type(f"{path}.{number}.{key}", str, value)
    return None


def _wrong_type(path: str, wanted: type, value: object) -> str:
    got = type(value).__name__
    return f'Invalid type for path "{path}". Expected "{wanted.__name__}", but got "{got}".'


def iso(instant: float) -> str:
    return datetime.fromtimestamp(int(instant), UTC).isoformat()

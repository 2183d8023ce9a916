"""One Keboola stack: storage's discovery and token check, and the job queue, on one address.

`GET /v2/storage`, `GET /v2/storage/tokens/verify`, `POST /jobs`, `GET /jobs/{id}` and
`GET /search/jobs`. A job that exists is in `jobs`, whether its sender was told so or not.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from teckochecker.simulators.exchange import Answer, Recorded, Reply
from teckochecker.simulators.queue_job import PROJECT_ID, Job, complaint_about, iso
from teckochecker.simulators.script import Script
from teckochecker.simulators.server import Simulator

STORAGE_TOKEN = "4711-1-simulatedstoragetoken"  # noqa: S105  opens nothing but a simulator
COURSE = ("waiting", "processing", "success")
SEARCH_LIMIT = 100
FILTERS = {"componentId", "configId", "status", "createdTimeFrom", "limit", "offset"}


@dataclass(frozen=True, slots=True)
class Token:
    """A storage token; one that is disabled, expired or mayn't create jobs can be verified."""

    value: str
    description: str = "simulated"
    disabled: bool = False
    expired: bool = False
    creates_jobs: bool = True

    @property
    def token_id(self) -> str:
        """The middle of `project-id-random`, as tokens look."""
        return self.value.split("-")[1] if self.value.count("-") == 2 else "1"


def queue_error(status: int, message: str, *, retry_after: int | str | None = None) -> Answer:
    """An answer in the queue's form; `retry_after` is seconds or an HTTP date."""
    content = {
        "error": message,
        "code": status,
        "exceptionId": "job-queue-simulated",
        "status": "error",
        "context": {},
    }
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Answer(status, content, headers)


def maintenance(retry_after_s: int) -> Answer:
    """What a whole stack answers while it is down on purpose."""
    content = {
        "status": "maintenance",
        "reason": "Scheduled maintenance",
        "estimatedEndTime": iso(time.time() + retry_after_s),
    }
    return Answer(503, content, {"Retry-After": str(retry_after_s)})


class Keboola(Simulator):
    """A stack with one project; a token of another stack is refused like any wrong one.

    A new job shows only after `index_lag_searches` searches that should have shown it, and after
    `index_lag_s` seconds: the queue's search is eventually consistent.
    """

    def __init__(
        self,
        *,
        tokens: Iterable[str | Token] = (STORAGE_TOKEN,),
        index_lag_searches: int = 0,
        index_lag_s: float = 0.0,
        port: int = 0,
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(port=port, latency_s=latency_s)
        known = [token if isinstance(token, Token) else Token(token) for token in tokens]
        self.tokens = {token.value: token for token in known}
        self.index_lag_searches = index_lag_searches
        self.index_lag_s = index_lag_s
        self._numbers = itertools.count(1)
        self._courses: dict[str, tuple[tuple[str, ...], float | None]] = {"*": (COURSE, None)}
        self._jobs: dict[str, Job] = {}

    def plan(self, config: str, *statuses: str, each_s: float | None = None) -> None:
        """What the next jobs of `config` ("*": of any other) go through after `created`.

        One status per `GET /jobs/{id}`, the last repeats; with `each_s` each lasts so many
        seconds instead. Unplanned jobs succeed at the third look.
        """
        with self._changed:
            self._courses[config] = (statuses, each_s)

    @property
    def jobs(self) -> list[dict[str, object]]:
        """The documents of all jobs, oldest first."""
        with self._changed:
            return [job.document(self.url) for job in self._jobs.values()]

    def answer(self, request: Recorded) -> Reply:
        path = request.path.rstrip("/")
        if path == "/v2/storage":
            return self._index(request)
        token = self.tokens.get(request.headers.get("x-storageapi-token", ""))
        if path == "/v2/storage/tokens/verify":
            return _verdict_on(token)
        if token is None or token.disabled or token.expired:
            return queue_error(401, "Invalid access token")
        match request.method, path.split("/"):
            case "POST", ["", "jobs"]:
                return self._create(request, token)
            case "GET", ["", "jobs", number]:
                return self._look(number)
            case "GET", ["", "search", "jobs"]:
                return self._search(request)
            case _:
                return queue_error(404, f'No route found for "{request.method} {path}"')

    def _index(self, request: Recorded) -> Answer:
        content = {
            "host": "connection.simulated",
            "api": "storage",
            "version": "v2",
            "services": [
                {"id": "encryption", "url": f"{self.url}/encryption"},
                {"id": "queue", "url": self.url},
            ],
            "features": [],
        }
        excluded = request.query.get("exclude", [])
        return Answer(
            content=content if "components" in excluded else {**content, "components": []}
        )

    def _create(self, request: Recorded, token: Token) -> Answer:
        if not token.creates_jobs:
            return queue_error(403, "You don't have permission to run jobs.")
        body = request.body
        complaint = complaint_about(body)
        if complaint is not None or not isinstance(body, dict):
            return queue_error(400, complaint or "")
        number = f"{self.port}{next(self._numbers):06d}"  # no two stacks share one
        self._jobs[number] = Job(
            number,
            body,
            parent=request.headers.get("x-kbc-runid", ""),
            token={"id": token.token_id, "description": token.description},
            script=Script(*self._courses.get(str(body.get("config")), self._courses["*"])),
        )
        return Answer(201, self._jobs[number].document(self.url))

    def _look(self, number: str) -> Answer:
        job = self._jobs.get(number)
        if job is None:
            return queue_error(404, f'Job "{number}" not found.')
        job.advance()
        return Answer(content=job.document(self.url))

    def _search(self, request: Recorded) -> Answer:
        """A JSON array, newest first; a job shows in the state that it was last seen in."""
        wanted = {name.removesuffix("[]"): values for name, values in request.query.items()}
        if not wanted.keys() <= FILTERS:
            return queue_error(
                400, f"The simulator can't search by {sorted(wanted.keys() - FILTERS)}"
            )
        try:
            since = _unix_seconds(wanted.get("createdTimeFrom"))
            offset = int(wanted.get("offset", ["0"])[0])
            limit = int(wanted.get("limit", [str(SEARCH_LIMIT)])[0])
        except ValueError as error:
            return queue_error(400, f"The search is invalid: {error}")
        fitting = [job for job in self._jobs.values() if job.matches(wanted, since)]
        indexed = [job for job in fitting if self._is_indexed(job)]
        page = indexed[::-1][offset : offset + limit]
        return Answer(content=[job.document(self.url) for job in page])

    def _is_indexed(self, job: Job) -> bool:
        job.searches += 1
        late = time.time() - job.created_at < self.index_lag_s
        return job.searches > self.index_lag_searches and not late


def _verdict_on(token: Token | None) -> Answer:
    """The real answer repeats the token, too: a trap for whoever logs or stores it."""
    if token is None:
        content = {
            "error": "Invalid access token",
            "code": "storage.tokenInvalid",
            "exceptionId": "storage-simulated",
        }
        return Answer(401, content)
    return Answer(
        content={
            "id": token.token_id,
            "token": token.value,
            "created": "2024-01-01T00:00:00+0000",
            "refreshed": "2024-01-01T00:00:00+0000",
            "description": token.description,
            "isMasterToken": False,
            "canManageBuckets": False,
            "canManageTokens": False,
            "canCreateJobs": token.creates_jobs,
            "expires": None,
            "isExpired": token.expired,
            "isDisabled": token.disabled,
            "bucketPermissions": {},
            "owner": {"id": PROJECT_ID, "name": "Simulated project"},
            "organization": {"id": 1},
        }
    )


def _unix_seconds(values: list[str] | None) -> float:
    """Keboola takes what PHP's strtotime takes; the simulator only ISO 8601 with an offset."""
    if not values:
        return 0.0
    instant = datetime.fromisoformat(values[0])
    if instant.tzinfo is None:
        raise ValueError(f"{values[0]} has no offset")
    return instant.timestamp()

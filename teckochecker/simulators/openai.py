"""OpenAI's batch API, as far as somebody who waits for batches sees it.

`GET /v1/batches/{id}`, `GET /v1/batches` and `GET /v1/models`. The documents are complete: what
doesn't apply is null, as in reality. Shapes: OpenAI's OpenAPI document 2.3.0; the words of its
error messages are close to the real ones, and nobody should depend on them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from teckochecker.simulators.exchange import Answer, Recorded, Reply
from teckochecker.simulators.script import Script
from teckochecker.simulators.server import Simulator

API_KEY = "sk-simulated-0123456789abcdef"
LIFETIME_S = 24 * 3600  # the only completion window that OpenAI offers
LIST_LIMIT = 20
LIST_LIMIT_MOST = 100

# The instants that a batch in each state shows; a word that isn't here is taken for `in_progress`.
INSTANTS = {
    "validating": (),
    "failed": ("failed_at",),
    "in_progress": ("in_progress_at",),
    "finalizing": ("in_progress_at", "finalizing_at"),
    "completed": ("in_progress_at", "finalizing_at", "completed_at"),
    "expired": ("in_progress_at", "finalizing_at", "expired_at"),
    "cancelling": ("in_progress_at", "cancelling_at"),
    "cancelled": ("in_progress_at", "cancelling_at", "cancelled_at"),
}
ALL_INSTANTS = dict.fromkeys(itertools.chain.from_iterable(INSTANTS.values()))
UNCOUNTED = ("validating", "failed")  # the input file hasn't been read, or can't be
WITH_OUTPUT = ("completed", "expired", "cancelled")

MESSAGES: dict[str | int, str] = {
    "rate_limit_exceeded": "Rate limit reached for requests. Limit: 500 / min.",
    "insufficient_quota": "You exceeded your current quota, please check your plan and billing.",
    403: "Your organization doesn't have access to this resource.",
    500: "The server had an error while processing your request. Sorry about that!",
    503: "The engine is currently overloaded, please try again later.",
}
KINDS = {"rate_limit_exceeded": "requests", "insufficient_quota": "insufficient_quota"}


@dataclass(frozen=True, slots=True)
class Batch:
    """A step that answers with the batch in `status`, which may be a word nobody knows.

    `completed` defaults to what fits the status. `changes` go over the finished document, for
    example `{"id": "batch_other"}`. `delay_s` makes this batch slower than the others.
    """

    status: str
    total: int = 100
    completed: int | None = None
    failed: int = 0
    delay_s: float = 0.0
    changes: Mapping[str, object] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        if self.status in UNCOUNTED:
            return {"total": 0, "completed": 0, "failed": 0}
        completed = self.completed
        if completed is None:
            left = self.total - self.failed
            completed = left if self.status in ("finalizing", "completed") else left // 2
        return {"total": self.total, "completed": completed, "failed": self.failed}


# A step: a plain word stands for `Batch(word)`.
Step = str | Batch | Reply
OTHER_ID = Batch("completed", changes={"id": "batch_other"})


def openai_error(
    status: int, code: str | None = None, *, retry_after: int | str | None = None
) -> Answer:
    """An answer in OpenAI's form; `retry_after` is seconds or an HTTP date.

    The two kinds of 429 are the codes `rate_limit_exceeded` (the default) and `insufficient_quota`.
    """
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        code = code or "rate_limit_exceeded"
    kind = "server_error" if status >= 500 else KINDS.get(code or "", "invalid_request_error")
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return _error(status, MESSAGES.get(code or status, "Simulated."), kind, code, headers)


def _error(
    status: int,
    message: str,
    kind: str = "invalid_request_error",
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    error = {"message": message, "type": kind, "param": None, "code": code}
    return Answer(status, {"error": error}, headers or {})


class OpenAI(Simulator):
    """Accepts `api_keys`; knows the batches that were added, and every `batch_bench_*`."""

    def __init__(
        self, *, api_keys: Iterable[str] = (API_KEY,), port: int = 0, latency_s: float = 0.0
    ) -> None:
        super().__init__(port=port, latency_s=latency_s)
        self.api_keys = set(api_keys)
        self._batches: dict[str, _Course] = {}
        self._families: dict[str, Callable[[str], _Course]] = {}
        self._request_numbers = itertools.count(1)
        self.add("batch_bench_*", "in_progress")

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def add(
        self,
        batch_id: str,
        *steps: Step,
        each_s: float | None = None,
        created_at: int | None = None,
    ) -> None:
        """Answer status calls for `batch_id` with `steps`: one per call, the last repeats.

        With `each_s` a step lasts so many seconds instead. An id that ends in `*` stands for all
        that begin so, each with a course of its own. `created_at` is unix seconds,
        now by default.
        """

        def course(name: str) -> _Course:
            created = int(time.time()) if created_at is None else created_at
            return _Course(name, Script(steps, each_s), created)

        with self._changed:
            if batch_id.endswith("*"):
                self._families[batch_id[:-1]] = course
            else:
                self._batches[batch_id] = course(batch_id)

    def common_headers(self) -> dict[str, str]:
        return {"x-request-id": f"req_{next(self._request_numbers):032x}"}

    def answer(self, request: Recorded) -> Reply:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        match request.path.removeprefix("/v1/").split("/"):
            case ["models"]:
                return Answer(content=MODELS)
            case ["batches"]:
                return self._list(request)
            case ["batches", batch_id]:
                return self._batch(batch_id)
            case _:
                url = f"{request.method} {request.path}"
                return _error(404, f"Invalid URL ({url})")

    def _refusal(self, request: Recorded) -> Answer | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            message = "You didn't provide an API key in an Authorization header (Bearer)."
            return _error(401, message)
        if key not in self.api_keys:
            message = f"Incorrect API key provided: {_blurred(key)}."
            return _error(401, message, code="invalid_api_key")
        if request.method != "GET":
            message = f"Not allowed to {request.method} on {request.path}."
            return _error(405, message, code="method_not_supported")
        return None

    def _batch(self, batch_id: str) -> Reply:
        course = self._course(batch_id)
        if course is None:
            message = f"No batch found with id '{batch_id}'."
            return _error(404, message)
        return course.answer()

    def _course(self, batch_id: str) -> _Course | None:
        if batch_id not in self._batches:
            starts = [start for start in self._families if batch_id.startswith(start)]
            if starts:
                self._batches[batch_id] = self._families[max(starts, key=len)](batch_id)
        return self._batches.get(batch_id)

    def _list(self, request: Recorded) -> Answer:
        """Newest first. Each batch on the page takes a step; its failing ones don't show here."""
        after = request.query.get("after", [""])[0]
        limit = request.query.get("limit", [str(LIST_LIMIT)])[0]
        if not limit.isdecimal() or not 1 <= int(limit) <= LIST_LIMIT_MOST:
            message = f"Invalid 'limit': expected 1 to {LIST_LIMIT_MOST}, but got {limit} instead."
            return _error(400, message, code="invalid_value")
        names = list(reversed(self._batches))
        if after:
            names = names[names.index(after) + 1 :] if after in names else []
        page = names[: int(limit)]
        return Answer(
            content={
                "object": "list",
                "data": [self._batches[name].listed() for name in page],
                "first_id": page[0] if page else None,
                "last_id": page[-1] if page else None,
                "has_more": len(names) > len(page),
            }
        )


class _Course:
    """One batch: its script, and the instants that it has passed so far."""

    def __init__(self, batch_id: str, script: Script[Step], created_at: int) -> None:
        self._id = batch_id
        self._script = script
        self._created_at = created_at
        self._instants: dict[str, int] = {}
        self._latest = Batch("validating")

    def answer(self) -> Reply:
        step = self._advance()
        if isinstance(step, Batch):
            return Answer(content=self._document(step), delay_s=step.delay_s)
        return step

    def listed(self) -> dict[str, object]:
        self._advance()
        return self._document(self._latest)

    def _advance(self) -> Batch | Reply:
        step = self._script.take()
        if isinstance(step, str):
            step = Batch(step)
        if isinstance(step, Batch):
            self._latest = step
        return step

    def _document(self, batch: Batch) -> dict[str, object]:
        status, counts = batch.status, batch.counts()
        ended = status in WITH_OUTPUT
        instants = self._instants_of(status)
        due = self._created_at + LIFETIME_S
        return {
            "id": self._id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "model": "gpt-4o-mini-2024-07-18",
            "errors": INPUT_ERRORS if status == "failed" else None,
            "input_file_id": f"file-in-{self._id}",
            "completion_window": "24h",
            "status": status,
            "output_file_id": f"file-out-{self._id}" if ended and counts["completed"] else None,
            "error_file_id": f"file-err-{self._id}" if ended and counts["failed"] else None,
            "created_at": self._created_at,
            "expires_at": min(due, instants["expired_at"] or due),
            **instants,
            "request_counts": counts,
            "usage": _usage(counts["completed"]) if ended else None,
            "metadata": None,
            **batch.changes,
        }

    def _instants_of(self, status: str) -> dict[str, int | None]:
        """An instant is fixed when its state is first seen, so it never moves afterwards."""
        now = max(int(time.time()), self._created_at)
        names = INSTANTS.get(status, INSTANTS["in_progress"])
        passed = {name: self._instants.setdefault(name, now) for name in names}
        return {**ALL_INSTANTS, **passed}


def _usage(completed: int) -> dict[str, object]:
    return {
        "input_tokens": 40 * completed,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 60 * completed,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 100 * completed,
    }


def _blurred(key: str) -> str:
    """As OpenAI does: the ends of a wrong key stay readable, and a short key stands there whole."""
    return key if len(key) <= 12 else f"{key[:8]}{'*' * (len(key) - 12)}{key[-4:]}"


INPUT_ERRORS = {
    "object": "list",
    "data": [
        {
            "code": "invalid_json_line",
            "message": "This line is not parseable as valid JSON.",
            "param": None,
            "line": 1,
        }
    ],
}
MODELS = {
    "object": "list",
    "data": [
        {"id": "gpt-4o-mini", "object": "model", "created": 1721172741, "owned_by": "system"},
    ],
}

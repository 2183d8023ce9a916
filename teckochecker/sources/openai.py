"""OpenAI batches: asks `GET {base}/batches/{id}` for each batch of a job that hasn't ended.

The object is OpenAI's Batch (https://platform.openai.com/docs/api-reference/batch/object);
fields that don't apply are null, unknown fields and status words are expected. Answers are
hostile input: bounded, and refused unless they are an object about the batch asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

from teckochecker.addresses import Allowed, parse_url
from teckochecker.domain import (
    Document,
    Finding,
    Part,
    Secret,
    SecretRef,
    SecretType,
    Verdict,
)
from teckochecker.errors import Fault, HttpError, InvalidInput, OpenAIError, OutsideError
from teckochecker.http import Http, Reply, retry_after_s
from teckochecker.sources.interface import CheckContext
from teckochecker.validation import Fields, Parsed

MAX_BATCHES: Final = 100
MAX_ERRORS, MAX_ERROR_CHARS = 2, 120  # of a batch: what is kept of a hundred stays below 64 KiB
REQUEST_TIMEOUT_S: Final = 20.0
CONNECT_TIMEOUT_S: Final = 10.0
_PER_BATCH_S: Final = 3.0  # of the time for a whole check, beyond the first request's
_BATCH_ID: Final = re.compile(r"batch_[A-Za-z0-9_-]{1,200}")
# "Incorrect API key provided: sk-abcde****wxyz": no mask knows the ends that OpenAI leaves.
_BLURRED_KEY: Final = re.compile(r"(?<![\w-])[\w-]++\*++[\w-]++")
_ID_HINT: Final = "must be 'batch_' and then letters, digits, '_' or '-', like batch_abc123"
ENDED_WORDS: Final = frozenset({"completed", "failed", "expired", "cancelled"})
OPEN_WORDS: Final = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
_LATE: Final = timedelta(hours=1)  # after expires_at, until an open batch deserves a warning
_COUNTS: Final = ("total", "completed", "failed")


class OpenAI:
    """The source `openai`; `base_url` is the installation's, a job may have its own."""

    kind: ClassVar[str] = "openai"
    tests: ClassVar[SecretType | None] = SecretType.OPENAI

    def __init__(self, http: Http, allowed: Allowed, base_url: str) -> None:
        self._http = http
        self._allowed = allowed
        self._base_url = base_url

    def parse(self, fields: Fields) -> Parsed:
        batch_ids = _batch_ids(fields)
        base_url = fields.text("openai_base_url", default=None, max_chars=500, check=self._url)
        percent = fields.number("max_failed_percent", 0, 100, default=100)
        secret = fields.secret("openai_secret", SecretType.OPENAI)
        doc = {
            "batch_ids": batch_ids,
            "openai_base_url": base_url,
            "max_failed_percent": percent,
        }
        return Parsed(
            part=Part(
                kind=self.kind,
                doc=doc,
                origin=_origin(base_url or self._base_url, self._allowed),
            ),
            secrets=(secret,) if isinstance(secret, SecretRef) else (),
        )

    def show(self, doc: Document) -> dict[str, object]:
        return {"batch_id": doc["batch_ids"][0], **doc}

    def roles(self, doc: Document) -> Mapping[str, str]:
        return {"openai_secret": "openai_secret"}

    def progress(
        self, doc: Document, data: Document | None, state: Document | None
    ) -> dict[str, object]:
        known = _known(data)
        batches = [known.get(id_) or _unasked(id_) for id_ in doc["batch_ids"]]
        return {"batches": batches, **_counts(batches)}

    def timeout_s(self, doc: Document, previous: Document | None) -> float:
        return REQUEST_TIMEOUT_S + _PER_BATCH_S * len(_open_ids(doc, _known(previous)))

    def check(self, doc: Document, context: CheckContext) -> Finding:
        """Ask for each open batch; what was learnt before a failure is kept."""
        known = dict(_known(context.previous))
        warnings: list[str] = []
        for batch_id in _open_ids(doc, known):
            context.checkpoint()
            try:
                reply = self._ask(doc, f"/batches/{batch_id}", context)
                known[batch_id] = batch(reply.document(), batch_id)
            except OutsideError as error:
                return _failed(doc, known, error, warnings)
            warnings += _warnings(known[batch_id], context.now)
        return judged(doc, known, tuple(warnings))

    def trial_url(self, fields: Fields) -> str:
        return str(fields.text("openai_base_url", max_chars=500, check=self._url))

    def test(self, secret: Secret, doc: Document, now: datetime) -> str:
        """`GET {base}/models`, which costs nothing and needs a valid key."""
        reply = self._get(doc, "/models", secret, "test")
        if reply.status_code != 200:
            raise error_of(reply, now)
        return "OpenAI accepts this key."

    def _ask(self, doc: Document, path: str, context: CheckContext) -> Reply:
        secret = context.secrets.get("openai_secret")
        if secret is None:
            raise OpenAIError(
                "The job's OpenAI secret was deleted: give the job another one.", Fault.CREDENTIALS
            )
        reply = self._get(doc, path, secret, context.pool_key)
        if reply.status_code != 200:
            raise error_of(reply, context.now)
        return reply

    def _get(self, doc: Document, path: str, secret: Secret, pool_key: str) -> Reply:
        return self._http.request(
            "GET",
            str(doc.get("openai_base_url") or self._base_url).rstrip("/") + path,
            headers={"authorization": f"Bearer {secret.reveal()}", "accept": "application/json"},
            timeout_s=REQUEST_TIMEOUT_S,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            pool_key=pool_key,
            secrets=(secret,),
        )

    def _url(self, text: str) -> str:
        try:
            parse_url(text, self._allowed)
        except InvalidInput as error:
            raise ValueError(str(error)) from error
        if "?" in text:
            raise ValueError("must not have a query: paths are appended to it")
        return text


def batch(document: Document, asked: str) -> dict[str, Any]:
    """What is kept of an answer: the batch's state, counts and files; times are RFC 3339.

    Raises OpenAIError of fault MALFORMED for an answer that isn't about the batch `asked`.
    """
    if document.get("id") != asked:
        raise _malformed(f"answered about {_quoted(document.get('id'))} instead of {asked}")
    status = document.get("status")
    if not isinstance(status, str) or not status:
        raise _malformed(f"answered for {asked} without a status")
    return {
        "batch_id": asked,
        "status": status[:100],
        "request_counts": _request_counts(document.get("request_counts")),
        "output_file_id": _text(document.get("output_file_id")),
        "error_file_id": _text(document.get("error_file_id")),
        "created_at": _time(document.get("created_at")),
        "completed_at": _time(document.get("completed_at")),
        "expires_at": _time(document.get("expires_at")),
        "errors": _errors(document.get("errors")),
    }


def judged(doc: Document, known: Mapping[str, Any], warnings: tuple[str, ...] = ()) -> Finding:
    """The verdict over all batches of a job; PENDING until every one has ended."""
    batches = [known[id_] for id_ in doc["batch_ids"]]
    data = {"batches": batches, **_counts(batches)}
    ended = [one for one in batches if one["status"] in ENDED_WORDS]
    bad = [one for one in ended if one["status"] != "completed"]
    if len(ended) < len(batches):
        verdict, message = Verdict.PENDING, _pending(batches, ended)
    elif bad:
        verdict, message = Verdict.FAILED, _not_completed(bad, len(batches))
    else:
        verdict, message = _completed(batches, float(doc["max_failed_percent"]))
    return Finding(verdict=verdict, message=message, data=data, warnings=warnings)


def error_of(reply: Reply, now: datetime) -> OpenAIError:
    """An answer that isn't 200, by kind; OpenAI's request id goes along for its support."""
    code, said = _error_body(reply)
    request_id = reply.headers.get("x-request-id")
    where = f" (request {request_id[:80]})" if request_id else ""
    fault = _fault(reply.status_code, code)
    hint = {
        Fault.CREDENTIALS: "; check the secret with `secret test`",
        Fault.NOT_FOUND: "; check the batch id and whose key it is",
        Fault.QUOTA: "; the account has no credit left, so it is asked once an hour only",
    }.get(fault, "")
    said = _without_key(said).rstrip(".") if hint else _without_key(said)
    return OpenAIError(
        f"OpenAI answered {reply.status_code}: {said}{hint}{where}",
        fault,
        retry_after_s=retry_after_s(reply.headers.get("retry-after"), now),
        status_code=reply.status_code,
        answer=_without_key(reply.text),
    )


def _without_key(text: str) -> str:
    return _BLURRED_KEY.sub("***", text)


def _fault(status_code: int, code: str) -> Fault:
    if status_code in (401, 403):
        return Fault.CREDENTIALS
    if status_code == 404:
        return Fault.NOT_FOUND
    if status_code == 429 and code == "insufficient_quota":
        return Fault.QUOTA
    if status_code in (429, 503):
        return Fault.RATE_LIMITED
    return Fault.TRANSIENT if status_code >= 500 else Fault.MALFORMED


def _error_body(reply: Reply) -> tuple[str, str]:
    try:
        error = reply.document().get("error")
    except HttpError:
        return "", f"{reply.text[:200].strip() or 'nothing'}"
    if not isinstance(error, dict):
        return "", str(error)[:200]
    return str(error.get("code") or ""), str(error.get("message") or "no message")[:500]


def _batch_ids(fields: Fields) -> list[str]:
    """`batch_ids`, or `batch_id` for one; stored always as the list."""
    if fields.spelling("batch_ids", "batch_id") == "batch_id":
        return [fields.text("batch_id", max_chars=206, pattern=_BATCH_ID, hint=_ID_HINT)]
    return fields.texts("batch_ids", 1, MAX_BATCHES, _batch_id)


def _batch_id(text: str) -> str:
    if not _BATCH_ID.fullmatch(text):
        raise ValueError(_ID_HINT)
    return text


def _origin(url: str, allowed: Allowed) -> str:
    try:
        return parse_url(url, allowed).origin
    except InvalidInput:
        return ""  # the fault is noted already


def _known(data: Document | None) -> dict[str, Any]:
    return {one["batch_id"]: one for one in (data or {}).get("batches", ())}


def _open_ids(doc: Document, known: Mapping[str, Any]) -> list[str]:
    return [id_ for id_ in doc["batch_ids"] if known.get(id_, {}).get("status") not in ENDED_WORDS]


def _unasked(batch_id: str) -> dict[str, Any]:
    return {
        "batch_id": batch_id,
        "status": None,
        "request_counts": None,
        "output_file_id": None,
        "error_file_id": None,
        "created_at": None,
        "completed_at": None,
        "expires_at": None,
        "errors": [],
    }


def _counts(batches: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    ended = [one for one in batches if one["status"] in ENDED_WORDS]
    completed = sum(one["status"] == "completed" for one in ended)
    return {
        "batch_count": len(batches),
        "completed_count": completed,
        "failed_count": len(ended) - completed,
    }


def _pending(batches: Sequence[Mapping[str, Any]], ended: Sequence[object]) -> str:
    totals = [one["request_counts"] for one in batches if one["request_counts"]]
    done = sum(counts["completed"] + counts["failed"] for counts in totals)
    total = sum(counts["total"] for counts in totals)
    requests = f", {done} of {total} requests done" if total else ""
    if len(batches) == 1:
        return f"Batch is {batches[0]['status']}{requests}."
    return f"{len(ended)} of {len(batches)} batches ended{requests}."


def _not_completed(bad: Sequence[Mapping[str, Any]], total: int) -> str:
    named = ", ".join(f"{one['batch_id']} {one['status']}" for one in bad[:5])
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    why = next((one["errors"][0] for one in bad if one["errors"]), "")
    return f"{len(bad)} of {total} batches didn't complete: {named}{more}.{why and ' ' + why}"


def _completed(
    batches: Sequence[Mapping[str, Any]], max_failed_percent: float
) -> tuple[Verdict, str]:
    counts = [one["request_counts"] for one in batches if one["request_counts"]]
    total, failed = (sum(one[key] for one in counts) for key in ("total", "failed"))
    percent = 100 * failed / total if total else 0.0
    if percent > max_failed_percent:
        return Verdict.FAILED, (
            f"All batches completed, but {failed} of {total} requests failed: {percent:.3g} % is "
            f"more than the {max_failed_percent:g} % of max_failed_percent."
        )
    what = "Batch" if len(batches) == 1 else f"All {len(batches)} batches"
    return Verdict.SUCCESS, f"{what} completed, {total - failed} of {total} requests succeeded."


def _failed(
    doc: Document, known: Mapping[str, Any], error: OutsideError, warnings: list[str]
) -> Finding:
    batches = [known.get(id_) or _unasked(id_) for id_ in doc["batch_ids"]]
    return Finding(
        verdict=Verdict.ERROR,
        message=str(error),
        data={"batches": batches, **_counts(batches)},
        fault=error.fault,
        retry_after_s=error.retry_after_s,
        warnings=tuple(warnings),
        detail=error.answer or None,
    )


def _warnings(one: Mapping[str, Any], now: datetime) -> list[str]:
    status, expires_at = one["status"], one["expires_at"]
    if status not in OPEN_WORDS | ENDED_WORDS:
        return [f"{one['batch_id']} has the unknown status {status!r}, taken as not ended."]
    if status in OPEN_WORDS and expires_at and now > datetime.fromisoformat(expires_at) + _LATE:
        return [f"{one['batch_id']} is still {status}, although it expired at {expires_at}."]
    return []


def _request_counts(counts: object) -> dict[str, int] | None:
    if not isinstance(counts, dict):
        return None
    numbers = {
        key: number
        for key in _COUNTS
        if type(number := counts.get(key)) is int and 0 <= number < 2**53
    }
    return numbers if len(numbers) == len(_COUNTS) else None


def _time(seconds: object) -> str | None:
    if type(seconds) is not int or not 0 < seconds < 10**11:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(value: object) -> str | None:
    return value[:200] if isinstance(value, str) else None


def _errors(errors: object) -> list[str]:
    data = errors.get("data") if isinstance(errors, dict) else None
    if not isinstance(data, list):
        return []
    said = [one.get("message") for one in data[:MAX_ERRORS] if isinstance(one, dict)]
    return [text[:MAX_ERROR_CHARS] for text in said if isinstance(text, str)]


def _quoted(value: object) -> str:
    return repr(value)[:100]


def _malformed(what: str) -> OpenAIError:
    return OpenAIError(f"OpenAI {what}.", Fault.MALFORMED)

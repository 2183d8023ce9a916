"""Keboola: starts a job of a configuration through the Job Queue API, and follows it.

Addresses, bodies and states are those of the public Job Queue API document. The queue has no
idempotency key, so an attempt of unknown outcome is looked for by our event id, which comes
back in `variableValuesData`. A token is only ever sent to the stack that the job names.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec

from teckochecker.actions.interface import DeliveryContext
from teckochecker.addresses import Allowed, parse_url
from teckochecker.domain import (
    Document,
    Doubt,
    Event,
    Kind,
    NotFoundYet,
    Part,
    Receipt,
    Secret,
    SecretRef,
    SecretType,
    Sent,
    Undecided,
)
from teckochecker.errors import Fault, HttpError, InvalidInput, KeboolaError
from teckochecker.http import Http, Reply, retry_after_s
from teckochecker.validation import Fields, Parsed

DEFAULT_COMPONENT: Final = "keboola.orchestrator"  # a flow is what people mostly start
REQUEST_TIMEOUT_S: Final = 20.0
MAX_VARIABLES: Final = 50
SEARCH_LIMIT: Final = 100
SEARCH_BYTES: Final = 4 * 1024 * 1024  # a hundred jobs with their results
_CLOCK_SKEW: Final = timedelta(minutes=5)  # between this host and Keboola
_FAILED_STATES: Final = frozenset({"error", "terminated", "cancelled"})
_OURS: Final = frozenset(
    {
        "batch_ids_completed",
        "batch_ids_failed",
        "batch_count_total",
        "batch_count_completed",
        "batch_count_failed",
        "check_status",
        "check_message",
        "check_data",
        "teckochecker_job_id",
        "teckochecker_event_id",
    }
)


class Keboola:
    """The action `keboola`; remembers each stack's queue address once it was discovered."""

    kind: ClassVar[str] = "keboola"
    fields: ClassVar[frozenset[str]] = frozenset(
        {
            "keboola_secret",
            "keboola_secret_id",
            "keboola_stack_url",
            "keboola_component_id",
            "keboola_configuration_id",
            "keboola_variables",
            "follow_up",
        }
    )
    tests: ClassVar[SecretType | None] = SecretType.KEBOOLA
    main_field: ClassVar[str] = "keboola_stack_url"

    def __init__(self, http: Http, allowed: Allowed) -> None:
        self._http = http
        self._allowed = allowed
        self._queues: dict[str, str] = {}
        self._lock = threading.Lock()

    def parse(self, fields: Fields) -> Parsed:
        stack_url = fields.text("keboola_stack_url", max_chars=500, check=self._url)
        component = fields.text("keboola_component_id", default=DEFAULT_COMPONENT, max_chars=255)
        configuration = fields.text("keboola_configuration_id", max_chars=255)
        variables = fields.mapping("keboola_variables", default=None)
        _check_variables(fields, variables)
        secret = fields.secret("keboola_secret", SecretType.KEBOOLA)
        doc = {
            "keboola_stack_url": stack_url.rstrip("/"),
            "keboola_component_id": component,
            "keboola_configuration_id": configuration,
            "keboola_variables": variables,
            "follow_up": fields.flag("follow_up", default=True),
        }
        return Parsed(
            part=Part(kind=self.kind, doc=doc, origin=stack_url.rstrip("/").lower()),
            secrets=(secret,) if isinstance(secret, SecretRef) else (),
        )

    def show(self, doc: Document) -> dict[str, object]:
        return dict(doc)

    def roles(self, doc: Document) -> Mapping[str, str]:
        return {"keboola_secret": "keboola_secret"}

    def timeout_s(self, doc: Document) -> float:
        return 3 * REQUEST_TIMEOUT_S  # discovery, look and start

    def deliver(
        self, doc: Document, event: Event, context: DeliveryContext
    ) -> Sent | NotFoundYet | Undecided:
        token = _token(context)
        queue = self._queue(doc["keboola_stack_url"])
        if context.doubt is not Doubt.NONE:
            found = self._look(queue, token, doc, event, context)
            if found is not None:
                return found
            if context.doubt is Doubt.LOOK:
                return NotFoundYet(
                    message="No job of the earlier attempt is found yet; looked for once more."
                )
        context.checkpoint()
        return self._start(queue, token, doc, event, context)

    def follow_up(self, doc: Document, receipt: Receipt, context: DeliveryContext) -> Receipt:
        queue = self._queue(doc["keboola_stack_url"])
        url = f"{queue}/jobs/{quote(receipt.id, safe='')}"
        reply = self._call("GET", url, _token(context), context)
        job = _document(reply)
        if str(job.get("id")) != receipt.id:
            raise KeboolaError("Keboola answered about another job.", Fault.MALFORMED)
        return _receipt(job)

    def trial_url(self, fields: Fields) -> str:
        return str(fields.text("keboola_stack_url", max_chars=500, check=self._url))

    def test(self, secret: Secret, doc: Document, now: datetime) -> str:
        """`GET {stack}/v2/storage/tokens/verify`."""
        stack = str(doc["keboola_stack_url"]).rstrip("/")
        url = f"{stack}/v2/storage/tokens/verify"
        headers = {"x-storageapi-token": secret.reveal(), "accept": "application/json"}
        reply = self._http.request("GET", url, headers=headers, timeout_s=REQUEST_TIMEOUT_S)
        if reply.status_code != 200:
            raise error_of(reply, now)
        return _verified(reply.document())

    def _start(
        self, queue: str, token: Secret, doc: Document, event: Event, context: DeliveryContext
    ) -> Sent:
        body = msgspec.json.encode(start_body(doc, event))
        reply = self._call("POST", f"{queue}/jobs", token, context, body)
        try:
            receipt = _receipt(_document(reply))
        except KeboolaError as error:  # it said yes in a way that we can't read: look for it
            raise KeboolaError(
                f"Keboola answered {reply.status_code} without a job: {error}",
                Fault.MALFORMED,
                status_code=reply.status_code,
                answer=reply.text,
                maybe_done=True,
            ) from error
        return Sent(
            receipt=receipt,
            status_code=reply.status_code,
            answer=reply.text,
            follow_up=bool(doc["follow_up"]) and not receipt.finished,
        )

    def _look(
        self, queue: str, token: Secret, doc: Document, event: Event, context: DeliveryContext
    ) -> Sent | Undecided | None:
        """The job that an earlier attempt of this event has started, if the search shows it."""
        reply = self._call(
            "GET",
            f"{queue}/search/jobs",
            token,
            context,
            params={
                "componentId": doc["keboola_component_id"],
                "configId": doc["keboola_configuration_id"],
                "createdTimeFrom": (context.first_sent_at - _CLOCK_SKEW).strftime(
                    "%Y-%m-%dT%H:%M:%SZ"
                ),
                "limit": SEARCH_LIMIT,
            },
        )
        jobs = _jobs(reply)
        for job in jobs:
            if _event_id(job) == event.id:
                receipt = _receipt(job)
                follow_up = bool(doc["follow_up"]) and not receipt.finished
                return Sent(receipt=receipt, follow_up=follow_up, found=True)
        if len(jobs) >= SEARCH_LIMIT or any("variableValuesData" not in job for job in jobs):
            return Undecided(
                message="Keboola shows jobs of this configuration, but not whether one of them is "
                "ours: look there, and redeliver only if it wasn't started."
            )
        return None

    def _call(
        self,
        method: str,
        url: str,
        token: Secret,
        context: DeliveryContext,
        content: bytes | None = None,
        params: Mapping[str, str | int] | None = None,
    ) -> Reply:
        headers = {"x-storageapi-token": token.reveal(), "accept": "application/json"}
        if content is not None:
            headers["content-type"] = "application/json"
        try:
            reply = self._http.request(
                method,
                url,
                headers=headers,
                content=content,
                params=params,
                timeout_s=REQUEST_TIMEOUT_S,
                pool_key=context.pool_key,
                max_bytes=SEARCH_BYTES if params else 64 * 1024,
            )
        except HttpError as error:
            started = method == "POST" and error.maybe_done
            raise KeboolaError(str(error), error.fault, maybe_done=started) from error
        if not 200 <= reply.status_code < 300:
            raise error_of(reply, context.now, started=method == "POST")
        return reply

    def _queue(self, stack_url: str) -> str:
        """Discovery, which needs no token; else the usual name beside the stack's."""
        with self._lock:
            known = self._queues.get(stack_url)
        if known:
            return known
        found = self._discovered(stack_url)
        if found is None:
            return _guessed(stack_url)
        with self._lock:
            self._queues[stack_url] = found
        return found

    def _discovered(self, stack_url: str) -> str | None:
        url = f"{stack_url}/v2/storage"
        try:
            reply = self._http.request(
                "GET",
                url,
                params={"exclude": "components"},
                timeout_s=REQUEST_TIMEOUT_S,
                max_bytes=1024 * 1024,
            )
            services = reply.document().get("services")
        except HttpError:
            return None
        if reply.status_code != 200 or not isinstance(services, list):
            return None
        urls = [one.get("url") for one in services if _is_queue(one)]
        return self._usable(urls[0]) if urls else None

    def _usable(self, url: object) -> str | None:
        try:
            parse_url(str(url), self._allowed)
        except InvalidInput:
            return None
        return str(url).rstrip("/")

    def _url(self, text: str) -> str:
        try:
            parse_url(text, self._allowed)
        except InvalidInput as error:
            raise ValueError(str(error)) from error
        if urlsplit(text).path.strip("/") or urlsplit(text).query:
            raise ValueError("must be the stack alone, like https://connection.keboola.com")
        return text


def start_body(doc: Document, event: Event) -> dict[str, Any]:
    """The body of `POST /jobs`."""
    values = variables(doc.get("keboola_variables") or {}, event)
    return {
        "component": doc["keboola_component_id"],
        "config": doc["keboola_configuration_id"],
        "mode": "run",
        "variableValuesData": {
            "values": [{"name": name, "value": value} for name, value in values.items()]
        },
    }


def variables(own: Document, event: Event) -> dict[str, str]:
    """The job's own variables and ours; every value is text, lists and objects are JSON."""
    custom = event.job_kind is Kind.CUSTOM_CHECK
    values: dict[str, object] = {
        **own,
        **(_finding_variables(event) if custom else _batch_variables(event.data.get("batches", ()))),
        "teckochecker_job_id": event.job_id,
        "teckochecker_event_id": event.id,
    }
    return {name: _as_text(value) for name, value in values.items()}


def _finding_variables(event: Event) -> dict[str, object]:
    return {
        "check_status": event.verdict.value,
        "check_message": event.message,
        "check_data": dict(event.data),
    }


def _batch_variables(batches: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    completed = [one["batch_id"] for one in batches if one["status"] == "completed"]
    failed = [one["batch_id"] for one in batches if one["status"] != "completed"]
    return {
        "batch_ids_completed": completed,
        "batch_ids_failed": failed,
        "batch_count_total": len(batches),
        "batch_count_completed": len(completed),
        "batch_count_failed": len(failed),
    }


def error_of(reply: Reply, now: datetime, *, started: bool = False) -> KeboolaError:
    """An answer that isn't a success; `exceptionId` is what Keboola's support asks for.

    After a request that starts something (`started`), a gateway's 502 or 504 leaves open
    whether it was carried out.
    """
    said, exception_id = _error_body(reply)
    where = f" (exceptionId {exception_id})" if exception_id else ""
    fault = _fault(reply.status_code)
    hint = "; check the secret with `secret test`" if fault is Fault.CREDENTIALS else ""
    return KeboolaError(
        f"Keboola answered {reply.status_code}: {said}{hint}{where}",
        fault,
        retry_after_s=retry_after_s(reply.headers.get("retry-after"), now),
        status_code=reply.status_code,
        answer=reply.text,
        maybe_done=started and reply.status_code in (502, 504),
    )


def _fault(status_code: int) -> Fault:
    if status_code in (401, 403):
        return Fault.CREDENTIALS
    if status_code == 404:
        return Fault.NOT_FOUND
    if status_code in (429, 503):
        return Fault.RATE_LIMITED
    if 400 <= status_code < 500 and status_code not in (408, 425):
        return Fault.REFUSED
    return Fault.TRANSIENT


def _error_body(reply: Reply) -> tuple[str, str | None]:
    try:
        document = reply.document()
    except HttpError:
        return reply.text[:200].strip() or "nothing", None
    said = document.get("error") or document.get("reason") or "no message"
    exception_id = document.get("exceptionId")
    return str(said)[:500], str(exception_id)[:100] if exception_id else None


def _check_variables(fields: Fields, given: Mapping[str, Any] | None) -> None:
    names = set(given or ())
    if len(names) > MAX_VARIABLES:
        fields.fault("keboola_variables", f"must have at most {MAX_VARIABLES} variables")
    if taken := sorted(names & _OURS):
        fields.fault("keboola_variables", f"must not name {', '.join(taken)}: we send those")


def _token(context: DeliveryContext) -> Secret:
    token = context.secrets.get("keboola_secret")
    if token is None:
        raise KeboolaError(
            "The job's Keboola secret was deleted: give the job another one.", Fault.CREDENTIALS
        )
    return token


def _is_queue(service: object) -> bool:
    return isinstance(service, dict) and service.get("id") == "queue"


def _guessed(stack_url: str) -> str:
    parts = urlsplit(stack_url)
    if not parts.netloc.startswith("connection."):
        raise KeboolaError(
            f"{stack_url} doesn't tell where its job queue is: check keboola_stack_url.",
            Fault.TRANSIENT,
        )
    host = parts.netloc.replace("connection.", "queue.", 1)
    return urlunsplit((parts.scheme, host, "", "", ""))


def _document(reply: Reply) -> dict[str, Any]:
    try:
        return reply.document()
    except HttpError as error:
        raise KeboolaError(str(error), error.fault) from error


def _receipt(job: Mapping[str, Any]) -> Receipt:
    """Our receipt from a job of the queue; `isFinished` is the flag to trust."""
    job_id = job.get("id")
    if not isinstance(job_id, str | int) or not str(job_id) or len(str(job_id)) > 100:
        raise KeboolaError("the job has no id", Fault.MALFORMED)
    status, url, result = job.get("status"), job.get("url"), job.get("result")
    message = result.get("message") if isinstance(result, dict) else None
    return Receipt(
        id=str(job_id),
        url=url[:500] if isinstance(url, str) else None,
        status=status[:50] if isinstance(status, str) else None,
        finished=job.get("isFinished") is True,
        failed=status in _FAILED_STATES,
        message=message[:500] if isinstance(message, str) else None,
    )


def _jobs(reply: Reply) -> list[dict[str, Any]]:
    try:
        found = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KeboolaError("Keboola's search answered without JSON.", Fault.MALFORMED) from error
    if not isinstance(found, list):
        raise KeboolaError("Keboola's search answered without a list.", Fault.MALFORMED)
    return [job for job in found if isinstance(job, dict)]


def _event_id(job: Mapping[str, Any]) -> str | None:
    data = job.get("variableValuesData")
    values = data.get("values") if isinstance(data, dict) else None
    for one in values if isinstance(values, list) else ():
        if isinstance(one, dict) and one.get("name") == "teckochecker_event_id":
            return str(one.get("value"))
    return None


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _verified(token: Mapping[str, Any]) -> str:
    if token.get("isDisabled") or token.get("isExpired"):
        raise KeboolaError("The token is disabled or expired.", Fault.CREDENTIALS)
    if token.get("canCreateJobs") is False:
        raise KeboolaError("The token may not start jobs.", Fault.CREDENTIALS)
    owner = token.get("owner")
    project = owner.get("name") if isinstance(owner, dict) else None
    return f"Keboola accepts this token{f' for project {project}' if project else ''}."

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

from teckochecker.actions import keboola_answers as answers
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
from teckochecker.http import Http, Reply
from teckochecker.validation import Fields, Parsed

DEFAULT_COMPONENT: Final = "keboola.orchestrator"  # a flow is what people mostly start
REQUEST_TIMEOUT_S: Final = 20.0
MAX_VARIABLES: Final = 50
SEARCH_LIMIT: Final = 100  # jobs on a page of the search
SEARCH_PAGES: Final = 10  # looked at, newest first
SEARCH_BYTES: Final = 4 * 1024 * 1024  # a hundred jobs with their results
_CLOCK_SKEW: Final = timedelta(minutes=5)  # between this host and Keboola
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
        return (2 + SEARCH_PAGES) * REQUEST_TIMEOUT_S  # discovery, look and start

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
        job = answers.document(reply)
        if str(job.get("id")) != receipt.id:
            raise KeboolaError("Keboola answered about another job.", Fault.MALFORMED)
        return answers.receipt(job)

    def trial_url(self, fields: Fields) -> str:
        return str(fields.text("keboola_stack_url", max_chars=500, check=self._url))

    def test(self, secret: Secret, doc: Document, now: datetime) -> str:
        """`GET {stack}/v2/storage/tokens/verify`."""
        stack = str(doc["keboola_stack_url"]).rstrip("/")
        url = f"{stack}/v2/storage/tokens/verify"
        headers = {"x-storageapi-token": secret.reveal(), "accept": "application/json"}
        reply = self._http.request(
            "GET", url, headers=headers, timeout_s=REQUEST_TIMEOUT_S, secrets=(secret,)
        )
        if reply.status_code != 200:
            raise answers.error_of(reply, now)
        return answers.verified(reply.document())

    def _start(
        self, queue: str, token: Secret, doc: Document, event: Event, context: DeliveryContext
    ) -> Sent:
        body = msgspec.json.encode(start_body(doc, event))
        reply = self._call("POST", f"{queue}/jobs", token, context, body)
        try:
            receipt = answers.receipt(answers.document(reply))
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
        """The job that an earlier attempt of this event has started, if the search shows it.

        While jobs are added, those on later pages move on by some places: none is passed over.
        """
        params = {
            "componentId": doc["keboola_component_id"],
            "configId": doc["keboola_configuration_id"],
            "createdTimeFrom": (context.first_sent_at - _CLOCK_SKEW).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "limit": SEARCH_LIMIT,
        }
        url, before, silent = f"{queue}/search/jobs", None, False
        for page in range(SEARCH_PAGES):
            context.checkpoint()
            offset = {"offset": page * SEARCH_LIMIT} if page else {}
            jobs = answers.jobs(self._call("GET", url, token, context, params=params | offset))
            for job in jobs:
                if answers.event_id(job) == event.id:
                    receipt = answers.receipt(job)
                    follow_up = bool(doc["follow_up"]) and not receipt.finished
                    return Sent(receipt=receipt, follow_up=follow_up, found=True)
            silent = silent or any("variableValuesData" not in job for job in jobs)
            last = len(jobs) < SEARCH_LIMIT
            if last and not silent:
                return None
            if last or jobs == before:  # the same again: it knows no pages
                break
            before = jobs
        return Undecided(
            message="Keboola shows jobs of this configuration, but not whether one of them is "
            "ours: look there, and redeliver only if it wasn't started."
        )

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
                secrets=(token,),
                max_bytes=SEARCH_BYTES if params else 64 * 1024,
            )
        except HttpError as error:
            self._forget(url)
            started = method == "POST" and error.maybe_done
            raise KeboolaError(str(error), error.fault, maybe_done=started) from error
        if not 200 <= reply.status_code < 300:
            if reply.status_code == 404:
                self._forget(url)
            raise answers.error_of(reply, context.now, started=method == "POST")
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

    def _forget(self, url: str) -> None:
        """The queue that `url` belongs to is asked for anew: it may have moved."""
        with self._lock:
            kept = (one for one in self._queues.items() if not url.startswith(one[1]))
            self._queues = dict(kept)

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
        **(
            _finding_variables(event) if custom else _batch_variables(event.data.get("batches", ()))
        ),
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


def _check_variables(fields: Fields, given: Mapping[str, Any] | None) -> None:
    names = set(given or ())
    if len(names) > MAX_VARIABLES:
        fields.fault("keboola_variables", f"must have at most {MAX_VARIABLES} variables")
    if taken := sorted(names & _OURS):
        fields.fault("keboola_variables", f"must not name {', '.join(taken)}: we send those")
    if "secret_ref:" in str(given):
        fields.fault("keboola_variables", "must not hold a secret: Keboola shows them")


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
    parts = urlsplit(stack_url.lower())
    if not parts.netloc.startswith("connection."):
        raise KeboolaError(
            f"{stack_url} doesn't tell where its job queue is: check keboola_stack_url.",
            Fault.TRANSIENT,
        )
    host = parts.netloc.replace("connection.", "queue.", 1)
    return urlunsplit((parts.scheme, host, "", "", ""))


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()

"""Webhooks: calls a URL of the user's with the outcome of a job, signed where asked for.

The body is the one that was stored with the event; headers, query and signature are made anew
at each attempt. Signatures are Standard Webhooks 1.0.0 (https://www.standardwebhooks.com): the
event id is `webhook-id` over every retry, for the receiver to see doubles.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Final

import msgspec

from teckochecker.actions.interface import DeliveryContext
from teckochecker.addresses import Allowed, parse_url
from teckochecker.domain import (
    Document,
    Event,
    Part,
    Receipt,
    Secret,
    SecretType,
    Sent,
)
from teckochecker.errors import Fault, HttpError, InvalidInput, WebhookError
from teckochecker.http import Http, Reply, retry_after_s
from teckochecker.validation import Fields, Parsed, mentioned_in, one_line, with_secrets

SIGNING_BYTES: Final = range(24, 65)
MIN_TIMEOUT_S, DEFAULT_TIMEOUT_S, MAX_TIMEOUT_S = 5, 30, 60
_BODILESS: Final = frozenset({"GET", "DELETE"})
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_VISIBLE: Final = re.compile(r"[\x20-\x7e]+")
_PLACEHOLDER: Final = re.compile(r"\{((?:check_)?data\.[^{}]+|[A-Za-z0-9_.-]+)\}")
_LONG: Final = frozenset({"check_status", "check_message", "check_data"})  # as the body names them
_OURS: Final = frozenset(
    {"webhook-id", "webhook-timestamp", "webhook-signature", "content-length", "host"}
)
_HOP: Final = frozenset({"connection", "transfer-encoding", "upgrade", "te", "trailer", "expect"})


class Method(StrEnum):
    POST = "POST"
    GET = "GET"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"


class Webhook:
    """The action `webhook`."""

    kind: ClassVar[str] = "webhook"
    main_field: ClassVar[str] = "webhook_url"
    fields: ClassVar[frozenset[str]] = frozenset(
        {
            "webhook_url",
            "webhook_method",
            "webhook_headers",
            "webhook_query_params",
            "webhook_signing_secret",
            "webhook_signing_secret_id",
            "webhook_timeout_seconds",
        }
    )
    tests: ClassVar[SecretType | None] = None

    def __init__(self, http: Http, allowed: Allowed) -> None:
        self._http = http
        self._allowed = allowed

    def parse(self, fields: Fields) -> Parsed:
        url = fields.text("webhook_url", max_chars=500, check=self._url)
        headers = _texts(fields, "webhook_headers", _header)
        query_params = _texts(fields, "webhook_query_params", _query_param)
        doc = {
            "webhook_url": url,
            "webhook_method": fields.choice("webhook_method", Method, default=Method.POST),
            "webhook_headers": headers,
            "webhook_query_params": query_params,
            "webhook_timeout_seconds": fields.integer(
                "webhook_timeout_seconds",
                MIN_TIMEOUT_S,
                MAX_TIMEOUT_S,
                default=DEFAULT_TIMEOUT_S,
                unit="seconds",
            ),
        }
        signing = fields.secret("webhook_signing_secret", SecretType.GENERIC, default=None)
        mentioned = fields.mentions("webhook_headers", (headers or {}).values())
        return Parsed(
            part=Part(kind=self.kind, doc=doc, origin=_origin(url, self._allowed)),
            secrets=(*mentioned, *((signing,) if signing else ())),
        )

    def show(self, doc: Document) -> dict[str, object]:
        return dict(doc)

    def roles(self, doc: Document) -> Mapping[str, str]:
        used = mentioned_in(doc["webhook_headers"] or {})
        return {"webhook_signing_secret": "webhook_signing_secret", **used}

    def timeout_s(self, doc: Document) -> float:
        return float(doc["webhook_timeout_seconds"]) + 5.0  # the exchange ends by itself first

    def deliver(self, doc: Document, event: Event, context: DeliveryContext) -> Sent:
        """Call once, in doubt too: a receiver sees doubles by their id."""
        method = doc["webhook_method"]
        body = b"" if method in _BODILESS else context.body
        headers = _headers(doc, event, body, context)
        try:
            reply = self._http.request(
                method,
                doc["webhook_url"],
                headers=headers,
                params=query(doc["webhook_query_params"] or {}, event),
                content=body or None,
                timeout_s=float(doc["webhook_timeout_seconds"]),
                pool_key=context.pool_key,
                secrets=context.secrets.values(),
            )
        except HttpError as error:
            raise WebhookError(str(error), error.fault, answer=error.answer) from error
        if not 200 <= reply.status_code < 300:
            raise error_of(reply, context)
        receipt = Receipt(id=event.id, status=str(reply.status_code))
        return Sent(receipt=receipt, status_code=reply.status_code, answer=reply.text)

    def follow_up(self, doc: Document, receipt: Receipt, context: DeliveryContext) -> Receipt:
        return receipt  # a webhook tells no more than its answer

    def trial_url(self, fields: Fields) -> str:
        return str(fields.text("webhook_url", max_chars=500, check=self._url))

    def test(self, secret: Secret, doc: Document, now: datetime) -> str:
        raise WebhookError("A webhook's secrets can't be tried by themselves.", Fault.REFUSED)

    def _url(self, text: str) -> str:
        if "secret_ref:" in text:
            raise ValueError("must not hold a secret: URLs are logged, so send it in a header")
        try:
            parse_url(text, self._allowed)
        except InvalidInput as error:
            raise ValueError(str(error)) from error
        return text


def signature(secret: Secret, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: HMAC-SHA256 over `id.timestamp.body`, base64.

    `secret` is `whsec_` and the base64 of 24 to 64 bytes, `timestamp` in seconds.
    """
    encoded = secret.reveal().strip().removeprefix("whsec_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        key = b""
    if len(key) not in SIGNING_BYTES:
        raise WebhookError(
            "The signing secret isn't `whsec_` and the base64 of 24 to 64 bytes: set it anew.",
            Fault.REFUSED,
        )
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def query(templates: Mapping[str, str], event: Event) -> dict[str, str]:
    """The query with every placeholder filled in; encoding is left to who sends it.

    The names are those of the body; `{status}`, `{message}` and `{data.path.to.value}` are short
    for `{check_status}` and so on. Keys of a path may hold anything but dots and braces, a number
    is an index of a list. Objects and lists become JSON, what isn't there "".
    """

    def filled(found: re.Match[str]) -> str:
        return _as_text(_at(found[1], event))

    return {name: _PLACEHOLDER.sub(filled, template) for name, template in templates.items()}


def error_of(reply: Reply, context: DeliveryContext) -> WebhookError:
    """An answer that isn't a success: final for 4xx, but for 408, 425 and 429."""
    status = reply.status_code
    fault = Fault.TRANSIENT
    if status in (429, 502, 503, 504):
        fault = Fault.RATE_LIMITED
    elif 400 <= status < 500 and status not in (408, 425):
        fault = Fault.REFUSED
    hint = ""
    if status == 410:
        hint = ": the receiver wants no more of them"
    elif 300 <= status < 400:
        hint = ": redirects aren't followed, so give the final URL"
    return WebhookError(
        f"The webhook answered {status}{hint}.",
        fault,
        retry_after_s=retry_after_s(reply.headers.get("retry-after"), context.now),
        status_code=status,
        answer=reply.text,
    )


def _headers(doc: Document, event: Event, body: bytes, context: DeliveryContext) -> dict[str, str]:
    try:
        headers = {
            name.lower(): with_secrets(value, context.secrets)
            for name, value in (doc["webhook_headers"] or {}).items()
        }
    except KeyError as missing:
        raise WebhookError(
            f"A header names {missing.args[0]}, which was deleted: name another secret.",
            Fault.CREDENTIALS,
        ) from None
    if not all(_VISIBLE.fullmatch(value) for value in headers.values()):
        raise WebhookError(
            "A secret in a header isn't one line of visible ASCII: set it anew.", Fault.REFUSED
        )
    if body:
        headers.setdefault("content-type", "application/json")
    timestamp = int(context.now.timestamp())
    headers |= {"webhook-id": event.id, "webhook-timestamp": str(timestamp)}
    signing = context.secrets.get("webhook_signing_secret")
    if signing is not None:
        headers["webhook-signature"] = signature(signing, event.id, timestamp, body)
    return headers


def _texts(
    fields: Fields, name: str, fault: Callable[[str, object], str | None]
) -> dict[str, str] | None:
    given: dict[str, str] | None = fields.mapping(name, default=None)
    for key, value in (given or {}).items() if name in fields.given else ():
        if complaint := fault(key, value):
            fields.fault(name, complaint)
    return given


def _header(name: str, value: object) -> str | None:
    if not _HEADER.fullmatch(name):
        return f"{name!r} isn't a header name"
    if name.lower() in _OURS | _HOP:
        return f"must not hold {name}: we send it"
    try:
        text = one_line(value, 8000)
    except ValueError as error:
        return f"{name} {error}"
    if not _VISIBLE.fullmatch(text):
        return f"{name} must be visible ASCII"
    return None


def _query_param(name: str, value: object) -> str | None:
    if not isinstance(value, str):
        return f"{name} must be text"
    if "secret_ref:" in value:
        return f"{name} must not hold a secret: URLs are logged, so send it in a header"
    return f"{name} must have at most 2000 characters" if len(value) > 2000 else None


def _origin(url: str, allowed: Allowed) -> str:
    try:
        return parse_url(url, allowed).origin
    except InvalidInput:
        return ""  # the fault is noted already


def _at(path: str, event: Event) -> object:
    first, *rest = path.split(".")
    name = first.removeprefix("check_") if first in _LONG else first
    if name == "data":
        return _within(event.data, rest)
    known = {
        "job_id": event.job_id,
        "job_name": event.job_name,
        "status": event.verdict.value,
        "message": event.message,
        "timestamp": msgspec.to_builtins(event.occurred_at),  # written as in the body
        "execution_time_ms": event.execution_time_ms,
        "event_id": event.id,
    }
    return None if rest else known.get(name)


def _within(value: Any, path: Iterable[str]) -> object:
    for part in path:
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()

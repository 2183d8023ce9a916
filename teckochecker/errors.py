"""Every error that a caller may meet, in one tree.

A kind says what went wrong in the product's words and carries the product's code.
The web maps kinds to HTTP statuses and the command line maps them to exit codes, once each.
Every message says what happened and what to do next, and never holds a secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class FieldError:
    """One complaint about one field of a document that somebody sent."""

    field: str
    message: str


class TeckoError(Exception):
    """The root: `str(error)` is a sentence for people, `code` the product's number."""

    code = 0


class InvalidInput(TeckoError):
    """A document, parameter or option can't be accepted; `errors` names each fault."""

    code = 1100

    def __init__(self, message: str, errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(message)
        self.errors = errors


class SecretUnknown(InvalidInput):
    """A document names a secret that doesn't exist."""

    code = 1001


class NotFound(TeckoError):
    """The thing that a path or a command names doesn't exist."""


class SecretNotFound(NotFound):
    code = 1001


class JobNotFound(NotFound):
    code = 1002


class DeliveryNotFound(NotFound):
    code = 1002


class Conflict(TeckoError):
    """The request is fine, but the thing's present state forbids it."""


class NameTaken(Conflict):
    code = 1003


class InUse(Conflict):
    code = 1004


class WrongState(Conflict):
    code = 1005


class AccessDenied(TeckoError):
    """No token, or one that isn't right."""


class Fault(StrEnum):
    """Why a check or a delivery failed, as far as it decides what happens next."""

    TRANSIENT = "transient"  # network, 5xx: passes by itself
    RATE_LIMITED = "rate_limited"  # 429 and 503 with a time to wait
    QUOTA = "quota"  # 429 that only a payment ends
    CREDENTIALS = "credentials"  # 401, 403, a secret that is gone
    NOT_FOUND = "not_found"  # the thing to check doesn't exist
    MALFORMED = "malformed"  # an answer that can't be one
    REFUSED = "refused"  # the other side says no, and will say so again
    ENGINE = "engine"  # this machine or its container engine can't; no fault of the script's
    INTERNAL = "internal"  # our own fault


class OutsideError(TeckoError):
    """A call to a service failed.

    `fault` says why, `retry_after_s` is what the service asked for (1 s to 1 h) or None,
    `status_code` and `answer` (masked later, at most 4 KiB) are what it said, if it said anything.
    `maybe_done` is True when the request may have been carried out although no answer came.
    """

    def __init__(
        self,
        message: str,
        fault: Fault,
        *,
        retry_after_s: float | None = None,
        status_code: int | None = None,
        answer: str = "",
        maybe_done: bool = False,
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.retry_after_s = retry_after_s
        self.status_code = status_code
        self.answer = answer
        self.maybe_done = maybe_done


class OpenAIError(OutsideError):
    code = 2001


class KeboolaError(OutsideError):
    code = 2002


class WebhookError(OutsideError):
    code = 2003


class HttpError(OutsideError):
    """An outgoing request got no usable answer; sources and actions raise their own from it."""


class AddressRefused(HttpError):
    """The address is private, loopback or otherwise not to be connected to."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Fault.REFUSED)


class StoreError(TeckoError):
    """The database can't do it; `StoreFull` and `StoreBusy` pass, `StoreBroken` doesn't."""

    code = 3001


class StoreFull(StoreError):
    pass


class StoreBusy(StoreError):
    pass


class StoreBroken(StoreError):
    pass


class VaultError(TeckoError):
    """A sealed secret can't be opened, or the key is wrong."""

    code = 3002


class ConfigError(TeckoError):
    """Settings, key or database don't fit: nothing was started."""


class FolderError(TeckoError):
    """A file or folder can't be read or written."""


class AlreadyRunning(TeckoError):
    """Another daemon holds this data, or something holds the port."""


class NotReachable(TeckoError):
    """The daemon or service that a command needs doesn't answer."""

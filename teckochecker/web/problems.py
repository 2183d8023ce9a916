"""Errors as `application/problem+json` (RFC 9457), mapped from kinds to statuses once."""

from __future__ import annotations

from typing import Final

import msgspec

from teckochecker.errors import (
    AccessDenied,
    Conflict,
    FolderError,
    InvalidInput,
    NotFound,
    OutsideError,
    StoreError,
    TeckoError,
    VaultError,
)
from teckochecker.web.wire import NotJson


class TooLarge(TeckoError):
    """A body over its limit."""


class TooSlow(TeckoError):
    """A body that didn't arrive in time."""


class TooBusy(TeckoError):
    """A request for which there is no room now."""


class TooMany(TeckoError):
    """Too many wrong tokens from one address."""


_STATUS: Final = (  # the first that fits
    (InvalidInput, 400, "Invalid input"),
    (NotJson, 415, "Unsupported media type"),
    (AccessDenied, 401, "No access"),
    (NotFound, 404, "Not found"),
    (Conflict, 409, "Conflict"),
    (TooLarge, 413, "Body too large"),
    (TooSlow, 408, "Body too slow"),
    (TooMany, 429, "Too many attempts"),
    (TooBusy, 503, "Too busy"),
    (OutsideError, 502, "A service failed"),
    (StoreError, 503, "Database not ready"),
    (FolderError, 503, "Disk not ready"),
    (VaultError, 500, "Encryption failed"),
    (TeckoError, 500, "Internal error"),
)
_HTTP_TITLES: Final = {404: "Not found", 405: "Method not allowed", 500: "Internal error"}


def problem(error: TeckoError, request_id: str) -> tuple[int, bytes]:
    """Status and body for an error of ours."""
    status, title = next(
        (status, title) for kind, status, title in _STATUS if isinstance(error, kind)
    )
    errors = (
        [{"field": one.field, "message": one.message} for one in error.errors]
        if isinstance(error, InvalidInput)
        else None
    )
    return status, _body(status, title, str(error), error.code or None, request_id, errors)


def http_problem(status: int, detail: str, request_id: str) -> bytes:
    """The body for an error of HTTP itself, such as a path that doesn't exist."""
    return _body(status, _HTTP_TITLES.get(status, "Request failed"), detail, None, request_id, None)


def _body(
    status: int,
    title: str,
    detail: str,
    code: int | None,
    request_id: str,
    errors: list[dict[str, str]] | None,
) -> bytes:
    document: dict[str, object] = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    if errors is not None:
        document["errors"] = errors
    return msgspec.json.encode(document)

"""Exit codes, and the one place where errors become them."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from teckochecker.errors import (
    AccessDenied,
    AlreadyRunning,
    ConfigError,
    Conflict,
    FolderError,
    InvalidInput,
    NotFound,
    NotReachable,
    StoreError,
    TeckoError,
    VaultError,
)


class Exit(IntEnum):
    """What the program tells the shell; `wait` has words of its own from 10 to 30."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    ACCESS = 4
    CONFLICT = 5
    UNREACHABLE = 6
    TIMEOUT = 7
    WAIT_FAILED = 10
    WAIT_PENDING = 20
    WAIT_OTHERWISE = 30
    IO = 74
    CONFIG = 78
    INTERRUPTED = 130  # 128 + SIGINT, as shells have it
    BROKEN_PIPE = 141  # 128 + SIGPIPE


class TimedOut(TeckoError):
    """What was asked for didn't come within its time."""


class Refusal(TeckoError):
    """The API's own words for why it didn't do what was asked."""

    def __init__(
        self, status: int, code: int, detail: str, errors: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.errors = errors


_BY_KIND: Final = (  # the first that fits; others are FAILURE
    (InvalidInput, Exit.USAGE),
    (NotFound, Exit.NOT_FOUND),
    (AccessDenied, Exit.ACCESS),
    (Conflict, Exit.CONFLICT),
    (AlreadyRunning, Exit.CONFLICT),
    (NotReachable, Exit.UNREACHABLE),
    (TimedOut, Exit.TIMEOUT),
    (StoreError, Exit.IO),
    (FolderError, Exit.IO),
    (ConfigError, Exit.CONFIG),
    (VaultError, Exit.CONFIG),
)
_BY_STATUS: Final = {
    400: Exit.USAGE,
    401: Exit.ACCESS,
    403: Exit.ACCESS,
    404: Exit.NOT_FOUND,
    408: Exit.TIMEOUT,
    409: Exit.CONFLICT,
    413: Exit.USAGE,
    415: Exit.USAGE,
    429: Exit.ACCESS,  # too many wrong tokens
    503: Exit.UNREACHABLE,  # of a proxy, or of a server that isn't ready
    504: Exit.TIMEOUT,
}
AWAY: Final = frozenset({502, 503, 504})  # of a proxy, while the daemon behind it restarts
_BY_CODE: Final = {StoreError.code: Exit.IO, VaultError.code: Exit.CONFIG}


def exit_code(error: TeckoError) -> Exit:
    if isinstance(error, Refusal):
        by_status = _BY_STATUS.get(error.status, Exit.FAILURE)
        return _BY_CODE.get(error.code, by_status)
    return next((code for kind, code in _BY_KIND if isinstance(error, kind)), Exit.FAILURE)

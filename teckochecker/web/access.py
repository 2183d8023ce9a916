"""Who gets in: a program with the token, a browser with the cookie of a session.

The cookie needs no storage: it is a number and an end, signed under a key that is made of the
installation's SECRET_KEY and of the token's hash. So a session outlives a restart, and ends
with the token. One that was signed out is refused until the daemon's end; its browser has
forgotten it anyway. Failures are slowed down; a right token always passes.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from teckochecker.app import App
from teckochecker.domain import Secret, Value
from teckochecker.errors import AccessDenied, StoreBusy, StoreFull
from teckochecker.lanes import Lane
from teckochecker.web.problems import TooMany

FAILURES: Final = 10  # wrong tokens a minute from one address, until they are answered 429
MINUTE: Final = timedelta(minutes=1)
SESSION: Final = timedelta(days=30)
_ADDRESSES: Final = 1000  # whose failures are remembered: a bound on memory
_NUMBER_BYTES: Final = 16
_END_BYTES: Final = 8
_SIGNED: Final = _NUMBER_BYTES + _END_BYTES
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_NEEDED: Final = (
    "A token is needed: send `Authorization: Bearer tck_...`; `teckochecker init` made "
    "it, and `teckochecker token new` makes another."
)


class Caller(Value, frozen=True, kw_only=True):
    """What of a request tells who sent it and from where."""

    method: str
    scheme: str
    host: str
    port: int
    address: str
    headers: Mapping[bytes, bytes]

    def text(self, name: bytes) -> str:
        return self.headers.get(name, b"").decode("latin-1")

    @property
    def cookie_name(self) -> str:
        """Browsers keep one jar for all ports of a host, where other daemons may live."""
        return f"teckochecker_{self.port}"


def caller_of(scope: Mapping[str, Any]) -> Caller:
    """The caller of an ASGI request."""
    headers = dict(scope["headers"])
    return Caller(
        method=scope["method"],
        scheme=scope["scheme"],
        host=headers.get(b"host", b"").decode("latin-1"),
        port=(scope.get("server") or ("", None))[1] or 0,
        address=(scope.get("client") or ("unknown",))[0],
        headers=headers,
    )


class Access:
    """The product's access rules over the tokens of one installation."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._tokens: list[tuple[int, bytes]] | None = None
        self._used: dict[int, datetime] = {}
        self._signed_out: dict[bytes, datetime] = {}
        self.failures: dict[str, deque[datetime]] = {}

    async def check(self, caller: Caller) -> None:
        """Return for a caller that may come in; AccessDenied or TooMany for any other."""
        now = self._app.now()
        tokens = await self._known()
        if b"authorization" not in caller.headers:
            cookies = session_cookies(caller)
            for cookie in cookies:
                token_id = self._session_token(cookie, tokens, now)
                if token_id is not None:
                    _refuse_foreign(caller)
                    await self._note_use(token_id, now)
                    return
            if cookies:  # it expired, or the token is a new one: nobody is guessing
                raise AccessDenied("The session has ended: sign in again.")
        scheme, _, token = caller.headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else None
        await self._check_token(given, tokens, caller.address, now)

    async def sign_in(self, token: str, address: str) -> tuple[str, datetime]:
        """The value of a new session's cookie, and when it ends."""
        now = self._app.now()
        digest = await self._check_token(token.encode(), await self._known(), address, now)
        ends_at = now + SESSION
        return made_cookie(self._key(digest), secrets.token_bytes(_NUMBER_BYTES), ends_at), ends_at

    def sign_out(self, cookie: str) -> None:
        now = self._app.now()
        for number in [number for number, end in self._signed_out.items() if end <= now]:
            del self._signed_out[number]
        raw = _bytes(cookie)
        self._signed_out[raw[:_NUMBER_BYTES]] = now + SESSION

    async def _known(self) -> list[tuple[int, bytes]]:
        if self._tokens is None:
            self._tokens = await self._app.lanes.run(Lane.READ, self._app.store.secrets.tokens)
        return self._tokens

    async def _check_token(
        self, token: bytes | None, tokens: list[tuple[int, bytes]], address: str, now: datetime
    ) -> bytes:
        """The stored hash of a right token."""
        digest = hashlib.sha256(token).digest() if token is not None else b""
        for token_id, known in tokens:
            if hmac.compare_digest(known, digest):
                await self._note_use(token_id, now)
                return known
        self._note_failure(address, now)
        raise AccessDenied(_NEEDED)

    def _session_token(
        self, cookie: str, tokens: list[tuple[int, bytes]], now: datetime
    ) -> int | None:
        """The token that a session was made with, if the session holds."""
        for token_id, digest in tokens:
            number = session_number(self._key(digest), cookie, now)
            if number is not None and number not in self._signed_out:
                return token_id
        return None

    def _key(self, digest: bytes) -> Secret:
        key = self._app.settings.secret_key.reveal().encode()
        return Secret(hmac.digest(key, b"teckochecker session" + digest, "sha256").hex())

    def _note_failure(self, address: str, now: datetime) -> None:
        failed = self.failures.setdefault(address, deque(maxlen=FAILURES))
        locked_out = len(failed) == FAILURES and now - failed[0] < MINUTE
        failed.append(now)
        if len(self.failures) > _ADDRESSES:  # forgets the oldest address
            del self.failures[next(iter(self.failures))]
        if locked_out:
            raise TooMany("Too many wrong tokens from this address: wait a minute.")

    async def _note_use(self, token_id: int, now: datetime) -> None:
        """At most once a minute: it is shown to people, and worth no refusal."""
        last = self._used.get(token_id)
        if last is not None and now - last < MINUTE:
            return
        self._used[token_id] = now
        write = partial(self._app.store.secrets.token_used, token_id, now)
        with suppress(StoreFull, StoreBusy):
            await self._app.lanes.run(Lane.STORE, write)


def made_cookie(key: Secret, number: bytes, ends_at: datetime) -> str:
    signed = number + int(ends_at.timestamp()).to_bytes(_END_BYTES, "big")
    return (signed + _signature(key, signed)).hex()


def session_number(key: Secret, cookie: str, now: datetime) -> bytes | None:
    """The number of the session that `cookie` stands for; None when it doesn't hold."""
    raw = _bytes(cookie)
    signed = raw[:_SIGNED]
    if not hmac.compare_digest(_signature(key, signed), raw[_SIGNED:]):
        return None
    ends_at = datetime.fromtimestamp(int.from_bytes(signed[_NUMBER_BYTES:], "big"), UTC)
    return signed[:_NUMBER_BYTES] if now < ends_at else None


def session_cookies(caller: Caller) -> list[str]:
    """What the browser sent as the session's cookie.

    Every server on any port of this host may set cookies, several of our name and such as no
    parser takes (one with JSON in it made the standard library's drop all): ours is found still.
    """
    pairs = (pair.partition("=") for pair in caller.text(b"cookie").split(";"))
    return [
        value.strip() for name, _, value in pairs if name.strip() == caller.cookie_name and value
    ]


def _signature(key: Secret, signed: bytes) -> bytes:
    return hmac.digest(key.reveal().encode(), signed, "sha256")


def _bytes(cookie: str) -> bytes:
    try:
        return bytes.fromhex(cookie)
    except ValueError:
        return b""


def _refuse_foreign(caller: Caller) -> None:
    """A changing request by cookie must come from our own page: cookies travel by themselves."""
    if caller.method in _SAFE:
        return
    site = caller.text(b"sec-fetch-site")
    ours = f"{caller.scheme}://{caller.host}"
    if site == "same-origin" or (not site and caller.text(b"origin") == ours):
        return
    raise AccessDenied(
        "This request came by the cookie of a session, but from another site than ours: use the "
        "page, or send the token as `Authorization: Bearer tck_...`."
    )

"""What goes over a simulator's wire: the request as recorded, and the ways to reply to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import Enum
from fnmatch import fnmatchcase
from http.client import responses


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request as it was read.

    `path` is as sent, without the query; names in `headers` are lower case; `body` is the decoded
    JSON, or None where there was none; `raw` are its bytes, as a signature covers them; `at` is
    `time.time()` when the headers had been read.
    """

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: object
    at: float
    raw: bytes = b""

    def matches(self, method: str, pattern: str) -> bool:
        """Whether it is a `method` (or "*") on a path that fits the shell pattern."""
        return method in ("*", self.method) and fnmatchcase(self.path, pattern)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent: `content` as JSON, or as it is where it is bytes.

    `missing_bytes` are promised by Content-Length and never sent; the connection closes instead.
    `delay_s` comes on top of the simulator's latency. With `drip_s` the bytes leave one by one
    with that pause between them, so that no single read of the client ever times out.
    """

    status: int = 200
    content: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    delay_s: float = 0.0
    drip_s: float = 0.0
    missing_bytes: int = 0

    def encoded(self, common_headers: Mapping[str, str]) -> bytes:
        content = self.content
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {
            "Date": formatdate(usegmt=True),
            "Content-Type": self.content_type,
            "Content-Length": str(len(body) + self.missing_bytes),
            **common_headers,
            **self.headers,
        }
        lines = [f"HTTP/1.1 {self.status} {responses.get(self.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Silence(Enum):
    """Ways to read a request and never answer it."""

    HANG = "the connection stays open until one side closes it"
    DROP = "the connection is closed at once"


Reply = Answer | Silence


@dataclass(frozen=True, slots=True)
class Afterwards:
    """The request is carried out as ever, and `reply` goes out in place of the usual answer.

    `Afterwards(DROP)` for a POST is the case that its sender can't tell from a plain `DROP`.
    `Afterwards()` is the usual answer, to let a request pass between two that fail.
    """

    reply: Reply | None = None


HANG = Silence.HANG
DROP = Silence.DROP

# Bodies that an API never sends and a client meets all the same: a proxy's page with status 200,
# a list where an object should be, a connection that breaks after the first bytes.
HTML = Answer(
    content=b"<!doctype html><title>Sign in</title><h1>Please sign in</h1>",
    content_type="text/html; charset=utf-8",
)
LIST = Answer(content=[{"id": "1", "status": "completed"}])
TRUNCATED = Answer(content=b'{"id": "', missing_bytes=400)

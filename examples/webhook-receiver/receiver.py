"""Receives TeckoChecker's webhooks: checks their signatures, and takes each event once.

    WEBHOOK_SECRET=whsec_... python3 receiver.py

WEBHOOK_SECRET is the job's signing secret, or several with blanks between them while one is
replaced; HOST (127.0.0.1) and PORT (5000) say where to listen. /webhook takes events, GET
/webhooks shows the last ones. The scheme: https://www.standardwebhooks.com
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

TOLERANCE_S = 300  # between the sender's clock and ours; an old request can't be played again
MAX_BODY_BYTES = 1024 * 1024
REMEMBERED_IDS = 100_000  # a delivery is tried for three days: hold more than arrive meanwhile
SHOWN_EVENTS = 100
READ_TIMEOUT_S = 30


class Rejected(Exception):
    """The request doesn't come from who holds the secret, or not now."""


def handle(event: dict[str, Any]) -> None:
    """Put your own work here. When it raises, nothing is answered, and the event comes again."""
    print(json.dumps(event), flush=True)


def keys_of(secrets: str) -> list[bytes]:
    """The keys in WEBHOOK_SECRET; ValueError when one can't be used, or there is none."""
    try:
        encoded = [one.removeprefix("whsec_") for one in secrets.split()]
        keys = [base64.b64decode(one, validate=True) for one in encoded]
    except binascii.Error as error:
        raise ValueError("a secret isn't whsec_ and base64") from error
    if not keys or not all(24 <= len(key) <= 64 for key in keys):
        raise ValueError("a secret has 24 to 64 bytes")
    return keys


def verify(keys: list[bytes], headers: Mapping[str, str], body: bytes, now: float) -> str:
    """The event's id, once signature and time are right; Rejected otherwise."""
    message_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    given = headers.get("webhook-signature", "").split()
    if not message_id or not given:
        raise Rejected("not signed")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise Rejected("no time")
    signed = f"{message_id}.{timestamp}.".encode() + body
    expected = [
        b"v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()) for key in keys
    ]
    # Every pair is compared, each in constant time: how long it takes tells nothing.
    equal = [hmac.compare_digest(one.encode(), right) for one in given for right in expected]
    if not any(equal):
        raise Rejected("wrong signature")
    if abs(now - int(timestamp)) > TOLERANCE_S:
        raise Rejected("too old or too new: are both clocks right?")
    return message_id


class Inbox:
    """The events that were handled, each once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._shown: deque[dict[str, Any]] = deque(maxlen=SHOWN_EVENTS)

    def take(self, message_id: str, event: dict[str, Any]) -> bool:
        """Handles an event unless that was done before, and says whether it was new.

        An id is remembered once its event was handled. A receiver that restarts, or has
        several processes, keeps the ids in its database, in the transaction of its work.
        """
        with self._lock:  # one at a time: the same event may arrive twice at once
            if message_id in self._ids:
                return False
            handle(event)
            self._ids[message_id] = None
            if len(self._ids) > REMEMBERED_IDS:
                self._ids.popitem(last=False)
            self._shown.append(event)
            return True

    def shown(self) -> list[dict[str, Any]]:
        with self._lock:
            return list(self._shown)

    def clear(self) -> None:
        """Forgets what is shown, not what was handled."""
        with self._lock:
            self._shown.clear()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], keys: list[bytes]) -> None:
        self.keys = keys
        self.inbox = Inbox()
        super().__init__(address, Call)


class Call(BaseHTTPRequestHandler):
    server: Server
    timeout = READ_TIMEOUT_S

    def receive(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/webhook":
            self.webhook(query)
        elif (self.command, path) == ("GET", "/webhooks"):
            shown = self.server.inbox.shown()
            self.answer(200, {"total": len(shown), "webhooks": shown})
        elif (self.command, path) == ("POST", "/webhooks/clear"):
            self.server.inbox.clear()
            self.answer(200, {"status": "cleared"})
        else:
            self.answer(404, {"error": "webhooks go to /webhook"})

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = receive

    def webhook(self, query: str) -> None:
        size = self.headers.get("content-length", "0")
        if not (size.isascii() and size.isdigit()) or "transfer-encoding" in self.headers:
            self.answer(411, {"error": "a content-length is needed"})
            return
        if len(size) > 9 or int(size) > MAX_BODY_BYTES:
            self.answer(413, {"error": f"at most {MAX_BODY_BYTES} bytes"})
            return
        body = self.rfile.read(int(size))
        try:
            message_id = verify(self.server.keys, dict(self.lowered()), body, time.time())
        except Rejected as error:
            self.log_message("rejected: %s", error)
            self.answer(401, {"error": "the signature can't be accepted"})
            return
        # GET and DELETE have no body: their values stand in the query, which no signature covers.
        event = json.loads(body) if body else dict(parse_qsl(query))
        new = self.server.inbox.take(message_id, event)
        self.answer(200, {"status": "received" if new else "received before"})

    def lowered(self) -> list[tuple[str, str]]:
        return [(name.lower(), value) for name, value in self.headers.items()]

    def answer(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    try:
        keys = keys_of(os.environ.get("WEBHOOK_SECRET", ""))
    except ValueError as error:
        sys.exit(f"WEBHOOK_SECRET can't be used: {error}.")
    address = (os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "5000")))
    with Server(address, keys) as server:
        print(f"Listening on http://{address[0]}:{server.server_port}/webhook", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()

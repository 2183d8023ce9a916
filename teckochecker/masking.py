"""Replaces known secret values in what is kept, shown or sent.

It guards against accidents: a script that wants to hide what it prints can. So each value is
looked for as it is and in the forms that programs print by themselves: base64 (between other
bytes, URL-safe, wrapped), hex, URL-encoded, JSON-escaped and quoted by Python. A value of
several lines is looked for line by line too. Texts are masked whole: first mask, then cut.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote

from teckochecker.domain import Secret

MIN_CHARS = 6  # a shorter value stands in innocent text too often

_MASK = "***"
_MIN_LINE_CHARS = 16  # of a longer value; less may be a brace or an everyday word
_WRAP_COLUMNS = (64, 76)  # `openssl base64`; `base64` and MIME
_URL_SAFE = (
    "",  # strict
    "/",  # urllib's quote
    "*",  # forms, URLSearchParams
    "!'()*",  # encodeURIComponent
    "!'()*;,/?:@&=+$#",  # encodeURI
)

T = TypeVar("T")


class Mask:
    """Known values, ready to be replaced by `***` wherever they turn up.

    Blanks around a value don't count as part of it. A value shorter than MIN_CHARS stays
    visible, and so does one of blanks only.
    """

    __slots__ = ("_lengths", "_patterns")

    def __init__(self, values: Iterable[Secret | str]) -> None:
        plain = (value.reveal() if isinstance(value, Secret) else value for value in values)
        patterns = {pattern for value in plain for pattern in _patterns(value)}
        # Longest first: where one value is part of another, the rest of the longer must go too.
        self._patterns = sorted(patterns, key=lambda pattern: (-len(pattern), pattern))
        self._lengths = [-len(pattern) for pattern in self._patterns]

    def text(self, text: str) -> str:
        if len(text) < MIN_CHARS:
            return text
        # One regex of all patterns takes more than ten times as long. Most texts are short, and
        # fields of log events are masked in the event loop: what is longer can't be in them.
        for pattern in islice(self._patterns, bisect_left(self._lengths, -len(text)), None):
            text = text.replace(pattern, _MASK)
        return text

    def document(self, value: T) -> T:
        """The JSON value with every text in it masked, keys as well as leaves.

        A leaf of another type is kept, unless its text shows a value: `12345678` as a number
        becomes `***`, and so does an object that prints what it holds.
        """
        # Mostly there is nothing to mask: one pass over all leaves finds that out.
        joined = "\n".join(_texts(value))
        if self.text(joined) == joined:
            return value
        masked: T = self._masked(value)
        return masked

    def _masked(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self._masked(key): self._masked(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._masked(item) for item in value]
        if isinstance(value, tuple):
            return tuple(self._masked(item) for item in value)
        shown = str(value)
        masked = self.text(shown)
        return value if masked == shown else masked


def _texts(value: Any) -> Iterator[str]:
    """Every key and leaf of a JSON value as text."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    else:
        yield str(value)


def _patterns(value: str) -> Iterator[str]:
    """Every text to look for; none is shorter than MIN_CHARS."""
    stripped = value.strip()
    # What stands around the stripped value in any encoding is then text like any other.
    value = stripped if len(stripped) >= MIN_CHARS else value
    if len(value) < MIN_CHARS or not stripped:
        return
    yield value
    yield from _lines(value)
    yield from _base64_forms(value)
    yield from _hex_forms(value)
    yield from _url_forms(value)
    yield from _escaped_forms(value)


def _lines(value: str) -> Iterator[str]:
    """The long lines of a value, such as a PEM's; many keep such a value with `\\n` spelled out.

    A PEM's first and last line say what it is, and are no secret.
    """
    for line in value.replace("\\n", "\n").splitlines():
        stripped = line.strip()
        if len(stripped) >= _MIN_LINE_CHARS and not stripped.startswith("-----"):
            yield stripped


def _base64_forms(value: str) -> Iterator[str]:
    data = _bytes(value)
    bodies = [_base64_body(data, shift) for shift in range(3)]
    for columns in _WRAP_COLUMNS:
        bodies += _wrapped(bodies[0], columns)
    for body in bodies:
        yield body
        yield body.replace("+", "-").replace("/", "_")


def _base64_body(data: bytes, shift: int) -> str:
    """The characters that `data` alone decides when `shift` bytes (modulo 3) stand before it.

    A character carries 6 bits. Those at the edges that carry a neighbour's bits are left out:
    each keeps at most 4 bits of the value.
    """
    encoded = b64encode(bytes(shift) + data).decode()
    first = -(-8 * shift // 6)
    end = 8 * (shift + len(data)) // 6
    return encoded[first:end]


def _wrapped(body: str, columns: int) -> Iterator[str]:
    for start in range(0, len(body), columns):
        piece = body[start : start + columns]
        if len(piece) >= MIN_CHARS:
            yield piece


def _hex_forms(value: str) -> tuple[str, str]:
    lower = _bytes(value).hex()
    return lower, lower.upper()


def _url_forms(value: str) -> Iterator[str]:
    for safe in _URL_SAFE:
        percent = quote(value, safe=safe, errors="surrogatepass")
        plus = percent.replace("%20", "+")
        for form in (percent, plus, plus.replace("~", "%7E")):  # URLSearchParams encodes `~`
            yield form
            yield re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), form)


def _escaped_forms(value: str) -> Iterator[str]:
    for form in _escaped_once(value):
        yield form
        yield json.dumps(form)[1:-1]  # a message of an error within a document
        yield json.dumps(form, ensure_ascii=False)[1:-1]


def _escaped_once(value: str) -> Iterator[str]:
    for ascii_only in (True, False):
        escaped = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        yield escaped
        yield escaped.replace("/", "\\/")  # PHP, and so Keboola
    # Python's, in the messages of its errors; the second where other quotes stand around it.
    yield repr(value)[1:-1]
    yield repr('"' + value)[2:-1]
    yield repr(_bytes(value))[2:-1]


def _bytes(value: str) -> bytes:
    return value.encode(errors="surrogatepass")

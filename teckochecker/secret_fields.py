"""Reads the documents by which people add a secret, or give it another value."""

from __future__ import annotations

import re
from typing import Any, Final

from teckochecker.domain import MAX_NAME_CHARS, Document, SecretType, Value
from teckochecker.validation import DIGITS, REQUIRED, Fields, kind_of

MAX_SECRET_BYTES: Final = 64 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")


class SecretDraft(Value, frozen=True, kw_only=True):
    """A secret as somebody wants it added."""

    name: str
    type: SecretType
    value: str


def secret_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("may hold letters, digits, '_', '.' and '-' only")
    if text in (".", ".."):
        raise ValueError("must not be '.' or '..': names stand in addresses")
    if DIGITS.fullmatch(text):
        raise ValueError("must not be only digits: a number addresses a secret by its id")
    return text


def secret_draft(given: Document) -> SecretDraft:
    fields = Fields(given)
    name = fields.text("name", max_chars=MAX_NAME_CHARS, check=secret_name)
    type_ = fields.choice("type", SecretType)
    value = _secret_value(fields, type_)
    fields.done("secret")
    return SecretDraft(name=name, type=type_, value=value)


def secret_value(given: Document, type_: SecretType) -> str:
    """The new value of an existing secret: nothing else of it can change."""
    fields = Fields(given)
    value = _secret_value(fields, type_)
    fields.done("change of a secret, whose value alone can be changed")
    return value


def _secret_value(fields: Fields, type_: SecretType) -> str:
    """Keys travel in headers, so those of services must be one line of visible ASCII."""

    def checked(given: Any) -> str:
        if not isinstance(given, str):
            raise ValueError(f"must be text, not {kind_of(given)}")
        if not given.strip():
            raise ValueError("must not be blank")
        if len(given.encode()) > MAX_SECRET_BYTES:
            raise ValueError(f"must have at most {MAX_SECRET_BYTES} bytes")
        if "\0" in given:
            raise ValueError("must not hold a NUL character")
        if type_ is not SecretType.GENERIC and not re.fullmatch(r"[\x21-\x7e]+", given):
            raise ValueError("must be one line of visible ASCII without blanks")
        return given

    value: str = fields.value("value", REQUIRED, checked, "")
    return value

"""Reads the flat documents that people send, and returns every fault at once.

`Fields` is the one way from untrusted JSON values to checked ones; it serves JSON bodies,
forms and the command line alike. On a change, what wasn't sent keeps its stored value and is
not judged again, so that a tightened setting never makes a stored job invalid.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, Final, TypeVar

from teckochecker.domain import (
    MAX_NAME_CHARS,
    Document,
    JobDraft,
    Kind,
    Part,
    Secret,
    SecretRef,
    SecretType,
    TriggerOn,
    Value,
)
from teckochecker.errors import FieldError, InvalidInput

_E = TypeVar("_E", bound=StrEnum)

REQUIRED: Final = object()
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MENTION = re.compile(r"secret_ref:([A-Za-z0-9_.-]+)")
DIGITS = re.compile(r"[0-9]+")
MAX_DOCUMENT_KEYS = 100
MAX_ERRORS = 1000  # what max_consecutive_errors may be
MAX_UNKNOWN = 20  # fields that are named; a body may hold a hundred thousand


class Fields:
    """One document being read.

    Each reader returns the checked value, or a harmless one after noting the fault;
    `done()` then raises `InvalidInput` with all faults, unknown fields among them.
    """

    def __init__(self, given: Document, stored: Document | None = None) -> None:
        self._given = given
        self._stored = stored or {}
        self._read: set[str] = set()
        self._faults: list[FieldError] = []

    @property
    def given(self) -> frozenset[str]:
        return frozenset(self._given)

    def has(self, *names: str) -> bool:
        """Whether any of the fields is sent (null included) or stored."""
        self._read.update(names)
        return any(name in self._given or name in self._stored for name in names)

    def wants(self, names: Iterable[str], main: str) -> bool:
        """Whether a part with these fields is there; null in its `main` field takes it away."""
        there = self.has(*names)
        return there and not (main in self._given and self._given[main] is None)

    def sent(self, name: str) -> bool:
        """Whether this document itself brings the field with a value."""
        self._read.add(name)
        return self._given.get(name) is not None

    def spelling(self, name: str, other: str) -> str:
        """Which of two names of one field the document uses, `name` when it uses neither."""
        self._read |= {name, other}
        if self.sent(name) and self.sent(other):
            self.fault(other, f"give {name} or {other}, not both")
        used = self.sent(other) or (other in self._given and name not in self._given)
        return other if used and not self.sent(name) else name

    def fault(self, name: str, message: str) -> None:
        self._faults.append(FieldError(name, message))

    def value(self, name: str, default: object, check: Callable[[Any], Any], empty: Any) -> Any:
        """The field after `check`, which raises ValueError with a sentence."""
        self._read.add(name)
        if name not in self._given:
            if name in self._stored:
                return self._stored[name]
            if default is REQUIRED:
                self.fault(name, "is required")
                return empty
            return default
        given = self._given[name]
        if given is None:
            if default is REQUIRED:
                self.fault(name, "must not be null")
                return empty
            return default
        try:
            return check(given)
        except ValueError as error:
            self.fault(name, str(error))
            return empty

    def text(
        self,
        name: str,
        *,
        default: object = REQUIRED,
        max_chars: int = 1000,
        pattern: re.Pattern[str] | None = None,
        hint: str = "",
        check: Callable[[str], str] = str,
    ) -> Any:
        """A text of one line, 1 to `max_chars` characters, without blanks at the ends."""

        def checked(given: Any) -> str:
            text = one_line(given, max_chars)
            if pattern and not pattern.fullmatch(text):
                raise ValueError(hint)
            return check(text)

        return self.value(name, default, checked, "")

    def integer(self, name: str, low: int, high: int, *, default: object, unit: str = "") -> int:
        def checked(given: Any) -> int:
            if not isinstance(given, int) or isinstance(given, bool):
                raise ValueError(f"must be a whole number, not {kind_of(given)}")
            if not low <= given <= high:
                raise ValueError(f"must be from {low} to {high}{unit and ' ' + unit}, not {given}")
            return given

        value: int = self.value(name, default, checked, low)
        return value

    def number(self, name: str, low: float, high: float, *, default: object) -> float:
        def checked(given: Any) -> float:
            if not isinstance(given, int | float) or isinstance(given, bool):
                raise ValueError(f"must be a number, not {kind_of(given)}")
            if not low <= given <= high:
                raise ValueError(f"must be from {low:g} to {high:g}, not {given:g}")
            return given

        value: float = self.value(name, default, checked, low)
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        def checked(given: Any) -> bool:
            if not isinstance(given, bool):
                raise ValueError(f"must be true or false, not {kind_of(given)}")
            return given

        value: bool = self.value(name, default, checked, default)
        return value

    def choice(self, name: str, words: type[_E], *, default: object = REQUIRED) -> _E:
        def checked(given: Any) -> _E:
            if isinstance(given, str) and given in {word.value for word in words}:
                return words(given)
            shown = repr(given) if isinstance(given, str) else kind_of(given)
            raise ValueError(f"must be one of {', '.join(words)}, not {shown[:60]}")

        value: _E = self.value(name, default, checked, next(iter(words)))
        return value

    def texts(self, name: str, low: int, high: int, check: Callable[[str], str]) -> list[str]:
        """A list of `low` to `high` different texts."""

        def checked(given: Any) -> list[str]:
            if not isinstance(given, list):
                raise ValueError(f"must be a list, not {kind_of(given)}")
            if not low <= len(given) <= high:
                raise ValueError(f"must hold {low} to {high} entries, not {len(given)}")
            texts = [check(one_line(item, 1000)) for item in given]
            if len(set(texts)) != len(texts):
                raise ValueError("must not hold the same entry twice")
            return texts

        value: list[str] = self.value(name, REQUIRED, checked, [])
        return value

    def mapping(self, name: str, *, default: object) -> dict[str, Any]:
        """A JSON object of at most 100 keys, each a text of one line."""

        def checked(given: Any) -> dict[str, Any]:
            if not isinstance(given, dict):
                raise ValueError(f"must be an object, not {kind_of(given)}")
            if len(given) > MAX_DOCUMENT_KEYS:
                raise ValueError(f"must have at most {MAX_DOCUMENT_KEYS} keys, not {len(given)}")
            for key in given:
                one_line(key, MAX_NAME_CHARS)
            return given

        value: dict[str, Any] = self.value(name, default, checked, {})
        return value

    def secret(
        self, role: str, type_: SecretType | None, *, default: object = REQUIRED
    ) -> SecretRef | None:
        """A mention of a secret: `<role>` or `<role>_id`, by id or name in either."""

        def checked(given: Any) -> int | str:
            if isinstance(given, int) and not isinstance(given, bool):
                return given
            text = one_line(given, MAX_NAME_CHARS)
            return int(text) if DIGITS.fullmatch(text) and len(text) < 19 else text

        by_id = f"{role}_id"
        name = self.spelling(role, by_id)
        if self._stored and not self.has(role, by_id):
            return None  # it was deleted; who changes something else needs no other
        wanted = self.value(name, default, checked, None)
        if wanted is None:
            return None
        return SecretRef(role=role, field=name, wanted=wanted, type=type_)

    def mentions(self, name: str, texts: Iterable[object]) -> tuple[SecretRef, ...]:
        """Each `secret_ref:ID_OR_NAME` within the texts of the field `name`."""
        found = {wanted: None for text in texts for wanted in _MENTION.findall(str(text))}
        return tuple(
            SecretRef(
                role=f"secret_ref:{wanted}",
                field=name,
                wanted=int(wanted) if DIGITS.fullmatch(wanted) and len(wanted) < 19 else wanted,
                type=None,
                fresh=name in self._given,
            )
            for wanted in found
        )

    def done(self, thing: str) -> None:
        unknown = [name for name in self._given if name not in self._read]
        known = ", ".join(sorted(self._read))
        for name in unknown[:MAX_UNKNOWN]:
            self.fault(str(name)[:100], f"isn't a field of a {thing}; known are {known}")
        if self._faults:
            raise InvalidInput(_summary(thing, self._faults), tuple(self._faults))


def one_line(given: Any, max_chars: int) -> str:
    """`given` as a text of one line, or ValueError with a sentence."""
    if not isinstance(given, str):
        raise ValueError(f"must be text, not {kind_of(given)}")
    if not given.strip():
        raise ValueError("must not be blank")
    if len(given) > max_chars:
        raise ValueError(f"must have at most {max_chars} characters, not {len(given)}")
    if _CONTROL.search(given):
        raise ValueError("must not hold control characters or line breaks")
    if given != given.strip():
        raise ValueError("must not begin or end with a blank")
    return given


def job_name(text: str) -> str:
    """A name that a path can hold and that no id can be mistaken for."""
    if "/" in text:
        raise ValueError("must not hold '/': names stand in addresses")
    if text in (".", ".."):
        raise ValueError("must not be '.' or '..': names stand in addresses")
    if DIGITS.fullmatch(text):
        raise ValueError("must not be only digits: a number addresses a job by its id")
    return text


class JobRules(Value, frozen=True, kw_only=True):
    """Bounds of the settings that a new value must keep; intervals in seconds."""

    min_interval_s: int
    max_interval_s: int
    default_interval_s: int


class Parsed(Value, frozen=True, kw_only=True):
    """What a source or an action read of a document."""

    part: Part
    secrets: tuple[SecretRef, ...]


def job_draft(
    fields: Fields,
    kind: Kind,
    rules: JobRules,
    source: Callable[[Fields], Parsed],
    actions: Iterable[Callable[[Fields], Parsed]],
    *,
    trigger_on: TriggerOn,
) -> JobDraft:
    """A job of either kind; its source and actions read their own fields."""
    name = fields.text("name", max_chars=MAX_NAME_CHARS, check=job_name)
    interval_s = fields.integer(
        "poll_interval_seconds",
        rules.min_interval_s,
        rules.max_interval_s,
        default=rules.default_interval_s,
        unit="seconds",
    )
    covered = fields.choice("trigger_on", TriggerOn, default=trigger_on)
    max_errors = None
    if kind is Kind.CUSTOM_CHECK:
        max_errors = fields.integer("max_consecutive_errors", 1, MAX_ERRORS, default=None)
    what = source(fields)
    then = [parse(fields) for parse in actions]
    fields.done("job")
    return JobDraft(
        kind=kind,
        name=name,
        interval_s=interval_s,
        trigger_on=TriggerOn(covered),
        source=what.part,
        actions=tuple(parsed.part for parsed in then),
        secrets=tuple(ref for parsed in (what, *then) for ref in parsed.secrets),
        max_errors=max_errors,
    )


def mentioned_in(texts: Mapping[str, str]) -> dict[str, str]:
    """Each `secret_ref:...` within the values, and the names of those that hold it."""
    found: dict[str, str] = {}
    for name, text in texts.items():
        for wanted in dict.fromkeys(_MENTION.findall(text)):
            role = f"secret_ref:{wanted}"
            found[role] = f"{found[role]}, {name}" if role in found else name
    return found


def with_secrets(text: str, secrets: Mapping[str, Secret]) -> str:
    """`text` with each `secret_ref:...` replaced by its value; KeyError names a missing one."""
    return _MENTION.sub(lambda found: secrets[found.group()].reveal(), text)


def _summary(thing: str, faults: list[FieldError]) -> str:
    first = faults[0]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{first.field} {first.message}{more}"


_KINDS: Mapping[type, str] = {
    bool: "a boolean",
    int: "a number",
    float: "a decimal number",
    str: "text",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def kind_of(value: object) -> str:
    """What kind of JSON value it is, for people."""
    return _KINDS.get(type(value), "something else")

"""Reading flat documents: what is taken, what is refused, and that all faults come at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teckochecker.actions import Keboola
from teckochecker.addresses import Allowed
from teckochecker.domain import JobDraft, Kind, SecretRef, SecretType, TriggerOn
from teckochecker.errors import FieldError, InvalidInput
from teckochecker.http import Http
from teckochecker.secret_fields import secret_draft, secret_name, secret_value
from teckochecker.sources import OpenAI
from teckochecker.validation import (
    REQUIRED,
    Fields,
    JobRules,
    job_draft,
    job_name,
    one_line,
)

RULES = JobRules(min_interval_s=30, max_interval_s=3600, default_interval_s=120)
JOB: dict[str, Any] = {
    "name": "nightly",
    "batch_id": "batch_a",
    "openai_secret": "openai-prod",
    "keboola_secret": 7,
    "keboola_stack_url": "https://connection.keboola.com",
    "keboola_configuration_id": "123456",
}
OPTIONAL: dict[str, Any] = {
    "openai_base_url": "https://llm.example/v1",
    "max_failed_percent": 12.5,
    "keboola_component_id": "keboola.flow",
    "keboola_variables": {"a": {"b": [1, 2.5, None, True, "ž"]}},
    "follow_up": False,
    "poll_interval_seconds": 30,
    "trigger_on": "terminal",
}


def draft(given: dict[str, Any], stored: dict[str, Any] | None = None) -> JobDraft:
    http = Http(Allowed(), max_connections=1)
    source = OpenAI(http, Allowed(), "https://api.openai.com/v1")
    action = Keboola(http, Allowed())
    return job_draft(
        Fields(given, stored),
        Kind.POLLING,
        RULES,
        source.parse,
        [action.parse],
        trigger_on=TriggerOn.SUCCESS,
    )


def stored_of(made: JobDraft) -> dict[str, Any]:
    """As the store gives a job back for a change of it."""
    fields: dict[str, Any] = {
        "name": made.name,
        "poll_interval_seconds": made.interval_s,
        "trigger_on": made.trigger_on,
        **made.source.doc,
    }
    for part in made.actions:
        fields |= part.doc
    return fields | {ref.role: 1 for ref in made.secrets}


def refusal(given: dict[str, Any], stored: dict[str, Any] | None = None) -> dict[str, str]:
    with pytest.raises(InvalidInput) as refused:
        draft(given, stored)
    assert refused.value.code == 1100
    return {fault.field: fault.message for fault in refused.value.errors}


# Jobs


def test_a_job_needs_six_fields_and_has_a_default_for_all_others() -> None:
    made = draft(JOB)

    assert (made.interval_s, made.trigger_on) == (120, TriggerOn.SUCCESS)
    assert made.source.doc == {
        "batch_ids": ["batch_a"],
        "openai_base_url": None,
        "max_failed_percent": 100,
    }
    assert made.actions[0].doc["keboola_component_id"] == "keboola.orchestrator"
    assert made.actions[0].doc["follow_up"] is True


def test_a_job_talks_to_the_origins_of_its_urls() -> None:
    made = draft(JOB | OPTIONAL)

    assert made.source.origin == "https://llm.example:443"
    assert made.actions[0].origin.startswith("https://connection.keboola.com")


@pytest.mark.parametrize("field", JOB)
def test_a_job_without_a_required_field_is_refused(field: str) -> None:
    without = {name: value for name, value in JOB.items() if name != field}

    named = "batch_ids" if field == "batch_id" else field
    assert refusal(without) == {named: "is required"}


def test_every_fault_is_told_and_none_twice() -> None:
    bad = {name: {} for name in JOB | OPTIONAL} | {"keboola_variables": 1, "x": 1}

    with pytest.raises(InvalidInput) as refused:
        draft(bad)

    assert sorted(fault.field for fault in refused.value.errors) == sorted(bad)


@given(
    st.dictionaries(
        st.sampled_from([*JOB, *OPTIONAL, "batch_ids", "openai_secret_id", "unknown"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    ),
    st.booleans(),
)
def test_whatever_is_sent_gives_a_draft_or_a_refusal_by_field(
    given_: dict[str, Any], change: bool
) -> None:
    stored = stored_of(draft(JOB)) if change else None
    sent = given_ if change else JOB | given_
    try:
        made, faults = draft(sent, stored), None
    except InvalidInput as refused:
        made, faults = None, refused.errors

    if made is None:
        assert faults
        assert {fault.field for fault in faults} <= {*sent, "batch_ids"} | set(JOB)
    else:
        assert RULES.min_interval_s <= made.interval_s <= RULES.max_interval_s
        assert json.dumps([part.doc for part in (made.source, *made.actions)])


optional = st.fixed_dictionaries({}, optional={key: st.just(one) for key, one in OPTIONAL.items()})


@given(optional)
def test_what_was_stored_is_never_judged_again(chosen: dict[str, Any]) -> None:
    made = draft(JOB | chosen)

    again = draft({}, stored_of(made))

    assert (again.name, again.interval_s, again.trigger_on) == (
        made.name,
        made.interval_s,
        made.trigger_on,
    )
    assert [part.doc for part in (again.source, *again.actions)] == [
        part.doc for part in (made.source, *made.actions)
    ]


def test_a_stored_value_beyond_todays_bounds_stays() -> None:
    stored = stored_of(draft(JOB)) | {"poll_interval_seconds": 5}

    assert draft({"name": "other"}, stored).interval_s == 5
    assert (
        "from 30 to 3600 seconds, not 5"
        in refusal({"poll_interval_seconds": 5}, stored)["poll_interval_seconds"]
    )


def test_a_change_of_something_else_needs_no_secret_that_was_deleted() -> None:
    stored = {name: one for name, one in stored_of(draft(JOB)).items() if name != "keboola_secret"}

    assert [ref.role for ref in draft({"name": "other"}, stored).secrets] == ["openai_secret"]
    assert refusal({"keboola_secret": None}, stored) == {"keboola_secret": "must not be null"}


@pytest.mark.parametrize(
    "name", ["a", "n" * 255, "a b", "ž", "4 2", "..a", "a?b#c&d=e%2F", "😀", "-", "job:1"]
)
def test_a_name_may_be_nearly_anything(name: str) -> None:
    assert draft(JOB | {"name": name}).name == name
    assert job_name(name) == name


@given(st.text())
def test_a_name_that_is_taken_can_stand_in_a_path_and_is_no_id(name: str) -> None:
    try:
        made = draft(JOB | {"name": name}).name
    except InvalidInput:
        return
    assert made == name == name.strip()
    assert 0 < len(made) <= 255
    assert "/" not in made
    assert made not in (".", "..")
    assert not (made.isascii() and made.isdigit())
    assert not any(ord(char) < 32 for char in made)


# Secrets


@pytest.mark.parametrize(
    ("mention", "wanted"),
    [("openai-prod", "openai-prod"), (5, 5), ("5", 5), ("9" * 18, int("9" * 18)), (-1, -1)],
)
@pytest.mark.parametrize("field", ["openai_secret", "openai_secret_id"])
def test_a_secret_is_mentioned_by_id_or_name_in_either_field(
    field: str, mention: Any, wanted: int | str
) -> None:
    fields = Fields({field: mention})

    assert fields.secret("openai_secret", SecretType.OPENAI) == SecretRef(
        role="openai_secret", field=field, wanted=wanted, type=SecretType.OPENAI
    )


def test_more_digits_than_an_id_has_are_a_name() -> None:
    found = Fields({"s": "9" * 19}).secret("s", SecretType.OPENAI)

    assert found is not None
    assert found.wanted == "9" * 19


@pytest.mark.parametrize(
    ("given_", "used", "faults"),
    [
        ({}, "one", []),
        ({"one": 1}, "one", []),
        ({"other": 1}, "other", []),
        ({"one": None}, "one", []),
        ({"other": None}, "other", []),
        ({"one": 1, "other": None}, "one", []),
        ({"one": None, "other": 1}, "other", []),
        ({"one": None, "other": None}, "one", []),
        ({"one": 1, "other": 2}, "one", ["other"]),
    ],
)
def test_of_two_spellings_the_one_with_a_value_counts(
    given_: dict[str, Any], used: str, faults: list[str]
) -> None:
    fields = Fields(given_)

    assert fields.spelling("one", "other") == used
    assert [fault.field for fault in faults_of(fields)] == faults


def test_a_secret_is_checked_whole() -> None:
    with pytest.raises(InvalidInput) as refused:
        secret_draft({"name": "a b", "type": "x", "value": "", "more": 1})

    assert {fault.field for fault in refused.value.errors} == {"name", "type", "value", "more"}


@given(st.dictionaries(st.sampled_from(["name", "type", "value", "x"]), st.text() | st.integers()))
def test_a_secret_that_is_taken_has_a_name_a_type_and_a_value(given_: dict[str, Any]) -> None:
    try:
        made = secret_draft({"type": "generic"} | given_)
    except InvalidInput as refused:
        assert refused.errors  # noqa: PT017
        return
    assert secret_name(made.name) == made.name
    assert made.value == given_["value"]
    assert "\0" not in made.value


@pytest.mark.parametrize("bad", ["a\nb", "a b", "ž", "a\x7f", "\ta", " a"])
@pytest.mark.parametrize("type_", [SecretType.OPENAI, SecretType.KEBOOLA])
def test_a_key_of_a_service_is_one_visible_line(type_: SecretType, bad: str) -> None:
    with pytest.raises(InvalidInput, match="one line of visible ASCII"):
        secret_value({"value": bad}, type_)


def test_a_refused_value_is_not_repeated() -> None:
    with pytest.raises(InvalidInput) as refused:
        secret_value({"value": "sk-very secret"}, SecretType.OPENAI)

    assert "very" not in str(refused.value)


# One field


class Word(StrEnum):
    ONE = "one"
    TWO = "two"


def faults_of(fields: Fields) -> tuple[FieldError, ...]:
    for name in fields.given:
        fields.sent(name)
    try:
        fields.done("thing")
    except InvalidInput as refused:
        return refused.errors
    return ()


def one_fault(fields: Fields) -> str:
    (fault,) = faults_of(fields)
    return fault.message


def kinds(*but: type) -> Iterator[Any]:
    every: list[Any] = [True, 1, 1.5, "text", ["a"], {"a": 1}]
    return (value for value in every if type(value) not in but)


def test_no_reader_takes_a_value_of_another_kind() -> None:
    for value in kinds(str):
        fields = Fields({"x": value})
        fields.text("x")
        assert one_fault(fields).startswith("must be text, not ")
    for value in kinds(int):
        fields = Fields({"x": value})
        fields.integer("x", 0, 9, default=1)
        assert one_fault(fields).startswith("must be a whole number, not ")
    for value in kinds(int, float):
        fields = Fields({"x": value})
        fields.number("x", 0, 9, default=1)
        assert one_fault(fields).startswith("must be a number, not ")
    for value in kinds(bool):
        fields = Fields({"x": value})
        fields.flag("x", default=True)
        assert one_fault(fields).startswith("must be true or false, not ")
    for value in kinds(list):
        fields = Fields({"x": value})
        fields.texts("x", 1, 2, str)
        assert one_fault(fields).startswith("must be a list, not ")
    for value in kinds(dict):
        fields = Fields({"x": value})
        fields.mapping("x", default=None)
        assert one_fault(fields).startswith("must be an object, not ")
    for value in kinds():
        fields = Fields({"x": value})
        fields.choice("x", Word)
        assert one_fault(fields).startswith("must be one of one, two, not ")


@pytest.mark.parametrize(("value", "fits"), [(1, True), (3, True), (0, False), (4, False)])
def test_bounds_are_inclusive_and_stand_in_the_message(value: int, fits: bool) -> None:
    fields = Fields({"x": value})

    fields.integer("x", 1, 3, default=REQUIRED, unit="seconds")

    faults = faults_of(fields)
    assert faults == () if fits else f"from 1 to 3 seconds, not {value}" in faults[0].message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 100.5])
def test_a_number_is_within_its_bounds(value: float) -> None:
    fields = Fields({"x": value})

    fields.number("x", 0, 100, default=1)

    assert "from 0 to 100" in one_fault(fields)


def test_an_object_has_at_most_a_hundred_keys_of_one_line() -> None:
    for bad in ({str(n): 1 for n in range(101)}, {"a\nb": 1}, {"": 1}, {" a": 1}):
        fields = Fields({"x": bad})
        fields.mapping("x", default=None)
        assert one_fault(fields)


@pytest.mark.parametrize("control", ["\0", "\x1b", "\x7f", "\x80", "\x9f", "\u2028", "\u2029"])
def test_one_line_holds_no_control_character(control: str) -> None:
    with pytest.raises(ValueError, match="control characters"):
        one_line(f"a{control}b", 10)


def test_an_unknown_field_is_named_with_those_that_are_known() -> None:
    fields = Fields({"nmae": "x", "name": "y"})
    fields.text("name")

    with pytest.raises(InvalidInput, match="nmae isn't a field of a thing; known are name"):
        fields.done("thing")


def test_a_long_unknown_field_is_cut_in_the_message() -> None:
    with pytest.raises(InvalidInput) as refused:
        Fields({"x" * 10_000: 1}).done("thing")

    assert len(str(refused.value)) < 300

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from teckochecker.domain import Secret
from teckochecker.masking import MIN_CHARS, Mask

repeatable = settings(derandomize=True, deadline=None)

# No `*`: a value that holds one can be put together by the `***` of another value.
VALUES = (
    st.text(min_size=MIN_CHARS, max_size=40)
    .filter(lambda value: "*" not in value)
    .filter(lambda value: len(value.strip()) >= MIN_CHARS)
)
TOKEN = "sk-proj-4f9aQ_x7/+Zk=="
QUOTED = "pa\"ss'wo\\rd\nžluť 🐎 ~a b/c"
KEY_LINES = (
    "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj",
    "MzEfYyjiWA4R4/M2bS1GB4t7NXp98C3SC6dVMvDuictGeurT8jNbvJZHtCSuYEvu",
    "NMoSfm76oqFvAp8Gy0iz5sxjZmSnXyCdPEovGhLa0VzMaQ8s+CLOyS56YyCFGeJZ",
)
PEM = "\n".join(("-----BEGIN PRIVATE KEY-----", *KEY_LINES, "-----END PRIVATE KEY-----"))


def lower_hex(url: str) -> str:
    return re.sub("%..", lambda match: match[0].lower(), url)


def forms(value: str) -> dict[str, str]:
    """How programs print a value; made with other means than the mask's own."""
    data = value.encode()
    return {
        "plain": value,
        "base64": base64.b64encode(data).decode(),
        "base64 of a line": base64.b64encode(data + b"\n").decode(),
        "base64url": base64.urlsafe_b64encode(data).decode(),
        "base64url unpadded": base64.urlsafe_b64encode(data).decode().rstrip("="),
        "basic authentication": base64.b64encode(b"user:" + data + b"@").decode(),
        "quote": quote(value),
        "quote, lower case": lower_hex(quote(value)),
        "quote all": quote(value, safe=""),
        "quote all, lower case": lower_hex(quote(value, safe="")),
        "quote_plus": quote_plus(value),
        "quote_plus, lower case": lower_hex(quote_plus(value)),
        "form": urlencode({"key": value}),
        "encodeURIComponent": quote(value, safe="!'()*"),
        "json": json.dumps(value),
        "json, unicode": json.dumps(value, ensure_ascii=False),
        "hex": data.hex(),
        "HEX": data.hex().upper(),
        "repr": repr(value),
        "repr in a dict": repr({"key": value}),
        "repr between quotes": repr(f'"it\'s" {value}'),
        "repr of bytes": repr(data),
        "json in json": json.dumps(json.dumps({"key": value})),
        "repr in json": json.dumps({"error": repr(KeyError(value))}),
        "repr in json, unicode": json.dumps({"error": repr([value])}, ensure_ascii=False),
    }


def shifted(value: str, before: bytes, after: bytes) -> str:
    return base64.b64encode(before + value.encode() + after).decode()


def encoded_chars(data: bytes) -> int:
    return len(base64.b64encode(data))


@repeatable
@given(value=VALUES)
@example(value=TOKEN)
@example(value=QUOTED)
@example(value=PEM)
@example(value="SUCCESS")
@example(value="  blanks around it\n")
def test_no_form_of_a_value_survives(value: str) -> None:
    mask = Mask([value])
    for name, form in forms(value).items():
        masked = mask.text(f"before {form} after")
        assert "***" in masked, name
        assert form not in masked, name
        assert value not in masked, name


@repeatable
@given(value=VALUES, before=st.binary(max_size=7), after=st.binary(max_size=7))
def test_base64_of_a_value_between_other_bytes_keeps_only_those(
    value: str, before: bytes, after: bytes
) -> None:
    value = value.strip()
    masked = Mask([value]).text(shifted(value, before, after))
    assert len(masked) - len("***") <= encoded_chars(before) + encoded_chars(after) + len("A==")


@pytest.mark.parametrize("before", [b"", b"u", b"u:"])
@pytest.mark.parametrize("after", [b"", b"@", b"@h"])
def test_it_finds_base64_at_each_of_its_shifts(before: bytes, after: bytes) -> None:
    text = shifted("~~~???>>>", before, after)
    for form in (text, text.replace("+", "-").replace("/", "_")):
        masked = Mask(["~~~???>>>"]).text(form)
        assert "***" in masked
        assert len(masked) - len("***") <= len("dTp") + len("5AaA==")


@pytest.mark.parametrize("columns", [64, 76])
def test_it_finds_base64_that_was_wrapped(columns: int) -> None:
    whole = base64.b64encode(PEM.encode()).decode()
    lines = [whole[start : start + columns] for start in range(0, len(whole), columns)]
    masked = Mask([PEM]).text("\n".join(lines)).splitlines()
    assert masked[:-1] == ["***"] * (len(lines) - 1)
    assert lines[-1] not in masked


@pytest.mark.parametrize("kept_as", [PEM, PEM.replace("\n", "\\n"), PEM.replace("\n", "\r\n")])
def test_it_finds_the_lines_of_a_pem_one_by_one(kept_as: str) -> None:
    mask = Mask([kept_as])
    for line in KEY_LINES:
        assert mask.text(f"> {line}") == "> ***"
    assert mask.text(PEM.replace("\n", "\\n")).count("***") <= len(KEY_LINES)
    assert not any(line in mask.text(PEM) for line in KEY_LINES)


def test_it_keeps_what_any_pem_says() -> None:
    text = "no line -----BEGIN PRIVATE KEY----- was found"
    assert Mask([PEM]).text(text) == text


def test_short_lines_of_a_value_stay_since_they_may_be_anything() -> None:
    mask = Mask(['{\n  "type": "x",\n  "private": "4f9aQ_x7Zk"\n}'])
    assert mask.text('{\n  "type": "x",\n}') == '{\n  "type": "x",\n}'
    assert mask.text('got "private": "4f9aQ_x7Zk".') == "got ***."


@repeatable
@given(text=st.text(alphabet="abcdefghijklmnop \n.,", max_size=400))
def test_innocent_text_stays(text: str) -> None:
    assert Mask([TOKEN, QUOTED, PEM, "SUCCESS", "zzzzzz", "000000"]).text(text) == text


@repeatable
@given(text=st.text())
def test_without_values_every_text_stays(text: str) -> None:
    assert Mask([]).text(text) == text


@repeatable
@given(value=st.text(max_size=MIN_CHARS - 1), text=st.text())
def test_values_that_are_too_short_stay(value: str, text: str) -> None:
    assert Mask([value]).text(f"{text}{value}{text}") == f"{text}{value}{text}"


def test_values_of_blanks_only_stay() -> None:
    text = "a\n          b"
    assert Mask(["          ", "\n" * 9, "\t" * 6]).text(text) == text


def test_blanks_around_a_value_are_no_part_of_it() -> None:
    assert Mask(["  hunter2\n"]).text("[hunter2] [  hunter2\n]") == "[***] [  ***\n]"


def test_a_value_that_is_long_enough_only_with_its_blanks_is_found_with_them() -> None:
    assert Mask(["  four  "]).text("four [  four  ]") == "four [***]"


def test_six_characters_are_enough() -> None:
    assert Mask(["abcdef"]).text("abcdef abcde") == "*** abcde"


def test_a_value_that_is_part_of_another_leaves_no_rest() -> None:
    values = ["SECRET", "SECRET-of-the-house", "the-SECRET-of-the-house-itself"]
    for order in (values, values[::-1]):
        mask = Mask(order)
        for value in values:
            assert mask.text(f"<{value}>") == "<***>"


@repeatable
@given(values=st.lists(VALUES, min_size=1, max_size=6), data=st.data())
def test_no_value_survives_whole_among_others(values: list[str], data: st.DataObject) -> None:
    pieces = st.one_of(st.sampled_from(values), st.text(max_size=5).filter(lambda t: "*" not in t))
    masked = Mask(values).text("".join(data.draw(st.lists(pieces, max_size=10))))
    assert not any(value.strip() in masked for value in values)


@repeatable
@given(values=st.lists(VALUES, min_size=1, max_size=6), text=st.text())
def test_the_order_of_values_and_a_second_masking_change_nothing(
    values: list[str], text: str
) -> None:
    text = values[0] + text + values[-1]
    once = Mask(values).text(text)
    assert Mask(values[::-1]).text(text) == once
    assert Mask(values).text(once) == once


def test_a_value_that_is_a_verdict_is_masked_like_any_other() -> None:
    mask = Mask([Secret("SUCCESS")])
    assert mask.text('{"status": "SUCCESS"} success') == '{"status": "***"} success'


def test_it_takes_secrets_and_plain_values() -> None:
    assert Mask([Secret("hunter2"), "correct horse"]).text("hunter2 correct horse") == "*** ***"


def test_it_masks_what_cant_be_encoded() -> None:
    value = "half a pair: \ud83d"
    assert Mask([value]).text(f"<{value}>") == "<***>"


def test_it_shows_no_value_itself() -> None:
    assert TOKEN not in repr(Mask([TOKEN]))


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
DOCUMENTS = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@repeatable
@given(document=DOCUMENTS)
def test_a_document_without_values_stays_and_is_a_new_one(document: object) -> None:
    assert Mask(["nobody says this"]).document(document) == document


def test_a_document_is_masked_in_every_leaf_and_key() -> None:
    document = {
        "message": f"token {TOKEN}",
        f"header {TOKEN}": {"list": ["a", TOKEN, {"deep": [TOKEN]}], "pair": (TOKEN, 1)},
        "count": 3,
        "ok": True,
        "nothing": None,
    }
    assert Mask([TOKEN]).document(document) == {
        "message": "token ***",
        "header ***": {"list": ["a", "***", {"deep": ["***"]}], "pair": ("***", 1)},
        "count": 3,
        "ok": True,
        "nothing": None,
    }
    assert document["message"] == f"token {TOKEN}"


@repeatable
@given(document=DOCUMENTS, value=VALUES)
def test_no_value_survives_in_a_document(document: object, value: str) -> None:
    value = value.strip()
    planted = {"here": [document, value], value: {f"x{value}": f"{value}x"}}
    masked = Mask([value]).document(planted)
    assert value not in json.dumps(masked, ensure_ascii=False)
    assert json.dumps(value) not in json.dumps(masked)


def test_a_number_that_is_a_value_becomes_text() -> None:
    document = {"pin": 12345678, "other": 1234567, "price": 1.5}
    assert Mask(["12345678"]).document(document) == {"pin": "***", "other": 1234567, "price": 1.5}


def test_an_object_that_shows_a_value_becomes_text() -> None:
    instant = datetime(2026, 1, 1, tzinfo=UTC)
    error = ValueError("no such user: hunter2")
    masked = Mask(["hunter2"]).document([instant, error, b"hunter2"])
    assert masked == [instant, "no such user: ***", "b'***'"]

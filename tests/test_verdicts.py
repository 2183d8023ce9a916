"""From what a script printed to a finding."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teckochecker.domain import MAX_DATA_BYTES, Finding, Verdict
from teckochecker.errors import Fault
from teckochecker.masking import Mask
from teckochecker.verdicts import EDGE_CHARS, Limits, RunResult, Stream, finding

NOTHING = Mask([])


def result(stdout: str | Stream = "", **more: object) -> RunResult:
    stream = Stream(head=stdout) if isinstance(stdout, str) else stdout
    fields = {"exit_code": 0, "stderr": Stream(), "duration_ms": 1, "stdout": stream}
    return RunResult(**{**fields, **more})  # type: ignore[arg-type]


def found(stdout: str | Stream = "", mask: Mask = NOTHING, **more: object) -> Finding:
    return finding(result(stdout, **more), Limits(memory_mb=256, timeout_s=7), mask)


def line(status: object = "SUCCESS", **more: object) -> str:
    return json.dumps({"status": status, **more})


@pytest.mark.parametrize("word", list(Verdict))
def test_the_four_words_are_verdicts(word: Verdict) -> None:
    said = found(line(word.value, message="all well", data={"n": 1}))
    assert (said.verdict, said.message, said.data) == (word, "all well", {"n": 1})
    assert said.fault is (Fault.TRANSIENT if word is Verdict.ERROR else None)


def test_the_last_line_that_qualifies_counts() -> None:
    text = "\n".join([line("PENDING"), line("FAILED"), '{"level": "info"}', "bye", "", "[]", "{"])
    assert found(text).verdict is Verdict.FAILED


def test_an_object_with_another_status_is_other_text() -> None:
    assert found(line("SUCCESS") + "\n" + line("done")).verdict is Verdict.SUCCESS


@pytest.mark.parametrize("status", ["success", "Success", "OK", "", None, 200, True, ["SUCCESS"]])
def test_another_spelling_is_an_error_that_quotes_it(status: object) -> None:
    said = found(line(status))
    assert (said.verdict, said.fault) == (Verdict.ERROR, Fault.MALFORMED)
    assert json.dumps(status) in said.message
    assert "upper case" in said.message


@pytest.mark.parametrize(
    "text",
    [
        '"{\\"status\\": \\"SUCCESS\\"}"',
        '[{"status": "SUCCESS"}]',
        'result: {"status": "SUCCESS"}',
        "{'status': 'SUCCESS'}",
        '{"status": "SUCCESS"',
        '{"log": {"status": "SUCCESS"}}',
        '{"status": "SUCCESS"} {"status": "SUCCESS"}',
        "SUCCESS",
        "status=SUCCESS",
    ],
)
def test_a_status_anywhere_else_is_no_status(text: str) -> None:
    said = found(text)
    assert said.verdict is Verdict.ERROR
    assert said.data == {"raw_output": text}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"status": "SUCCESS", "status": "FAILED"}', "twice"),
        ('{"status": "SUCCESS", "data": {"a": 1, "a": 2}}', '"a" twice'),
        ('{"status": "SUCCESS", "data": {"a": NaN}}', "NaN"),
        ('{"status": "SUCCESS", "data": {"a": -Infinity}}', "-Infinity"),
        ('{"status": "SUCCESS", "data": {"a": 1e999}}', "1e999"),
        ('{"status": "SUCCESS", "data": {"a": 9223372036854775808}}', "64 bits"),
        ('{"status": "SUCCESS", "data": {"a": ' + "9" * 5000 + "}}", "64 bits"),
        ('{"status": "SUCCESS", "data": [1]}', "isn't a JSON object"),
        ('{"status": "SUCCESS", "data": "x"}', "isn't a JSON object"),
        ('{"status": "SUCCESS", "data": {"a": "\\ud800"}}', "lone surrogate"),
        ('{"status": "SUCCESS", "message": "\\ud800"}', "isn't valid text"),
        ('{"status": "SUCCESS", "data": ' + '{"a":' * 33 + "1" + "}" * 34, "deeper than 32"),
        ('{"status": "SUCCESS", "data": {"a": ' + "[" * 100000 + "]" * 100000 + "}}", "deeper"),
        (line(data={"a": "x" * MAX_DATA_BYTES}), "at most 65536"),
    ],
)
def test_what_is_refused_in_a_verdict_is_an_error_that_says_so(text: str, told: str) -> None:
    said = found(line("PENDING") + "\n" + text if "100000" in told else text)
    assert (said.verdict, said.fault) == (Verdict.ERROR, Fault.MALFORMED)
    assert told in said.message


def test_an_earlier_verdict_does_not_hide_a_refused_one() -> None:
    said = found(line("PENDING") + '\n{"status": "SUCCESS", "data": {"a": NaN}}')
    assert said.verdict is Verdict.ERROR


def test_thirty_two_levels_and_64_kib_are_accepted() -> None:
    deep = '{"status": "SUCCESS", "data": ' + '{"a":' * 30 + "1" + "}" * 31
    assert found(deep).verdict is Verdict.SUCCESS
    whole = MAX_DATA_BYTES - len('{"a":""}')
    assert found(line(data={"a": "x" * whole})).verdict is Verdict.SUCCESS
    assert found(line(data={"a": "x" * (whole + 1)})).verdict is Verdict.ERROR


def test_data_and_message_may_be_left_out() -> None:
    said = found(line("PENDING"))
    assert (said.data, said.message) == ({}, "The script said PENDING.")
    assert found(line("ERROR")).message == "The script said ERROR and gave no message."
    assert found(line(message={"a": 1})).message == '{"a": 1}'


def test_without_a_verdict_the_first_thousand_characters_are_kept() -> None:
    said = found("x" * 5000)
    assert said.data == {"raw_output": "x" * 1000}
    assert "No line of standard output" in said.message


def test_without_any_output_the_message_shows_a_line_to_print() -> None:
    assert '{"status": "PENDING"' in found(" \n").message


def test_a_bad_exit_code_is_an_error_whatever_was_printed() -> None:
    said = found(line("SUCCESS", message="nearly", data={"n": 1}), exit_code=3)
    assert (said.verdict, said.message, said.data) == (Verdict.ERROR, "nearly", {"n": 1})
    stderr = Stream(head="Traceback ...\nValueError: no batch\n")
    assert found("", exit_code=1, stderr=stderr).message == (
        "The script ended with exit code 1: Traceback ...\nValueError: no batch"
    )
    assert "exit code 139 (SIGSEGV)" in found("", exit_code=139).message


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"timed_out": True, "exit_code": None}, "longer than 7 s"),
        ({"oom_killed": True, "exit_code": 137}, "more than 256 MB"),
        ({"output_limit_hit": True, "exit_code": None}, "more than 16 MiB"),
        ({"error": "The script could not be started: x."}, "could not be started"),
    ],
)
def test_a_run_that_was_stopped_is_an_error_even_with_a_verdict(
    more: dict[str, object], told: str
) -> None:
    said = found(line("SUCCESS", data={"a": 1}), **more)
    assert (said.verdict, said.fault, said.data) == (Verdict.ERROR, Fault.TRANSIENT, None)
    assert told in said.message


def test_a_child_that_ran_out_of_memory_does_not_spoil_a_good_end() -> None:
    assert found(line("SUCCESS"), oom_killed=True).verdict is Verdict.SUCCESS


def test_a_verdict_is_read_before_values_are_masked() -> None:
    mask = Mask(["SUCCESS", "hunter2-and-more"])
    said = found(line("SUCCESS", message="is hunter2-and-more", data={"k": "SUCCESS"}), mask)
    assert (said.verdict, said.message, said.data) == (Verdict.SUCCESS, "is ***", {"k": "***"})


def test_what_is_cut_is_masked_first() -> None:
    secret = "hunter2-and-more"
    mask = Mask([secret])
    said = found("x" * 995 + secret, mask)
    assert said.data is not None
    assert "hunt" not in said.data["raw_output"]
    stderr = Stream(head="x" * 600 + secret + "y" * 495)
    assert "more" not in found("", mask, exit_code=1, stderr=stderr).message


def test_half_a_secret_at_a_cut_is_not_shown() -> None:
    secret = "hunter2-and-more"
    head, tail = "a" * 20000 + secret[:9], secret[9:] + "b" * 20000
    shown = Stream(head=head, tail=tail, cut_bytes=10).shown(Mask([secret]))
    assert "hunter2" not in shown
    assert "more" not in shown.replace("or more", "")
    assert len(shown) > 2 * (20000 - EDGE_CHARS)


def test_the_two_lines_that_a_cut_went_through_are_no_verdicts() -> None:
    whole = line("FAILED")
    cut = Stream(head=f"{whole}\n" + '{"status": ', tail='"SUCCESS"}\nbye', cut_bytes=1)
    assert found(cut).verdict is Verdict.FAILED
    late = Stream(head="x\n", tail=f'"SUCCESS"}}\n{whole}\n', cut_bytes=1)
    assert found(late).verdict is Verdict.FAILED


def test_warnings_travel_with_any_verdict() -> None:
    assert found(line(), warnings=("still there",)).warnings == ("still there",)


@given(st.text(max_size=300))
def test_any_text_gives_a_finding(text: str) -> None:
    assert found(text).verdict is Verdict.ERROR


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["status", "data", "message", "x"]), json_values))
def test_any_object_gives_a_finding_that_can_be_stored(document: dict[str, object]) -> None:
    said = found(json.dumps(document))
    json.dumps(said.data, allow_nan=False, ensure_ascii=False).encode()
    said.message.encode()


@given(st.dictionaries(st.text(max_size=9), st.integers(-(2**63), 2**63 - 1) | st.text(max_size=9)))
def test_data_comes_back_as_it_was_printed(data: dict[str, object]) -> None:
    said = found(line("PENDING", data=data) + "\n")
    assert said.data == data or "lone surrogate" in said.message


def test_a_megabyte_of_lines_that_are_nearly_verdicts_is_read_quickly() -> None:
    text = '{"status":1}\n' * 80_000
    assert found(text).verdict is Verdict.ERROR
    names = ",".join(f'"a{n}":1' for n in range(60_000))
    assert found('{"status":"SUCCESS",' + names + ',"a1":2}').verdict is Verdict.ERROR

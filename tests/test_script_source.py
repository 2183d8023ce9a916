"""The source `script` without an engine: whose fault it is that a check couldn't run."""

from __future__ import annotations

import pytest

from teckochecker import lifecycle
from teckochecker.domain import Kind, TriggerOn, Verdict
from teckochecker.errors import FolderError, InvalidInput, OutsideError
from teckochecker.masking import Mask
from teckochecker.sandbox import DockerError, RunCutOff
from teckochecker.sources.script import execution_of, not_run
from teckochecker.verdicts import RunResult, Stream
from tests.parts import NOW, finding, job


def given_up_after(error: OutsideError | InvalidInput | FolderError) -> bool:
    """Whether a check that may fail once is given up, and its actions are told."""
    strict = job(kind=Kind.CUSTOM_CHECK, max_errors=1, trigger_on=TriggerOn.TERMINAL)
    change = lifecycle.checked(
        strict,
        not_run(error),
        revision=1,
        event_id="evt_1",
        duration_ms=1,
        opened=(),
        held_until=None,
        now=NOW,
        jitter=0.0,
    )
    assert change.entries[0].status == "error"
    return change.event is not None


@pytest.mark.parametrize(
    "error",
    [
        FolderError("a script can't be stored (No space left on device): check the disk"),
        DockerError("The Docker engine couldn't answer: start it."),
    ],
)
def test_what_this_machine_lacks_isnt_held_against_a_script(error: FolderError) -> None:
    assert not given_up_after(error)


def test_what_cant_be_run_as_it_is_counts_as_an_error_of_the_script() -> None:
    assert given_up_after(InvalidInput("the variables of a script are too long: shorten them"))


def ran(printed: str) -> RunResult:
    return RunResult(exit_code=0, stdout=Stream(head=printed), stderr=Stream(), duration_ms=1)


def test_the_log_keeps_small_data_and_says_how_much_it_left_out_of_large() -> None:
    for size, kept in ((100, {"text": "x" * 100}), (9000, {"left_out_bytes": 9011})):
        found = finding(verdict=Verdict.PENDING, data={"text": "x" * size})

        noted = execution_of(ran("{}"), found, Mask(()))

        assert noted.output == {"status": "PENDING", "message": "Found.", "data": kept}


def test_a_run_that_the_engine_cut_off_has_begun_and_isnt_begun_again() -> None:
    assert not_run(RunCutOff("The connection broke.")).execution is not None
    assert not_run(DockerError("No container could be made.")).execution is None

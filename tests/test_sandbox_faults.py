"""What the sandbox says of a machine or an engine that fails it; no engine is needed here."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from teckochecker.errors import FolderError
from teckochecker.sandbox.engine import DockerError, Engine
from teckochecker.sandbox.prepared import Needs, Prepared
from teckochecker.sandbox.runs import Runs, _report
from teckochecker.sandbox.turns import Turns
from tests.parts import NOW

REPORT = {
    "exit_code": 0, "script_ms": 5, "peak_memory_bytes": 4096, "oom_kills": 0, "error": None,
}  # fmt: skip


class FakeEngine:
    """An engine with the runner images and no other; of its 31 containers one sticks."""

    def __init__(self) -> None:
        self.left = [f"c{number}" for number in range(30)]
        self.removed: list[str] = []

    @contextmanager
    def client(self) -> Iterator[Any]:
        yield self

    @contextmanager
    def told(self, doing: str, *, unless: Collection[int] = ()) -> Iterator[None]:
        try:
            yield
        except LookupError:
            assert 404 in unless

    def inspect_image(self, name: str) -> dict[str, str]:
        if "runner" in name:
            return {"Id": "sha256:1"}
        raise LookupError(name)

    def containers(self, **_: object) -> list[dict[str, Any]]:
        return [{"Id": name, "Labels": {}} for name in ("stuck", *self.left)]

    def remove_container(self, name: str, **_: object) -> None:
        if name == "stuck":
            raise DockerError("It is stuck.")
        time.sleep(0.01)
        self.removed.append(name)


def test_a_folder_that_cant_be_written_is_no_fault_of_ours_or_the_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = FakeEngine()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    needs = Needs(
        runtime="python",
        script=tmp_path / "x.tar",
        dependencies=(("requirements.txt", "0" * 64),),
    )
    prepared = Prepared(engine, engine, "instance", lambda: NOW)

    with pytest.raises(FolderError, match=r"can't be kept in .*missing.*check the disk"):
        prepared.prepare(needs, lambda printed, clean: None, lambda: None)


def test_a_container_counts_from_its_making_to_its_removal() -> None:
    engine: Any = FakeEngine()
    runs = Runs(engine, "instance", lambda: NOW, guest=False)
    seen: list[int] = []
    engine.create_container_from_config = lambda *_: seen.append(runs.containers)

    with runs._container(engine, "first", {}), runs._container(engine, "second", {}):
        seen.append(runs.containers)

    assert [*seen, runs.containers] == [1, 2, 2, 0]
    assert len(engine.removed) == 2


def test_an_orphan_that_cant_be_removed_keeps_no_other_from_it() -> None:
    engine: Any = FakeEngine()
    runs = Runs(engine, "instance", lambda: NOW, guest=False)

    with pytest.raises(DockerError, match="stuck"):
        runs.remove_orphans()

    assert sorted(engine.removed) == sorted(engine.left)


def test_an_engine_that_takes_no_more_calls_keeps_no_thread(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    caught: list[BaseException] = []

    def call() -> None:
        try:
            with Engine({"DOCKER_HOST": f"unix://{path}"}).client():
                raise AssertionError("nobody answers here")
        except DockerError as error:
            caught.append(error)

    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(str(path))
        listener.listen(0)
        waiting.connect(str(path))
        calling = threading.Thread(target=call, daemon=True)
        calling.start()
        calling.join(10)

    assert [type(error) for error in caught] == [DockerError]


def test_who_waits_for_a_turn_gets_it_in_order() -> None:
    turns, order, go = Turns(), [], threading.Event()

    def take(number: int) -> None:
        with turns.turn(1, lambda: None):
            order.append(number)
            if number == 0:
                go.wait()

    threads = [threading.Thread(target=take, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)  # longer in all than the waiting ones wait at a time
    go.set()
    for thread in threads:
        thread.join()

    assert order == list(range(12))


def test_who_no_longer_waits_for_a_turn_keeps_nobody_from_it() -> None:
    turns = Turns()

    def cancelled() -> None:
        raise KeyboardInterrupt

    with turns.turn(1, lambda: None), pytest.raises(KeyboardInterrupt), turns.turn(1, cancelled):
        raise AssertionError("there was no place")
    with turns.turn(1, lambda: None):
        pass


def test_a_report_is_believed_as_far_as_it_can_be_kept() -> None:
    assert _report(json.dumps(REPORT).encode()) is not None
    for name in ("exit_code", "script_ms", "peak_memory_bytes"):
        for number in (2**63, -(2**63), 10**30):
            assert _report(json.dumps(REPORT | {name: number}).encode()) is None

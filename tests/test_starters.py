"""Starters run as they are written, and local scripts are packed as the daemon takes them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from teckochecker.cli.packing import pack
from teckochecker.cli.starters import FILES, Runtime, write
from teckochecker.domain import Verdict
from teckochecker.errors import FolderError, InvalidInput
from teckochecker.sandbox import Needs, Sandbox
from teckochecker.scripts import archive, shelf
from tests.sandboxed import (
    ENVIRONMENT,
    TESTS,
    found,
    leftovers,
    nobody_cancels,
    now,
    ready,
    request,
)

MAIN: Mapping[Runtime, str] = {"python": "main.py", "node": "index.js"}
both = pytest.mark.parametrize("runtime", ["python", "node"])


class TestStarters:
    @pytest.mark.slow
    @both
    def test_it_is_pending_twice_and_then_a_success(self, runtime: Runtime, tmp_path: Path) -> None:
        write(runtime, tmp_path / "new")
        said: list[dict[str, Any]] = []
        for _ in range(3):
            previous = json.dumps(said[-1]["data"] if said else None)
            said.append(_run(runtime, tmp_path / "new", TASK_ID="nightly", PREVIOUS_DATA=previous))
        assert [one["status"] for one in said] == ["PENDING", "PENDING", "SUCCESS"]
        assert said[0]["message"] == "Task nightly is running"

    @pytest.mark.slow
    @both
    def test_its_own_tests_pass(self, runtime: Runtime, tmp_path: Path) -> None:
        write(runtime, tmp_path)
        test = {"python": [sys.executable, "-m", "unittest"], "node": [_node(), "--test"]}
        done = subprocess.run(test[runtime], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, done

    def test_nothing_of_a_starter_is_forgotten(self) -> None:
        from importlib.resources import files

        for runtime, names in FILES.items():
            there = (files("teckochecker.cli.starters") / runtime).iterdir()
            assert {one.name for one in there if one.is_file()} == set(names)

    @both
    def test_its_readme_names_its_files_and_its_runtime(
        self, runtime: Runtime, tmp_path: Path
    ) -> None:
        write(runtime, tmp_path)
        text = (tmp_path / "README.md").read_text()
        assert f"--runtime {runtime} --script ." in text
        assert "teckochecker custom-check run ." in text
        assert f"`{MAIN[runtime]}`" in text

    def test_a_folder_with_other_files_is_fine(self, tmp_path: Path) -> None:
        (tmp_path / ".git").mkdir()
        (tmp_path / "LICENSE").write_text("mine")
        assert [path.name for path in write("python", tmp_path)] == list(FILES["python"])
        assert (tmp_path / "LICENSE").read_text() == "mine"

    @pytest.mark.parametrize("taken", FILES["python"])
    def test_it_overwrites_nothing_and_then_writes_nothing(
        self, taken: str, tmp_path: Path
    ) -> None:
        (tmp_path / taken).write_text("mine")
        with pytest.raises(InvalidInput, match=rf"{re.escape(taken)} is there already"):
            write("python", tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [taken]
        assert (tmp_path / taken).read_text() == "mine"

    def test_a_link_that_leads_nowhere_is_not_written_through(self, tmp_path: Path) -> None:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "README.md").symlink_to(tmp_path / "outside")
        with pytest.raises(InvalidInput, match="is there already"):
            write("python", tmp_path / "new")
        assert not (tmp_path / "outside").exists()

    def test_a_file_in_place_of_the_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "taken").write_text("mine")
        for folder in (tmp_path / "taken", tmp_path / "taken" / "below"):
            with pytest.raises(InvalidInput, match="taken is there already"):
                write("python", folder)

    def test_a_failure_takes_back_what_was_made(self, tmp_path: Path) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))  # main.py doesn't fit
        try:
            with pytest.raises(FolderError, match="can't be written"):
                write("python", tmp_path / "a" / "b")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(tmp_path.iterdir()) == []


@pytest.mark.docker
@pytest.mark.slow
class TestInTheSandbox:
    @pytest.fixture(autouse=True)
    def _nothing_is_left(self) -> Iterator[None]:
        ready()
        yield
        Sandbox(ENVIRONMENT, TESTS, lambda: now() + timedelta(hours=2)).prune(())
        assert leftovers() == []

    @both
    def test_a_starter_that_was_packed_and_sent_runs(
        self, runtime: Runtime, tmp_path: Path
    ) -> None:
        write(runtime, tmp_path / "check")
        script, path = _sent(pack(tmp_path / "check"), tmp_path, MAIN[runtime])
        needs = Needs(runtime=runtime, script=path, dependencies=script.dependencies)
        image = ready().prepare(needs, _clean, nobody_cancels)
        variables = {"TASK_ID": "nightly", "PREVIOUS_DATA": '{"looks": 2}'}
        said, _ = found(
            request("", runtime=runtime, image=image, script=path, environment=variables)
        )
        assert (said.verdict, said.message) == (Verdict.SUCCESS, "Task nightly is done")


class TestPacking:
    def test_a_folder_becomes_an_archive_that_is_accepted(self, tmp_path: Path) -> None:
        folder = _folder(tmp_path, {"main.py": "1", "lib/žluť.py": "2", "lib/deep/x.txt": ""})
        (folder / "lib" / "žluť.py").chmod(0o755)
        data = pack(folder)
        script, path = _sent(data, tmp_path)
        assert script.files == 3
        with tarfile.open(path) as tar:
            assert tar.getnames() == ["lib", "lib/deep", "lib/deep/x.txt", "lib/žluť.py", "main.py"]
            assert tar.getmember("lib/žluť.py").mode == 0o555
            assert tar.getmember("main.py").mode == 0o444

    def test_the_same_files_give_the_same_bytes(self, tmp_path: Path) -> None:
        texts = {"main.py": "1", "b/x.py": "2", "a.py": "3"}
        first = _folder(tmp_path / "first", texts)
        second = _folder(tmp_path / "second", dict(reversed(texts.items())))
        for path in second.rglob("*"):
            os.utime(path, (1, 1))
        (second / "main.py").chmod(0o600)
        assert pack(first) == pack(second)

    def test_what_a_working_folder_gathers_is_left_out(self, tmp_path: Path) -> None:
        litter = (
            ".git/config",
            ".venv/bin/python",
            "lib/__pycache__/x.pyc",
            "lib/y.pyc",
            "node_modules/.bin/tool",
            ".DS_Store",
            "._main.py",
            "lib/.DS_Store",
            ".pytest_cache/v",
        )
        folder = _folder(tmp_path, dict.fromkeys(litter, "x") | {"main.py": "1", "lib/y.py": "2"})
        (folder / "node_modules" / ".bin" / "link").symlink_to("tool")
        assert _names(pack(folder)) == ["lib", "lib/y.py", "main.py"]

    def test_a_hidden_file_that_belongs_to_the_script_stays(self, tmp_path: Path) -> None:
        folder = _folder(tmp_path, {"index.js": "1", ".npmrc": "2", "vendor/a.tgz": "3"})
        assert _names(pack(folder)) == [".npmrc", "index.js", "vendor", "vendor/a.tgz"]

    @pytest.mark.parametrize("target", ["main.py", "/etc/passwd", "nowhere", "."])
    def test_a_link_is_refused_by_its_name_and_target(self, target: str, tmp_path: Path) -> None:
        folder = _folder(tmp_path, {"main.py": "1", "lib/x.py": "2"})
        (folder / "lib" / "link").symlink_to(target)
        with pytest.raises(InvalidInput, match=rf"lib/link is a link to {re.escape(target)}"):
            pack(folder)

    def test_the_folder_itself_may_be_reached_by_a_link(self, tmp_path: Path) -> None:
        folder = _folder(tmp_path, {"main.py": "1"})
        (tmp_path / "link").symlink_to(folder)
        assert pack(tmp_path / "link") == pack(folder)

    def test_what_is_neither_file_nor_folder_is_refused(self, tmp_path: Path) -> None:
        folder = _folder(tmp_path, {"main.py": "1"})
        os.mkfifo(folder / "pipe")
        with pytest.raises(InvalidInput, match="pipe is neither a file nor a folder"):
            pack(folder)

    @pytest.mark.parametrize("name", ["back\\slash", "line\nfeed", "C:x"])
    def test_a_name_that_the_daemon_refuses_is_refused_here(
        self, name: str, tmp_path: Path
    ) -> None:
        with pytest.raises(InvalidInput, match=r"the path .* (has|starts)"):
            pack(_folder(tmp_path, {"main.py": "1", name: "2"}))

    def test_names_that_some_systems_mix_up_are_refused(self, tmp_path: Path) -> None:
        folder = _folder(tmp_path, {"main.py": "1", "a.py": "2"})
        (folder / "A.py").write_text("3")
        if len(list(folder.iterdir())) < 3:
            pytest.skip("this file system mixes them up itself")
        with pytest.raises(InvalidInput, match="same name on some systems"):
            pack(folder)

    def test_a_folder_without_content_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="no content"):
            pack(_folder(tmp_path, {".git/config": "x"}))

    @pytest.mark.parametrize("name", ["check.tgz", "check.tar.gz"])
    def test_an_archive_is_passed_as_it_is(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / name
        path.write_bytes(b"whatever it is, the daemon looks")
        assert pack(path) == path.read_bytes()

    def test_an_archive_over_10_mb_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "check.tgz"
        path.write_bytes(bytes(10 * 1024 * 1024))
        assert len(pack(path)) == 10 * 1024 * 1024
        path.write_bytes(bytes(10 * 1024 * 1024 + 1))
        with pytest.raises(InvalidInput, match="larger than 10 MB when packed"):
            pack(path)

    def test_a_folder_over_10_mb_when_packed_is_refused(self, tmp_path: Path) -> None:
        folder = _folder(tmp_path, {"main.py": "1"})
        (folder / "noise").write_bytes(os.urandom(11 * 1024 * 1024))
        with pytest.raises(InvalidInput, match="larger than 10 MB when packed"):
            pack(folder)

    def test_a_folder_over_64_mb_is_refused_before_all_is_read(self, tmp_path: Path) -> None:
        folder = _folder(tmp_path, {"main.py": "1"})
        with (folder / "sparse").open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(InvalidInput, match="more than 64 MB"):
            pack(folder)

    @pytest.mark.parametrize(
        ("name", "entrypoint", "packed"),
        [
            ("check.py", None, "check.py"),
            ("check.py", "main.py", "main.py"),
            ("check.js", "index.js", "index.js"),
            ("check.mjs", "src/index.mjs", "src/index.mjs"),
        ],
    )
    def test_a_single_file_becomes_its_entry_point(
        self, name: str, entrypoint: str | None, packed: str, tmp_path: Path
    ) -> None:
        path = tmp_path / name
        path.write_text("print()")
        data = pack(path, entrypoint=entrypoint)
        assert _names(data)[-1] == packed
        script, _ = _sent(data, tmp_path, packed)
        assert script.files == 1

    def test_a_file_that_is_no_script_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "check.zip").write_text("PK")
        with pytest.raises(InvalidInput, match="neither a folder nor a script"):
            pack(tmp_path / "check.zip")

    @pytest.mark.parametrize("name", ["nowhere", "nowhere.py", "nowhere.tgz"])
    def test_what_is_not_there_is_an_error_that_names_it(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(FolderError, match=rf"{name} can't be read \(No such file"):
            pack(tmp_path / name)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_a_file_that_can_not_be_read_is_named(self, tmp_path: Path) -> None:
        folder = _folder(tmp_path, {"main.py": "1"})
        (folder / "main.py").chmod(0)
        with pytest.raises(FolderError, match=r"main\.py can't be read"):
            pack(folder)


def _node() -> str:
    return shutil.which("node") or pytest.skip("Node isn't on this machine")


def _run(runtime: Runtime, folder: Path, **variables: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable if runtime == "python" else _node(), folder / MAIN[runtime]],
        env={"PATH": os.environ["PATH"], **variables},
        stdout=subprocess.PIPE,
        check=True,
    )
    return dict(json.loads(done.stdout))


def _folder(place: Path, texts: Mapping[str, str]) -> Path:
    folder = place / "check"
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def _names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as tar:
        return tar.getnames()


def _sent(data: bytes, folder: Path, entrypoint: str = "main.py") -> tuple[shelf.Script, Path]:
    """What the daemon makes of an upload."""
    packed = folder / f"{hashlib.sha256(data).hexdigest()}.tgz"
    packed.write_bytes(data)
    script = archive.accept(packed, folder / "shelf", entrypoint=entrypoint)
    return script, shelf.path(folder / "shelf", script.sha256)


def _clean(printed: Path, clean: Path) -> None:
    with printed.open("rb") as source, clean.open("wb") as target:
        archive.inspect_installed(source, target)

"""The sandbox on a real engine: what scripts do, what goes wrong, what is left behind."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from teckochecker.domain import Verdict
from teckochecker.errors import InvalidInput
from teckochecker.sandbox import DockerError, ImageMissing, InstallFailed, Needs, Sandbox
from teckochecker.sandbox.engine import RunCutOff
from teckochecker.sandbox.images import RUNNERS
from teckochecker.sandbox.settings import INSTANCE, RUN, Runtime
from teckochecker.scripts.archive import inspect_installed
from tests.engine_proxy import EngineProxy
from tests.sandboxed import (
    ENVIRONMENT,
    TESTS,
    WHEEL,
    ca_bundle,
    engine,
    found,
    leftovers,
    nobody_cancels,
    node_dependency,
    now,
    packed,
    ready,
    request,
    wheel,
)

pytestmark = [pytest.mark.docker, pytest.mark.slow]

MAIN: Mapping[Runtime, str] = {"python": "main.py", "node": "index.js"}
HERE: Mapping[Runtime, str] = {"python": "os.getcwd()", "node": "process.cwd()"}
SLEEPING: Mapping[Runtime, str] = {
    "python": "import time; time.sleep(60)",
    "node": "setTimeout(() => {}, 60_000)",
}
OPENED = 'print(\'{"status": "SUCCESS"}\', flush=True)\n'
both = pytest.mark.parametrize("runtime", ["python", "node"])


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    ready()
    yield
    assert leftovers() == []


@pytest.fixture(scope="module", autouse=True)
def _prepared_images_are_removed() -> Iterator[None]:
    ready()
    yield
    Sandbox(ENVIRONMENT, TESTS, lambda: now() + timedelta(hours=2)).prune(())


class TestScripts:
    @both
    def test_a_script_gets_its_variables_and_says_its_verdict(self, runtime: Runtime) -> None:
        texts = {"PLAIN": "a b", "ODD": 'ž"\\\n\t🙂', "EMPTY": "", "CHECK_PARAMS": '{"a": [1]}'}
        asked = {
            "python": f"{{name: os.environ[name] for name in {list(texts)}}}",
            "node": f"Object.fromEntries({list(texts)}.map((n) => [n, process.env[n]]))",
        }
        finding, result = found(
            request(_saying(runtime, asked[runtime]), runtime=runtime, environment=texts)
        )
        assert (finding.verdict, finding.data) == (Verdict.SUCCESS, texts)
        assert result.exit_code == 0
        assert result.error is None
        assert result.script_ms is not None
        assert 0 < result.script_ms < result.duration_ms
        assert 0 < result.startup_ms < result.duration_ms
        assert result.peak_memory_bytes is not None
        assert 1_000_000 < result.peak_memory_bytes < 200_000_000
        assert result.stderr.head == ""

    @both
    def test_its_files_are_there_with_long_names_and_folders(self, runtime: Runtime) -> None:
        long_name = "a" * 90 + "/" + "b" * 200 + "/žluť.txt"
        asked = {
            "python": f"open({long_name!r}).read()",
            "node": f"require('fs').readFileSync({long_name!r}, 'utf8')",
        }
        text = _saying(runtime, f"{{'text': {asked[runtime]}, 'here': {HERE[runtime]}}}")
        files = {MAIN[runtime]: text, long_name: "content", "empty.txt": ""}
        finding, _ = found(request(files, runtime=runtime))
        assert finding.data == {"text": "content", "here": "/work/script"}

    @both
    def test_a_large_script_arrives(self, runtime: Runtime) -> None:
        asked = {
            "python": "{'size': os.path.getsize('large')}",
            "node": "{size: require('fs').statSync('large').size}",
        }
        files = {MAIN[runtime]: _saying(runtime, asked[runtime]), "large": os.urandom(40 << 20)}
        finding, _ = found(request(files, runtime=runtime))
        assert finding.data == {"size": 40 << 20}

    def test_a_script_may_be_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "script.tar"
        path.write_bytes(packed({"main.py": _saying("python", "{}")}))
        assert found(request("", script=path))[0].verdict is Verdict.SUCCESS

    @both
    def test_it_reads_nothing_from_standard_input(self, runtime: Runtime) -> None:
        asked = {
            "python": "{'got': __import__('sys').stdin.read()}",
            "node": "{got: require('fs').readFileSync(0, 'utf8')}",
        }
        assert found(request(_saying(runtime, asked[runtime]), runtime=runtime))[0].data == {
            "got": ""
        }

    @both
    def test_its_exit_code_and_last_words_are_told(self, runtime: Runtime) -> None:
        text = {
            "python": "import sys; print('no batch', file=sys.stderr); sys.exit(7)",
            "node": "console.error('no batch'); process.exit(7)",
        }
        finding, result = found(request(text[runtime], runtime=runtime))
        assert finding.verdict is Verdict.ERROR
        assert finding.message == "The script ended with exit code 7: no batch"
        assert result.exit_code == 7

    @both
    def test_a_signal_that_ended_it_is_told(self, runtime: Runtime) -> None:
        text = {
            "python": "import os; os.kill(os.getpid(), 11)",
            "node": "process.kill(process.pid, 'SIGSEGV'); setTimeout(() => {}, 9999)",
        }
        finding, result = found(request(text[runtime], runtime=runtime))
        assert "exit code 139 (SIGSEGV)" in finding.message
        assert result.exit_code == 139

    def test_nothing_stays_for_the_next_run(self) -> None:
        text = (
            "import os, glob, json; there = glob.glob('/work/*') + glob.glob('/tmp/*')\n"
            "open('/work/kept', 'w').close(); open('/tmp/kept', 'w').close()\n"
            "print(json.dumps({'status': 'SUCCESS', 'data': {'there': there}}))"
        )
        for _ in range(2):
            assert found(request(text))[0].data == {"there": ["/work/script"]}

    def test_an_image_that_is_not_there_is_an_error_of_its_own(self) -> None:
        with pytest.raises(ImageMissing, match="runners build"):
            found(request("", image="teckochecker/nowhere:1"))


class TestMisbehaviour:
    @both
    def test_one_that_runs_too_long_is_stopped_though_it_ignores_signals(
        self, runtime: Runtime
    ) -> None:
        text = {
            "python": "import signal, time\nfor s in (15, 2, 1): signal.signal(s, signal.SIG_IGN)\n"
            'print(\'{"status": "SUCCESS"}\')\ntime.sleep(60)',
            "node": "for (const s of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(s, () => {});"
            'console.log(\'{"status": "SUCCESS"}\'); setTimeout(() => {}, 60000)',
        }
        finding, result = found(request(text[runtime], runtime=runtime, timeout_s=3))
        assert finding.verdict is Verdict.ERROR
        assert "longer than 3 s" in finding.message
        assert result.timed_out
        assert result.duration_ms < 10_000
        assert "SUCCESS" in result.stdout.head

    @pytest.mark.parametrize("stream", ["stdout", "stderr"])
    @both
    def test_a_flood_is_stopped(self, runtime: Runtime, stream: str) -> None:
        text = {
            "python": f"import sys\nwhile True: sys.{stream}.write('x' * 65536)",
            "node": "const b = Buffer.alloc(65536, 'x'); const { writeSync } = require('fs');"
            f"for (;;) try {{ writeSync({1 if stream == 'stdout' else 2}, b) }} catch {{}}",
        }
        finding, result = found(request(text[runtime], runtime=runtime))
        assert finding.verdict is Verdict.ERROR
        assert "more than 16 MiB" in finding.message
        assert result.output_limit_hit
        kept = result.stdout if stream == "stdout" else result.stderr
        assert kept.cut_bytes > 10 << 20
        assert len(kept.head + kept.tail) < 1_100_000

    def test_a_verdict_after_much_output_is_read(self) -> None:
        text = "print('x' * 9_000_000)\nprint('{\"status\": \"FAILED\"}')"
        assert found(request(text))[0].verdict is Verdict.FAILED

    @both
    def test_one_that_takes_too_much_memory_is_stopped(self, runtime: Runtime) -> None:
        text = {
            "python": "x = [bytearray(b'x' * (10 << 20)) for _ in range(60)]",
            "node": "const x = []; for (let i = 0; i < 60; i++) x.push(Buffer.alloc(10 << 20, 1))",
        }
        finding, result = found(request(text[runtime], runtime=runtime, memory_mb=128))
        assert "more than 128 MB" in finding.message
        assert result.oom_killed
        assert result.peak_memory_bytes is not None
        assert result.peak_memory_bytes > 120 << 20

    def test_children_that_keep_the_streams_open_do_not_keep_the_run(self) -> None:
        text = (
            "import os, time\n"
            "if not os.fork():\n"
            "    os.setsid()\n"
            "    if not os.fork():\n"
            "        while True: time.sleep(1); print('still here', flush=True)\n"
            "    os._exit(0)\n"
            'print(\'{"status": "PENDING"}\')'
        )
        finding, result = found(request(text))
        assert finding.verdict is Verdict.PENDING
        assert result.duration_ms < 10_000

    def test_one_that_closes_its_streams_has_said_nothing(self) -> None:
        text = "import os, time; os.close(1); os.close(2); time.sleep(0.3)"
        finding, result = found(request(text))
        assert "printed nothing" in finding.message
        assert result.exit_code == 0

    def test_bytes_that_are_no_text_are_no_verdict(self) -> None:
        text = "import os, sys; sys.stdout.buffer.write(os.urandom(100_000))"
        finding, _ = found(request(text))
        assert "No line of standard output" in finding.message
        assert finding.data is not None
        assert len(finding.data["raw_output"]) == 1000

    def test_json_too_deep_to_be_read_is_an_error_that_says_so(self) -> None:
        text = (
            'print(\'{"status": "SUCCESS", "data": {"a": \''
            " + '[' * 200000 + ']' * 200000 + '}}')"
        )
        assert "deeper than 32" in found(request(text))[0].message

    def test_a_bomb_without_end_ends(self) -> None:
        text = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
        finding, result = found(request(text, timeout_s=3))
        assert finding.verdict is Verdict.ERROR
        assert result.duration_ms < 15_000

    def test_one_that_ends_its_watcher_ends_with_it(self) -> None:
        text = OPENED + "import os, time; os.kill(os.getppid(), 9); time.sleep(60)"
        finding, result = found(request(text))
        assert finding.verdict is Verdict.ERROR
        assert "ended the program that watched it" in finding.message
        assert result.exit_code == 137
        assert result.duration_ms < 10_000

    def test_one_that_stops_its_watcher_runs_out_of_time(self) -> None:
        text = 'import os; print(\'{"status": "SUCCESS"}\', flush=True); os.kill(os.getppid(), 19)'
        finding, _ = found(request(text, timeout_s=3))
        assert "longer than 3 s" in finding.message

    def test_a_report_of_its_own_is_not_believed(self) -> None:
        text = (
            'import sys; print(\'{"status": "SUCCESS"}\')\n'
            "print('\\n' + '0' * 32 + ' {\"exit_code\": 0}', file=sys.stderr); sys.exit(3)"
        )
        finding, result = found(request(text))
        assert result.exit_code == 3
        assert finding.verdict is Verdict.ERROR

    @pytest.mark.parametrize("report", ['{"exit_code": []}', "no JSON", '{"exit_code": 0}'])
    def test_a_report_forged_with_the_watchers_own_mark_breaks_nothing(self, report: str) -> None:
        text = (
            "import os, re, sys\n"
            "memory, marks = open(f'/proc/{os.getppid()}/mem', 'rb', 0), set()\n"
            "for line in open(f'/proc/{os.getppid()}/maps'):\n"
            "    start, end = (int(part, 16) for part in line.split()[0].split('-'))\n"
            "    if ' rw' in line:\n"
            "        memory.seek(start)\n"
            "        found = re.findall(rb'[0-9a-f]{32}', memory.read(end - start))\n"
            "        marks |= {mark.decode() for mark in found}\n"
            f"for mark in marks: print(f'\\n{{mark}}', {report!r}, file=sys.stderr, flush=True)\n"
            "print(len(marks), flush=True)\n"
            "os.kill(os.getppid(), 9)"
        )
        finding, result = found(request(text))
        assert finding.verdict is Verdict.ERROR
        assert "ended the program that watched it" in finding.message
        assert result.exit_code == 137
        assert int(result.stdout.head) > 0

    def test_a_pipe_made_impatient_still_carries_the_report(self) -> None:
        text = OPENED + "import os; os.set_blocking(2, False); os.set_blocking(1, False)"
        finding, result = found(request(text))
        assert (finding.verdict, result.error) == (Verdict.SUCCESS, None)

    @pytest.mark.parametrize("kind", ["link", "hard link", "device", "outside", "absolute", "cut"])
    @both
    def test_an_archive_that_is_not_clean_is_not_unpacked(
        self, runtime: Runtime, kind: str
    ) -> None:
        finding, result = found(request("", runtime=runtime, script=_odd_tar(MAIN[runtime], kind)))
        assert finding.verdict is Verdict.ERROR
        assert re.search("could not be started: the (archive|request)", finding.message)
        assert result.exit_code == 125


class TestCancellation:
    def test_a_run_that_nobody_wants_any_more_is_gone_at_once(self) -> None:
        begun = threading.Event()

        def cancel() -> None:
            if begun.is_set():
                raise KeyboardInterrupt

        wanted = request("import time; print('x', flush=True); time.sleep(60)")
        with ThreadPoolExecutor(1) as thread:
            running = thread.submit(ready().run, wanted, cancel)
            _wait(lambda: leftovers() == [wanted.run_id])
            time.sleep(0.5)
            started = time.monotonic()
            begun.set()
            with pytest.raises(KeyboardInterrupt):
                running.result()
        assert time.monotonic() - started < 10
        assert leftovers() == []

    def test_a_run_that_floods_can_be_cancelled(self) -> None:
        calls = iter(range(20))

        def cancel() -> None:
            if next(calls, None) is None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ready().run(request("while True: print('x' * 9999)"), cancel)


class TestEngine:
    def test_twenty_run_side_by_side_without_mixing(self) -> None:
        def one(number: int) -> object:
            text = _saying("python", "{'n': os.environ['N']}")
            return found(request(text, environment={"N": str(number)}, timeout_s=120))[0].data

        with ThreadPoolExecutor(20) as threads:
            assert list(threads.map(one, range(20))) == [{"n": str(n)} for n in range(20)]

    def test_only_so_many_containers_start_at_the_same_time(self) -> None:
        wanted = [request(_saying("python", "{}")) for _ in range(4 * (os.cpu_count() or 1))]
        unwanted = threading.Event()

        def cancel() -> None:
            if unwanted.is_set():
                raise KeyboardInterrupt

        with ThreadPoolExecutor(len(wanted) + 1) as threads, EngineProxy(ENVIRONMENT) as proxy:
            sandbox = Sandbox({**ENVIRONMENT, "DOCKER_HOST": proxy.address}, TESTS, now)
            places = 2 * sandbox.host().cpus
            proxy.holds = b"/start"
            running = [threads.submit(sandbox.run, one, nobody_cancels) for one in wanted]
            _wait(lambda: proxy.held >= places)
            waiting = threads.submit(sandbox.run, request(_saying("python", "{}")), cancel)
            unwanted.set()
            with pytest.raises(KeyboardInterrupt):
                waiting.result(10)
            held, created = proxy.held, len(leftovers())
            proxy.go.set()
            ended = [one.result().exit_code for one in running]

        assert held == created == places < len(wanted)
        assert ended == [0] * len(wanted)

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_a_broken_connection_is_an_error_and_its_container_an_orphan(self) -> None:
        with EngineProxy(ENVIRONMENT) as proxy:
            sandbox = Sandbox({**ENVIRONMENT, "DOCKER_HOST": proxy.address}, TESTS, now)
            wanted = request("import time; time.sleep(60)")
            with ThreadPoolExecutor(1) as thread:
                running = thread.submit(sandbox.run, wanted, nobody_cancels)
                _wait(lambda: leftovers() == [wanted.run_id])
                time.sleep(1)
                proxy.cut()
                with pytest.raises(DockerError):
                    running.result()
        assert leftovers() == [wanted.run_id]
        assert ready().remove_orphans() == 1
        del running  # whose error refers to sockets that couldn't connect: the SDK forgets them
        gc.collect()

    @both
    def test_one_that_is_stopped_from_outside_is_cut_off_and_says_so(
        self, runtime: Runtime
    ) -> None:
        """As `docker stop` does, and an engine that ends: it isn't the script's fault."""
        wanted = request(SLEEPING[runtime], runtime=runtime)
        client = engine()
        try:
            with ThreadPoolExecutor(1) as thread:
                running = thread.submit(ready().run, wanted, nobody_cancels)
                _wait(lambda: wanted.run_id in _running())
                time.sleep(1)  # the script is unpacked and runs
                client.api.stop(f"teckochecker-{wanted.run_id}", timeout=1)
                with pytest.raises(RunCutOff, match="stopped from outside"):
                    running.result(20)
        finally:
            client.close()
        assert leftovers() == []

    def test_what_a_killed_process_leaves_is_removed_and_nothing_else(self) -> None:
        foreign = _foreign_container()
        code = (
            "import threading\n"
            "from tests import sandboxed\n"
            f"sandboxed.TESTS = {TESTS!r}\n"
            "text = 'import time; time.sleep(60)'\n"
            "sandbox = sandboxed.Sandbox(sandboxed.ENVIRONMENT, sandboxed.TESTS, sandboxed.now)\n"
            "for _ in range(4):\n"
            "    wanted = sandboxed.request(text)\n"
            "    threading.Thread(target=sandbox.run, args=(wanted, lambda: None)).start()\n"
        )
        process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
        try:
            _wait(lambda: len(_running()) == 4, seconds=60)
            mine = threading.Thread(target=found, args=(request("import time; time.sleep(4)"),))
            mine.start()
            _wait(lambda: len(_running()) == 5)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert ready().remove_orphans() == 4
            assert len(leftovers()) == 1, "a live run is no orphan"
            mine.join()
            assert foreign.status == "created"
            foreign.reload()
        finally:
            process.kill()
            process.wait()
            foreign.remove(force=True)
            foreign.client.close()

    def test_a_guest_is_spared_until_its_time_is_over(self) -> None:
        guest = Sandbox(ENVIRONMENT, TESTS, now, guest=True)
        wanted = request("import time; time.sleep(3)")
        with ThreadPoolExecutor(1) as thread:
            running = thread.submit(guest.run, wanted, nobody_cancels)
            _wait(lambda: leftovers() == [wanted.run_id])
            assert guest.containers == 1
            assert ready().remove_orphans() == 0
            late = Sandbox(ENVIRONMENT, TESTS, lambda: now() + timedelta(minutes=10))
            assert late.remove_orphans() == 1
            running.exception()  # it ends, with one or without
        assert guest.containers == 0

    def test_secrets_are_nowhere_on_the_engine(self) -> None:
        secret = f"hunter2-{uuid.uuid4().hex}"
        wanted = request("import time; time.sleep(4)", environment={"TOKEN": secret})
        client = engine()
        try:
            with ThreadPoolExecutor(1) as thread:
                running = thread.submit(ready().run, wanted, nobody_cancels)
                _wait(lambda: wanted.run_id in _running())
                time.sleep(1)
                (container,) = client.containers.list(filters={"label": f"{RUN}={wanted.run_id}"})
                container.reload()
                assert secret not in json.dumps(container.attrs)
                assert secret not in json.dumps(container.top())
                root = Path(client.info()["DockerRootDir"])
                assert _files_with(secret.encode(), root, container.id) == []
                running.result()
            assert secret not in json.dumps(client.images.get(RUNNERS["python"]).attrs)
        finally:
            client.close()


class TestImages:
    def test_nothing_is_missing_when_both_are_built(self) -> None:
        assert ready().missing() == []

    @both
    def test_they_hold_no_program_that_runs_as_somebody_else(self, runtime: Runtime) -> None:
        client = engine()
        try:
            command = "find / -xdev -type f -perm /6000; id -u"
            said = client.containers.run(
                RUNNERS[runtime], entrypoint=["sh", "-c", command], remove=True
            )
        finally:
            client.close()
        assert said.decode().split() == ["1000"]

    def test_a_base_that_does_not_fit_is_an_error_with_the_builders_words(self) -> None:
        lines: list[str] = []
        with pytest.raises(DockerError, match=r"couldn't (be built|build)"):
            ready().build("python", "no.such.host.invalid/base:1", progress=lines.append)


class TestDependencies:
    def test_a_python_script_finds_what_its_archive_brought(self, tmp_path: Path) -> None:
        files = {"requirements.txt": f"./wheels/{WHEEL}\n", f"wheels/{WHEEL}": wheel()}
        text = _saying("python", "{'value': __import__('tinydep').VALUE}")
        needs = _needs("python", files | {"main.py": text}, tmp_path)
        image = ready().prepare(needs, _clean, nobody_cancels)
        finding, _ = found(request("", image=image, script=needs.script))
        assert finding.data == {"value": 42}

        again = time.monotonic()
        assert ready().prepare(needs, _fail, nobody_cancels) == image
        assert time.monotonic() - again < 1

    def test_a_node_script_finds_what_its_archive_brought(self, tmp_path: Path) -> None:
        files = node_dependency()
        text = "import tiny from 'tinynode'; " + _saying("node", "{tiny}")
        needs = _needs("node", files | {"index.mjs": text}, tmp_path)
        image = ready().prepare(needs, _clean, nobody_cancels)
        wanted = request("", runtime="node", image=image, script=needs.script)
        finding, _ = found(replace(wanted, entrypoint="index.mjs"))
        assert finding.data == {"tiny": 42}

    def test_ten_that_need_the_same_install_it_once(self, tmp_path: Path) -> None:
        needs = _needs("python", _requiring(comment="once"), tmp_path)
        made: list[Path] = []

        def inspect(printed: Path, clean: Path) -> None:
            made.append(clean)
            _clean(printed, clean)

        with ThreadPoolExecutor(10) as threads:
            images = {
                threads.submit(ready().prepare, needs, inspect, nobody_cancels) for _ in range(10)
            }
            assert len({image.result() for image in images}) == 1
        assert len(made) == 1

    def test_a_script_without_dependencies_runs_in_the_runners_image(self, tmp_path: Path) -> None:
        needs = _needs("python", {"main.py": ""}, tmp_path)
        assert ready().prepare(needs, _fail, nobody_cancels) == RUNNERS["python"]
        node_only = _needs("python", {"package.json": "{}"}, tmp_path)
        assert not node_only.installs

    def test_a_failed_install_tells_the_installers_last_words(self, tmp_path: Path) -> None:
        needs = _needs("python", {"requirements.txt": "./not-there.whl\n"}, tmp_path)
        with pytest.raises(InstallFailed, match=r"(?s)exit code [12].*not-there.whl") as caught:
            ready().prepare(needs, _fail, nobody_cancels)
        assert "not-there.whl" in caught.value.answer

    def test_an_install_that_is_refused_leaves_no_image(self, tmp_path: Path) -> None:
        def refuse(printed: Path, clean: Path) -> None:
            raise InvalidInput("links aren't allowed")

        needs = _needs("python", _requiring(comment="refused"), tmp_path)
        with pytest.raises(InvalidInput, match="links"):
            ready().prepare(needs, refuse, nobody_cancels)
        client = engine()
        try:
            assert client.images.list(ready().image(needs)) == []
        finally:
            client.close()

    def test_an_install_of_too_much_is_stopped(self, tmp_path: Path) -> None:
        files = {"requirements.txt": f"./{WHEEL}\n", WHEEL: wheel(zeros=140 << 20)}
        needs = _needs("python", files, tmp_path)
        with pytest.raises(InstallFailed, match="more than 256 MiB"):
            ready().prepare(needs, _fail, nobody_cancels)

    def test_unused_images_go_and_wanted_ones_stay(self, tmp_path: Path) -> None:
        wanted, unused = (
            _needs(
                "python", {"requirements.txt": f"./{WHEEL}\n# {n}\n", WHEEL: wheel()}, tmp_path / n
            )
            for n in ("wanted", "unused")
        )
        images = [ready().prepare(needs, _clean, nobody_cancels) for needs in (wanted, unused)]
        assert ready().prune(()) == 0, "both are young"
        later = Sandbox(ENVIRONMENT, TESTS, lambda: now() + timedelta(hours=2))
        assert later.prune(images[:1]) >= 1
        assert ready().prepare(wanted, _fail, nobody_cancels) == images[0]
        client = engine()
        try:
            assert client.images.list(images[1]) == []
        finally:
            client.close()

    @both
    def test_a_real_package_comes_through_the_machines_certificates(
        self, runtime: Runtime, tmp_path: Path
    ) -> None:
        if ca_bundle() is None:
            pytest.skip("SSL_CERT_FILE names no bundle: this machine's registries need none")
        package = {"name": "check", "version": "1.0.0", "dependencies": {"is-number": "7.0.0"}}
        files: dict[Runtime, dict[str, str | bytes]] = {
            "python": {
                "requirements.txt": "six==1.16.0\n",
                "main.py": _saying("python", "{'is': __import__('six').__version__}"),
            },
            "node": {
                "package.json": json.dumps(package),
                "index.js": _saying("node", "{is: require('is-number')('7')}"),
            },
        }
        needs = _needs(runtime, files[runtime], tmp_path)
        image = ready().prepare(needs, _clean, nobody_cancels)
        finding, _ = found(request("", runtime=runtime, image=image, script=needs.script))
        assert finding.data == {"is": "1.16.0" if runtime == "python" else True}


def _saying(runtime: Runtime, data: str) -> str:
    """A script that says SUCCESS with data, which is an expression of its language."""
    if runtime == "python":
        return f"import json, os; print(json.dumps({{'status': 'SUCCESS', 'data': {data}}}))"
    return f"console.log(JSON.stringify({{status: 'SUCCESS', data: {data}}}))"


def _odd_tar(main: str, kind: str) -> bytes:
    """An archive as no clean one is."""
    entry = tarfile.TarInfo(main)
    entry.linkname = "/etc/passwd"
    if kind == "link":
        entry.type = tarfile.SYMTYPE
    if kind == "hard link":
        entry.type = tarfile.LNKTYPE
    if kind == "device":
        entry.type = tarfile.CHRTYPE
    if kind == "outside":
        entry.name = "folder/../../" + main
    if kind == "absolute":
        entry.name = "/tmp/" + main
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        tar.addfile(entry)
    data = made.getvalue()
    return data if kind != "cut" else packed({main: "x" * 5000})[:3000]


def _needs(runtime: Runtime, files: Mapping[str, str | bytes], folder: Path) -> Needs:
    folder.mkdir(exist_ok=True)
    script = folder / "script.tar"
    script.write_bytes(packed(files))
    digests = {
        name: hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()
        for name, text in files.items()
        if name not in MAIN.values()
    }
    return Needs(runtime=runtime, script=script, dependencies=tuple(sorted(digests.items())))


def _requiring(*, comment: str) -> dict[str, str | bytes]:
    return {"requirements.txt": f"./{WHEEL}\n# {comment}\n", WHEEL: wheel()}


def _clean(printed: Path, clean: Path) -> None:
    with printed.open("rb") as source, clean.open("wb") as target:
        inspect_installed(source, target)


def _fail(printed: Path, clean: Path) -> None:
    raise AssertionError("nothing is to be installed here")


def _wait(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it didn't come true"
        time.sleep(0.05)


def _running() -> list[str]:
    """The runs of this process whose containers run."""
    client = engine()
    try:
        mine = {"label": f"{INSTANCE}={TESTS}", "status": "running"}
        return [one["Labels"][RUN] for one in client.api.containers(filters=mine)]
    finally:
        client.close()


def _foreign_container() -> Any:
    """A container of another installation."""
    return engine().containers.create(
        RUNNERS["python"], labels={INSTANCE: f"{TESTS}-other", RUN: "theirs"}
    )


def _files_with(secret: bytes, root: Path, container: str) -> list[Path]:
    """The engine's files about a container that hold a secret, where we may read them."""
    folders = [root / "containers" / container, *root.parent.glob(f"exec/**/{container}")]
    folders += Path("/run").glob(f"docker/**/{container}")
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert files or not os.access(root, os.R_OK)
    return [file for file in files if secret in file.read_bytes()]

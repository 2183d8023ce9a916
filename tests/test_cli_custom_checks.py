"""Custom checks by the command line: jobs, single runs, starters and runner images."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from teckochecker.cli.job_tables import show_logs, show_text
from teckochecker.cli.program import program
from teckochecker.simulators.receiver import Receiver
from tests import sandboxed, test_cli
from tests.test_cli import LONG_S, Done, Shell

bare, machine, prepared = test_cli.bare, test_cli.machine, test_cli.prepared
sh, stocked = test_cli.sh, test_cli.stocked

SUCCESS = """import json; print(json.dumps({"status": "SUCCESS", "message": "all done"}))\n"""
RUN = "custom-check-run"


def folder(text: str = SUCCESS, *, name: str = "main.py", **others: str) -> Path:
    """A script's folder."""
    made = Path("check")
    made.mkdir(exist_ok=True)
    for file, content in {name: text, **others}.items():
        (made / file).write_text(content)
    return made


def create(sh: Shell, name: str, *options: str) -> Any:
    return sh.json("custom-check", "create", f"--name={name}", "--runtime=python", *options)


def test_their_help_imports_neither_engine_nor_server() -> None:
    code = (
        "import sys; from teckochecker.cli import run\n"
        "for name in ('custom-check', 'runners'): run([name, '--help'])\n"
        "heavy = ('docker', 'trio', 'msgspec', 'httpx', 'teckochecker.sandbox')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")


def test_their_help_fits_a_terminal(bare: Shell) -> None:
    commands = [("custom-check", name) for name in ("create", "update", "run", "logs")]
    for command in (*commands, ("runners", "build")):
        shown = bare.good(*command, "--help").out
        assert max(len(line) for line in shown.splitlines()) <= 80


# Jobs


def test_what_one_kind_of_job_can_be_told_the_other_can_too(bare: Shell) -> None:
    polling, custom = (set(program()[name].resolved_commands()) for name in ("job", "custom-check"))
    assert polling < custom
    own = {"init", "run", "script-info", "upload-script"}
    assert {name for name in custom - polling if not name.startswith("-")} == own


def test_a_custom_check_is_made_of_its_options(sh: Shell) -> None:
    sh.good(
        "secret", "add", "--name=hook", "--type=generic", stdin=b"whsec_MDEyMzQ1Njc4OTAxMjM0NQ=="
    )
    made = create(
        sh,
        "nightly",
        f"--script={folder(name='look.py')}",
        "--entrypoint=look.py",
        "--param=task=a=b",
        '--param=limits:={"low": 1}',
        "--env=API_KEY=secret_ref:hook",
        "--timeout=60",
        "--memory-mb=128",
        "--cpu-cores=0.2",
        "--network=none",
        "--webhook-url=https://example.com/hook",
        "--webhook-method=PUT",
        "--webhook-header=X-Job=nightly",
        "--webhook-query=job={job_id}",
        "--webhook-signing-secret=hook",
        "--poll-interval=45",
        "--trigger-on=success",
        "--max-consecutive-errors=3",
    )
    assert made["script"]["files"] == 1
    wanted = {
        "script_runtime": "python",
        "script_source_type": "upload",
        "script_entrypoint": "look.py",
        "check_params": {"task": "a=b", "limits": {"low": 1}},
        "env_vars": {"API_KEY": "secret_ref:hook"},
        "timeout_seconds": 60,
        "resource_limits": {"memory_mb": 128, "cpu_cores": 0.2},
        "network": "none",
        "webhook_url": "https://example.com/hook",
        "webhook_method": "PUT",
        "webhook_headers": {"X-Job": "nightly"},
        "webhook_query_params": {"job": "{job_id}"},
        "webhook_signing_secret_name": "hook",
        "poll_interval_seconds": 45,
        "trigger_on": "success",
        "max_consecutive_errors": 3,
    }
    assert {name: made[name] for name in wanted} == wanted


def test_a_script_can_come_from_git(sh: Shell) -> None:
    sh.good("secret", "add", "--name=deploy", "--type=generic", stdin=b"a-deploy-token")
    made = create(
        sh,
        "from-git",
        "--git-url=https://github.com/your-company/checks.git",
        "--git-branch=stable",
        "--git-subfolder=nightly",
        "--git-secret=deploy",
    )
    assert made["script_source_type"] == "git"
    assert made["script_git_secret_name"] == "deploy"
    shown = sh.good("custom-check", "show", "from-git").out
    for text in ("checks.git", "stable", "nightly", "deploy"):
        assert text in shown
    assert "Subfolder" in sh.good("custom-check", "script-info", "from-git").out


def test_keboola_can_be_what_a_custom_check_triggers(stocked: Shell) -> None:
    made = create(stocked, "flow", f"--script={folder()}", *test_cli.JOB[2:], "--variable=a=1")
    assert made["keboola_configuration_id"] == "123456"
    assert made["keboola_variables"] == {"a": "1"}


def test_a_single_file_becomes_the_entry_point(sh: Shell) -> None:
    script = folder(name="any-name.py") / "any-name.py"
    create(sh, "one", f"--script={script}")
    info = sh.json("custom-check", "script-info", "one")
    assert [file["path"] for file in info["metadata"]["files"]] == ["main.py"]
    assert info["metadata"]["text"] == SUCCESS
    sh.good("custom-check", "update", "one", "--entrypoint=other.py", f"--script={script}")
    info = sh.json("custom-check", "script-info", "one")
    assert [file["path"] for file in info["metadata"]["files"]] == ["other.py"]


def test_a_custom_check_waits_for_its_script_and_says_so(sh: Shell) -> None:
    done = sh.good("custom-check", "create", "--name=later", "--runtime=python")
    hint = "teckochecker custom-check upload-script 1 DIR"
    assert hint in done.err
    assert "awaiting_script" in sh.good("custom-check", "list").out
    waited = sh("custom-check", "wait", "later", "--timeout=0")
    assert waited.code == 20
    assert hint in waited.err
    uploaded = sh.good("custom-check", "upload-script", "later", str(folder()))
    assert uploaded.out.startswith("Script uploaded successfully: ")
    assert sh.json("custom-check", "show", "later")["phase"] == "polling"


def test_every_fault_of_a_new_custom_check_is_told_at_once(sh: Shell) -> None:
    options = ("--name=1", "--timeout=1", f"--script={folder()}", "--git-url=https://example.com/x")
    done = sh("custom-check", "create", *options)
    assert done.code == 2
    told = {line.strip().split(":")[0] for line in done.err.splitlines()[1:]}
    assert told == {"--name", "--runtime", "--timeout", "--script"}


def test_nothing_is_made_of_a_script_that_cannot_be_sent(sh: Shell) -> None:
    script = folder()
    (script / "link").symlink_to("main.py")
    for command in (("create", "--name=a", "--runtime=python"), ("create", "--name=a")):
        assert sh("custom-check", *command, f"--script={script}").code == 2
    assert sh("custom-check", "create", "--name=a", "--script=nowhere").code == 74
    assert sh.json("custom-check", "list")["total"] == 0


def test_parameters_are_a_file_and_over_it_texts_and_json(sh: Shell) -> None:
    Path("params.json").write_text('{"a": 1, "b": [2]}')
    options = ("--params-file=params.json", "--param=a=one", "--param=c:=null", "--param=d==:=")
    assert create(sh, "x", *options)["check_params"] == {
        "a": "one",
        "b": [2],
        "c": None,
        "d": "=:=",
    }


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--param=a",), 2),
        (("--param=:=1",), 2),
        (("--param=a:={",), 2),
        (("--params-file=list.json",), 2),
        (("--params-file=binary",), 2),
        (("--params-file=nowhere",), 74),
        (("--env=NAME",), 2),
    ],
)
def test_parameters_that_are_none_are_refused(
    options: tuple[str, ...], code: int, sh: Shell
) -> None:
    Path("list.json").write_text("[1]")
    Path("binary").write_bytes(b"\xff\xfe")
    assert sh("custom-check", "create", "--name=x", "--runtime=python", *options).code == code


def test_a_change_leaves_what_is_not_given(sh: Shell) -> None:
    create(sh, "nightly", "--memory-mb=128", "--param=a=1", f"--script={folder()}")
    sh.good("custom-check", "update", "nightly", "--cpu-cores=0.2", "--name=other")
    changed = sh.json("custom-check", "show", "other")
    assert changed["resource_limits"] == {"memory_mb": 128, "cpu_cores": 0.2}
    assert changed["check_params"] == {"a": "1"}
    assert sh("custom-check", "update", "other").code == 2
    sh.good("custom-check", "update", "other", "--clear=check_params")
    assert sh.json("custom-check", "show", "other")["check_params"] == {}
    sh.good("custom-check", "update", "other", "--clear=resource_limits")
    limits = {"memory_mb": 512, "cpu_cores": 0.5}
    assert sh.json("custom-check", "show", "other")["resource_limits"] == limits
    assert sh("custom-check", "update", "nobody", "--timeout=60").code == 3


def test_a_script_comes_with_the_entry_point_that_is_cleared(sh: Shell) -> None:
    Path("check.py").write_text("print(1)")
    create(sh, "nightly", "--entrypoint=old.py", "--script=check.py")
    sh.good("custom-check", "update", "nightly", "--clear=script_entrypoint", "--script=check.py")
    assert sh.json("custom-check", "show", "nightly")["script_entrypoint"] == "main.py"
    assert sh.json("custom-check", "script-info", "nightly")["metadata"]["files"] == [
        {"path": "main.py", "size_bytes": 8}
    ]


def test_a_change_can_bring_a_new_script(sh: Shell) -> None:
    before = create(sh, "nightly", f"--script={folder()}")
    script = folder("print(1)\n")
    renamed = sh.json("custom-check", "update", "nightly", "--name=other", f"--script={script}")
    assert renamed["name"] == "other"
    assert renamed["script"]["sha256"] != before["script"]["sha256"]
    again = sh.json("custom-check", "update", "other", f"--script={folder()}")
    assert again["script"]["sha256"] == before["script"]["sha256"]


def test_a_custom_check_goes_through_its_commands_by_id_and_name(sh: Shell) -> None:
    create(sh, "Žluť", f"--script={folder()}")
    assert sh.json("custom-check", "pause", "Žluť")["status"] == "paused"
    assert sh("custom-check", "trigger", "1").code == 5
    assert sh.json("custom-check", "resume", "1")["status"] == "active"
    assert sh.good("custom-check", "trigger", "1").out.startswith("Job triggered: 1 ")
    assert "Created." in sh.good("custom-check", "logs", "Žluť").out
    assert "No deliveries" in sh.good("custom-check", "deliveries", "Žluť").out
    assert sh("custom-check", "redeliver", "1").code == 3
    assert sh("custom-check", "test-webhook", "1").code == 2
    assert sh("custom-check", "delete", "1").code == 1
    assert sh.good("custom-check", "delete", "1", "--yes").out == "Job 1 'Žluť' deleted.\n"
    for command in ("show", "script-info", "logs"):
        assert sh("custom-check", command, "1").code == 3


def test_lists_show_both_kinds_where_both_are_wanted(stocked: Shell) -> None:
    stocked.good("job", "create", "--name=batches", *test_cli.JOB)
    create(stocked, "nightly", f"--script={folder()}")
    both = stocked.good("job", "list", "--kind=all").out
    assert "0/1 batches" in both
    assert "python, upload" in both
    assert "nightly" not in stocked.good("job", "list").out
    listed = stocked.good("custom-check", "list", "--status=active", "--q=night").out
    assert "nightly" in listed
    assert "batches" not in listed
    assert stocked("custom-check", "show", "batches").code == 3


def test_an_empty_list_says_what_to_do_first(sh: Shell) -> None:
    assert "custom-check init python" in sh.good("custom-check", "list").out
    hint = "`teckochecker custom-check list` shows all"
    assert hint in sh.good("custom-check", "list", "--q=nobody").out


def test_a_webhook_is_tried_out_for_both_kinds(stocked: Shell) -> None:
    with Receiver() as receiver:
        url = f"--webhook-url={receiver.url}/hook"
        stocked.good("job", "create", "--name=batches", *test_cli.JOB[:2], url)
        create(stocked, "nightly", url)
        for command, name in (("job", "batches"), ("custom-check", "nightly")):
            said = stocked.good(command, "test-webhook", name).out
            assert "It answered 200 in " in said
        assert len(receiver.requests) == 2


def test_a_log_tells_how_a_check_went(capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "created_at": "2026-11-22T01:02:03Z",
        "status": "error",
        "message": "It broke.",
        "execution_time_ms": 1234,
        "exit_code": 1,
        "peak_memory_bytes": 8_300_000,
        "detail": None,
        "stdout": "out\n",
        "stderr": "Traceback\n\tbo\x1b[31mom\n",
    }
    show_logs({"logs": [row]})
    line = capsys.readouterr().out
    assert line.endswith("error      It broke. (exit code 1, 1.2 s, 8.3 MB)\n")
    show_logs({"logs": [row]}, verbose=True)
    shown = capsys.readouterr().out
    assert shown.endswith(
        "  stdout:\n    out\n  stderr:\n    Traceback\n            bo\ufffd[31mom\n"
    )
    show_text("nothing", " \n")
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_daemon_takes_scripts_and_its_bytes_are_shown(sh: Shell) -> None:
    with sh.machine.started() as url:
        made = create(sh, "nightly", f"--script={folder()}", "--poll-interval=86400")
        assert made["script"]["files"] == 1
        sh.good("custom-check", "pause", "nightly")
        host, _, port = url.removeprefix("http://").partition(":")
        connection = HTTPConnection(host, int(port), timeout=LONG_S)
        headers = {"authorization": f"Bearer {sh.machine.token}"}
        connection.request("GET", "/api/custom-checks/1/script/info", headers=headers)
        said = connection.getresponse().read()
        connection.close()
        shown = sh.good("custom-check", "script-info", "1", "--output=json").out
        assert shown == f"{said.decode()}\n"


# Starters, and runs that never get as far as the engine


@pytest.mark.parametrize(("runtime", "main"), [("python", "main.py"), ("node", "index.js")])
def test_init_writes_a_starter_and_spoils_none(runtime: str, main: str, bare: Shell) -> None:
    done = bare.good("custom-check", "init", runtime, "new/check")
    assert "teckochecker custom-check run new/check" in done.out
    (Path("new/check") / main).write_text("mine")
    assert bare("custom-check", "init", runtime, "new/check").code == 2
    assert (Path("new/check") / main).read_text() == "mine"
    assert bare("custom-check", "init", "perl", "other").code == 2
    assert not bare.machine.home.exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--env=NOT_THERE",),
        ("--env=KEY=secret_ref:stored",),
        ("--previous-data=[1]",),
        ("--previous-data={",),
        ("--check-number=0",),
        ("--param=a",),
    ],
)
def test_a_run_that_is_asked_for_wrongly_is_exit_2(options: tuple[str, ...], bare: Shell) -> None:
    done = bare("custom-check", "run", str(folder()), *options)
    assert done.code == 2
    assert done.err.startswith("Error: ")


@pytest.mark.parametrize("names", [(), ("main.py", "index.js"), ("check.rb",)])
def test_a_folder_that_tells_no_runtime_needs_it_given(names: tuple[str, ...], bare: Shell) -> None:
    script = Path("check")
    script.mkdir()
    for name in names:
        (script / name).touch()
    done = bare("custom-check", "run", str(script))
    assert done.code == 2
    assert "give --runtime" in done.err


def test_without_an_engine_commands_are_exit_6_and_say_what_to_do(bare: Shell) -> None:
    bare.env(DOCKER_HOST="unix:///nowhere/docker.sock")
    script = str(folder())
    for command in (
        ("custom-check", "run", script),
        ("runners", "build"),
        ("runners", "list"),
        ("runners", "status"),
        ("runners", "prune"),
    ):
        done = bare(*command)
        assert done.code == 6, command
        assert "systemctl start docker" in done.err
    assert not bare.machine.home.exists()


@pytest.mark.parametrize(
    "options",
    [
        ("perl",),
        ("--base=python",),
        ("--base=perl=image",),
        ("python", "--base=node=image"),
        ("--index-url=https://me:password@packages.example.com/python",),
        ("--registry=https://me@packages.example.com/node",),
    ],
)
def test_a_build_that_is_asked_for_wrongly_is_exit_2(options: tuple[str, ...], bare: Shell) -> None:
    bare.env(DOCKER_HOST="unix:///nowhere/docker.sock")
    done = bare("runners", "build", *options)
    assert done.code == 2
    assert "password@" not in done.err


# On a real engine


@pytest.fixture(scope="session")
def build_options() -> list[str]:
    """Those that the images of all tests are built with, so that nothing is built anew."""
    sandboxed.ready()
    bundle, index_url = sandboxed.ca_bundle(), sandboxed._index_url()
    options: Mapping[str, object] = {
        "--base": (base := os.environ.get("TECKO_BASE_PYTHON")) and f"python={base}",
        "--ca-bundle": bundle,
        "--index-url": index_url,
    }
    return [f"{name}={value}" for name, value in options.items() if value]


@pytest.fixture
def engine(build_options: list[str], bare: Shell) -> Shell:
    """A shell that reaches the engine; its environment is emptied after the images are there."""
    bare.env(**sandboxed.ENVIRONMENT)
    bare.machine.env |= sandboxed.ENVIRONMENT
    return bare


def ran(sh: Shell, *options: str) -> Done:
    return sh("custom-check", "run", "check", "--network=none", *options)


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.parametrize(
    ("verdict", "code"), [("SUCCESS", 0), ("FAILED", 10), ("PENDING", 20), ("ERROR", 30)]
)
def test_a_run_tells_its_verdict_by_its_exit_code(verdict: str, code: int, engine: Shell) -> None:
    folder(
        "import json, sys\n"
        "print('seen', file=sys.stderr)\n"
        f"print(json.dumps({{'status': '{verdict}', 'message': 'told', 'data': {{'n': 1}}}}))\n"
    )
    done = ran(engine)
    assert done.code == code, done
    for text in (verdict, "told", '"n": 1', "Peak memory", "in the script", "seen"):
        assert text in done.out
    assert "Running main.py" in done.err
    assert not engine.machine.home.exists()


@pytest.mark.docker
@pytest.mark.slow
def test_a_run_gives_what_a_job_would_and_masks_what_came_from_the_environment(
    engine: Shell,
) -> None:
    folder(
        "const e = process.env, n = JSON.parse(e.PREVIOUS_DATA).n;\n"
        "const told = [e.TASK, e.CHECK_NUMBER, n, e.PLAIN, e.API_KEY];\n"
        "console.error(e.API_KEY);\n"
        "console.log(JSON.stringify({status: 'PENDING', data: {told}}));\n",
        name="index.js",
    )
    engine.env(API_KEY="sk-very-secret")
    options = ("--param=task=a", "--env=PLAIN=b", "--env=API_KEY", "--check-number=7")
    done = ran(engine, *options, '--previous-data={"n": 3}', "--output=json")
    assert done.code == 20, done
    assert done.json["data"]["told"] == ["a", "7", 3, "b", "***"]
    assert done.json["stderr"] == "***\n"
    assert done.json["exit_code"] == 0
    assert done.json["peak_memory_bytes"] > 0
    assert "sk-very-secret" not in done.out + done.err


@pytest.mark.docker
@pytest.mark.slow
def test_a_script_that_breaks_shows_what_it_printed(engine: Shell) -> None:
    folder("print('so far'); raise SystemExit('it broke')\n")
    done = ran(engine)
    assert done.code == 30
    for text in ("exit code 1", "so far", "it broke"):
        assert text in done.out


@pytest.mark.docker
@pytest.mark.slow
def test_what_cannot_be_installed_is_an_error_with_the_installers_words(engine: Shell) -> None:
    folder(**{"requirements.txt": "./not-there-1.0-py3-none-any.whl\n"})
    done = ran(engine)
    assert done.code == 30
    assert "couldn't be installed" in done.out
    assert "not-there" in done.out
    assert "installed once" in done.err


@pytest.mark.docker
@pytest.mark.slow
def test_ctrl_c_removes_the_container(engine: Shell) -> None:
    folder("import time; time.sleep(3000)\n")
    options = ("--timeout=3600", "--network=none")
    child = engine.machine.begin("custom-check", "run", "check", *options)
    try:
        until = time.monotonic() + LONG_S
        while not (there := _endless()):
            assert time.monotonic() < until
            assert child.poll() is None, child.communicate()
            time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        time.sleep(0.05)
        child.send_signal(signal.SIGINT)  # an impatient one changes nothing
        out, errors = child.communicate(timeout=LONG_S)
    finally:
        child.kill()
    assert child.returncode == 130
    assert out == b""
    assert b"Traceback" not in errors
    assert not there & _endless()


def _endless() -> set[str]:
    """The containers of single runs whose time-out is the longest that there is."""
    client = sandboxed.engine()
    try:
        found = client.api.containers(all=True, filters={"label": f"teckochecker.instance={RUN}"})
    finally:
        client.close()
    soon = time.time() + 3000
    return {one["Id"] for one in found if float(one["Labels"]["teckochecker.deadline"]) > soon}


@pytest.mark.docker
@pytest.mark.slow
def test_a_custom_check_goes_from_its_script_to_its_webhook(engine: Shell) -> None:
    engine.good("init")
    folder("import sys; print('seen', file=sys.stderr)\n" + SUCCESS)
    with Receiver() as receiver, engine.machine.started():
        create(engine, "nightly", "--script=check", f"--webhook-url={receiver.url}/hook")
        assert engine("custom-check", "wait", "nightly", "--timeout=1m").code == 0
        assert isinstance(body := receiver.requests[0].body, dict)
        assert body["check_message"] == "all done"
        logs = engine.good("custom-check", "logs", "nightly", "-v").out
        assert "all done (exit code 0, " in logs
        assert "  stderr:\n    seen\n" in logs
        assert "delivered" in engine.good("custom-check", "deliveries", "nightly").out
        assert "SUCCESS" in engine.good("custom-check", "show", "nightly").out


@pytest.mark.docker
@pytest.mark.slow
def test_runner_images_are_built_listed_and_told(build_options: list[str], engine: Shell) -> None:
    built = engine.good("runners", "build", "python", *build_options, "--output=json")
    assert [one["runtime"] for one in built.json["built"]] == ["python"]
    assert "python: Step 1/" in built.err
    listed = engine.json("runners", "list")["images"]
    names = {image["name"]: image for image in listed}
    assert names["teckochecker/runner:python-3.11"]["instance"] is None
    assert names["teckochecker/runner:python-3.11"]["size_bytes"] > 1_000_000
    assert "teckochecker/runner:node-20" in engine.good("runners", "list").out
    assert "The image for node is there." in engine.good("runners", "status").out
    assert engine.json("runners", "prune")["removed"] >= 0


@pytest.mark.docker
@pytest.mark.slow
def test_a_build_that_fails_is_exit_1_with_the_engines_words(engine: Shell) -> None:
    done = engine("runners", "build", "node", "--base=node=scratch")
    assert done.code == 1
    assert "couldn't be built" in done.err

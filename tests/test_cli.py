"""The command line: mostly called inside this process, as a real program where that matters."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import apsw
import pytest
import structlog

from teckochecker import cli
from teckochecker.cli import duration, envfile, output
from teckochecker.cli.exits import Refusal, TimedOut, exit_code
from teckochecker.cli.program import program
from teckochecker.config import NAMES, SETTINGS
from teckochecker.errors import (
    AccessDenied,
    AlreadyRunning,
    ConfigError,
    Fault,
    FolderError,
    InvalidInput,
    JobNotFound,
    NameTaken,
    NotReachable,
    OpenAIError,
    StoreBroken,
    StoreFull,
    TeckoError,
    VaultError,
)
from teckochecker.lock import SUPERVISOR, DataLock, holder
from teckochecker.simulators import HTML, Answer, Keboola, OpenAI, Receiver, queue_error

KEY = "sk-test-openai-key-1"
STORAGE_TOKEN = "4711-test-storage-token"
OTHER_KEY = "b3RoZXIta2V5LWZvci10ZXN0cy1vbmx5LTEyMzQ1Njc4OTA"
LONG_S = 60.0  # for waits that end by themselves


@dataclass(frozen=True)
class Done:
    """What one command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Machine:
    """An installation's folder, and the program with nothing else in its environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "TZ": "Europe/Prague",
            "TECKOCHECKER_HOME": str(self.home),
            "ALLOWED_PRIVATE_HOSTS": "127.0.0.1",
            "MIN_POLL_INTERVAL": "1",
        }

    @property
    def settings_file(self) -> Path:
        return self.home / ".env"

    @property
    def token(self) -> str:
        return (self.home / "token").read_text().strip()

    @property
    def secret_key(self) -> str:
        found = re.search("^SECRET_KEY=(.+)$", self.settings_file.read_text(), re.MULTILINE)
        assert found
        return found[1]

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "teckochecker", *args]

    def program(self, *args: str, stdin: bytes = b"") -> Done:
        """Run the real program to its end."""
        done = subprocess.run(
            self.command(*args),
            env=self.env,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            timeout=LONG_S,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def begin(self, *args: str, **pipes: Any) -> subprocess.Popen[bytes]:
        ends: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes}
        return subprocess.Popen[bytes](self.command(*args), env=self.env, cwd=self.folder, **ends)

    @contextmanager
    def started(self, *args: str, port: str = "0") -> Iterator[str]:
        """A daemon in the background, on a free port unless one is named; its address."""
        done = self.program("start", "--detach", f"--port={port}", *args)
        assert done.code == 0, done.err
        found = holder(self.home)
        assert found
        assert found.url
        try:
            yield found.url
        finally:
            self.program("stop")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class Shell:
    """Commands inside this process."""

    def __init__(
        self, machine: Machine, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.machine = machine
        self._patch = patch
        self._capsys = capsys

    def __call__(self, *args: str, stdin: bytes = b"") -> Done:
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli.run(list(args))
        out, err = self._capsys.readouterr()
        return Done(code, out, err)

    def good(self, *args: str, stdin: bytes = b"") -> Done:
        done = self(*args, stdin=stdin)
        assert done.code == 0, done.err
        return done

    def json(self, *args: str, stdin: bytes = b"") -> Any:
        return self.good(*args, "--output=json", stdin=stdin).json

    def env(self, **changes: str | None) -> None:
        for name, value in changes.items():
            if value is None:
                self._patch.delenv(name, raising=False)
            else:
                self._patch.setenv(name, value)


@pytest.fixture
def bare(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Shell]:
    """A shell before `init`."""
    kept = {"PATH", "PYTEST_CURRENT_TEST"}
    for name in set(os.environ) - kept:
        monkeypatch.delenv(name)
    for name, value in machine.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(machine.folder)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    time.tzset()
    yield Shell(machine, monkeypatch, capsys)
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Homes to copy: `fresh` from init, `stocked` with the secrets that a job needs."""
    folder = tmp_path_factory.mktemp("prepared")
    machine = Machine(folder)
    assert machine.program("init").code == 0
    shutil.copytree(machine.home, folder / "fresh")
    for name, type_, value in (
        ("openai-prod", "openai", KEY),
        ("keboola-prod", "keboola", STORAGE_TOKEN),
    ):
        options = (f"--name={name}", f"--type={type_}")
        assert machine.program("secret", "add", *options, stdin=value.encode()).code == 0
    return machine.home.rename(folder / "stocked").parent


@pytest.fixture
def sh(bare: Shell, prepared: Path) -> Shell:
    """A shell after `init`."""
    shutil.copytree(prepared / "fresh", bare.machine.home)
    return bare


JOB = (
    "--batch-id=batch_1",
    "--openai-secret=openai-prod",
    "--keboola-secret=keboola-prod",
    "--keboola-stack=https://connection.keboola.com",
    "--config-id=123456",
)


@pytest.fixture
def stocked(bare: Shell, prepared: Path) -> Shell:
    """A shell with the secrets that a job needs."""
    shutil.copytree(prepared / "stocked", bare.machine.home)
    return bare


# -- the program itself


def test_version_is_told_without_importing_the_command_line() -> None:
    code = (
        "import sys; from teckochecker.cli import run; run(['--version']); "
        "print([name for name in ('cyclopts', 'rich', 'httpx', 'trio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "teckochecker 1.0.0\n[]\n"


@pytest.mark.slow
def test_a_daemon_starts_beside_a_folder_of_its_name(stocked: Shell) -> None:
    (stocked.machine.folder / "teckochecker").mkdir()  # as beside a checkout
    program = Path(sys.executable).with_name("teckochecker")
    for words in (("start", "--detach", "--port=0"), ("status",), ("stop",)):
        done = subprocess.run(
            [program, *words],
            env=stocked.machine.env,
            cwd=stocked.machine.folder,
            capture_output=True,
            text=True,
            timeout=LONG_S,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_list_from_a_daemon_imports_neither_server_nor_client_library(stocked: Shell) -> None:
    with stocked.machine.started():
        code = (
            "import sys; from teckochecker.cli import run; run(['job', 'list']); "
            "print([n for n in ('httpx', 'trio', 'quart', 'cryptography') if n in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=stocked.machine.env,
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.endswith("\n[]\n"), done.stderr


def commands() -> Iterator[tuple[str, ...]]:
    for name in program().resolved_commands():
        if name.startswith("-"):
            continue
        parts = [part for part in program()[name].resolved_commands() if not part.startswith("-")]
        yield from ((name, part) for part in parts) if parts else ((name,),)


@pytest.mark.parametrize("command", sorted(commands()), ids=" ".join)
def test_the_help_of_every_command_has_an_example(command: tuple[str, ...], bare: Shell) -> None:
    shown = bare.good(*command, "--help").out
    assert f"Example: teckochecker {' '.join(command)}" in shown


def test_every_command_but_three_gives_json(bare: Shell) -> None:
    without = {
        command
        for command in commands()
        if not re.search(r"--output\s[^-]*\bjson\b", bare.good(*command, "--help").out)
    }
    assert without == {("demo",), ("export",), ("completion",)}


def test_help_is_plain_text_that_fits_a_terminal(bare: Shell) -> None:
    for command in ((), ("job",), ("job", "create"), ("completion",)):
        shown = bare.good(*command, "--help").out
        assert "\x1b" not in shown
        assert max(len(line) for line in shown.splitlines()) <= 80


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (("jbo",), "teckochecker --help"),
        (("job", "lst"), "teckochecker job --help"),
        (("job", "list", "--nonsense"), "teckochecker job list --help"),
        (("job", "show"), "teckochecker job show --help"),
        (("job", "create", "--poll-interval", "60s"), "teckochecker job create --help"),
        (("job", "wait", "x", "--timeout", "2y"), "teckochecker job wait --help"),
        (("job", "list", "--output", "xml"), "teckochecker job list --help"),
    ],
)
def test_wrong_usage_is_exit_2_with_a_hint(args: tuple[str, ...], hint: str, bare: Shell) -> None:
    done = bare(*args)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("Error: ")
    assert f"See `{hint}`." in done.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput("x"), 2),
        (JobNotFound("x"), 3),
        (AccessDenied("x"), 4),
        (NameTaken("x"), 5),
        (AlreadyRunning("x"), 5),
        (NotReachable("x"), 6),
        (TimedOut("x"), 7),
        (StoreBroken("x"), 74),
        (StoreFull("x"), 74),
        (FolderError("x"), 74),
        (ConfigError("x"), 78),
        (VaultError("x"), 78),
        (OpenAIError("x", Fault.TRANSIENT), 1),
        (Refusal(400, 1100, "x"), 2),
        (Refusal(401, 0, "x"), 4),
        (Refusal(404, 1002, "x"), 3),
        (Refusal(405, 0, "x"), 1),
        (Refusal(409, 1005, "x"), 5),
        (Refusal(413, 0, "x"), 2),
        (Refusal(415, 1100, "x"), 2),
        (Refusal(429, 0, "x"), 4),
        (Refusal(500, 3002, "x"), 78),
        (Refusal(500, 0, "x"), 1),
        (Refusal(502, 2001, "x"), 1),
        (Refusal(503, 3001, "x"), 74),
        (Refusal(503, 0, "x"), 6),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error: TeckoError, code: int) -> None:
    assert exit_code(error) == code


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400)]
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert duration.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1.5h", "2 h", "h", "1w", "٣s"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="like 90, 90s"):
        duration.parse(text)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion_knows_the_commands(shell: str, bare: Shell) -> None:
    script = bare.good("completion", "--shell", shell).out
    assert "redeliver" in script
    assert "--keboola-stack" in script


def test_completion_is_for_the_users_own_shell(bare: Shell) -> None:
    bare.env(SHELL="/usr/bin/fish")
    assert bare.good("completion").out == bare.good("completion", "--shell", "fish").out
    assert bare.good("completion").out == bare.good("completion", "fish").out
    bare.env(SHELL=None)
    assert bare("completion").code == 2


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_a_command_in_silence(stocked: Shell) -> None:
    read, written = os.pipe()
    os.close(read)
    child = stocked.machine.begin("secret", "list", stdout=written)
    os.close(written)
    _, errors = child.communicate(timeout=LONG_S)
    assert errors == b""
    assert child.returncode == 141


@pytest.mark.slow
def test_output_that_cannot_be_written_is_exit_74(stocked: Shell) -> None:
    with Path("/dev/full").open("wb") as full:
        child = stocked.machine.begin("secret", "list", stdout=full)
        _, errors = child.communicate(timeout=LONG_S)
    assert child.returncode == 74
    assert errors == b"Error: The output can't be written (No space left on device).\n"


# -- init and settings


def test_init_makes_everything_for_its_owner_only(bare: Shell) -> None:
    made = bare.json("init")
    home = bare.machine.home
    assert [part["state"] for part in made["parts"]] == ["made", "made", "made"]
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for file in (".env", "token", "teckochecker.db", "daemon.lock"):
        assert stat.S_IMODE((home / file).stat().st_mode) == 0o600
    assert re.fullmatch(r"tck_[A-Za-z0-9_-]{43}\n", (home / "token").read_text())
    assert len(bare.machine.secret_key) == 43


def test_the_settings_file_explains_every_setting(sh: Shell) -> None:
    text = sh.machine.settings_file.read_text()
    for setting in SETTINGS:
        assert f"# {setting.help}\n" in text
        if setting.name != "SECRET_KEY":
            assert f"\n#{setting.name}={setting.default}\n" in text


def test_init_says_no_secret(bare: Shell) -> None:
    done = bare.good("init")
    assert bare.machine.secret_key not in done.out + done.err
    assert bare.machine.token not in done.out + done.err


def test_a_second_init_changes_nothing(sh: Shell) -> None:
    files = [sh.machine.home / name for name in (".env", "token")]
    before = [file.read_bytes() for file in files]
    again = sh.json("init")
    assert [part["state"] for part in again["parts"]] == ["exists", "exists", "exists"]
    assert [file.read_bytes() for file in files] == before
    assert sh("job", "list").code == 0


def test_init_beside_a_daemon_changes_nothing(sh: Shell) -> None:
    lock = DataLock(sh.machine.home)
    lock.tell("http://127.0.0.1:1")
    again = sh.json("init")
    lock.release()
    assert {part["state"] for part in again["parts"]} == {"exists"}


def test_init_makes_a_lost_token_anew_and_nothing_else(sh: Shell) -> None:
    key = sh.machine.secret_key
    (sh.machine.home / "token").unlink()
    assert sh("job", "list").code == 4
    assert [part["state"] for part in sh.json("init")["parts"]] == ["exists", "exists", "made"]
    assert sh.machine.secret_key == key
    assert sh("job", "list").code == 0


def test_init_adds_a_key_to_settings_that_have_none(bare: Shell) -> None:
    bare.machine.home.mkdir(mode=0o700)
    bare.machine.settings_file.write_text("API_PORT=9000")
    bare.good("init")
    text = bare.machine.settings_file.read_text()
    assert text == f"API_PORT=9000\nSECRET_KEY={bare.machine.secret_key}\n"


def test_init_makes_no_new_key_for_a_database_that_has_one(stocked: Shell) -> None:
    stocked.machine.settings_file.unlink()
    done = stocked("init")
    assert done.code == 78
    assert "set SECRET_KEY to that key" in done.err
    assert not stocked.machine.settings_file.exists()


def test_init_writes_no_key_where_the_environment_has_one(bare: Shell) -> None:
    bare.env(SECRET_KEY=OTHER_KEY)
    bare.good("init")
    assert "\n#SECRET_KEY=\n" in bare.machine.settings_file.read_text()
    assert bare("job", "list").code == 0


def test_init_takes_no_key_from_another_programs_settings(bare: Shell) -> None:
    Path(".env").write_text(f"SECRET_KEY={OTHER_KEY}\n")
    bare.good("init")
    assert bare.machine.secret_key != OTHER_KEY
    Path(".env").unlink()
    assert bare("job", "list").code == 0


def test_a_token_of_another_database_is_told(sh: Shell) -> None:
    (sh.machine.home / "token").write_text("tck_of-somewhere-else\n")
    done = sh("init")
    assert done.code == 78
    assert "teckochecker token new" in done.err
    sh.good("token", "new")
    assert sh("job", "list").code == 0


def test_without_init_a_command_says_so(bare: Shell) -> None:
    done = bare("job", "list")
    assert done.code == 78
    assert "run `teckochecker init` first" in done.err
    assert not bare.machine.home.exists()


@pytest.mark.parametrize("home", ["file/home", "/proc/nowhere"])
@pytest.mark.parametrize("command", ["init", "start"])
def test_a_folder_that_cannot_be_made_is_exit_74(home: str, command: str, bare: Shell) -> None:
    Path("file").touch()
    bare.env(TECKOCHECKER_HOME=home, SECRET_KEY=OTHER_KEY)
    done = bare(command)
    assert done.code == 74
    assert "TECKOCHECKER_HOME" in done.err


def test_the_home_is_the_service_managers_folder_where_it_gives_one(bare: Shell) -> None:
    bare.env(TECKOCHECKER_HOME=None, STATE_DIRECTORY="/var/lib/one:/var/lib/two")
    shown = bare.json("config", "show")["settings"][0]
    assert shown == {
        "name": "TECKOCHECKER_HOME",
        "value": "/var/lib/one",
        "source": "STATE_DIRECTORY",
    }


def test_config_show_tells_every_setting_and_where_it_comes_from(sh: Shell) -> None:
    settings, here = sh.machine.settings_file, Path(".env").absolute()
    settings.write_text(f"{settings.read_text()}API_PORT=1\nMAX_RETRIES=1\nLOG_LEVEL=\n")
    here.write_text("API_PORT=2\nMAX_RETRIES=2\nRETRY_DELAY=2\n")
    sh.env(API_PORT="3")
    found = {one["name"]: one for one in sh.json("config", "show")["settings"]}
    assert set(found) == {*NAMES, "TECKOCHECKER_HOME"}
    shown = {name: (found[name]["value"], found[name]["source"]) for name in NAMES}
    assert shown["API_PORT"] == ("3", "environment")
    assert shown["MAX_RETRIES"] == ("1", str(settings))
    assert shown["RETRY_DELAY"] == ("2", str(here))
    assert shown["LOG_LEVEL"] == ("INFO", "default")
    assert shown["SECRET_KEY"] == ("***", str(settings))


def test_a_file_may_hold_the_key(bare: Shell) -> None:
    bare.machine.home.mkdir(mode=0o700)
    (bare.machine.home / "key").write_text(f"{OTHER_KEY}\n")
    bare.env(SECRET_KEY_FILE="key")
    bare.good("init")
    assert bare("secret", "list").code == 0
    found = {one["name"]: one for one in bare.json("config", "show")["settings"]}
    assert found["SECRET_KEY"]["source"] == "environment, SECRET_KEY_FILE"
    bare.env(SECRET_KEY_FILE="nowhere")
    assert bare("secret", "list").code == 74


def test_settings_that_are_wrong_are_all_named(sh: Shell) -> None:
    sh.env(API_PORT="no", LOG_LEVEL="LOUD")
    done = sh("job", "list")
    assert done.code == 78
    assert "API_PORT must be a whole number" in done.err
    assert "LOG_LEVEL must be one of" in done.err
    assert sh("config", "show").code == 0


def test_another_key_than_the_databases_is_exit_78(stocked: Shell) -> None:
    stocked.env(SECRET_KEY=OTHER_KEY)
    for command in (("secret", "list"), ("start", "--port=0"), ("secret", "rotate-key")):
        done = stocked(*command)
        assert done.code == 78
        assert "SECRET_KEY isn't the key" in done.err
        assert OTHER_KEY not in done.err


def altered(sh: Shell, sql: str) -> None:
    """What somebody does to the database from outside.

    With the program's own library: two SQLites in one process drop each other's locks.
    """
    database = apsw.Connection(str(sh.machine.home / "teckochecker.db"))
    database.execute(sql)
    database.close()


def test_a_database_of_a_newer_program_is_exit_78(sh: Shell) -> None:
    altered(sh, "PRAGMA user_version = 999")
    done = sh("job", "list")
    assert done.code == 78
    assert "schema 999" in done.err


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("A=1\nSECRET_KEY=old\nB=2\n", "A=1\nSECRET_KEY=new\nB=2\n"),
        ("# SECRET_KEY=no\nexport SECRET_KEY = 'old'\n", "# SECRET_KEY=no\nSECRET_KEY=new\n"),
        ("SECRET_KEY=a\nSECRET_KEY=b\n", "SECRET_KEY=new\n"),
        ("A=1", "A=1\nSECRET_KEY=new\n"),
        ("", "SECRET_KEY=new\n"),
        ("MY_SECRET_KEY=1\n", "MY_SECRET_KEY=1\nSECRET_KEY=new\n"),
    ],
)
def test_a_changed_setting_leaves_all_other_lines(text: str, changed: str) -> None:
    assert envfile.changed(text, {"SECRET_KEY": "new"}) == changed


def test_a_setting_is_taken_out() -> None:
    text = "SECRET_KEY=a\nSECRET_KEY_OLD=b\n"
    assert envfile.changed(text, {"SECRET_KEY_OLD": None}) == "SECRET_KEY=a\n"


def test_settings_that_cannot_be_edited_line_by_line_are_left_alone() -> None:
    with pytest.raises(ConfigError, match="can't be edited"):
        envfile.changed('A="\nSECRET_KEY=x\n"\nSECRET_KEY="a\nb"\n', {"SECRET_KEY": "new"})


# -- secrets


def test_a_secrets_value_comes_from_a_pipe_or_a_file_and_is_never_shown(sh: Shell) -> None:
    Path("key.txt").write_text(f"{KEY}\n")
    added = sh.good("secret", "add", "--name=a", "--type=openai", "--value-file=key.txt")
    piped = sh.good("secret", "add", "--name=b", "--type=openai", stdin=f"{KEY}\r\n".encode())
    listed = sh.good("secret", "list")
    assert added.out == "Secret 1 'a' added.\n"
    assert piped.out == "Secret 2 'b' added.\n"
    assert KEY not in added.out + piped.out + listed.out + listed.err
    with OpenAI(api_keys=[KEY]) as openai:
        for name in "ab":
            sh.good("secret", "test", name, f"--base-url={openai.base_url}")


def test_only_one_lines_end_is_taken_off_a_value(sh: Shell) -> None:
    done = sh("secret", "add", "--name=a", "--type=openai", stdin=f"{KEY}\n\n".encode())
    assert done.code == 2
    assert "value: must be one line" in done.err


@pytest.mark.parametrize("value", [b"", b"\n", b"\xff\xfe secret"])
def test_a_value_that_is_none_is_refused(value: bytes, sh: Shell) -> None:
    done = sh("secret", "add", "--name=a", "--type=generic", stdin=value)
    assert done.code == 2
    assert "secret" not in done.err


def test_a_value_too_short_to_be_masked_is_pointed_out(sh: Shell) -> None:
    done = sh.good("secret", "add", "--name=a", "--type=generic", stdin=b"12345")
    assert "can't be masked" in done.err
    assert "12345" not in done.err


def test_a_value_file_that_cannot_be_read_is_exit_74(sh: Shell) -> None:
    done = sh("secret", "add", "--name=a", "--type=generic", "--value-file=nowhere")
    assert done.code == 74
    assert "nowhere" in done.err


def test_a_value_is_no_argument(sh: Shell) -> None:
    assert sh("secret", "add", "--name=a", "--type=openai", "--value", KEY).code == 2
    assert sh("secret", "add", "--name=a", "--type=openai", KEY).code == 2


@contextmanager
def terminal(machine: Machine, *args: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The real program on a terminal of its own; the terminal's other end."""
    ours, theirs = pty.openpty()
    child = machine.begin(*args, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    try:
        yield ours, child
    finally:
        os.close(ours)
        child.kill()
        child.wait()


def seen(terminal: int, until: str = "") -> str:
    """What the program has shown, up to a text or its end."""
    shown = ""
    while not until or until not in shown:
        assert select.select([terminal], [], [], LONG_S)[0], shown
        try:
            part = os.read(terminal, 4096)
        except OSError:  # Linux says so when the other end has closed
            return shown
        if not part:
            return shown
        shown += part.decode()
    return shown


@pytest.mark.slow
def test_a_prompted_value_does_not_echo(sh: Shell) -> None:
    with terminal(sh.machine, "secret", "add", "--name=a", "--type=openai") as (ours, child):
        shown = seen(ours, "Value (it isn't shown): ")
        os.write(ours, f"{KEY}\n".encode())
        shown += seen(ours)
        assert child.wait(LONG_S) == 0
    assert "Secret 1 'a' added." in shown
    assert KEY not in shown


@pytest.mark.slow
@pytest.mark.parametrize(("reply", "code"), [("y", 0), ("", 1)])
def test_delete_asks_at_a_terminal_and_only_yes_is_yes(
    reply: str, code: int, stocked: Shell
) -> None:
    with terminal(stocked.machine, "secret", "delete", "openai-prod") as (ours, child):
        assert "Delete secret 1 'openai-prod'? [y/N]" in seen(ours, "[y/N] ")
        os.write(ours, f"{reply}\n".encode())
        seen(ours)
        assert child.wait(LONG_S) == code
    assert len(stocked.json("secret", "list")["secrets"]) == 1 + code


def test_delete_without_a_terminal_is_no_unless_yes_is_given(stocked: Shell) -> None:
    done = stocked("secret", "delete", "openai-prod", stdin=b"y\n")
    assert done.code == 1
    assert "--yes" in done.err
    assert stocked.good("secret", "delete", "openai-prod", "--yes").out == (
        "Secret 1 'openai-prod' deleted.\n"
    )
    assert stocked("secret", "delete", "openai-prod", "--yes").code == 3
    assert stocked.json("secret", "delete", "keboola-prod", "--yes") == {
        "id": 2,
        "name": "keboola-prod",
        "deleted": True,
    }


def test_a_secret_in_use_stays(stocked: Shell) -> None:
    stocked.good("job", "create", "--name=nightly", *JOB)
    done = stocked("secret", "delete", "openai-prod", "--yes")
    assert done.code == 5
    assert "nightly" in done.err
    assert "polling 1 nightly" in stocked.good("secret", "list").out


def test_secret_test_tells_a_good_key_from_a_bad_one(stocked: Shell) -> None:
    with OpenAI(api_keys=[KEY]) as openai, Keboola(tokens=[STORAGE_TOKEN]) as keboola:
        good = stocked("secret", "test", "openai-prod", f"--base-url={openai.base_url}")
        assert (good.code, good.out.split(":")[0]) == (0, "Valid")
        good = stocked("secret", "test", "keboola-prod", f"--stack={keboola.url}")
        assert (good.code, good.out.split(":")[0]) == (0, "Valid")
        stocked.good("secret", "set", "openai-prod", stdin=b"sk-another-key")
        bad = stocked("secret", "test", "openai-prod", f"--base-url={openai.base_url}")
        assert (bad.code, bad.out.split(":")[0]) == (1, "Not valid")
        assert stocked("secret", "test", "nobody").code == 3
    gone = stocked("secret", "test", "openai-prod", f"--base-url={openai.base_url}")
    assert gone.code == 1


def test_empty_lists_say_what_to_do_first(sh: Shell) -> None:
    assert "teckochecker secret add" in sh.good("secret", "list").out
    assert "teckochecker job create" in sh.good("job", "list").out


def test_rotate_key_changes_the_key_and_nothing_else(stocked: Shell) -> None:
    settings = stocked.machine.settings_file
    settings.write_text(f"# mine\n{settings.read_text()}MAX_RETRIES=2\n")
    old, text = stocked.machine.secret_key, settings.read_text()
    assert stocked.json("secret", "rotate-key") == {"secrets": 2}
    new = stocked.machine.secret_key
    assert new != old
    assert settings.read_text() == text.replace(old, new)
    assert stat.S_IMODE(settings.stat().st_mode) == 0o600
    with OpenAI(api_keys=[KEY]) as openai:
        stocked.good("secret", "test", "openai-prod", f"--base-url={openai.base_url}")
    stocked.env(SECRET_KEY=old)
    assert stocked("secret", "list").code == 78


def test_a_rotation_that_was_cut_off_is_finished_by_the_next_command(stocked: Shell) -> None:
    settings = stocked.machine.settings_file
    pair = {"SECRET_KEY": OTHER_KEY, "SECRET_KEY_OLD": stocked.machine.secret_key}
    settings.write_text(envfile.changed(settings.read_text(), pair))
    stocked.good("secret", "list")
    settings.write_text(envfile.changed(settings.read_text(), {"SECRET_KEY_OLD": None}))
    with OpenAI(api_keys=[KEY]) as openai:
        stocked.good("secret", "test", "openai-prod", f"--base-url={openai.base_url}")


def test_rotate_key_hands_out_a_key_that_is_kept_elsewhere(bare: Shell) -> None:
    bare.env(SECRET_KEY=OTHER_KEY)
    bare.good("init")
    bare.good("secret", "add", "--name=a", "--type=openai", stdin=KEY.encode())
    done = bare.good("secret", "rotate-key")
    assert "Nothing is changed yet" in done.err
    pair = dict(line.split("=", 1) for line in done.out.splitlines())
    assert pair["SECRET_KEY_OLD"] == OTHER_KEY
    bare.good("secret", "list")
    bare.env(**pair)
    bare.good("secret", "list")
    bare.env(SECRET_KEY_OLD=None)
    bare.good("secret", "list")


def test_rotate_key_changes_nothing_when_a_secret_cannot_be_opened(stocked: Shell) -> None:
    altered(stocked, "UPDATE secrets SET type = 'generic' WHERE name = 'openai-prod'")
    before = stocked.machine.settings_file.read_bytes()
    done = stocked("secret", "rotate-key")
    assert done.code == 78
    assert "openai-prod" in done.err
    assert stocked.machine.settings_file.read_bytes() == before


def test_key_and_token_are_not_changed_beside_a_daemon(sh: Shell) -> None:
    lock = DataLock(sh.machine.home)
    lock.tell("http://127.0.0.1:1")
    before = sh.machine.settings_file.read_bytes(), sh.machine.token
    codes = [sh("secret", "rotate-key").code, sh("token", "new").code]
    lock.release()
    assert codes == [5, 5]
    assert (sh.machine.settings_file.read_bytes(), sh.machine.token) == before


def test_a_new_token_ends_the_old_one(sh: Shell) -> None:
    old = sh.machine.token
    done = sh.good("token", "new")
    assert sh.machine.token != old
    assert sh.machine.token not in done.out + done.err
    assert stat.S_IMODE((sh.machine.home / "token").stat().st_mode) == 0o600
    assert sh("job", "list").code == 0
    sh.env(TECKOCHECKER_TOKEN=old)
    assert sh("job", "list").code == 4


def test_a_token_with_a_lines_end_inside_is_refused_and_not_shown(sh: Shell) -> None:
    sh.env(TECKOCHECKER_TOKEN="tck_a\nX-Evil: b")
    done = sh("job", "list")
    assert done.code == 4
    assert "Evil" not in done.err


# -- jobs


def test_a_job_is_made_of_its_options(stocked: Shell) -> None:
    stocked.good(
        "job",
        "create",
        "--name=My Batch Job",
        *JOB,
        "--batch-id=batch_2",
        "--poll-interval=60",
        "--component-id=keboola.python",
        "--openai-base-url=https://api.example.com/v1",
        "--max-failed-percent=2.5",
        "--variable=a=1",
        "--variable=b=x=y",
        "--trigger-on=terminal",
        "--no-follow-up",
    )
    job = stocked.json("job", "show", "My Batch Job")
    assert job["batch_ids"] == ["batch_1", "batch_2"]
    assert job["openai_secret_name"] == "openai-prod"
    assert job["keboola_secret_name"] == "keboola-prod"
    assert job["keboola_stack_url"] == "https://connection.keboola.com"
    assert job["keboola_configuration_id"] == "123456"
    assert job["keboola_component_id"] == "keboola.python"
    assert job["keboola_variables"] == {"a": "1", "b": "x=y"}
    assert job["openai_base_url"] == "https://api.example.com/v1"
    assert job["max_failed_percent"] == 2.5
    assert job["poll_interval_seconds"] == 60
    assert job["trigger_on"] == "terminal"
    assert job["follow_up"] is False


def test_every_fault_of_a_new_job_is_told_at_once(stocked: Shell) -> None:
    done = stocked("job", "create", "--name=1", "--batch-id=b", "--poll-interval=0", *JOB[1:3])
    assert done.code == 2
    first, *rest = done.err.splitlines()
    assert first == "Error: 5 things must be mended:"
    assert [line.strip().split(":")[0] for line in rest] == [
        "--name",
        "--poll-interval",
        "--batch-id",
        "--keboola-stack",
        "--config-id",
    ]


def test_one_fault_of_a_new_job_is_one_line_under_its_option(stocked: Shell) -> None:
    done = stocked("job", "create", "--name=1", *JOB)
    (line,) = done.err.splitlines()
    assert line.startswith("Error: --name: must not be only digits")


def test_faults_name_options_that_exist(bare: Shell) -> None:
    told = "".join(
        bare.good(*words, "--help").out
        for words in (
            ("job", "create"),
            ("job", "list"),
            ("custom-check", "create"),
            ("secret", "add"),
        )
    )
    missing = [option for option in output._OPTIONS.values() if f" {option} " not in told]
    assert missing == []


def test_a_variable_without_a_value_is_refused(stocked: Shell) -> None:
    done = stocked("job", "create", "--name=nightly", *JOB, "--variable=a")
    assert done.code == 2
    assert "KEY=VALUE" in done.err


def test_a_job_goes_through_its_commands_by_id_and_name(stocked: Shell) -> None:
    created = stocked.good("job", "create", "--name=Žluť & spol.", *JOB)
    assert created.out == "Job 1 'Žluť & spol.' created.\n"
    assert "No daemon runs" in created.err
    name = "Žluť & spol."
    assert stocked.json("job", "pause", name)["status"] == "paused"
    assert stocked("job", "trigger", name).code == 5
    assert stocked.json("job", "resume", "1")["status"] == "active"
    assert stocked.good("job", "trigger", "1").out.startswith("Job triggered: 1 ")
    stocked.good("job", "update", name, "--name=other", "--poll-interval=300")
    assert stocked.json("job", "show", "other")["poll_interval_seconds"] == 300
    assert stocked("job", "update", "other").code == 2
    logs = stocked.good("job", "logs", "other").out.splitlines()
    assert "Created." in logs[0]
    assert "No deliveries" in stocked.good("job", "deliveries", "other").out
    assert stocked("job", "redeliver", "1").code == 3
    assert stocked("job", "delete", "other").code == 1
    assert stocked.good("job", "delete", "other", "--yes").out == "Job 1 'other' deleted.\n"
    assert stocked("job", "show", "1").code == 3


@pytest.mark.parametrize("view", ["job", "custom-check"])
def test_deleting_a_job_is_told_in_json(view: str, stocked: Shell) -> None:
    fields = JOB if view == "job" else ("--runtime=python",)
    stocked.good(view, "create", "--name=nightly", *fields)
    told = stocked.json(view, "delete", "nightly", "--yes")
    assert told == {"id": 1, "name": "nightly", "deleted": True}


@pytest.mark.parametrize("name", ["", " ", ".", "..", "nobody", "a/b", "99999999999999999999", "?"])
def test_what_names_no_job_is_exit_3(name: str, sh: Shell) -> None:
    for command in ("show", "logs", "deliveries", "pause", "wait"):
        assert sh("job", command, name).code == 3
    assert sh("job", "delete", name, "--yes").code == 3


def test_a_taken_name_is_exit_5(stocked: Shell) -> None:
    stocked.good("job", "create", "--name=nightly", *JOB)
    assert stocked("job", "create", "--name=nightly", *JOB).code == 5


def test_a_list_is_filtered_and_paged(stocked: Shell) -> None:
    for number in range(3):
        stocked.good("job", "create", f"--name=job-{number}", *JOB)
    stocked.good("job", "pause", "job-1")
    listed = stocked.json("job", "list", "--status=paused", "--q=job", "--kind=all")
    assert [job["name"] for job in listed["jobs"]] == ["job-1"]
    page = stocked.good("job", "list", "--limit=2")
    assert "2 of 3; the next with --offset 2." in page.out
    assert "No more: there are 3" in stocked.good("job", "list", "--offset=5").out
    assert "No job is like that" in stocked.good("job", "list", "--q=nobody").out
    assert stocked("job", "list", "--status=nonsense").code == 2


def test_a_piped_table_cuts_nothing(stocked: Shell) -> None:
    name = "a very long name " * 14 + "end"
    stocked.env(COLUMNS="40")
    stocked.good("job", "create", f"--name={name}", *JOB)
    rows = stocked.good("job", "list").out.splitlines()
    assert len(rows) == 2
    assert name in rows[1]


@pytest.mark.slow
def test_no_color_leaves_plain_text_on_a_terminal(sh: Shell) -> None:
    sh.machine.env |= {"TERM": "xterm-256color", "NO_COLOR": "1"}
    with terminal(sh.machine, "config", "show") as (ours, child):
        shown = seen(ours)
        assert child.wait(LONG_S) == 0
    assert "API_PORT" in shown
    assert "\x1b" not in shown


def test_times_are_shown_in_the_local_zone(stocked: Shell) -> None:
    stocked.good("job", "create", "--name=nightly", *JOB)
    assert re.search(
        r"Created +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d CES?T\n", stocked.good("job", "show", "1").out
    )


@pytest.mark.slow
def test_jobs_fit_a_small_terminal_a_line_each(stocked: Shell) -> None:
    stocked.good("job", "create", "--name=nightly", *JOB)
    stocked.good("job", "create", "--name=hourly", *JOB)
    stocked.machine.env["NO_COLOR"] = "1"
    with terminal(stocked.machine, "job", "list") as (ours, child):
        shown = seen(ours)
        assert child.wait(LONG_S) == 0
    heading, hourly, nightly = shown.splitlines()
    assert "Next check" in heading
    assert re.match(r"2 +hourly +active \(polling\) +- +- +due now$", hourly)
    assert re.match(r"1 +nightly +active ", nightly)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.4, "1 s ago"),
        (5.1, "in 5 s"),
        (-119, "119 s ago"),
        (200, "in 3 min"),
        (-9000, "2 h ago"),
        (200_000, "in 2 d"),
    ],
)
def test_an_instant_is_told_from_now(seconds: float, text: str) -> None:
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    assert output.from_now(at.isoformat()) == text
    assert output.from_now(None) == "-"


@pytest.mark.slow
def test_json_is_the_apis_bytes(stocked: Shell) -> None:
    stocked.good("job", "create", "--name=Žluť", *JOB)
    stocked.good("job", "pause", "1")
    with stocked.machine.started() as url:
        host, _, port = url.removeprefix("http://").partition(":")
        for path, command in (
            ("/api/jobs", ("job", "list")),
            ("/api/jobs/1", ("job", "show", "1")),
            ("/api/jobs/1/logs?limit=1", ("job", "logs", "1", "--limit=1")),
            ("/api/admin/secrets", ("secret", "list")),
        ):
            connection = HTTPConnection(host, int(port), timeout=LONG_S)
            connection.request(
                "GET", path, headers={"authorization": f"Bearer {stocked.machine.token}"}
            )
            said = connection.getresponse().read()
            connection.close()
            assert stocked.good(*command, "--output=json").out == f"{said.decode()}\n"


def test_what_would_steer_a_terminal_is_replaced(stocked: Shell) -> None:
    stocked.good("job", "create", "--name=nightly", *JOB)
    altered(stocked, "UPDATE logs SET message = 'a\x1b]0;evil\x07b[red]c'")
    assert "a\ufffd]0;evil\ufffdb[red]c" in stocked.good("job", "logs", "1").out


# -- where a command asks


def test_a_daemon_that_does_not_answer_is_exit_6_and_no_second_writer(sh: Shell) -> None:
    lock = DataLock(sh.machine.home)
    lock.tell("http://127.0.0.1:1")
    done = sh("job", "list")
    lock.release()
    assert done.code == 6
    assert "http://127.0.0.1:1 can't be reached" in done.err


def test_a_command_waits_for_another_that_holds_the_data(sh: Shell) -> None:
    lock = DataLock(sh.machine.home)
    threading.Timer(0.3, lock.release).start()
    assert sh("job", "list").code == 0


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1:1", 6),
        ("http://[::1]:1", 6),
        ("https://127.0.0.1:1", 6),
        ("127.0.0.1:8000", 78),
        ("ftp://127.0.0.1", 78),
        ("http://host:port", 78),
        ("http://me:secret@127.0.0.1:1", 78),
        ("http://a..b", 78),
    ],
)
def test_another_address_is_asked_where_one_is_set(url: str, code: int, bare: Shell) -> None:
    bare.env(TECKOCHECKER_URL=url, TECKOCHECKER_TOKEN="tck_x")
    for command in (("job", "list"), ("status",)):
        done = bare(*command)
        assert done.code == code
        assert "secret" not in done.err


def test_an_answer_of_another_program_is_exit_6(bare: Shell) -> None:
    with OpenAI(api_keys=["tck_x"]) as other:
        bare.env(TECKOCHECKER_URL=other.url, TECKOCHECKER_TOKEN="tck_x")
        assert bare("job", "list").code == 3
    with Keboola() as other:
        other.instead("GET", "*", HTML, forever=True)
        bare.env(TECKOCHECKER_URL=other.url)
        done = bare("job", "list")
        assert done.code == 6
        assert "TECKOCHECKER_URL" in done.err


@pytest.mark.slow
def test_a_daemon_elsewhere_serves_a_machine_without_an_installation(stocked: Shell) -> None:
    with stocked.machine.started() as url:
        stocked.env(TECKOCHECKER_HOME="nowhere", TECKOCHECKER_URL=f"{url}/")
        assert stocked("secret", "list").code == 4
        stocked.env(TECKOCHECKER_TOKEN=stocked.machine.token)
        assert stocked.json("secret", "list")["total"] == 2
        assert stocked("status").code == 0
    assert not Path("nowhere").exists()


def test_a_file_may_hold_the_token(sh: Shell) -> None:
    (sh.machine.home / "token").rename("elsewhere")
    sh.env(TECKOCHECKER_TOKEN_FILE=str(Path("elsewhere").absolute()))
    assert sh("job", "list").code == 0


def test_a_wrong_token_is_exit_4(sh: Shell) -> None:
    sh.env(TECKOCHECKER_TOKEN="tck_wrong")
    done = sh("job", "list")
    assert done.code == 4
    assert "tck_wrong" not in done.err


# -- the daemon


@pytest.mark.slow
def test_start_serves_in_the_foreground_until_ctrl_c(sh: Shell) -> None:
    machine = sh.machine
    assert (machine.program("status").code, machine.program("stop").code) == (6, 6)
    child = machine.begin("start", "--port=0")
    assert child.stdout
    told = child.stdout.readline().decode()
    assert re.search(r"answers at http://127\.0\.0\.1:\d+ \(pid \d+\)", told)
    assert sh.json("status")["health"]["status"] == "ok"
    assert "Uptime" in sh.good("status").out
    second = machine.program("start", "--port=0")
    assert second.code == 5
    assert f"pid {child.pid}" in second.err
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=LONG_S)
    assert child.returncode == 0
    assert b"Traceback" not in errors
    assert sh("status").code == 6


@pytest.mark.slow
def test_a_detached_daemon_runs_on_and_stop_ends_it(sh: Shell) -> None:
    started = sh.machine.program("start", "--detach", "--port=0", "--output=json")
    found = holder(sh.machine.home)
    assert found
    assert started.json == {"url": found.url, "pid": found.pid}
    assert sh("job", "list").code == 0
    assert {check["state"] for check in sh.json("doctor")["checks"]} <= {"ok", "note"}
    os.kill(found.pid, signal.SIGSTOP)
    late = sh("stop", "--timeout=0")
    os.kill(found.pid, signal.SIGCONT)
    assert late.code == 7
    end = time.monotonic() + LONG_S
    while holder(sh.machine.home) or holder(sh.machine.home, SUPERVISOR):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert sh("stop").code == 6


@pytest.mark.slow
def test_a_detached_start_hands_on_the_error_of_its_daemon(sh: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = sh.machine.program("start", "--detach", f"--port={port}")
    assert done.code == 5
    assert done.err.startswith(f"Error: 127.0.0.1:{port} can't be listened on")
    assert done.err.count("\n") == 1
    assert holder(sh.machine.home) is None
    sh.machine.settings_file.unlink()
    assert sh.machine.program("start", "--detach", "--port=0").code == 78


@pytest.mark.slow
def test_wait_tells_the_outcome_by_its_exit_code(stocked: Shell) -> None:
    with OpenAI(api_keys=[KEY]) as openai, Keboola(tokens=[STORAGE_TOKEN]) as keboola:
        openai.add("batch_good", "in_progress", "completed")
        openai.add("batch_bad", "failed")
        openai.add("batch_slow", "in_progress")

        def outcome(batch: str, *options: str, timeout: str = "1m") -> int:
            stocked.good(
                "job",
                "create",
                f"--name={batch}",
                f"--batch-id={batch}",
                *JOB[1:3],
                f"--openai-base-url={openai.base_url}",
                f"--keboola-stack={keboola.url}",
                "--config-id=1",
                "--poll-interval=1",
                *options,
            )
            return stocked("job", "wait", batch, f"--timeout={timeout}").code

        with stocked.machine.started():
            keboola.instead("POST", "/jobs", queue_error(400, "Simulated."))
            assert outcome("batch_good") == 30
            assert stocked.good("job", "redeliver", "1").out == "Delivery 1 is pending again.\n"
            assert stocked("job", "wait", "batch_good").code == 0
            shown = stocked.good("job", "deliveries", "batch_good").out
            assert "delivered" in shown
            assert "Simulated." in shown
            assert str(keboola.jobs[0]["url"]) in stocked.good("job", "show", "batch_good").out
            assert outcome("batch_bad") == 10
            assert outcome("batch_bad", "--trigger-on=terminal") == 10
            assert outcome("batch_slow", timeout="0") == 20


def test_an_update_can_take_fields_away(stocked: Shell) -> None:
    hook = ("--webhook-url=https://example.com/hook", "--max-failed-percent=5")
    stocked.good("job", "create", "--name=nightly", *JOB, *hook)

    stocked.good("job", "update", "nightly", "--clear=webhook_url", "--clear", "max-failed-percent")

    shown = stocked.json("job", "show", "nightly")
    assert "webhook_url" not in shown
    assert shown["max_failed_percent"] == 100
    for names, said in (
        (("--clear=name",), "name"),
        (("--clear=nothing",), "nothing"),
        (("--clear=follow_up", "--no-follow-up"), "given and cleared"),
        (("--clear=openai_secret_id", "--openai-secret=x"), "given and cleared"),
    ):
        refused = stocked("job", "update", "nightly", *names)
        assert refused.code == 2
        assert said in refused.err


@pytest.mark.parametrize(("status", "code"), [(502, 1), (503, 6), (504, 7), (404, 3)])
def test_wait_goes_on_while_a_proxy_has_nobody_behind_it(
    stocked: Shell, status: int, code: int
) -> None:
    job = {"id": 1, "name": "nightly", "status": "active", "phase": "polling"}
    with Receiver() as proxy:
        proxy.instead("GET", "/api/jobs/nightly", Answer(content=job))
        proxy.instead("GET", "/api/jobs/1", Answer(status, content={"detail": "Nobody."}))
        proxy.instead("GET", "/api/jobs/1", Answer(status, content={"detail": "Nobody."}))
        stocked.env(TECKOCHECKER_URL=proxy.url, TECKOCHECKER_TOKEN="tck_x")
        done = stocked("job", "wait", "nightly", "--timeout=1")

    assert done.code == code
    assert done.err.count("Nobody.") == (1 if status == 404 else 2)


@pytest.mark.slow
def test_wait_goes_on_when_the_daemon_of_another_machine_restarts(stocked: Shell) -> None:
    stocked.good("job", "create", "--name=nightly", *JOB)
    stocked.good("job", "pause", "nightly")
    machine = stocked.machine
    with machine.started() as url:
        machine.env |= {"TECKOCHECKER_URL": url, "TECKOCHECKER_TOKEN": machine.token}
        child = machine.begin("job", "wait", "nightly")
        assert child.stderr
        paused = child.stderr.readline()
    gone = child.stderr.readline()
    late = machine.program("job", "wait", "nightly", "--timeout=0")
    with machine.started(port=url.rpartition(":")[2]):
        stocked.good("job", "delete", "nightly", "--yes")
        _, told = child.communicate(timeout=LONG_S)

    assert b"is paused" in paused
    assert b"Waiting for it." in gone
    assert late.code == 6
    assert (child.returncode, told.count(b"Note")) == (3, 0)


def test_wait_says_that_nothing_will_come_without_a_daemon(stocked: Shell) -> None:
    stocked.good("job", "create", "--name=nightly", *JOB)
    stocked.good("job", "pause", "nightly")
    done = stocked("job", "wait", "nightly", "--timeout=0")
    assert done.code == 20
    assert "No daemon runs" in done.err
    assert "teckochecker job resume 1" in done.err
    assert done.out == "Job 1 'nightly' is paused: not checked yet; paused by hand.\n"


@pytest.mark.slow
def test_follow_shows_what_comes_until_ctrl_c(stocked: Shell) -> None:
    stocked.good("job", "create", "--name=nightly", *JOB)
    stocked.good("job", "pause", "nightly")
    with stocked.machine.started():
        child = stocked.machine.begin("job", "logs", "nightly", "--follow")
        assert child.stdout
        first = [child.stdout.readline().decode() for _ in range(2)]
        stocked.good("job", "update", "nightly", "--poll-interval=300")
        third = child.stdout.readline().decode()
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=LONG_S)
    assert "Created." in first[0]
    assert "Paused" in first[1]
    assert "hanged" in third
    assert errors == b""
    assert child.returncode == 130

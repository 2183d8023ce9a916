"""The executable, as somebody has it who has nothing else: no Python, no checkout, no environment.

Where the tests run as root, it runs as a user without rights, and sees an empty folder in place
of the checkout, of /var/tmp and of /dev/shm, each of the latter new for every command.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from teckochecker import __version__
from teckochecker.lock import DAEMON, SUPERVISOR, Holder, holder
from teckochecker.simulators import API_KEY, STORAGE_TOKEN, Keboola, OpenAI, Receiver
from tests import sandboxed
from tests.benchmarks.harness import wait_for
from tests.required import absent

ROOT = Path(__file__).parents[1]
BUILT = ROOT / "dist" / "teckochecker"
NOBODY = 65534
IS_ROOT = os.geteuid() == 0
LONG_S = 90
IO = 74
NEW_FOLDERS = ("/var/tmp", "/dev/shm")

pytestmark = [pytest.mark.binary, pytest.mark.slow]
as_root = pytest.mark.usefixtures("root")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


class Machine:
    """A folder with the executable and a user's home, and nothing that isn't given by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "teckochecker"
        self.home = folder / "home"
        self.cache = self.home / ".cache" / "teckochecker" / "executable"
        self.groups: tuple[int, ...] = ()
        shutil.copy(BUILT, self.file)
        self.make("home")
        self.make("tmp")

    def make(self, name: str, mode: int = 0o700) -> Path:
        """A folder of the user's."""
        made = self.folder / name
        made.mkdir(parents=True)
        made.chmod(mode)
        if IS_ROOT:
            os.chown(made, NOBODY, NOBODY)
        return made

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "TMPDIR": str(self.folder / "tmp"),
            "TECKOCHECKER_HOME": str(self.home / "data"),
            **more,
        }

    def command(
        self, *arguments: str, env: dict[str, str] | None = None, noexec: tuple[str, ...] = ()
    ) -> list[str]:
        """The executable with that environment; by default with the user's."""
        given = self.environment() if env is None else env
        clean = ["env", "-i", *(f"{name}={value}" for name, value in given.items())]
        if not IS_ROOT:
            return [*clean, str(self.file), *arguments]
        mounts = [f"mount -t tmpfs -o mode=1777 none {one}" for one in NEW_FOLDERS]
        mounts += [f"mount -t tmpfs -o mode=1777,noexec none {one}" for one in noexec]
        groups = f"--groups={','.join(map(str, self.groups))}" if self.groups else "--clear-groups"
        user = f"--reuid={NOBODY} --regid={NOBODY} {groups}"
        script = f'{" && ".join(mounts)} && mount -t tmpfs none "$0" && exec setpriv {user} "$@"'
        cage = ["unshare", "--mount", "sh", "-c", script, str(ROOT)]
        return [*cage, *clean, str(self.file), *arguments]

    def __call__(
        self,
        *arguments: str,
        stdin: str = "",
        env: dict[str, str] | None = None,
        noexec: tuple[str, ...] = (),
    ) -> Done:
        done = subprocess.run(
            self.command(*arguments, env=env, noexec=noexec),
            cwd=self.folder / "tmp",
            input=stdin,
            capture_output=True,
            text=True,
            timeout=LONG_S,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def good(self, *arguments: str, stdin: str = "", env: dict[str, str] | None = None) -> str:
        done = self(*arguments, stdin=stdin, env=env)
        assert done.code == 0, done.out + done.err
        return done.out

    def begin(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments, env=env),
            cwd=self.folder / "tmp",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @contextmanager
    def api(self) -> Iterator[httpx.Client]:
        """Of the daemon that runs."""
        found = holder(self.home / "data")
        assert found is not None
        token = (self.home / "data" / "token").read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=found.url or "", headers=headers, timeout=60) as client:
            yield client

    def unpacked(self) -> list[str]:
        return sorted(path.name for path in self.cache.iterdir())


def build_is_stale() -> bool:
    """Whether something that goes into the executable is newer than it."""
    folders = [ROOT / name for name in ("teckochecker", "runners", "deploy/executable")]
    files = [path for folder in folders for path in folder.rglob("*")]
    files = [path for path in files if "cache" not in str(path.relative_to(ROOT))]
    files += [ROOT / name for name in ("teckochecker.spec", "pyproject.toml", "constraints.txt")]
    return max(path.stat().st_mtime for path in files if path.is_file()) > BUILT.stat().st_mtime


@contextmanager
def made_machine() -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="teckochecker-binary-"))
    folder.chmod(0o755)  # pytest's own folders are closed to others
    made = Machine(folder)
    try:
        yield made
    finally:
        for name in (SUPERVISOR, DAEMON):
            if left := holder(made.home / "data", name):
                with suppress(ProcessLookupError):
                    os.kill(left.pid, signal.SIGKILL)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def built() -> None:
    problem = ""
    if not BUILT.exists():
        problem = "dist/teckochecker isn't there: run `make binary`"
    elif build_is_stale():
        problem = "dist/teckochecker is older than its sources: run `make binary`"
    if problem:
        absent("binary", problem)


@pytest.fixture
def root() -> None:
    if not IS_ROOT:
        absent("binary", "only root can mount folders")


@pytest.fixture
def machine(built: None) -> Iterator[Machine]:
    """One on which it has never run."""
    with made_machine() as made:
        yield made


@pytest.fixture(scope="module")
def used(built: None) -> Iterator[Machine]:
    """One on which it is unpacked."""
    with made_machine() as made:
        made.good("--version")
        yield made


# -- what it is


def test_it_needs_no_environment(used: Machine) -> None:
    assert used("--version", env={}) == Done(0, f"teckochecker {__version__}\n", "")


def test_it_tells_what_it_is_made_of(used: Machine) -> None:
    told = used.good("--version", "-v")
    assert told.startswith(f"teckochecker {__version__}\n")
    for pattern in (
        r"commit    [0-9a-f]{40}(-dirty)?",
        r"Python    3\.\d+\.\d+",
        r"SQLite    3\.\d+\.\d+",
        r"platform  \w+",
    ):
        assert re.search(f"^{pattern}", told, re.MULTILINE), told


def test_it_hands_on_the_licences_of_what_is_inside(used: Machine) -> None:
    text = used.good("--licenses")
    for name in ("Python 3", "trio ", "apsw ", "cryptography ", "pyinstaller ", "libssl"):
        assert re.search(f"^  {name}", text, re.MULTILINE), name
    assert "Permission is hereby granted" in text
    assert str(ROOT) not in text


def test_every_command_explains_itself(used: Machine) -> None:
    listed = used.good("--help")
    names = re.findall(r"^│ ([a-z-]+)  ", listed, re.MULTILINE)
    assert {"init", "start", "stop", "demo", "job", "secret"} <= set(names)
    for name in names:
        assert "Usage: " in used.good(name, "--help")


# -- what it does


def test_the_demo_goes_as_it_must_without_any_environment(used: Machine) -> None:
    done = used("demo", env={})
    assert done.code == 0, done.out + done.err
    assert "Everything went as it must" in done.out


@pytest.fixture
def installed(machine: Machine) -> Machine:
    machine.good("init")
    return machine


def test_a_job_triggers_what_it_should(installed: Machine) -> None:
    with OpenAI(api_keys=[API_KEY]) as openai, Keboola(tokens=[STORAGE_TOKEN]) as keboola:
        openai.add("batch_1", "in_progress", "completed")
        settings = installed.environment(
            MIN_POLL_INTERVAL="1",
            OPENAI_BASE_URL=openai.base_url,
            ALLOWED_PRIVATE_HOSTS="127.0.0.1",
        )
        for kind, value in (("openai", API_KEY), ("keboola", STORAGE_TOKEN)):
            words = ("secret", "add", f"--name={kind}", f"--type={kind}")
            installed.good(*words, stdin=value, env=settings)
        fields = ("--name=nightly", "--batch-id=batch_1", "--openai-secret=openai")
        fields += ("--keboola-secret=keboola", f"--keboola-stack={keboola.url}")
        fields += ("--config-id=123", "--poll-interval=1")
        installed.good("job", "create", *fields, env=settings)
        installed.good("start", "--detach", "--port=0", env=settings)
        installed.good("job", "wait", "nightly", "--timeout=1m", env=settings)
        assert [job["config"] for job in keboola.jobs] == ["123"]
        installed.good("stop")
    assert holder(installed.home / "data") is None


def test_a_killed_daemon_is_started_again_and_stop_ends_it_for_good(installed: Machine) -> None:
    home = installed.home / "data"
    started = json.loads(installed.good("start", "--detach", "--port=0", "--output=json"))
    os.kill(started["pid"], signal.SIGKILL)

    wait_for("end", lambda: holder(home) is None, seconds=10)
    wait_for("new daemon", lambda: serving(installed), seconds=30)
    assert holder(home) != Holder(started["pid"], started["url"])
    installed.good("status")
    supervisor = holder(home, SUPERVISOR)
    installed.good("stop")
    assert supervisor is not None
    wait_for("end", lambda: not Path(f"/proc/{supervisor.pid}").exists(), seconds=10)
    assert holder(home) is None
    assert installed("status").code == 6


def test_an_uploaded_script_is_looked_at_in_a_process_of_its_own(installed: Machine) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("main.py")
        member.size = len(b"print(1)\n")
        archive.addfile(member, io.BytesIO(b"print(1)\n"))
    installed.good("start", "--detach", "--port=0")
    with installed.api() as api:
        fields = {"name": "script", "script_runtime": "python", "webhook_url": "https://a.example"}
        made = api.post("/api/custom-checks", json=fields)
        assert made.status_code == 201, made.text
        path = f"/api/custom-checks/{made.json()['id']}/script/upload"
        for content, status in ((packed.getvalue(), 200), (b"no archive", 400)):
            answer = api.post(path, files={"file": ("script.tgz", content)})
            assert answer.status_code == status, answer.text
        workers = [line for line in commands() if "--multiprocessing-fork" in line]
        assert any(str(installed.folder) in line for line in workers)
    installed.good("stop")


@pytest.mark.docker
def test_a_custom_check_runs_and_calls_its_webhook(installed: Machine) -> None:
    sandboxed.ready()
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    installed.groups = (os.stat(address.removeprefix("unix://")).st_gid,)
    settings = installed.environment(ALLOWED_PRIVATE_HOSTS="127.0.0.1", DOCKER_HOST=address)
    script = """import json; print(json.dumps({"status": "SUCCESS", "data": {"number": 42}}))"""
    with Receiver() as receiver:
        installed.good("start", "--detach", "--port=0", env=settings)
        fields = {
            "name": "script",
            "script_runtime": "python",
            "script": script,
            "webhook_url": f"{receiver.url}/hook",
        }
        with installed.api() as api:
            assert api.post("/api/custom-checks", json=fields).status_code == 201
            receiver.wait_for(lambda request: True, timeout_s=60)
        installed.good("stop")
    (call,) = receiver.requests
    assert call.body["check_status"] == "SUCCESS"
    assert call.body["check_data"] == {"number": 42}


def test_it_serves_as_systemd_starts_it(machine: Machine) -> None:
    state, cache = machine.make("state"), machine.make("cache", 0o755)
    (machine.folder / "secret_key").write_text("a-key-that-systemd-hands-over-as-a-credential==\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(machine.folder / "notify"))
        (machine.folder / "notify").chmod(0o777)
        manager.settimeout(30)
        env = {
            "STATE_DIRECTORY": str(state),
            "CACHE_DIRECTORY": str(cache),
            "SECRET_KEY_FILE": str(machine.folder / "secret_key"),
            "LOG_FILE": "-",
            "NOTIFY_SOCKET": str(machine.folder / "notify"),
            "WATCHDOG_USEC": "900000",
        }
        machine.good("init", env=env)
        assert "\nSECRET_KEY=" not in (state / ".env").read_text()
        service = machine.begin("start", "--port=0", env=env)
        heard = manager.recv(4096)
        while not heard.startswith(b"READY=1"):
            heard = manager.recv(4096)
        found = holder(state)
        assert found is not None
        assert found.pid == service.pid  # so NotifyAccess=main is enough
        assert manager.recv(4096).startswith(b"WATCHDOG=1\n")
        service.terminate()
        while not heard.startswith(b"STOPPING=1"):
            heard = manager.recv(4096)
        service.communicate(timeout=30)
        assert service.returncode == 0
    assert [path.name for path in cache.iterdir()] == ["executable"]


def test_children_get_the_library_path_that_the_user_had(used: Machine) -> None:
    def seen_by_a_child(**more: str) -> str:
        env = used.environment(**more)
        script = 'exec 9>>"$HOME/lock" && exec "$0" supervise 9 "" /usr/bin/env'
        command = used.command(env=env)
        command[-1:] = ["/bin/sh", "-c", script, str(used.file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout

    assert "LD_LIBRARY_PATH" not in seen_by_a_child()
    given = seen_by_a_child(LD_LIBRARY_PATH="/opt/theirs").splitlines()
    assert "LD_LIBRARY_PATH=/opt/theirs" in given
    assert not [line for line in given if "_PYI" in line or "TECKOCHECKER_CALLED" in line]


# -- where it is unpacked


def test_it_is_unpacked_once(used: Machine) -> None:
    before = {path: path.stat().st_ino for path in used.cache.iterdir()}
    assert len(before) == 1
    used.good("--version")
    assert {path: path.stat().st_ino for path in used.cache.iterdir()} == before
    assert used.cache.stat().st_mode & 0o777 == 0o700


def test_kill_9_of_what_was_started_kills_the_daemon_and_leaves_nothing(
    installed: Machine,
) -> None:
    before = installed.unpacked()
    for _ in range(2):
        service = installed.begin("start", "--port=0")
        found = wait_for("daemon", lambda: serving(installed), seconds=30)
        assert found.pid == service.pid
        service.kill()
        service.communicate(timeout=30)
        assert holder(installed.home / "data") is None
    assert installed.unpacked() == before
    assert list((installed.folder / "tmp").iterdir()) == []


def test_what_starts_at_the_same_time_shares_what_is_unpacked(machine: Machine) -> None:
    with ThreadPoolExecutor() as pool:
        started = [pool.submit(machine, "--version") for _ in range(4)]
    assert [one.result() for one in started] == [Done(0, f"teckochecker {__version__}\n", "")] * 4
    assert len(machine.unpacked()) == 1


def test_a_start_that_was_killed_is_cleared_up_by_the_next(machine: Machine) -> None:
    first = machine.begin("--version")
    wait_for("begin", lambda: machine.cache.exists() and machine.unpacked(), seconds=30)
    first.kill()
    first.communicate(timeout=30)
    time.sleep(1)  # a tar that it had started ends by itself
    machine.good("--version")
    assert len(machine.unpacked()) == 1
    assert not machine.unpacked()[0].startswith("new.")


def test_what_was_tidied_away_is_unpacked_again(machine: Machine) -> None:
    machine.good("--version")
    (name,) = machine.unpacked()
    next((machine.cache / name).rglob("libpython*")).unlink()
    machine.good("--version")
    assert machine.unpacked() == [name]


def test_old_versions_go_unless_something_runs_from_them(machine: Machine) -> None:
    machine.good("--version")
    (current,) = machine.unpacked()
    for name in ("0123456789abcdef", "fedcba9876543210", "not-ours"):
        made = machine.make(str((machine.cache / name).relative_to(machine.folder)))
        shutil.copy("/bin/sleep", made / "teckochecker")
    if IS_ROOT:
        os.chown(machine.cache / "fedcba9876543210" / "teckochecker", NOBODY, NOBODY)
    running = subprocess.Popen(
        [machine.cache / "fedcba9876543210" / "teckochecker", "60"],
        **({"user": NOBODY, "group": NOBODY, "extra_groups": []} if IS_ROOT else {}),
    )
    try:
        next((machine.cache / current).rglob("libpython*")).unlink()
        machine.good("--version")
    finally:
        running.kill()
        running.wait()
    assert machine.unpacked() == sorted([current, "fedcba9876543210", "not-ours"])


def test_a_damaged_file_says_so(machine: Machine) -> None:
    with machine.file.open("r+b") as file:
        file.seek(-1000, io.SEEK_END)
        file.write(b"\0" * 10)
    done = machine("--version")
    assert (done.code, done.out) == (IO, "")
    assert done.err == f"teckochecker: {machine.file} is damaged: get it again.\n"
    assert machine.unpacked() == []


@as_root
def test_a_home_without_rights_is_passed_over(machine: Machine) -> None:
    os.chown(machine.home, 0, 0)
    machine.home.chmod(0o555)
    machine.good("--version")


@as_root
def test_a_disk_that_may_hold_no_programs_is_passed_over(machine: Machine) -> None:
    noexec = (str(machine.home), str(machine.folder / "tmp"))
    assert machine("--version", noexec=noexec).code == 0


@as_root
def test_without_any_place_it_says_which_were_tried_and_what_to_do(machine: Machine) -> None:
    noexec = (str(machine.home), str(machine.folder / "tmp"), *NEW_FOLDERS)
    done = machine("--version", noexec=noexec)
    assert (done.code, done.out) == (IO, "")
    assert done.err.startswith("teckochecker: it can't be unpacked anywhere:\n")
    assert f"\n  {machine.cache}: no program may run from there (noexec)\n" in done.err
    assert f"\n  /var/tmp/teckochecker-{NOBODY}: no program" in done.err
    assert "Set TECKOCHECKER_CACHE to a folder" in done.err
    assert len(done.err.splitlines()) < 10

    place = machine.make("place")
    env = machine.environment(TECKOCHECKER_CACHE=str(place))
    assert machine("--version", noexec=noexec, env=env).code == 0


@as_root
@pytest.mark.parametrize(("owner", "mode"), [(0, 0o777), (NOBODY, 0o770), (NOBODY, 0o707)])
def test_a_folder_in_which_others_could_plant_files_is_not_used(
    machine: Machine, owner: int, mode: int
) -> None:
    machine.good("--version")
    (name,) = machine.unpacked()
    planted = machine.cache / name / "teckochecker"
    planted.write_text("#!/bin/sh\necho planted\n")
    os.chown(machine.cache, owner, owner)
    machine.cache.chmod(mode)

    assert machine.good("--version") == f"teckochecker {__version__}\n"
    alone = machine("--version", env=machine.environment(TECKOCHECKER_CACHE=str(machine.cache)))
    assert alone.code == IO
    assert "it must be yours, and closed to all others (chmod 700)" in alone.err


def serving(machine: Machine) -> Holder | None:
    """The daemon, once it tells its address."""
    found = holder(machine.home / "data")
    return found if found and found.url else None


def commands() -> Iterator[str]:
    """The command lines of all processes."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            yield Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode()

"""The daemon as a container: its image, and the options that `deploy/compose.yaml` gives it.

The options under which it runs here are read from the compose file, and one that this reader
doesn't know fails: what is tested is what is shipped.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import tempfile
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import yaml
from docker.models.containers import Container
from docker.types import LogConfig, Mount
from docker.utils.build import create_archive, exclude_paths

from teckochecker.config import NAMES, SETTINGS
from teckochecker.daemon import OVERTIME_S
from tests.benchmarks.harness import wait_for
from tests.conftest import SECRET_KEY
from tests.required import absent
from tests.sandboxed import ENVIRONMENT, TESTS, ca_bundle, engine, ready

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
IMAGE = "teckochecker/daemon:tests"
LABEL = "teckochecker.tests"
MADE_HERE = {LABEL: TESTS}
HOME = "/var/lib/teckochecker"
UID = 10001
START_S = 60.0  # on a machine that is busy with other tests
CHECK_S = 60.0
NO_CONFIG = 78
SHOW = "import os, sys; print(*(open(path).read() for path in sys.argv[1:]))"
NOT_THERE = ("gcc", "cc", "make", "/opt/teckochecker/bin/pip")
SUCCESS = """print('{"status": "SUCCESS", "message": "here"}')"""
SLOW_SUCCESS = f"import time; time.sleep(4); {SUCCESS}"


def on_an_engine(test: Callable[..., None]) -> Callable[..., None]:
    marked: Callable[..., None] = pytest.mark.docker(pytest.mark.slow(test))
    return marked


def composed(given: Mapping[str, str]) -> dict[str, Any]:
    """`deploy/compose.yaml` with its variables replaced, as Compose does it: in its texts."""
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return cast(dict[str, Any], _replaced(document, given))


def _replaced(value: object, given: Mapping[str, str]) -> object:
    def variable(found: re.Match[str]) -> str:
        name, how, text = found.groups()
        if how == "?" and not given.get(name):
            raise KeyError(f"{name}: {text}")
        return given.get(name) or text or ""

    match value:
        case dict():
            return {name: _replaced(one, given) for name, one in value.items()}
        case list():
            return [_replaced(one, given) for one in value]
        case str():
            return re.sub(r"\$\{(\w+)(?::([-?])([^}]*))?\}", variable, value)
    return value


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def options(composed: dict[str, Any], volume: str) -> dict[str, Any]:
    """The service's options as the engine's client takes them, on a free port and `volume`."""
    service = dict(composed["services"]["teckochecker"])
    for elsewhere in ("image", "build", "pull_policy", "stop_grace_period"):
        del service[elsewhere]
    as_they_are = (
        "init", "read_only", "cap_drop", "security_opt", "mem_limit", "memswap_limit",
        "pids_limit", "group_add", "environment",
    )  # fmt: skip
    made = {name: service.pop(name) for name in as_they_are}
    made["restart_policy"] = {"Name": service.pop("restart")}
    made["tmpfs"] = dict(entry.split(":", 1) for entry in service.pop("tmpfs"))
    made["log_config"] = LogConfig(type=service.pop("logging")["driver"])
    host, _, target = (ports := service.pop("ports"))[0].split(":")
    assert len(ports) == 1
    made["ports"] = {f"{target}/tcp": (host, None)}
    made["mounts"] = [_mount(entry, volume) for entry in service.pop("volumes")]
    made["mounts"] += [
        Mount(f"/run/secrets/{name}", composed["secrets"][name]["file"], "bind", read_only=True)
        for name in service.pop("secrets")
    ]
    assert service == {}, "options that no test runs with"
    return made


def _mount(entry: dict[str, Any], volume: str) -> Mount:
    if entry["type"] == "volume":
        return Mount(entry["target"], volume)
    assert entry["bind"] == {"create_host_path": False}
    return Mount(entry["target"], entry["source"], "bind")


def test_the_engine_s_group_must_be_named() -> None:
    with pytest.raises(KeyError, match="DOCKER_GID: put DOCKER_GID="):
        composed({})


def test_settings_in_the_compose_file_and_the_image_exist() -> None:
    given = set(composed({"DOCKER_GID": "1"})["services"]["teckochecker"]["environment"])
    image = (DEPLOY / "Dockerfile").read_text()
    known = NAMES | {"SECRET_KEY_FILE", "TECKOCHECKER_HOME"}

    assert given <= known
    assert {"API_HOST", "LOG_FILE", "TECKOCHECKER_HOME"} <= set(re.findall(r"\b[A-Z_]+\b", image))


def test_a_stop_is_given_more_time_than_the_drain_takes() -> None:
    service = composed({"DOCKER_GID": "1"})["services"]["teckochecker"]
    drain_s = int(service["environment"]["DRAIN_SECONDS"])

    assert drain_s == int(next(one.default for one in SETTINGS if one.name == "DRAIN_SECONDS"))
    assert seconds(service["stop_grace_period"]) > drain_s + OVERTIME_S


def test_only_this_machine_reaches_the_published_ports() -> None:
    for service in composed({"DOCKER_GID": "1"})["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_prometheus_is_set_up_as_its_own_file_says_but_for_the_address() -> None:
    shipped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    document = composed({"DOCKER_GID": "1"})
    here = yaml.safe_load(document["configs"]["prometheus"]["content"])
    prometheus = document["services"]["prometheus"]
    token = here["scrape_configs"][0]["authorization"]["credentials_file"]

    assert here["scrape_configs"][0].pop("static_configs") == [{"targets": ["teckochecker:8000"]}]
    shipped["scrape_configs"][0].pop("static_configs")
    assert here == shipped
    assert prometheus["secrets"] == [{"source": "token", "target": token}]
    rules = prometheus["volumes"][0]
    assert (DEPLOY / rules["source"]).is_file()
    assert rules["target"] == f"/etc/prometheus/{here['rule_files'][0]}"
    allowed = document["services"]["teckochecker"]["environment"]["ALLOWED_HOSTS"]
    assert "teckochecker" in allowed.split(",")


def test_compose_reads_the_file_as_this_test_does() -> None:
    compose = ["docker", "compose"]
    try:
        subprocess.run([*compose, "version"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        absent("compose", "the docker command has no plugin `compose`")
    given = {"DOCKER_GID": "4711"}
    done = subprocess.run(
        [*compose, "--file", str(DEPLOY / "compose.yaml"), "config", "--format", "json"],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)["services"]["teckochecker"]
    ours = composed(given)["services"]["teckochecker"]
    for name in ("init", "restart", "read_only", "cap_drop", "security_opt", "environment"):
        assert theirs[name] == ours[name]
    assert theirs["group_add"] == ["4711"]


def context() -> tuple[list[str], Any]:
    """What the build gets, as names and as a tar: what `.dockerignore` lets through."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    names = sorted(exclude_paths(str(ROOT), patterns, dockerfile="deploy/Dockerfile"))
    names = [name for name in names if name != "deploy/ca.pem"]
    bundle = ca_bundle()
    extra = [] if bundle is None else [("deploy/ca.pem", bundle.read_text())]
    return names, create_archive(str(ROOT), files=names, extra_files=extra)


@pytest.fixture(scope="module")
def image() -> str:
    """The image's name, built anew where its sources have changed; the engine keeps the layers."""
    ready()  # skips without an engine; makes the images that checks run in
    if not ENVIRONMENT.get("DOCKER_HOST", "unix://").startswith("unix://"):
        absent("docker", "the engine has no socket on this machine")
    base = os.environ.get("TECKO_BASE_PYTHON")
    client = engine()
    try:
        with Path(tempfile.gettempdir(), "teckochecker-test-daemon.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # test processes run side by side
            _, tar = context()
            said = list(
                client.api.build(
                    fileobj=tar,
                    custom_context=True,
                    dockerfile="deploy/Dockerfile",
                    tag=IMAGE,
                    buildargs={"BASE": base, "COMMIT": "c0ffee"} if base else {"COMMIT": "c0ffee"},
                    labels={LABEL: "daemon"},
                    rm=True,
                    forcerm=True,
                    decode=True,
                )
            )
            tar.close()
        failed = [event["error"] for event in said if "error" in event]
        assert failed == [], "".join(event.get("stream", "") for event in said)[-4000:]
        # Those that this one replaced; layers it shares with them stay.
        client.images.prune({"dangling": True, "label": f"{LABEL}=daemon"})
    finally:
        client.close()
    return IMAGE


def test_the_build_gets_no_history_no_tests_and_no_keys() -> None:
    names, tar = context()
    tar.close()
    places = {name.partition("/")[0] for name in names}

    assert places == {
        ".dockerignore", "LICENSE", "README.md", "constraints.txt", "deploy", "pyproject.toml",
        "runners", "teckochecker",
    }  # fmt: skip
    assert [name for name in names if name.startswith("deploy/")] == ["deploy/Dockerfile"]
    assert not [name for name in names if "__pycache__" in name]
    readme = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["readme"]
    assert readme in names


class Installation:
    """Containers under the options of the compose file, over one volume of their own."""

    def __init__(self, image: str, folder: Path) -> None:
        socket = ENVIRONMENT.get("DOCKER_HOST", "").removeprefix("unix://")
        socket = socket or "/var/run/docker.sock"
        key = folder / "secret_key"
        key.write_text(SECRET_KEY)
        key.chmod(0o444)  # of its owner only, it would have to be the container's user's
        self._composed = composed(
            {
                "DOCKER_GID": str(os.stat(socket).st_gid),
                "DOCKER_SOCKET": socket,
                "SECRET_KEY_FILE": str(key),
            }
        )
        grace = self._composed["services"]["teckochecker"]["stop_grace_period"]
        self._grace_s = seconds(grace)
        self._image = image
        self._client = engine()
        self._volume = f"teckochecker-{uuid.uuid4().hex[:12]}"
        self._client.volumes.create(self._volume, labels=MADE_HERE)
        self._options = options(self._composed, self._volume)
        self._daemon: Container | None = None

    def close(self) -> None:
        for left in self._client.containers.list(all=True, filters={"label": f"{LABEL}={TESTS}"}):
            left.remove(force=True, v=True)
        self._client.volumes.get(self._volume).remove()
        self._client.close()

    def once(self, *command: str, **changes: Any) -> tuple[int, str]:
        """A command in a container of its own, as `docker compose run --rm` does it."""
        given = {**self._options, "ports": {}, "restart_policy": {}, **changes}
        made = self._client.containers.create(self._image, command, labels=MADE_HERE, **given)
        try:
            made.start()
            code = made.wait(timeout=START_S)["StatusCode"]
            return code, made.logs().decode()
        finally:
            made.remove(force=True, v=True)

    def start(self) -> None:
        """A new container, waited for until the engine finds it healthy."""
        healthcheck = {"interval": 10**9, "start_period": int(START_S * 10**9)}
        self._daemon = self._client.containers.run(
            self._image, detach=True, labels=MADE_HERE, healthcheck=healthcheck, **self._options
        )
        wait_for("healthy daemon", self._is_healthy, seconds=START_S, every_s=0.2)

    def stop(self) -> tuple[int, float]:
        """`docker stop`: the exit code, and the seconds it took; the container is removed."""
        began = time.monotonic()
        self.daemon.stop(timeout=self._grace_s)
        took_s = time.monotonic() - began
        code = self.daemon.wait(timeout=START_S)["StatusCode"]
        self.log = [
            json.loads(line) for line in self.daemon.logs().splitlines() if line[:1] == b"{"
        ]
        self.daemon.remove(v=True)
        self._daemon = None
        return code, took_s

    @property
    def daemon(self) -> Container:
        assert self._daemon is not None
        return self._daemon

    def told(self, *command: str) -> tuple[int, str]:
        """A command inside the daemon's container, as `docker compose exec` does it."""
        code, output = self.daemon.exec_run(list(command))
        return code, output.decode()

    def call(self, method: str, path: str, json: Any = None) -> Any:
        self.daemon.reload()
        (port,) = self.daemon.ports["8000/tcp"]
        _, token = self.told("python3", "-c", SHOW, f"{HOME}/token")
        with httpx.Client(trust_env=False, timeout=10) as client:
            answer = client.request(
                method,
                f"http://{port['HostIp']}:{port['HostPort']}{path}",
                json=json,
                headers={"authorization": f"Bearer {token.strip()}"},
            )
        assert answer.is_success, answer.text
        return answer.json()

    def add_check(self, name: str, script: str) -> str:
        check = {"name": name, "script_runtime": "python", "script": script, "network": "none"}
        return f"/api/custom-checks/{self.call('POST', '/api/custom-checks', check)['id']}"

    def check_once(self, path: str, **wanted: str) -> Any:
        """The check at `path` once its fields are as wanted."""

        def found() -> Any:
            document = self.call("GET", path)
            return document if wanted.items() <= document.items() else None

        return wait_for(f"check with {wanted}", found, seconds=CHECK_S, every_s=0.1)

    def _is_healthy(self) -> bool:
        self.daemon.reload()
        assert self.daemon.status == "running", self.daemon.logs().decode()
        return bool(self.daemon.attrs["State"]["Health"]["Status"] == "healthy")


@pytest.fixture
def installation(image: str, tmp_path: Path) -> Iterator[Installation]:
    made = Installation(image, tmp_path)
    try:
        yield made
    finally:
        made.close()


@on_an_engine
def test_a_first_start_without_a_key_says_what_to_do(installation: Installation) -> None:
    code, output = installation.once("start", environment={})

    assert code == NO_CONFIG
    assert "SECRET_KEY is not set: run `teckochecker init`" in output


@on_an_engine
def test_init_works_on_an_empty_volume_and_takes_the_key_that_is_given(
    installation: Installation,
) -> None:
    code, output = installation.once("init")

    assert code == 0, output
    assert "SECRET_KEY was set" in output
    _, settings = installation.once("-c", SHOW, f"{HOME}/.env", entrypoint="python3")
    assert "\n#SECRET_KEY=" in settings  # no key of its own
    code, output = installation.once("init", environment={})
    assert (code, "its SECRET_KEY is gone" in output) == (NO_CONFIG, True)


@on_an_engine
def test_it_runs_checks_on_the_engine_it_was_given_and_loses_nothing_at_a_stop(
    installation: Installation,
) -> None:
    assert installation.once("init")[0] == 0
    installation.start()
    quick = installation.add_check("quick", SUCCESS)
    installation.check_once(quick, status="completed", last_check_status="SUCCESS")

    slow = installation.add_check("slow", SLOW_SUCCESS)
    installation.check_once(slow, phase="checking")
    code, took_s = installation.stop()

    assert code == 0
    assert took_s < 25  # the drain's end, at which it would have been cut off
    in_flight = {line["event"]: line.get("in_flight") for line in installation.log}
    assert in_flight["scheduler.draining"] == 1
    assert installation.log[-1]["event"] == "daemon.stopped"
    installation.start()
    installation.check_once(quick, status="completed", last_check_status="SUCCESS")
    checked = installation.check_once(slow, status="completed", last_check_status="SUCCESS")
    assert [line["status"] for line in checked["logs"]].count("success") == 1


@on_an_engine
def test_inside_nobody_can_change_the_program_or_become_root(installation: Installation) -> None:
    assert installation.once("init")[0] == 0
    installation.start()

    assert installation.told("id", "-u") == (0, f"{UID}\n")
    assert installation.told("git", "--version")[0] == 0
    assert "commit    c0ffee\n" in installation.told("teckochecker", "--version", "-v")[1]
    for program in NOT_THERE:
        assert installation.told("sh", "-c", f"command -v {program}") == (127, "")
    for place in ("/opt/teckochecker", "/etc", "/var/tmp", "/"):
        code, output = installation.told("touch", f"{place}/x")
        assert (code, "Read-only file system" in output) == (1, True)
    for place in (HOME, "/tmp"):
        assert installation.told("touch", f"{place}/x") == (0, "")
    _, set_id = installation.told("sh", "-c", "find / -xdev -type f -perm /6000 2>/dev/null")
    assert set_id == ""
    assert installation.told("sh", "-c", f"ls {HOME} | grep log") == (1, "")  # of files


@on_an_engine
def test_inside_doctor_finds_nothing_to_mend_and_checks_can_run(installation: Installation) -> None:
    assert installation.once("init")[0] == 0
    installation.start()
    code, output = installation.told("teckochecker", "doctor", "--output", "json")

    assert code == 0, output
    states = {one["name"]: one["state"] for one in json.loads(output)["checks"]}
    assert (states["engine"], states["git"], states["key"]) == ("ok", "ok", "ok")
    for command in (["runners", "status"], ["status"]):
        code, output = installation.told("teckochecker", *command)
        assert code == 0, output

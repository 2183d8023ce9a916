"""What a hostile script may try: each probe is blocked in the sandbox and works without it.

A probe is a script that tries something and says SUCCESS when it worked. It runs once as a
check, sent and run as a job's script is, where it must not work, and once in a plain container
of the same image, as root and without our settings, where it must: else it would prove nothing.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import pytest

from teckochecker.domain import Verdict
from teckochecker.sandbox.images import RUNNERS
from teckochecker.sandbox.settings import RUN, Network
from tests.sandboxed import (
    ENVIRONMENT,
    PROBES,
    TESTS,
    checked,
    engine,
    leftovers,
    packed,
    ready,
    request,
)

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def _allowed(*capabilities: str, **more: Any) -> dict[str, Any]:
    """Options of a container that has what a probe needs, and no filter of system calls."""
    filters = ["seccomp=unconfined", "apparmor=unconfined"]
    return {"CapAdd": list(capabilities), "SecurityOpt": filters, **more}


@dataclass(frozen=True)
class Probe:
    """A script; `plain` are the options under which it works, `told` what the check must say."""

    name: str
    plain: Mapping[str, Any] = field(default_factory=dict)
    told: str = r"blocked"


_DEVICES = {"DeviceCgroupRules": ["c 1:11 rwm"], "CapAdd": ["SYSLOG"]}
_SOCKET = ENVIRONMENT.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
_ENGINE = {"Binds": [f"{_SOCKET}:/var/run/docker.sock"]}
_CGROUPS = {"Binds": ["/sys/fs/cgroup:/sys/fs/cgroup"], "CgroupnsMode": "host"}

PROBE_LIST = [
    Probe("abstract_socket", {"NetworkMode": "host"}, "refused"),
    Probe("asynchronous_io", _allowed(), "not permitted|not implemented"),
    Probe("become_root", told="not permitted"),
    Probe("capabilities"),
    Probe("change_owner", told="not permitted"),
    Probe("change_root", told="not permitted"),
    Probe("core_dump", told="maximum limit"),
    Probe("device_node", told="not permitted"),
    Probe("docker_socket", _ENGINE, "No such file"),
    Probe("enter_namespace", _allowed("SYS_ADMIN", "SYS_PTRACE"), "not permitted|denied"),
    Probe("execute_in_tmp", told="Permission denied"),
    Probe("files_in_tmp", told="No space left"),
    Probe("files_in_work", told="No space left"),
    Probe("fill_disk", told="Read-only|denied"),
    Probe("fill_shared_memory", told="No space left"),
    Probe("fill_tmp", told="No space left"),
    Probe("fill_work", told="No space left"),
    Probe("fork_bomb", told="blocked: 1[0-3][0-9] of them"),
    Probe("higher_priority", _allowed("SYS_NICE"), "not permitted|denied"),
    Probe("host_device", _DEVICES, "not permitted|denied"),
    Probe("host_name", _allowed("SYS_ADMIN"), "not permitted"),
    Probe("host_processes", {"PidMode": "host"}),
    Probe("hypervisor_socket", _allowed(), "not permitted|not supported"),
    Probe("kernel_keys", _allowed(), "not permitted"),
    Probe("kernel_log", _allowed("SYSLOG"), "not permitted"),
    Probe("kernel_program", _allowed("SYS_ADMIN"), "not permitted"),
    Probe("kernel_setting", {"MaskedPaths": [], "ReadonlyPaths": []}, "Read-only|denied"),
    Probe("large_file", told="too large"),
    Probe("many_processes", told="temporarily unavailable"),
    Probe("many_threads", told="can't start new thread"),
    Probe("memory", told="needed more than 512 MB"),
    Probe("memory_of_children", told="ended with"),
    Probe("mount_folder", _allowed("SYS_ADMIN"), "not permitted"),
    Probe("mount_namespace", _allowed("SYS_ADMIN"), "not permitted"),
    Probe("network_interfaces"),
    Probe("network_namespace", _allowed("SYS_ADMIN"), "not permitted"),
    Probe("network_settings", _allowed("NET_ADMIN"), "not permitted"),
    Probe("new_privileges"),
    Probe("open_files", told="maximum limit|Too many"),
    Probe("performance_events", _allowed("SYS_ADMIN"), "not permitted|denied"),
    Probe("processor"),
    Probe("raise_memory_limit", _CGROUPS, "Read-only|denied"),
    Probe("raw_socket", told="not permitted"),
    Probe("read_other_memory", _allowed("SYS_PTRACE"), "not permitted"),
    Probe("remount_root", _allowed("SYS_ADMIN"), "not permitted"),
    Probe("set_id_program", told="blocked"),
    Probe("survive_memory_shortage", told="denied"),
    Probe("user_namespace", _allowed("SYS_ADMIN"), "not permitted"),
    Probe("write_dependencies", told="Read-only|denied"),
    Probe("write_entry_program", told="Read-only|denied"),
    Probe("write_system", told="Read-only|denied"),
]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    ready()
    yield
    assert leftovers() == []


def test_every_probe_is_tried() -> None:
    special = {"probe", "connect", "datagram"}
    assert {probe.name for probe in PROBE_LIST} | special == {
        file.stem for file in PROBES.iterdir() if file.suffix == ".py"
    }
    assert len(PROBE_LIST) >= 45


@pytest.mark.parametrize("probe", PROBE_LIST, ids=lambda probe: probe.name)
def test_a_probe_is_blocked_in_the_sandbox_and_works_without_it(probe: Probe) -> None:
    with _listener(socket.AF_UNIX) as target:
        finding, result = checked(_files(probe.name), environment={"TARGET": target})
        assert finding.verdict is not Verdict.SUCCESS, finding.message
        assert re.search(probe.told, finding.message), finding.message
        assert result.duration_ms < 20_000
        plain = _plain(probe.name, {"TARGET": target}, probe.plain)
    assert plain["status"] == "SUCCESS", plain


@pytest.mark.parametrize("network", ["none", "open"])
def test_no_network_reaches_what_listens_on_the_hosts_loopback(network: Network) -> None:
    with _listener(socket.AF_INET) as target:
        environment = {"TARGET": target}
        finding, _ = checked(_files("connect"), network=network, environment=environment)
        assert finding.verdict is Verdict.FAILED
        assert "refused" in finding.message
        assert _plain("connect", environment, {"NetworkMode": "host"})["status"] == "SUCCESS"


def test_without_a_network_nothing_is_reached() -> None:
    with _listener(socket.AF_INET, "0.0.0.0") as target:
        environment = {"TARGET": f"{_bridge_address()}:{target.rpartition(':')[2]}"}
        finding, _ = checked(_files("connect"), environment=environment)
        assert "unreachable" in finding.message
        assert _plain("connect", environment)["status"] == "SUCCESS"


@pytest.mark.parametrize("probe", ["connect", "datagram"])
def test_neighbours_on_the_open_network_do_not_reach_one_another(probe: str) -> None:
    neighbour = request(_NEIGHBOUR, network="open", timeout_s=15)
    done = threading.Event()

    def until_done() -> None:
        if done.is_set():
            raise _Enough

    def run() -> None:
        with pytest.raises(_Enough):
            ready().run(neighbour, until_done)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        environment = {"TARGET": f"{_address_of(neighbour.run_id)}:4711"}
        finding, _ = checked(_files(probe), network="open", environment=environment)
    finally:
        done.set()
        thread.join()
    assert finding.verdict is Verdict.FAILED
    assert "timed out" in finding.message
    assert _plain_neighbours(probe)["status"] == "SUCCESS"


def test_a_flood_is_stopped_at_16_mib() -> None:
    text = (
        "import sys\n"
        "for _ in range(400):\n"
        "    for stream in (sys.stdout, sys.stderr): stream.write('x' * 40000)"
    )
    finding, result = checked({"main.py": text})
    assert "more than 16 MiB" in finding.message
    assert result.output_limit_hit
    with _container({"main.py": text}, {}, {}) as container:
        container.wait(timeout=60)
        assert sum(len(part) for part in container.logs(stream=True)) == 32_000_000


def test_ignoring_signals_does_not_help() -> None:
    text = (
        "import signal, time\n"
        "signal.signal(15, signal.SIG_IGN)\n"
        "print('ready', flush=True)\n"
        "time.sleep(30)"
    )
    finding, result = checked({"main.py": text}, timeout_s=2)
    assert "longer than 2 s" in finding.message
    assert result.duration_ms < 10_000
    with _container({"main.py": text}, {}, {}) as container:
        _wait_for(lambda: b"ready" in container.logs())
        container.kill("SIGTERM")
        threading.Event().wait(0.5)
        container.reload()
        assert container.status == "running"


def test_a_child_that_keeps_the_stream_open_does_not_keep_the_check() -> None:
    text = (
        "import os, time\n"
        "if not os.fork():\n"
        "    os.setsid(); time.sleep(20)\n"
        "else:\n"
        '    print(\'{"status": "PENDING"}\')'
    )
    finding, result = checked({"main.py": text})
    assert finding.verdict is Verdict.PENDING
    assert result.duration_ms < 10_000
    # Who reads until the end of the stream, as a shell's pipe does, waits for the child.
    waiting = ["sh", "-c", "/opt/teckochecker/venv/bin/python3 /main.py | cat"]
    with _container({"main.py": text}, {}, {}, waiting) as container:
        _wait_for(lambda: b"PENDING" in container.logs())
        threading.Event().wait(1)
        container.reload()
        assert container.status == "running"


class _Enough(Exception):
    pass


_NEIGHBOUR = """
import socket, threading
def datagrams():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 4711))
        while True:
            _, sender = sock.recvfrom(100)
            sock.sendto(b"hello", sender)
threading.Thread(target=datagrams, daemon=True).start()
with socket.create_server(("", 4711)) as server:
    while True:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"hello")
"""


def _files(probe: str) -> dict[str, str]:
    helper = (PROBES / "probe.py").read_text()
    return {"main.py": (PROBES / f"{probe}.py").read_text(), "probe.py": helper}


def _plain(
    probe: str, environment: Mapping[str, str], options: Mapping[str, Any] | None = None
) -> Any:
    """What the probe says as root in a container without our settings."""
    with _container(_files(probe), environment, options or {}) as container:
        container.wait(timeout=60)
        said = container.logs(stderr=False).decode().strip().splitlines()
        return json.loads(said[-1]) if said else {"logs": container.logs().decode()}


def _plain_neighbours(probe: str) -> Any:
    with _container({"main.py": _NEIGHBOUR}, {}, {}) as neighbour:
        neighbour.reload()
        address = neighbour.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        return _plain(probe, {"TARGET": f"{address}:4711"})


@contextmanager
def _container(
    files: Mapping[str, str],
    environment: Mapping[str, str],
    options: Mapping[str, Any],
    command: Sequence[str] = ("/opt/teckochecker/venv/bin/python3", "/main.py"),
) -> Iterator[Any]:
    """A started container that runs main.py as root; `options` are the engine's HostConfig."""
    client = engine()
    body = {
        "Image": RUNNERS["python"],
        "Entrypoint": list(command),
        "User": "0:0",
        "Env": [f"{name}={text}" for name, text in environment.items()],
        "HostConfig": dict(options),
    }
    container = client.containers.get(client.api.create_container_from_config(body)["Id"])
    try:
        container.put_archive("/", packed(files))
        container.start()
        yield container
    finally:
        container.remove(v=True, force=True)
        client.close()


def _wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        threading.Event().wait(0.05)
    raise AssertionError("it didn't come true")


def _address_of(run_id: str) -> str:
    """The address of a running container, once it has one."""
    client = engine()
    try:
        for _ in range(200):
            for container in client.containers.list(filters={"label": f"{RUN}={run_id}"}):
                networks = container.attrs["NetworkSettings"]["Networks"].values()
                for network in networks:
                    if network["IPAddress"]:
                        return str(network["IPAddress"])
            threading.Event().wait(0.05)
    finally:
        client.close()
    raise AssertionError("the neighbour has no address")


def _bridge_address() -> str:
    client = engine()
    try:
        config = client.networks.get("bridge").attrs["IPAM"]["Config"][0]
        return str(next(ip_network(config["Subnet"]).hosts()))
    finally:
        client.close()


@contextmanager
def _listener(family: int, host: str = "127.0.0.1") -> Iterator[str]:
    """A server of this machine that says hello; gives its address, or its abstract name."""
    unix = family == socket.AF_UNIX
    with socket.socket(family) as server:
        server.bind(f"\0{TESTS}" if unix else (host, 0))
        server.listen()
        thread = threading.Thread(target=_greet, args=(server,))
        thread.start()
        try:
            yield TESTS if unix else f"{host}:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def _greet(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:  # shut down
            return
        with connection:
            connection.sendall(b"hello")

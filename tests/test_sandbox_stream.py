"""The parts of the sandbox that need no engine: the stream, the settings, the filter."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teckochecker.errors import Fault, InvalidInput
from teckochecker.sandbox import DockerError, Sandbox
from teckochecker.sandbox.engine import Host
from teckochecker.sandbox.prepared import Locks
from teckochecker.sandbox.seccomp import PROFILE
from teckochecker.sandbox.settings import OPEN_NETWORK, Shape, settings
from teckochecker.sandbox.stream import HEAD_BYTES, TAIL_BYTES, Capture, End, Frames, exchange
from teckochecker.verdicts import EDGE_CHARS, Limits
from tests.sandboxed import nobody_cancels, now, request

HOST = Host(cpus=2, memory_bytes=1 << 34, seccomp=True, apparmor=False, version="20.10.24")


def framed(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


class TestFrames:
    @given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50))), st.integers(1, 70))
    def test_they_are_told_apart_however_they_arrive(
        self, sent: list[tuple[int, bytes]], step: int
    ) -> None:
        out, err = Capture(), Capture()
        frames = Frames(out, err)
        wire = b"".join(framed(*one) for one in sent)
        for start in range(0, len(wire), step):
            frames.feed(wire[start : start + step])
        for stream, capture in ((1, out), (2, err)):
            wanted = b"".join(data for of, data in sent if of == stream)
            assert capture.stream().head == wanted.decode(errors="replace")
        assert frames.total_bytes == sum(len(data) for _, data in sent)


class TestCapture:
    def test_it_keeps_all_that_fits(self) -> None:
        capture = Capture()
        capture.take(b"a" * (HEAD_BYTES + TAIL_BYTES))
        assert capture.stream().cut_bytes == 0
        assert len(capture.stream().head) == HEAD_BYTES + TAIL_BYTES

    def test_it_keeps_both_ends_of_a_flood(self) -> None:
        capture = Capture()
        capture.take(b"first")
        for _ in range(100):
            capture.take(b"x" * 65536)
        capture.take(b"last")
        stream = capture.stream()
        assert stream.head.startswith("first")
        assert stream.tail.endswith("last")
        kept = HEAD_BYTES + TAIL_BYTES + 2 * EDGE_CHARS
        assert len(stream.head + stream.tail) == kept
        assert stream.cut_bytes == 9 + 100 * 65536 - kept

    @pytest.mark.parametrize("before", [0, 10, HEAD_BYTES + EDGE_CHARS - 3, HEAD_BYTES * 40])
    def test_the_marked_line_is_taken_out_wherever_it_is(self, before: int) -> None:
        capture = Capture()
        capture.take(b"x" * before + b'\nMARK {"exit_code": 0}\nafter')
        assert capture.pick(b"MARK") == b' {"exit_code": 0}'
        stream = capture.stream()
        assert (stream.head + stream.tail).endswith("after")
        assert "MARK" not in stream.head + stream.tail
        assert capture.pick(b"MARK") is None


class TestExchange:
    def test_it_sends_all_and_reads_all(self) -> None:
        pieces = [b"a" * 300_000, b"b" * 300_000]
        with engine_end(lambda sock: echo(sock, b"".join(pieces))) as sock:
            out = Capture()
            assert run(sock, Frames(out, Capture()), pieces) is End.CLOSED
        assert out.stream().head == "600000 bytes"

    def test_it_reads_on_when_nobody_takes_what_is_sent(self) -> None:
        read = threading.Event()

        def refuse(sock: socket.socket) -> None:
            sock.shutdown(socket.SHUT_RD)
            time.sleep(0.2)
            sock.sendall(framed(1, b"bye"))
            sock.shutdown(socket.SHUT_WR)
            read.wait(10)  # who closes with something unread resets the connection

        with engine_end(refuse) as sock:
            out = Capture()
            assert run(sock, Frames(out, Capture()), [b"a" * 10_000_000]) is End.CLOSED
            read.set()
        assert out.stream().head == "bye"

    def test_it_ends_at_the_deadline(self) -> None:
        with engine_end(say_nothing) as sock:
            begun = time.monotonic()
            assert run(sock, Frames(Capture(), Capture()), seconds=0.3) is End.DEADLINE
        assert 0.25 < time.monotonic() - begun < 3

    def test_it_ends_when_too_much_comes(self) -> None:
        def flood(sock: socket.socket) -> None:
            try:
                while True:
                    sock.sendall(framed(2, b"x" * 8192))
            except OSError:
                return

        with engine_end(flood) as sock:
            frames = Frames(Capture(), Capture())
            assert run(sock, frames, max_bytes=1_000_000) is End.FULL
            sock.shutdown(socket.SHUT_RDWR)
        assert 1_000_000 < frames.total_bytes < 2_000_000

    def test_it_ends_when_nobody_wants_the_answer(self) -> None:
        asked = iter(range(3))

        def cancelled_at_the_third_time() -> None:
            if next(asked, None) is None:
                raise KeyboardInterrupt

        with engine_end(say_nothing) as sock, pytest.raises(KeyboardInterrupt):
            run(sock, Frames(Capture(), Capture()), checkpoint=cancelled_at_the_third_time)


class TestSettings:
    def test_they_are_those_of_the_security_document(self) -> None:
        shape = Shape(limits=Limits(memory_mb=512, cpu_cores=0.5), network="open")
        body = settings("an/image", shape, HOST, {"a": "b"})
        host = body["HostConfig"]
        assert host.pop("SecurityOpt") == ["no-new-privileges:true", f"seccomp={PROFILE}"]
        assert host == {
            "NetworkMode": OPEN_NETWORK,
            "ReadonlyRootfs": True,
            "Tmpfs": {
                "/work": "rw,exec,nosuid,nodev,size=128m,nr_inodes=16384,"
                "mode=0700,uid=1000,gid=1000",
                "/tmp": "rw,noexec,nosuid,nodev,size=32m,nr_inodes=8192,mode=1777",
            },
            "CapDrop": ["ALL"],
            "Memory": 512 * 1024 * 1024,
            "MemorySwap": 512 * 1024 * 1024,
            "NanoCpus": 500_000_000,
            "PidsLimit": 128,
            "Ulimits": [
                {"Name": "nofile", "Soft": 1024, "Hard": 1024},
                {"Name": "fsize", "Soft": 64 << 20, "Hard": 64 << 20},
                {"Name": "core", "Soft": 0, "Hard": 0},
            ],
            "ShmSize": 16 << 20,
            "IpcMode": "private",
            "Init": True,
            "OomScoreAdj": 500,
            "LogConfig": {"Type": "none"},
        }
        assert body["User"] == "1000:1000"
        assert body["Hostname"] == "check"
        assert "Env" not in body

    def test_what_the_host_lacks_is_not_asked_for(self) -> None:
        old = Host(cpus=2, memory_bytes=1, seccomp=False, apparmor=True, version="20.10")
        shape = Shape(limits=Limits(cpu_cores=64), network="none")
        host = settings("an/image", shape, old, {})["HostConfig"]
        assert host["NanoCpus"] == 2_000_000_000
        assert host["SecurityOpt"] == ["no-new-privileges:true", "apparmor=docker-default"]
        assert host["NetworkMode"] == "none"


def test_the_filter_lets_no_dangerous_call_through() -> None:
    profile = json.loads(PROFILE)
    allowed = {
        name
        for rule in profile["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args")
        for name in rule["names"]
    }
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert not allowed & {
        *("mount", "umount2", "pivot_root", "chroot", "setns", "unshare", "clone", "clone3"),
        *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "socket"),
        *("ptrace", "process_vm_readv", "kcmp", "pidfd_getfd", "keyctl", "add_key", "request_key"),
        *("init_module", "finit_module", "kexec_load", "reboot", "syslog", "open_by_handle_at"),
        *(
            "settimeofday",
            "clock_settime",
            "swapon",
            "quotactl",
            "personality",
            "name_to_handle_at",
        ),
    }


def test_variables_that_no_runner_reads_are_refused() -> None:
    sandbox = Sandbox({}, "tests", now)
    with pytest.raises(InvalidInput, match="2 MiB"):
        sandbox.run(request("", environment={"A": "x" * 2**21}), nobody_cancels)


def test_a_request_does_not_show_its_secrets() -> None:
    shown = repr(request("print('hidden-script')", environment={"TOKEN": "hunter2"}))
    assert "hunter2" not in shown
    assert "hidden-script" not in shown


@pytest.mark.parametrize("address", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:1"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_is_away_is_an_error_that_says_where(address: str) -> None:
    sandbox = Sandbox({"DOCKER_HOST": address}, "tests", lambda: datetime.now(UTC))
    with pytest.raises(DockerError, match=f"{address}.*start it") as caught:
        sandbox.run(request(""), nobody_cancels)
    assert caught.value.code == 2005
    assert caught.value.fault is Fault.ENGINE
    assert [one.what for one in sandbox.missing()] == ["engine"]


class TestLocks:
    def test_a_key_is_held_by_one_at_a_time_and_forgotten_after(self) -> None:
        locks, inside, most = Locks(), [], []

        def work() -> None:
            with locks.held("key", nobody_cancels):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.01)
                inside.pop()

        threads = [threading.Thread(target=work) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == [1] * 5
        assert not locks._held

    def test_who_waits_can_give_up(self) -> None:
        locks = Locks()

        def give_up() -> None:
            raise KeyboardInterrupt

        with locks.held("key", nobody_cancels):
            with locks.held("another", give_up):
                pass
            with pytest.raises(KeyboardInterrupt), locks.held("key", give_up):
                pass
        assert not locks._held


@contextmanager
def engine_end(serve: Callable[[socket.socket], object]) -> Iterator[socket.socket]:
    """A connection whose other end is served by a thread until it closes."""
    ours, theirs = socket.socketpair()

    def work() -> None:
        with theirs:
            serve(theirs)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join()


def say_nothing(sock: socket.socket) -> None:
    poller = select.poll()
    poller.register(sock, select.POLLHUP)
    poller.poll(10_000)


def echo(sock: socket.socket, wanted: bytes) -> None:
    """Reads until the half-close, and tells how much came."""
    got = b""
    while data := sock.recv(65536):
        got += data
    assert got == wanted
    sock.sendall(framed(1, f"{len(got)} bytes".encode()))


def run(
    sock: socket.socket,
    frames: Frames,
    pieces: list[bytes] | None = None,
    *,
    seconds: float = 20,
    max_bytes: int = 1 << 24,
    checkpoint: Callable[[], None] = nobody_cancels,
) -> End:
    return exchange(
        sock,
        iter(pieces or [b"hello"]),
        frames,
        deadline=time.monotonic() + seconds,
        max_bytes=max_bytes,
        checkpoint=checkpoint,
    )

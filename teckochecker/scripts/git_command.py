"""Runs git commands in a cage; the only door to GitPython, of which it uses the start alone.

A command sees none of our environment and no configuration but ours, speaks HTTPS with one
checked address, and is bounded in time, memory, file size and output. It runs in a session of
its own, which ends with it, or after its time even when we have been killed.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, Final

from teckochecker.domain import MAX_ANSWER_BYTES
from teckochecker.errors import Fault, OutsideError
from teckochecker.masking import Mask
from teckochecker.scripts.gzipped import CHUNK_BYTES
from teckochecker.scripts.tree import MIB, shown

PATH: Final = "/usr/local/bin:/usr/bin:/bin"

_OLDEST = (2, 37)  # older ones ignore http.curloptResolve, and so the address that was checked
_ADDRESS_SPACE_BYTES = 1024 * MIB  # a pack of 64 MiB takes 250; crafted deltas ask for more
_POLL_S = 0.2
_GRACE_S = 2  # that the watchdog in the session leaves to us
_NO_PROGRAM = 127  # of env, timeout and prlimit, when there is none to start
_VERSION = re.compile(r"git version (\d+)\.(\d+)")
_CONFIG = (
    "protocol.allow=never",
    "protocol.https.allow=always",
    "http.followRedirects=false",  # also of a dumb server's alternates, which name other hosts
    "core.hooksPath=/dev/null",
    "core.symlinks=false",
    "submodule.recurse=false",
    "credential.helper=",
    "transfer.fsckObjects=true",
    "fetch.unpackLimit=1",  # one pack, whose size is bounded, never many loose files
    "pack.threads=1",
    "core.deltaBaseCacheLimit=16m",
    "gc.auto=0",
    "maintenance.auto=false",
)


class GitError(OutsideError):
    """A git server can't be asked, or what it has can't be used."""

    code = 2004


_TOO_LARGE = "sends more than a script may have: keep the script in a smaller repository"
# What git says in LC_ALL=C; the first that fits.
_FAILURES: Final = tuple(
    (re.compile(pattern, re.MULTILINE), fault, words)
    for pattern, fault, words in (
        (
            r"could not read (?:Username|Password)|Authentication failed|error: 40[13]$",
            Fault.CREDENTIALS,
            "wants other credentials: check the job's git secret, and that the repository exists",
        ),
        (
            r"error: (?:404|410)$|^fatal: repository .* not found$|is this a git repository",
            Fault.NOT_FOUND,
            "has no such repository: correct the URL",
        ),
        (
            r"update url base from redirection|error: 3[0-9][0-9]$",
            Fault.REFUSED,
            "redirects to another address: use that one as the URL",
        ),
        (r"error: 429$", Fault.RATE_LIMITED, "had too many requests: it is asked again later"),
        (r"[Oo]ut of memory|mmap failed", Fault.REFUSED, _TOO_LARGE),
        (
            r"Not a valid object name|not a tree object",
            Fault.NOT_FOUND,
            "has no such folder on this branch: correct the subfolder",
        ),
        (
            r"does not support shallow",
            Fault.REFUSED,
            "can't send single commits: serve the repository by git's smart HTTP protocol",
        ),
        (
            r"fsck error",
            Fault.REFUSED,
            "sends damaged or dangerous objects: repair the repository",
        ),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Git:
    """git for one errand at one server, in the private folder `folder`.

    `credentials` is a descriptor of a file with more configuration, or None: commands inherit
    it, so that no value stands on a command line, in an environment or on a disk. `until` is
    an instant of `time.monotonic`; `checkpoint()` raises when nobody wants the answer any more.
    """

    folder: Path
    server: str
    path: str
    config: tuple[str, ...]
    credentials: int | None
    mask: Mask
    max_file_bytes: int
    until: float
    checkpoint: Callable[[], None]

    def run(self, *arguments: str, max_bytes: int = CHUNK_BYTES) -> bytes:
        """What the command prints; GitError when it fails, is late or prints too much."""
        printed = bytearray()
        with contextlib.closing(self.stream(*arguments)) as pieces:
            for piece in pieces:
                printed += piece
                if len(printed) > max_bytes:
                    raise GitError(
                        f"{self.server} lists more than a script may have: "
                        "keep the script in a smaller repository",
                        Fault.REFUSED,
                    )
        return bytes(printed)

    def stream(self, *arguments: str, stdin: IO[bytes] | None = None) -> Generator[bytes]:
        """The same in pieces, however many; close it if you stop early."""
        complaint = bytearray()
        with self._started(arguments, stdin) as process:
            yield from self._printed(process, complaint)
            # Not reaped before its session is killed: till then its number can't be another's.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        if process.returncode:
            raise self._failure(process.returncode, complaint)

    @contextmanager
    def _started(
        self, arguments: tuple[str, ...], stdin: IO[bytes] | None
    ) -> Iterator[subprocess.Popen[bytes]]:
        gitpython = _gitpython().Git(self.folder)
        started = gitpython.execute(  # kept till the end: GitPython ends what nobody refers to
            [*self._cage(), "git", *self._options(), *arguments],
            stdin,
            as_process=True,
            start_new_session=True,
            pass_fds=() if self.credentials is None else (self.credentials,),
        )
        process = started.proc
        assert process is not None
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdout, process.stderr):
                assert pipe is not None
                pipe.close()

    def _cage(self) -> list[str]:
        """Also ends the session a little late, should we not be there to do it."""
        file = os.devnull if self.credentials is None else f"/proc/self/fd/{self.credentials}"
        watchdog_s = math.ceil(max(self.until - time.monotonic(), 0)) + _GRACE_S
        return [
            *("env", "-i", f"PATH={self.path}", "LC_ALL=C"),
            f"HOME={self.folder}",  # else curl reads the .netrc of who runs us
            f"GIT_CONFIG_GLOBAL={file}",
            *("GIT_CONFIG_NOSYSTEM=1", "GIT_ATTR_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0"),
            "GIT_ALLOW_PROTOCOL=https",
            *("timeout", "-s", "KILL", str(watchdog_s)),
            *("prlimit", f"--fsize={self.max_file_bytes}", f"--as={_ADDRESS_SPACE_BYTES}"),
            "--core=0",
        ]

    def _options(self) -> list[str]:
        """The repository is named even before there is one: else git looks around for another."""
        settings = (word for setting in (*_CONFIG, *self.config) for word in ("-c", setting))
        return [*settings, "--git-dir=repository.git"]

    def _printed(self, process: subprocess.Popen[bytes], complaint: bytearray) -> Iterator[bytes]:
        """What comes on standard output; the end of what comes on the other goes to `complaint`."""
        assert process.stdout is not None
        assert process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stderr, selectors.EVENT_READ)
            while selector.get_map():
                self._check_time()
                for key, _ in selector.select(_POLL_S):
                    piece = os.read(key.fd, CHUNK_BYTES)
                    if not piece:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is process.stdout:
                        yield piece
                    else:
                        complaint += piece
                        del complaint[:-CHUNK_BYTES]

    def _check_time(self) -> None:
        self.checkpoint()
        if time.monotonic() > self.until:
            raise GitError(f"{self.server} didn't send everything in time.", Fault.TRANSIENT)

    def _failure(self, status: int, complaint: bytearray) -> GitError:
        if status == _NO_PROGRAM:
            return _not_installed()
        text = complaint.decode("utf-8", "replace")
        # A first line that is cut could hold part of a value, which no mask would find.
        whole = text if len(complaint) < CHUNK_BYTES else text.partition("\n")[2]
        masked = self.mask.text(whole)
        said = shown(masked.strip().rpartition("\n")[2].removeprefix("fatal: "))
        fault, words = Fault.TRANSIENT, f"can't be asked: {said}"
        for pattern, known_fault, known_words in _FAILURES:
            if pattern.search(masked):
                fault, words = known_fault, known_words
                break
        if self._is_full():
            fault, words = Fault.REFUSED, _TOO_LARGE
        return GitError(f"{self.server} {words}", fault, answer=masked[-MAX_ANSWER_BYTES:])

    def _is_full(self) -> bool:
        """Whether git was stopped by the limit on files; it dies without a word about that."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return any(path.stat().st_size >= self.max_file_bytes for path in files)


def check_version(path: str) -> None:
    """GitError when git is missing, or too old to be bound to an address."""
    version = _version(path)
    if version < _OLDEST:
        raise GitError(
            "git {}.{} is too old: install git {}.{} or newer.".format(*version, *_OLDEST),
            Fault.ENGINE,
        )


@cache
def _version(path: str) -> tuple[int, int]:
    gitpython = _gitpython()
    try:
        printed = gitpython.Git().execute(["env", "-i", f"PATH={path}", "git", "version"])
    except gitpython.GitCommandError as error:
        raise _not_installed() from error
    found = _VERSION.match(str(printed))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _gitpython() -> ModuleType:
    """Imported late: it takes 200 ms, runs git to look for it, and fails without one."""
    try:
        import git
    except ImportError as error:
        raise _not_installed() from error
    return git


def _not_installed() -> GitError:
    return GitError(
        "git can't be run on this machine: install git, coreutils and util-linux.", Fault.ENGINE
    )

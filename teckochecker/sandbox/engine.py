"""The Docker engine: the only importer of its SDK, late, since that takes 140 ms and 6 MB.

Each piece of work has a client of its own, closed after it: a shared one closes its pooled
connections under other threads' feet. Every failure leaves as a DockerError.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from teckochecker.errors import Fault, OutsideError

if TYPE_CHECKING:
    from docker import APIClient

TIMEOUT_S: Final = 120  # of one call; removals and other programs' work queue up in the engine
SLOW_TIMEOUT_S: Final = 900  # of a call that builds, unpacks or commits
_FILTERED: Final = ("x86_64", "aarch64")  # the architectures that our filter was written for
_REASON_CHARS: Final = 300


class DockerError(OutsideError):
    """The engine is away, or couldn't do what was asked for."""

    code = 2005

    def __init__(self, message: str, *, answer: str = "") -> None:
        super().__init__(message, Fault.ENGINE, answer=answer)


class RunCutOff(DockerError):
    """The engine went away while a container ran: whatever it did, it has begun."""


class ImageMissing(DockerError):
    """The engine has no such image: it was never made, or somebody removed it."""


@dataclass(frozen=True, slots=True)
class Host:
    """What the engine's machine offers; `seccomp`: whether it can take our filter of calls."""

    cpus: int
    memory_bytes: int
    seccomp: bool
    apparmor: bool
    version: str


class Engine:
    """The engine that `environment` names: DOCKER_HOST, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._lock = threading.Lock()
        self._api_version: str | None = None
        self._host: Host | None = None

    @property
    def address(self) -> str:
        return self._environment.get("DOCKER_HOST") or "unix:///var/run/docker.sock"

    @contextmanager
    def client(self, *, timeout_s: int = TIMEOUT_S) -> Iterator[APIClient]:
        """A client for one piece of work; `timeout_s` bounds each of its calls."""
        import docker

        with self.told("answer"):
            self._knock()
            client = docker.DockerClient.from_env(
                version=self._negotiated(), timeout=timeout_s, environment=self._environment
            )
        try:
            yield client.api
        finally:
            client.close()

    def host(self) -> Host:
        """What the machine offers, asked for once."""
        known = self._host
        if known is None:
            with self.client() as api, self.told("describe itself"):
                info = api.info()
            options = ",".join(info["SecurityOptions"] or ())
            known = self._host = Host(
                cpus=int(info["NCPU"]),
                memory_bytes=int(info["MemTotal"]),
                seccomp="name=seccomp" in options and info["Architecture"] in _FILTERED,
                apparmor="name=apparmor" in options,
                version=str(info["ServerVersion"]),
            )
        return known

    @contextmanager
    def told(self, doing: str, *, unless: Collection[int] = ()) -> Iterator[None]:
        """Calls to the engine, whose failures become a DockerError that says what we wanted.

        A refusal with a status of `unless` ends the block and is no error.
        """
        from docker.errors import APIError, DockerException, ImageNotFound
        from urllib3.exceptions import HTTPError

        try:
            yield
        except APIError as error:
            if error.status_code in unless:
                return
            reason = _reason(error.explanation or str(error))
            if isinstance(error, ImageNotFound):
                hint = "`teckochecker runners build` makes the runner images"
                raise ImageMissing(f"The Docker engine says: {reason}; {hint}.") from error
            if "client version" in reason:  # the engine was changed under us
                self._forget()
            message = f"The Docker engine couldn't {doing}: {reason}"
            raise DockerError(message, answer=reason) from error
        except (DockerException, HTTPError, OSError) as error:
            self._forget()
            raise DockerError(self._unreachable(doing, error)) from error

    def _negotiated(self) -> str:
        """The API's version, asked for once: a known one makes a client in 0.1 ms."""
        import docker

        with self._lock:
            if self._api_version is None:
                client = docker.DockerClient.from_env(
                    version="auto", timeout=TIMEOUT_S, environment=self._environment
                )
                self._api_version = str(client.api.api_version)
                client.close()
            return self._api_version

    def _knock(self) -> None:
        """Fails early, and by a clear error, where the SDK would leave an open socket behind."""
        scheme, _, path = self.address.partition("://")
        if scheme in ("unix", "http+unix"):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(TIMEOUT_S)  # one that hangs takes no more calls at some time
                sock.connect(path)

    def _forget(self) -> None:
        """What we know of the engine: another one may answer next time."""
        with self._lock:
            self._api_version = None
            self._host = None

    def _unreachable(self, doing: str, error: Exception) -> str:
        if isinstance(error, PermissionError):
            hint = "this user may not use it: add the user to the group `docker`"
        elif "timed out" in str(error).lower():
            hint = "it gave no answer in time: look at its log and its load"
        else:
            hint = "start it (`systemctl start docker`), or say with DOCKER_HOST where it is"
        reason = _reason(getattr(error, "strerror", None) or str(error))
        return f"The Docker engine at {self.address} couldn't {doing} ({reason}): {hint}."


def _reason(text: str) -> str:
    return " ".join(str(text).split())[:_REASON_CHARS]

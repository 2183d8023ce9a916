"""One container of the engine, and the network that open ones share: the calls, in our errors."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from teckochecker.sandbox.engine import DockerError, Engine
from teckochecker.sandbox.settings import OPEN_NETWORK
from teckochecker.sandbox.stream import cut

if TYPE_CHECKING:
    from docker import APIClient

END_S: Final = 30  # for a container that was killed, or whose stream has ended, to be gone
_GONE: Final = (404, 409)  # removed; not running, or being removed by somebody else
_ALONE: Final = "com.docker.network.bridge.enable_icc"


class Container:
    """A container by its name, which we choose: it is found even if the engine's answer is lost."""

    def __init__(self, engine: Engine, api: APIClient, name: str) -> None:
        self._engine = engine
        self._api = api
        self._name = name
        self._running = False
        self.started_at = 0.0  # of `time.monotonic()`
        self.leftover: str | None = None  # why it could not be removed

    def create(self, body: dict[str, Any]) -> None:
        with self._engine.told("create a container"):
            self._api.create_container_from_config(body, self._name)

    @contextmanager
    def attached(self) -> Iterator[socket.socket]:
        """The stream of a container that isn't started yet; cut at the end, whatever happens."""
        with self._engine.told("attach to a container"):
            params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            opened = self._api.attach_socket(self._name, params=params)
        sock: socket.socket = getattr(opened, "_sock", opened)  # a TLS socket comes unwrapped
        try:
            yield sock
        finally:
            cut(sock)
            opened.close()
            sock.close()

    def start(self) -> None:
        self._running = True
        with self._engine.told("start a container"):
            self._api.start(self._name)
        self.started_at = time.monotonic()

    def put(self, folder: str, tar: Any) -> None:
        """Unpacks a tar in a folder of the container, which need not run."""
        with self._engine.told("fill a container"):
            self._api.put_archive(self._name, folder, tar)

    def commit(self, image: str, labels: dict[str, str]) -> None:
        """Makes an image of the container as it is."""
        name, _, tag = image.partition(":")
        with self._engine.told("make an image of a container"):
            self._api.commit(self._name, name, tag, conf={"Labels": labels, "Cmd": []})

    def ended(self) -> None:
        """Its stream has come to an end by itself: there is nothing to kill."""
        self._running = False

    def fate(self) -> tuple[int, bool]:
        """Waits for the end: the exit code, and whether memory ran out."""
        with self._engine.told("tell how a container ended"):
            code = int(self._api.wait(self._name, timeout=END_S)["StatusCode"])
            state = self._api.inspect_container(self._name)["State"]
        return code, bool(state["OOMKilled"])

    def discard(self) -> None:
        """Kills it if it runs, and removes it; `leftover` says why when that didn't work."""
        try:
            if self._running:
                self._kill()
            remove(self._engine, self._api, self._name)
        except DockerError as error:
            self.leftover = f"{error} It is tried again every minute."

    def _kill(self) -> None:
        with self._engine.told("kill a container", unless=_GONE):
            self._api.kill(self._name)
            self._api.wait(self._name, timeout=END_S)


def remove(engine: Engine, api: APIClient, name: str) -> None:
    """Removes a container, running or not, with its volumes; one that is gone is no error."""
    with engine.told("remove a container", unless=_GONE):
        api.remove_container(name, v=True, force=True)


def need_open_network(engine: Engine, api: APIClient) -> None:
    """Makes sure of the bridge on which containers reach the world, but not one another."""
    found = _network(engine, api)
    if found is None:
        with engine.told("make a network", unless=(409,)):  # somebody else was faster
            api.create_network(
                OPEN_NETWORK, driver="bridge", options={_ALONE: "false"}, check_duplicate=True
            )
        found = _network(engine, api) or {}
    if (found.get("Options") or {}).get(_ALONE) != "false":
        raise DockerError(
            f"The Docker network {OPEN_NETWORK} lets containers reach one another: "
            f"remove it (`docker network rm {OPEN_NETWORK}`), it is made anew."
        )


def _network(engine: Engine, api: APIClient) -> dict[str, Any] | None:
    with engine.told("look for a network", unless=(404,)):
        found: dict[str, Any] = api.inspect_network(OPEN_NETWORK)
        return found
    return None

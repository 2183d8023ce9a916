"""The daemon: one nursery tree of scheduler, server, upkeep and signals.

The socket is opened before anything runs, so a taken port is told at once. The first SIGTERM
or SIGINT sets `stop`: the scheduler takes no more work and drains, the server ends, upkeep is
cancelled last. A second signal, or a drain that runs over, ends the process where it stands;
nothing that was committed is lost by that.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Final

import structlog
import trio
from hypercorn.config import Config
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio import serve

from teckochecker import scheduler, upkeep
from teckochecker.app import App, assemble
from teckochecker.config import Settings
from teckochecker.errors import AlreadyRunning, ConfigError, TeckoError
from teckochecker.lock import DataLock
from teckochecker.notify import SILENT, Notifier
from teckochecker.telemetry import configure_logging
from teckochecker.web import create_web

log = structlog.stdlib.get_logger(__name__)

TCP_USER_TIMEOUT_MS: Final = 10_000
OVERTIME_S: Final = 5.0  # of the drain, until the process is ended where it stands
BACKLOG: Final = 512

Announce = Callable[[str], None]


def run(settings: Settings, announce: Announce, notifier: Notifier = SILENT) -> None:
    """Serve until stopped; `announce` hears the address once jobs run and requests are served.

    So does `notifier`, the service manager, which then goes on hearing how the daemon is.

    Raises AlreadyRunning for a second daemon or a taken port, ConfigError for settings, key
    or database that don't fit, FolderError where nothing can be written.
    """
    with ExitStack() as undo:
        lock = DataLock(settings.home)
        undo.callback(lock.release)
        listener = undo.enter_context(listen(settings.api_host, settings.api_port))
        app = assemble(settings)
        undo.callback(app.close)
        undo.push(_told)
        configure_logging(app.redaction, level=settings.log_level, file=settings.log_file)
        trio.run(serve_app, app, listener, lock, announce, notifier)


async def serve_app(
    app: App,
    listener: socket.socket,
    lock: DataLock,
    announce: Announce,
    notifier: Notifier = SILENT,
) -> None:
    """The nursery tree; returns after a stop, raises when a long-lived task dies.

    Upkeep and signals outlive scheduler and server, so that a drain is still watched over.
    """
    url = url_of(app.settings.api_host, listener)
    app.http.listening_on([listener.getsockname()[:2]])
    async with trio.open_nursery() as root:
        root.start_soon(_signals, app)
        root.start_soon(_tell_stopping, app, notifier)
        await root.start(upkeep.run, app, notifier)
        async with trio.open_nursery() as work:
            await work.start(scheduler.run, app)
            await work.start(partial(_serve, app, listener))
            lock.tell(url)
            log.info("daemon.started", url=url, home=str(app.settings.home))
            announce(url)
            gc.freeze()  # what was loaded stays: looking through it again took 15 % of a request
            notifier.ready(url)
        root.cancel_scope.cancel()
    log.info("daemon.stopped")


async def _serve(
    app: App,
    listener: socket.socket,
    *,
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    """hypercorn swallows Ctrl-C and returns while the others run on: its end is a stop too."""
    config = Config()
    config.bind = [f"fd://{os.dup(listener.fileno())}"]  # it closes what it gets
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")  # what escapes the application
    config.keep_alive_timeout = 5
    config.read_timeout = None
    config.graceful_timeout = 1
    config.h11_max_incomplete_size = 16 * 1024
    config.alpn_protocols = ["http/1.1"]
    config.include_server_header = False
    setattr(H11Protocol, "_check_protocol", _stay)  # noqa: B010  # no setting turns this off
    await serve(create_web(app), config, shutdown_trigger=app.stop.wait, task_status=task_status)  # type: ignore[arg-type]
    stop(app)


async def _stay(_protocol: H11Protocol, _request: object) -> None:
    """Don't change to HTTP/2: hypercorn does in the clear, whatever is configured.

    The requests behind an upgrade are unseen by a proxy that passes it on.
    """


async def _signals(app: App) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            if app.stop.is_set():
                log.warning("daemon.ended_at_once", signal=signal.Signals(number).name)
                os._exit(1)
            log.info("daemon.stopping", signal=signal.Signals(number).name)
            stop(app)


async def _tell_stopping(app: App, notifier: Notifier) -> None:
    await app.stop.wait()
    notifier.stopping(app.settings.drain_s + 2 * OVERTIME_S)


def _told(_kind: object, error: BaseException | None, _trace: object) -> bool:
    """At the end of the tree: what ended it leaves as one error, where trio has a group."""
    if isinstance(error, BaseExceptionGroup):
        raise _reason(error) from error
    return False


def _reason(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error of ours that ended the tree, where there is one."""
    ours, _ = group.split(TeckoError)
    while ours is not None:
        first = ours.exceptions[0]
        if not isinstance(first, BaseExceptionGroup):
            log.critical("daemon.died", reason=str(first))
            return first
        ours = first
    log.critical("daemon.died", exc_info=group)
    return group


def stop(app: App) -> None:
    if not app.stop.is_set():
        app.stop.set()
        app.wake.poke()
        trio.lowlevel.spawn_system_task(_end_overtime, app.settings.drain_s + OVERTIME_S)


async def _end_overtime(seconds: float) -> None:
    """A client that never reads would keep the process alive past a cancelled root."""
    await trio.sleep(seconds)
    log.warning("daemon.overtime", seconds=seconds)
    os._exit(0)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; AlreadyRunning when something else has the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except socket.gaierror as error:
        listener.close()
        raise ConfigError(f"API_HOST {host!r} isn't an address of this machine.") from error
    except PermissionError as error:
        listener.close()
        raise ConfigError(
            f"Port {port} needs more rights: choose one above 1023 with --port or API_PORT."
        ) from error
    except OSError as error:
        listener.close()
        raise AlreadyRunning(
            f"{host}:{port} can't be listened on ({error.strerror}): choose another port with "
            f"--port or API_PORT, or stop what holds it."
        ) from error
    return listener


def url_of(host: str, listener: socket.socket) -> str:
    """The address for people; a wildcard is shown as this machine's own."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{listener.getsockname()[1]}"

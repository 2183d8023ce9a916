"""The assembled program: its parts in one frozen value, made in one place.

`assemble` opens the database and nothing else: no socket, no thread, no task. Whoever calls
it holds the lock of the data, since migrations may run.
"""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import trio

from teckochecker.actions import ACTIONS, Action
from teckochecker.config import Settings
from teckochecker.domain import Secret
from teckochecker.http import Http
from teckochecker.lanes import DELIVERY_TOKENS, Lane, Lanes
from teckochecker.outbox import LOOK_PAUSE_S, delivery_waits_s
from teckochecker.pulse import Pulse, Wake
from teckochecker.sandbox import Sandbox
from teckochecker.scripts.archive import inspect
from teckochecker.scripts.git import Access
from teckochecker.sources import SOURCES, Source, Tools
from teckochecker.store import Store
from teckochecker.telemetry import Metrics, Redaction
from teckochecker.validation import JobRules
from teckochecker.vault import Vault, new_salt, refuse_weak_key

MIN_CUSTOM_INTERVAL_S: Final = 10  # of custom checks, wider where the settings are wider
MAX_CUSTOM_INTERVAL_S: Final = 86400


def utc_now() -> datetime:
    """The product's only look at the wall clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    settings: Settings
    now: Callable[[], datetime]
    jitter: Callable[[], float]
    store: Store
    vault: Vault
    http: Http
    sandbox: Sandbox
    lanes: Lanes
    sources: Mapping[str, Source]
    actions: Mapping[str, Action]
    rules: JobRules
    custom_rules: JobRules
    waits_s: tuple[int, ...]
    look_pause_s: float = LOOK_PAUSE_S
    metrics: Metrics
    redaction: Redaction
    pulse: Pulse
    wake: Wake = field(default_factory=Wake)
    stop: trio.Event = field(default_factory=trio.Event)

    def close(self) -> None:
        self.http.close()
        self.store.close()


def assemble(
    settings: Settings,
    *,
    now: Callable[[], datetime] = utc_now,
    jitter: Callable[[], float] = random.random,
    lanes: Lanes | None = None,
) -> App:
    """Put the parts together; ConfigError when the key or the database don't fit."""
    key = settings.secret_key
    refuse_weak_key(key.reveal())
    store = Store(settings.database, backups=settings.home / "backups")
    with ExitStack() as undo:
        undo.callback(store.close)
        vault = open_vault(store, key, settings.secret_key_old)
        undo.pop_all()
    metrics = Metrics()

    def observe(lane: Lane, seconds: float) -> None:
        if lane is Lane.STORE:
            metrics.db_write.observe(seconds)

    allowed = settings.allowed_private_hosts
    http = Http(allowed, max_connections=settings.max_concurrent_requests + DELIVERY_TOKENS)
    sandbox = Sandbox(settings.docker, instance_of(store), now)
    lanes = lanes or Lanes(
        network=settings.max_concurrent_requests,
        sandbox=settings.max_concurrent_checks,
        observe=observe,
    )
    tools = Tools(
        http=http,
        allowed=allowed,
        openai_base_url=settings.openai_base_url,
        sandbox=sandbox,
        shelf=settings.scripts,
        access=lambda: Access(allowed=allowed, own=http.own, ca_bundle=settings.git_ca_bundle),
        inspect=partial(_inspected, lanes),
        cpus=os.cpu_count() or 1,
    )
    return App(
        settings=settings,
        now=now,
        jitter=jitter,
        store=store,
        vault=vault,
        http=http,
        sandbox=sandbox,
        lanes=lanes,
        sources={kind: source(tools) for kind, source in SOURCES.items()},
        actions={kind: action(http, allowed) for kind, action in ACTIONS.items()},
        rules=JobRules(
            min_interval_s=settings.min_poll_interval_s,
            max_interval_s=settings.max_poll_interval_s,
            default_interval_s=settings.default_poll_interval_s,
        ),
        custom_rules=JobRules(
            min_interval_s=min(MIN_CUSTOM_INTERVAL_S, settings.min_poll_interval_s),
            max_interval_s=max(MAX_CUSTOM_INTERVAL_S, settings.max_poll_interval_s),
            default_interval_s=settings.default_poll_interval_s,
        ),
        waits_s=delivery_waits_s(settings.max_retries, settings.retry_delay_s),
        metrics=metrics,
        redaction=Redaction(),
        pulse=Pulse.begun(now()),
    )


def instance_of(store: Store) -> str:
    """What marks this installation's containers and images on the engine."""
    meta = store.care.meta()
    if "instance" not in meta:
        meta = {"instance": secrets.token_hex(8)}
        store.care.set_meta(meta)
    return meta["instance"]


def _inspected(lanes: Lanes, printed: Path, clean: Path) -> None:
    lanes.archive_from_thread(partial(inspect, printed, clean))


def open_vault(store: Store, key: Secret, old_key: Secret | None) -> Vault:
    """The vault of this database's salt; a rotation that was cut off is finished here."""
    meta = store.care.meta()
    if "salt" not in meta:
        salt = new_salt()
        vault = Vault(key, salt=salt)
        store.care.set_meta({"salt": salt.hex(), "key_check": vault.check_value().hex()})
        return vault
    vault = Vault(key, salt=bytes.fromhex(meta["salt"]), old_key=old_key)
    vault.verify(bytes.fromhex(meta["key_check"]))
    if meta["key_check"] != vault.check_value().hex():
        rotate(store, vault)
    return vault


def rotate(store: Store, vault: Vault) -> int:
    """Every secret under the vault's current key, in one transaction; how many there are."""
    return store.secrets.reseal_all(vault.reseal, {"key_check": vault.check_value().hex()})

"""The steps of the engine: check one job, deliver one outcome, follow one started job.

What a step learnt is written whatever happens; what it couldn't write is found again at the
next start. Any exception becomes the outcome of that step: one poisoned job never touches
another.
"""

from __future__ import annotations

import traceback
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeVar

import structlog
import trio

from teckochecker import lifecycle, outbox
from teckochecker.actions import DeliveryContext
from teckochecker.app import App
from teckochecker.domain import (
    SANDBOXED,
    DeliveryId,
    Finding,
    Job,
    JobId,
    NotFoundYet,
    Receipt,
    Secret,
    SecretOpened,
    Sent,
    Undecided,
)
from teckochecker.errors import (
    Fault,
    FolderError,
    JobNotFound,
    OutsideError,
    StoreBroken,
    StoreBusy,
    StoreFull,
    VaultError,
)
from teckochecker.lanes import Lane, checkpoint
from teckochecker.reports import (
    masked_finding,
    masked_outcome,
    observe_attempt,
    observe_check,
    observe_follow_up,
)
from teckochecker.sources import CheckContext
from teckochecker.store import CheckWork, DeliveryDue, DeliveryWork, SealedRole

log = structlog.stdlib.get_logger(__name__)
T = TypeVar("T")
K = TypeVar("K", JobId, DeliveryId)

STORE_PAUSE_S: Final = 2.0  # between two tries while the disk is full
LOOKS_APART_S: Final = 0.02  # while a lane is crowded: a look costs as much as a check
_MS: Final = timedelta(milliseconds=1)


async def check_step(app: App, work: CheckWork) -> None:
    now = app.now()
    try:
        with trio.CancelScope() as scope:
            app.pulse.scopes[work.job.id] = scope
            await _guarded(
                partial(_check, app, work), lambda fault: _conclude(app, work, fault, (), now)
            )
    except JobNotFound:
        log.info("check.dropped", job_id=work.job.id, reason="the job was deleted meanwhile")
    finally:
        app.pulse.scopes.pop(work.job.id, None)
        lane, running = lane_of(app, work.job)
        _release(app, running, work.job.id, lane)


def lane_of(app: App, job: Job) -> tuple[Lane, dict[JobId, str]]:
    """Where a job's checks run, and which do now, with their origins."""
    if job.source.kind == SANDBOXED:
        return Lane.SANDBOX, app.pulse.scripts
    return Lane.NETWORK, app.pulse.jobs


async def _check(app: App, work: CheckWork) -> None:
    job = work.job
    source = app.sources[job.source.kind]
    roles = source.roles(job.source.doc)
    secrets = of_roles(work.secrets, roles)
    lane, _ = lane_of(app, job)
    started: list[datetime] = []

    def ask() -> Finding:
        now = app.now()
        started.append(now)
        context = CheckContext(
            job_id=job.id,
            number=job.check_count + 1,
            state=job.source_state,
            now=now,
            secrets=opened_secrets(app, secrets, now),
            pool_key=pool_key(secrets),
            previous=job.last_data,
            checkpoint=checkpoint,
        )
        return source.check(job.source.doc, context)

    timeout_s = source.timeout_s(job.source.doc, job.last_data)
    for wait_s in (*lifecycle.ENGINE_WAITS_S, None):
        outcome = await outside(app, lane, ask, timeout_s, job.source.origin)
        begun = isinstance(outcome, Finding) and outcome.execution is not None
        if outcome.fault is not Fault.ENGINE or begun or wait_s is None:
            break
        await trio.sleep(wait_s)
    opened = audit(secrets, roles)
    await _conclude(app, work, outcome, opened, started[0] if started else app.now())


async def _conclude(
    app: App,
    work: CheckWork,
    outcome: Finding | OutsideError,
    opened: tuple[SecretOpened, ...],
    started_at: datetime,
) -> None:
    """Record what a check found, and what that makes of its job."""
    job, now = work.job, app.now()
    finding = masked_finding(app, outcome)
    decide = partial(
        lifecycle.checked,
        finding=finding,
        revision=job.revision,
        event_id=f"evt_{uuid.uuid4().hex}",
        duration_ms=(now - started_at) // _MS,
        opened=opened,
        now=now,
        jitter=app.jitter(),
    )
    write = partial(
        app.store.jobs.step, job.id, lambda found, held: decide(found, held_until=held), now
    )
    change = await recorded(app, write)
    observe_check(app, work, finding, started_at, now)
    if change.event:
        app.wake.poke()
    app.wake.by(change.job.next_check_at)


async def delivery_step(app: App, due: DeliveryDue) -> None:
    now = app.now()
    try:
        if due.follow_up:
            await _guarded(partial(_follow_up, app, due), partial(_conclude_follow_up, app, due))
        else:
            work = await recorded(app, partial(app.store.deliveries.begin, due.id, now))
            if work is not None:
                await _guarded(
                    partial(_deliver, app, due, work, now),
                    lambda fault: _conclude_attempt(app, due, fault, (), now),
                )
    finally:
        _release(app, app.pulse.deliveries, due.id, Lane.DELIVERY)


async def _deliver(app: App, due: DeliveryDue, work: DeliveryWork, started_at: datetime) -> None:
    outcome, opened = await _sent(app, work, due.origin)
    await _conclude_attempt(app, due, outcome, opened, started_at)


async def _conclude_attempt(
    app: App,
    due: DeliveryDue,
    outcome: Sent | NotFoundYet | Undecided | OutsideError,
    opened: tuple[SecretOpened, ...],
    started_at: datetime,
) -> None:
    """Record what came back, and what that makes of the delivery and its job."""
    now = app.now()
    decide = partial(
        outbox.attempted,
        outcome=masked_outcome(app, outcome),
        started_at=started_at,
        duration_ms=(now - started_at) // _MS,
        waits_s=app.waits_s,
        look_pause_s=app.look_pause_s,
        opened=opened,
        now=now,
        jitter=app.jitter(),
    )
    write = partial(
        app.store.deliveries.finish,
        due.id,
        lambda found, job, others: decide(found, job, others=others),
        now,
    )
    change = await recorded(app, write)
    if change is None or change.attempt is None:
        reason = "the job was deleted meanwhile" if change is None else "it was settled already"
        log.info("delivery.dropped", delivery_id=due.id, reason=reason)
        return
    observe_attempt(app, change)
    app.wake.by(change.delivery.next_attempt_at)
    app.wake.by(change.delivery.follow_up_at)


async def _sent(
    app: App, work: DeliveryWork, origin: str
) -> tuple[Sent | NotFoundYet | Undecided | OutsideError, tuple[SecretOpened, ...]]:
    """The outcome of one attempt, and the secrets that it opened."""
    part = work.action
    if part is None:
        message = "The job doesn't have this action any more: give it back, then redeliver."
        return OutsideError(message, Fault.REFUSED), ()
    action = app.actions[part.kind]
    roles = action.roles(part.doc)
    secrets = of_roles(work.secrets, roles)

    def send() -> Sent | NotFoundYet | Undecided:
        return action.deliver(part.doc, work.delivery.event, _context(app, work, secrets))

    timeout_s = action.timeout_s(part.doc)
    sent = await outside(app, Lane.DELIVERY, send, timeout_s, origin)
    return sent, audit(secrets, roles)


async def _follow_up(app: App, due: DeliveryDue) -> None:
    read = partial(app.store.deliveries.following, due.id)
    work = await recorded(app, read, Lane.READ)
    if work is None or work.delivery.receipt is None:
        return
    part, receipt = work.action, work.delivery.receipt
    if part is None:
        message = "The job doesn't have this action any more."
        await _conclude_follow_up(app, due, OutsideError(message, Fault.REFUSED))
        return
    action = app.actions[part.kind]
    secrets = of_roles(work.secrets, action.roles(part.doc))

    def ask() -> Receipt:
        return action.follow_up(part.doc, receipt, _context(app, work, secrets))

    timeout_s = action.timeout_s(part.doc)
    outcome = await outside(app, Lane.DELIVERY, ask, timeout_s, due.origin)
    await _conclude_follow_up(app, due, outcome)


async def _conclude_follow_up(app: App, due: DeliveryDue, outcome: Receipt | OutsideError) -> None:
    now, news = app.now(), masked_outcome(app, outcome)
    write = partial(
        app.store.deliveries.finish,
        due.id,
        lambda found, job, _others: outbox.followed(found, job, news, now),
        now,
    )
    change = await recorded(app, write)
    if change is not None:
        observe_follow_up(app, change)
        app.wake.by(change.delivery.follow_up_at)
        app.wake.by(change.delivery.next_attempt_at)  # redelivered while it was asked


async def outside(
    app: App, lane: Lane, call: Callable[[], T], timeout_s: float, origin: str
) -> T | OutsideError:
    """`call()` in its lane; what the outside does to it is an OutsideError."""
    try:
        return await app.lanes.run(lane, call, timeout_s=timeout_s, origin=origin)
    except OutsideError as error:
        return error
    except trio.TooSlowError:
        message = f"No answer within {timeout_s:.0f} s."
        return OutsideError(message, Fault.TRANSIENT, maybe_done=True)
    except VaultError as error:
        return OutsideError(str(error), Fault.CREDENTIALS)


async def _guarded(
    step: Callable[[], Awaitable[None]], conclude: Callable[[OutsideError], Awaitable[None]]
) -> None:
    """`step()`; a fault of our own becomes its outcome, so that it harms no other job."""
    try:
        await step()
    except (JobNotFound, StoreBroken, FolderError):
        raise
    except Exception as error:
        log.exception("step.failed")
        message = f"{type(error).__name__}: {error} (a fault of this program: please report it)"
        await conclude(
            OutsideError(
                _storable(message),
                Fault.INTERNAL,
                answer=_storable(traceback.format_exc()[-4000:]),
                maybe_done=True,
            )
        )


def _storable(text: str) -> str:
    return text.encode(errors="replace").decode()


async def recorded(app: App, call: Callable[[], T], lane: Lane = Lane.STORE) -> T:
    """`call()`, tried until the disk takes it: what has happened must not be forgotten."""
    while True:
        try:
            with trio.CancelScope(shield=True):
                written = await app.lanes.run(lane, call)
        except (StoreFull, StoreBusy) as error:
            store_failed(app, error)
            await trio.sleep(STORE_PAUSE_S)
        else:
            if lane is Lane.STORE:  # a full disk can be read
                app.pulse.store_trouble = None
            return written


def store_failed(app: App, error: StoreFull | StoreBusy) -> None:
    if app.pulse.store_trouble is None:
        log.error("store.unwritable", reason=str(error))
    app.pulse.store_trouble = str(error)


def _release(app: App, running: dict[K, str], id_: K, lane: Lane) -> None:
    """Make room; if others may be waiting for it, look soon, once for all that end just now."""
    crowded = len(running) >= app.lanes.share(lane)
    running.pop(id_, None)
    if crowded:
        app.wake.within(LOOKS_APART_S)


def opened_secrets(app: App, sealed: Iterable[SealedRole], now: datetime) -> dict[str, Secret]:
    """The plain secrets by role; from here on their values are masked wherever text leaves."""
    secrets = {role: app.vault.open(secret) for role, secret in sealed}
    app.redaction.learn(secrets.values(), now)
    return secrets


def of_roles(sealed: Iterable[SealedRole], roles: Collection[str]) -> tuple[SealedRole, ...]:
    return tuple((role, secret) for role, secret in sealed if role in roles)


def _context(app: App, work: DeliveryWork, secrets: tuple[SealedRole, ...]) -> DeliveryContext:
    now = app.now()
    return DeliveryContext(
        now=now,
        secrets=opened_secrets(app, secrets, now),
        pool_key=pool_key(secrets),
        doubt=work.delivery.doubt,
        body=work.body,
        first_sent_at=work.delivery.first_sent_at or now,
        checkpoint=checkpoint,
    )


def pool_key(sealed: Iterable[SealedRole]) -> str:
    """Connections are never shared between secrets; a changed value is another secret."""
    return ",".join(f"{secret.uid}@{secret.updated_at.timestamp()}" for _, secret in sealed)


def audit(sealed: Iterable[SealedRole], roles: Mapping[str, str]) -> tuple[SecretOpened, ...]:
    """What the log tells of secrets that were opened: which, and for which variable."""
    return tuple(
        SecretOpened(
            id=secret.id, name=secret.name, updated_at=secret.updated_at, variable=roles[role]
        )
        for role, secret in sealed
    )

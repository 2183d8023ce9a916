"""Stored secrets and access tokens: sealed bytes and hashes, never a value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import peewee

from teckochecker.domain import (
    ENDED,
    MAX_ID,
    DeliveryState,
    JobId,
    SealedSecret,
    SecretId,
    SecretInfo,
    SecretRef,
    SecretType,
    SecretUse,
)
from teckochecker.errors import (
    FieldError,
    InUse,
    InvalidInput,
    NameTaken,
    SecretNotFound,
    SecretUnknown,
)
from teckochecker.store import models, rows
from teckochecker.store.database import Database

SealedRole = tuple[str, SealedSecret]
"""A secret under the role that it has in a job, such as `openai_secret`."""


class Secrets:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, uid: str, name: str, type_: SecretType, sealed: bytes, now: datetime
    ) -> SecretInfo:
        at = rows.ms(now)
        with self._database.write() as db:
            if models.Secret.select().where(models.Secret.name == name).exists(db):
                raise NameTaken(
                    f"A secret named {name!r} exists: choose another name, or change its value "
                    f"with PUT (on the command line: `secret set {name}`)."
                )
            found = models.Secret.insert(
                uid=uid, name=name, type=type_, sealed=sealed, created_at=at, updated_at=at
            ).execute(db)
            return _info(db, found)

    def info(self, wanted: int | str) -> SecretInfo:
        with self._database.read() as db:
            return _info(db, _found(db, wanted).id)

    def all(self) -> list[SecretInfo]:
        with self._database.read() as db:
            uses = _uses(db)
            found = models.Secret.select().order_by(models.Secret.name).execute(db)
            return [_shown(row, uses.get(row.id, ())) for row in found]

    def sealed(self, wanted: int | str) -> SealedSecret:
        with self._database.read() as db:
            return _sealed(_found(db, wanted))

    def set_value(
        self, wanted: int | str, seal: Callable[[SealedSecret], bytes], now: datetime
    ) -> SecretInfo:
        """Replace the value in place; whatever held the old value back is forgotten."""
        with self._database.write() as db:
            row = _found(db, wanted)
            models.Secret.update(
                sealed=seal(_sealed(row)), updated_at=rows.ms(now), held_until=None
            ).where(models.Secret.id == row.id).execute(db)
            return _info(db, row.id)

    def delete(self, wanted: int | str) -> None:
        with self._database.write() as db:
            row = _found(db, wanted)
            blocking = _blocking(db, row.id)
            if blocking:
                names = ", ".join(f"{use.kind} {use.name!r} ({use.id})" for use in blocking)
                raise InUse(
                    f"Secret {row.name!r} is in use by {names}: delete them or give them "
                    f"another secret first."
                )
            models.Secret.delete().where(models.Secret.id == row.id).execute(db)

    def used(self, wanted: SecretId, now: datetime) -> None:
        with self._database.write() as db:
            models.Secret.update(last_used_at=rows.ms(now)).where(
                models.Secret.id == wanted
            ).execute(db)

    def reseal_all(self, reseal: Callable[[SealedSecret], bytes], meta: dict[str, str]) -> int:
        """Every secret under a new key, and what the database says of keys, in one transaction."""
        with self._database.write() as db:
            found = list(models.Secret.select().execute(db))
            for row in found:
                models.Secret.update(sealed=reseal(_sealed(row))).where(
                    models.Secret.id == row.id
                ).execute(db)
            for key, value in meta.items():
                models.Meta.replace(key=key, value=value).execute(db)
            return len(found)

    def replace_token(self, digest: bytes, now: datetime) -> None:
        """From now on this is the only token."""
        with self._database.write() as db:
            models.Token.delete().execute(db)
            models.Token.insert(hash=digest, created_at=rows.ms(now)).execute(db)

    def tokens(self) -> list[tuple[int, bytes]]:
        with self._database.read() as db:
            return [(row.id, bytes(row.hash)) for row in models.Token.select().execute(db)]

    def token_used(self, token_id: int, now: datetime) -> None:
        with self._database.write() as db:
            models.Token.update(last_used_at=rows.ms(now)).where(
                models.Token.id == token_id
            ).execute(db)


def resolve(
    db: Any, refs: Iterable[SecretRef], linked: Mapping[str, SecretId]
) -> dict[str, SecretId]:
    """The ids of the secrets that a document mentions; every unknown or unfit one is named.

    SecretUnknown when one doesn't exist, InvalidInput when those that are wrong only are unfit.
    Mentions that aren't fresh keep the secret they are `linked` to, if it is still there.
    """
    found: dict[str, SecretId] = {}
    faults: list[FieldError] = []
    kind = InvalidInput
    for ref in refs:
        if not ref.fresh:
            found |= {ref.role: linked[ref.role]} if ref.role in linked else {}
            continue
        row = _lookup(db, ref.wanted)
        if row is None:
            kind = SecretUnknown
            faults.append(
                FieldError(
                    ref.field,
                    f"names no secret: {ref.wanted!r} doesn't exist (add it with `secret add`)",
                )
            )
        elif ref.type is not None and row.type != ref.type:
            faults.append(
                FieldError(ref.field, f"must be of type {ref.type}, {row.name!r} is {row.type}")
            )
        else:
            found[ref.role] = SecretId(row.id)
    if faults:
        message = "; ".join(f"{fault.field} {fault.message}" for fault in faults)
        raise kind(message, tuple(faults))
    return found


def link(db: Any, job_id: JobId, secrets: dict[str, SecretId]) -> None:
    """From now on the job uses these secrets and no others."""
    models.JobSecret.delete().where(models.JobSecret.job_id == job_id).execute(db)
    for role, secret_id in secrets.items():
        models.JobSecret.insert(job_id=job_id, role=role, secret_id=secret_id).execute(db)


def of_jobs(db: Any, job_ids: Sequence[int]) -> dict[int, tuple[SealedRole, ...]]:
    """The sealed secrets of each job, by role."""
    if not job_ids:
        return {}
    marks = ",".join("?" * len(job_ids))
    cursor = db.execute_sql(
        f"SELECT job_secrets.job_id, job_secrets.role, {rows.SECRET_COLUMNS} FROM job_secrets "
        f"JOIN secrets ON secrets.id = job_secrets.secret_id "
        f"WHERE job_secrets.job_id IN ({marks})",
        tuple(job_ids),
    )
    found: dict[int, tuple[SealedRole, ...]] = {}
    for row in cursor:
        found[row[0]] = (*found.get(row[0], ()), (row[1], rows.sealed_secret(row[2:])))
    return found


def _lookup(db: Any, wanted: int | str) -> Any:
    if isinstance(wanted, int):
        if not 0 < wanted <= MAX_ID:
            return None
        condition = models.Secret.id == wanted
    else:
        condition = models.Secret.name == wanted
    return models.Secret.select().where(condition).first(db)


def _found(db: Any, wanted: int | str) -> Any:
    row = _lookup(db, wanted)
    if row is None:
        raise SecretNotFound(f"Secret {wanted!r} doesn't exist: `secret list` shows those that do.")
    return row


def _sealed(row: Any) -> SealedSecret:
    return rows.sealed_secret(
        (row.id, row.uid, row.name, row.type, bytes(row.sealed), row.updated_at)
    )


def _info(db: Any, secret_id: int) -> SecretInfo:
    row = models.Secret.select().where(models.Secret.id == secret_id).execute(db)[0]
    return _shown(row, _uses(db, secret_id).get(secret_id, ()))


def _shown(row: Any, uses: tuple[SecretUse, ...]) -> SecretInfo:
    return SecretInfo(
        id=SecretId(row.id),
        name=row.name,
        type=SecretType(row.type),
        created_at=rows.instant(row.created_at),
        updated_at=rows.instant(row.updated_at),
        last_used_at=rows.from_ms(row.last_used_at),
        used_by=uses,
    )


def _uses(db: Any, secret_id: int | None = None) -> dict[int, tuple[SecretUse, ...]]:
    link_ = models.JobSecret
    query = (
        models.Job.select(
            link_.secret_id.alias("secret_id"), models.Job.kind, models.Job.id, models.Job.name
        )
        .join(link_, on=(link_.job_id == models.Job.id))
        .distinct()
        .order_by(models.Job.id)
    )
    if secret_id is not None:
        query = query.where(link_.secret_id == secret_id)
    found: dict[int, tuple[SecretUse, ...]] = {}
    for used, kind, id_, name in query.tuples().execute(db):
        found[used] = (*found.get(used, ()), SecretUse(kind=kind, id=id_, name=name))
    return found


def _blocking(db: Any, secret_id: int) -> list[SecretUse]:
    """Jobs that haven't ended, and deliveries that haven't arrived, with this secret."""
    link_, job, delivery = models.JobSecret, models.Job, models.Delivery
    mine = link_.select(link_.job_id).where(link_.secret_id == secret_id)
    open_jobs = (
        job.select(job.kind, job.id, job.name)
        .where(job.id.in_(mine) & job.status.not_in([str(status) for status in ENDED]))
        .tuples()
        .execute(db)
    )
    undelivered = (
        delivery.select(peewee.Value("delivery"), delivery.id, job.name)
        .join(job, on=(delivery.job_id == job.id))
        .where(job.id.in_(mine) & (delivery.state != str(DeliveryState.DELIVERED)))
        .tuples()
        .execute(db)
    )
    return [
        SecretUse(kind=kind, id=id_, name=name) for kind, id_, name in (*open_jobs, *undelivered)
    ]

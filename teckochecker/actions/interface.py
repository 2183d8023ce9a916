"""What an action is: something that is triggered once a job's work has ended.

An action is synchronous and tries once: it neither sleeps, loops over tries, nor logs. A
failure is an OutsideError, whose `maybe_done` tells whether the request may have arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import ClassVar, Protocol

from teckochecker.domain import (
    Document,
    Doubt,
    Event,
    NotFoundYet,
    Receipt,
    Secret,
    SecretType,
    Sent,
    Undecided,
    Value,
)
from teckochecker.validation import Fields, Parsed


class DeliveryContext(Value, frozen=True, kw_only=True):
    """What one attempt gets: opened secrets by role, and what is known of earlier attempts.

    `first_sent_at` is when the first attempt of this event began.
    """

    now: datetime
    secrets: Mapping[str, Secret]
    pool_key: str
    doubt: Doubt
    body: bytes
    """The event as JSON, as it was stored with the delivery: the same at every attempt."""
    first_sent_at: datetime
    checkpoint: Callable[[], None]


class Action(Protocol):
    kind: ClassVar[str]
    fields: ClassVar[frozenset[str]]
    """The names of its fields, which stay changeable while a delivery is under way."""
    tests: ClassVar[SecretType | None]
    main_field: ClassVar[str]
    """The field whose null takes the action away from its job."""

    def parse(self, fields: Fields) -> Parsed:
        """The fields of this action, checked."""

    def roles(self, doc: Document) -> Mapping[str, str]:
        """The roles of the secrets that an attempt opens, each with what it is used for."""

    def timeout_s(self, doc: Document) -> float:
        """How long one attempt may take in all."""

    def show(self, doc: Document) -> dict[str, object]:
        """The fields of this action as the API gives them."""

    def deliver(
        self, doc: Document, event: Event, context: DeliveryContext
    ) -> Sent | NotFoundYet | Undecided:
        """Trigger once; in doubt, look for the earlier attempt first."""

    def follow_up(self, doc: Document, receipt: Receipt, context: DeliveryContext) -> Receipt:
        """How the started work is; `finished` ends the asking."""

    def trial_url(self, fields: Fields) -> str:
        """Where `test` shall try a secret, read from the field that names it."""

    def test(self, secret: Secret, doc: Document, now: datetime) -> str:
        """Try the secret with a live call: a sentence when it is good, else OutsideError."""

"""What a source is: something that can be asked how work elsewhere stands.

A source is synchronous and tries once: it neither sleeps, loops over tries, nor logs. It
reads its own fields out of a job's document and shows them again under the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import ClassVar, Protocol

from teckochecker.domain import Document, Finding, Secret, SecretType, Value
from teckochecker.validation import Fields, Parsed


class CheckContext(Value, frozen=True, kw_only=True):
    """What one check gets: opened secrets by role, and the data of the last finding.

    `checkpoint()` raises when nobody wants the answer any more; long checks call it.
    """

    now: datetime
    secrets: Mapping[str, Secret]
    pool_key: str
    previous: Document | None
    checkpoint: Callable[[], None]


class Source(Protocol):
    kind: ClassVar[str]
    tests: ClassVar[SecretType | None]
    """The type of secret that `test` can try out."""

    def parse(self, fields: Fields) -> Parsed:
        """The fields of this source, checked."""

    def show(self, doc: Document) -> dict[str, object]:
        """The fields of this source as the API gives them."""

    def roles(self, doc: Document) -> frozenset[str]:
        """The roles of the secrets that a check opens."""

    def progress(self, doc: Document, data: Document | None) -> dict[str, object]:
        """What the API shows of the last finding beside the fields."""

    def timeout_s(self, doc: Document, previous: Document | None) -> float:
        """How long one check may take in all."""

    def check(self, doc: Document, context: CheckContext) -> Finding:
        """Ask once; a failure is a finding with verdict ERROR and a fault."""

    def trial_url(self, fields: Fields) -> str:
        """Where `test` shall try a secret, read from the field that names it."""

    def test(self, secret: Secret, doc: Document, now: datetime) -> str:
        """Try the secret with a live call: a sentence when it is good, else OutsideError."""

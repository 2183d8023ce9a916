"""What a source is: something that can be asked how work elsewhere stands.

A source is synchronous and tries once: it neither sleeps, loops over tries, nor logs. It
reads its own fields out of a job's document and shows them again under the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Protocol

from teckochecker.addresses import Allowed
from teckochecker.domain import Document, Finding, JobId, Secret, SecretType, Value
from teckochecker.http import Http
from teckochecker.sandbox import Sandbox
from teckochecker.scripts import git
from teckochecker.validation import Fields, Parsed

Inspect = Callable[[Path, Path], object]
"""Reads the tar that an installer printed and writes its clean form; raises a TeckoError."""


class Tools(Value, frozen=True, kw_only=True):
    """What sources are made of."""

    http: Http
    allowed: Allowed
    openai_base_url: str
    sandbox: Sandbox
    shelf: Path
    access: Callable[[], git.Access]
    inspect: Inspect
    cpus: int


class CheckContext(Value, frozen=True, kw_only=True):
    """What one check gets: opened secrets by role, and the data of the last finding.

    `number` counts the job's checks from 1, `state` is what the source kept for itself.
    `checkpoint()` raises when nobody wants the answer any more; long checks call it.
    """

    job_id: JobId
    number: int
    state: Document | None
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

    def roles(self, doc: Document) -> Mapping[str, str]:
        """The roles of the secrets that a check opens, each with the variable that gets it."""

    def progress(
        self, doc: Document, data: Document | None, state: Document | None
    ) -> dict[str, object]:
        """What the API shows beside the fields: of the last finding, and of `state`."""

    def timeout_s(self, doc: Document, previous: Document | None) -> float:
        """How long one check may take in all."""

    def check(self, doc: Document, context: CheckContext) -> Finding:
        """Ask once; a failure is a finding with verdict ERROR and a fault."""

    def trial_url(self, fields: Fields) -> str:
        """Where `test` shall try a secret, read from the field that names it."""

    def test(self, secret: Secret, doc: Document, now: datetime) -> str:
        """Try the secret with a live call: a sentence when it is good, else OutsideError."""

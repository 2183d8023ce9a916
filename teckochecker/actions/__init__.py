"""The actions by kind. A new one is one file and one entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from teckochecker.actions.interface import Action, DeliveryContext
from teckochecker.actions.keboola import Keboola
from teckochecker.actions.webhook import Webhook
from teckochecker.addresses import Allowed
from teckochecker.http import Http

ACTIONS: Final[Mapping[str, Callable[[Http, Allowed], Action]]] = {
    Keboola.kind: Keboola,
    Webhook.kind: Webhook,
}

__all__ = ["ACTIONS", "Action", "DeliveryContext", "Keboola", "Webhook"]

"""The actions by kind. A new one is one file and one entry here."""

from __future__ import annotations

from typing import Final

from teckochecker.actions.interface import Action, DeliveryContext
from teckochecker.actions.keboola import Keboola

ACTIONS: Final = {Keboola.kind: Keboola}

__all__ = ["ACTIONS", "Action", "DeliveryContext", "Keboola"]

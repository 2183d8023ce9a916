"""The sources by kind. A new provider is one file and one entry here."""

from __future__ import annotations

from typing import Final

from teckochecker.sources.interface import CheckContext, Source
from teckochecker.sources.openai import OpenAI

SOURCES: Final = {OpenAI.kind: OpenAI}

__all__ = ["SOURCES", "CheckContext", "OpenAI", "Source"]

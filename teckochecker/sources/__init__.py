"""The sources by kind. A new provider is one file and one entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from teckochecker.sources.interface import CheckContext, Source, Tools
from teckochecker.sources.openai import OpenAI
from teckochecker.sources.script import Script

SOURCES: Final[Mapping[str, Callable[[Tools], Source]]] = {
    OpenAI.kind: lambda tools: OpenAI(tools.http, tools.allowed, tools.openai_base_url),
    Script.kind: lambda tools: Script(
        tools.sandbox, tools.shelf, tools.access, tools.inspect, tools.cpus
    ),
}

__all__ = ["SOURCES", "CheckContext", "OpenAI", "Script", "Source", "Tools"]

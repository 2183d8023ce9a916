"""Small stand-ins for OpenAI's batch API, for Keboola, and for a receiver of webhooks.

The demo, the tests and the benchmarks run against them, in a thread or as a process of their own
(`python -m teckochecker.simulators --help`). They need the standard library only and know nothing
of the product, so that they can't share its mistakes.
"""

from teckochecker.simulators.exchange import (
    DROP,
    HANG,
    HTML,
    LIST,
    TRUNCATED,
    Afterwards,
    Answer,
    Recorded,
    Reply,
)
from teckochecker.simulators.keboola import (
    STORAGE_TOKEN,
    Keboola,
    Token,
    maintenance,
    queue_error,
)
from teckochecker.simulators.openai import API_KEY, OTHER_ID, Batch, OpenAI, openai_error
from teckochecker.simulators.receiver import Receiver
from teckochecker.simulators.server import Simulator

__all__ = [
    "API_KEY",
    "DROP",
    "HANG",
    "HTML",
    "LIST",
    "OTHER_ID",
    "STORAGE_TOKEN",
    "TRUNCATED",
    "Afterwards",
    "Answer",
    "Batch",
    "Keboola",
    "OpenAI",
    "Receiver",
    "Recorded",
    "Reply",
    "Simulator",
    "Token",
    "maintenance",
    "openai_error",
    "queue_error",
]

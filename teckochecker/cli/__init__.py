"""The command line: commands that call, print, and return an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from teckochecker import __version__


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error ends here as a line or two."""
    if list(argv) == ["--version"]:
        sys.stdout.write(f"teckochecker {__version__}\n")
        return 0
    from teckochecker.cli.program import dispatch  # late: --version must import almost nothing

    return dispatch(argv)

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
    if argv[:1] == ["supervise"]:  # our own doing; it stays for months, so it stays small
        from teckochecker.cli import supervisor

        return supervisor.main(argv[1:])
    from teckochecker.cli.program import dispatch  # late: --version must import almost nothing

    return dispatch(argv)

"""The entry point of the installed program and of `python -m teckochecker`."""

from __future__ import annotations

import sys


def main() -> None:
    from teckochecker.cli import run  # late: --version must import almost nothing

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()

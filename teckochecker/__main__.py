"""The entry point of the installed program and of `python -m teckochecker`."""

from __future__ import annotations

import sys


def main() -> None:
    if getattr(sys, "frozen", False):
        freeze_support()
    from teckochecker.cli import run  # late: --version must import almost nothing

    sys.exit(run(sys.argv[1:]))


def freeze_support() -> None:
    """Do what multiprocessing starts this executable for, in place of an interpreter.

    Its own function of this name knows workers only, not the tracker that a worker brings.
    """
    tracker = "from multiprocessing.resource_tracker import main;main("
    if sys.argv[1:2] == ["--multiprocessing-fork"]:
        from multiprocessing import spawn

        spawn.freeze_support()
    elif sys.argv[-2:-1] == ["-c"] and sys.argv[-1].startswith(tracker):
        from multiprocessing import resource_tracker

        resource_tracker.main(int(sys.argv[-1].removeprefix(tracker).removesuffix(")")))
        sys.exit()


if __name__ == "__main__":
    main()

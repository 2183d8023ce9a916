"""The tree of commands, and the one place where an error becomes an exit code.

Commands are named here and imported when they are called.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from cyclopts import App, CycloptsError, Parameter

from teckochecker.cli import output
from teckochecker.cli.exits import Exit, exit_code
from teckochecker.errors import TeckoError

_HELP: Final = """Waits for work that runs elsewhere, and triggers what must come next.

Begin with `teckochecker init`, then `teckochecker start --detach`.

TECKOCHECKER_HOME is the folder of an installation.
TECKOCHECKER_URL and TECKOCHECKER_TOKEN point at one on another machine."""

_COMMANDS: Final = (
    ("init", "machine:init", "Make the folder, the settings and the access token."),
    ("start", "daemon:start", "Run the daemon: check jobs, trigger what follows."),
    ("stop", "daemon:stop", "End the daemon once the work in flight is done."),
    ("status", "daemon:status", "How the daemon is, and what it has done."),
    ("doctor", "doctor:doctor", "Look for what is wrong, and say how to mend it."),
    ("demo", "demo:demo", "Watch the whole thing at work on simulated services."),
    ("job", "jobs:app", "Polling jobs: create, list, follow, change, delete."),
    ("custom-check", "custom_checks:app", "Custom checks: jobs that run a script of your own."),
    ("secret", "secrets:app", "Keys and tokens of the services."),
    ("runners", "runners:app", "The images that custom checks run in."),
    ("export", "apply:export", "Write all jobs as YAML, with secrets by name only."),
    ("apply", "apply:apply", "Create and change jobs, so that they are as a file has them."),
    ("backup", "backup:app", "Back up database and scripts, and restore them."),
    ("config", "machine:config", "The settings, and where each comes from."),
    ("token", "machine:tokens", "The access token of this installation."),
    ("completion", "machine:completion", "Print the script that completes commands in a shell."),
    ("--version", "made_of:version", "Tell the version; with -v of the parts too."),
    ("--licenses", "made_of:licenses", "Print the licences of what the executable holds."),
)


def program(called: str = "") -> App:
    """The command line as cyclopts sees it; results are exit codes.

    The texts here spare importing every command to list them; the one that is called has more
    to say in its docstring.
    """
    app = App(
        name="teckochecker",
        help=_HELP,
        version_flags=(),
        help_format="plaintext",
        default_parameter=Parameter(negative=(), show_default=False),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    for name, place, text in _COMMANDS:
        shown = None if name == called else text
        app.command(f"teckochecker.cli.{place}", name=name, help=shown)
    return app


def dispatch(argv: Sequence[str]) -> int:
    """Run a command; TeckoErrors, wrong usage, Ctrl-C and a closed pipe become exit codes."""
    try:
        code = program(argv[0] if argv else "")(list(argv))
        sys.stdout.flush()
    except TeckoError as error:
        return _failed(error)
    except CycloptsError as error:
        return _misused(error)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        output.discard()
        return Exit.BROKEN_PIPE
    return int(code or Exit.OK)


def _failed(error: TeckoError) -> int:
    output.complain(error)
    return exit_code(error)


def _misused(error: CycloptsError) -> int:
    words = " ".join(("teckochecker", *(error.command_chain or ())))
    output.note(f"Error: {output.printable(str(error))}\nSee `{words} --help`.")
    return Exit.USAGE

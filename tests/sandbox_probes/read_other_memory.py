"""Attach to another program as a debugger does."""

import os
import time

from probe import call, tell

PTRACE_ATTACH = 16


def attempt():
    child = os.fork()
    if not child:
        time.sleep(5)
        os._exit(0)
    try:
        call("ptrace", PTRACE_ATTACH, child, None, None)
        return "attached"
    finally:
        os.kill(child, 9)


tell(attempt)

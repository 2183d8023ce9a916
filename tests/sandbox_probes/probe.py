"""What the probes share: each tries what must not work here, and says whether it did.

The verdict is SUCCESS when it worked, FAILED when it was blocked.
"""

import ctypes
import json
import os
import platform
import sys

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {  # of system calls that the C library has no function for
    "x86_64": {"bpf": 321, "keyctl": 250, "perf_event_open": 298, "io_uring_setup": 425},
    "aarch64": {"bpf": 280, "keyctl": 219, "perf_event_open": 241, "io_uring_setup": 425},
}


def tell(attempt):
    """Runs `attempt`, which gives evidence of what it did, or raises what blocked it."""
    try:
        evidence = attempt()
    except (OSError, MemoryError, RuntimeError, ValueError) as error:
        say("FAILED", f"blocked: {type(error).__name__}: {error}")
    else:
        say(*("SUCCESS", f"it worked: {evidence}") if evidence else ("FAILED", "blocked"))


def say(status, message):
    print(json.dumps({"status": status, "message": message[:300]}))
    sys.stdout.flush()


def call(name, *arguments):
    """A function of the C library, or a system call by its name; OSError when it fails."""
    ctypes.set_errno(0)
    number = NUMBERS[platform.machine()].get(name)
    made = getattr(libc, name)(*arguments) if number is None else libc.syscall(number, *arguments)
    if made == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)
    return made

"""Use more than three quarters of a core for two seconds."""

import os
import time

from probe import tell


def attempt():
    end = time.monotonic() + 2
    for _ in range(4):
        if not os.fork():
            while time.monotonic() < end:
                pass
            os._exit(0)
    for _ in range(4):
        os.wait()
    used = os.times()
    cores = (used.children_user + used.children_system) / 2
    return f"{cores:.2f} cores" if cores > 0.75 else ""


tell(attempt)

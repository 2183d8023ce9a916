"""Use the processor for two seconds without ever being held back."""

import glob
import os
import time

from probe import tell


def throttled():
    for path in ["/sys/fs/cgroup/cpu.stat", *glob.glob("/sys/fs/cgroup/cpu*/cpu.stat")]:
        if os.path.exists(path):
            with open(path) as file:
                return int(dict(line.split() for line in file)["nr_throttled"])
    raise OSError("there is no cpu.stat")


def attempt():
    end = time.monotonic() + 2
    for _ in range(4):
        if not os.fork():
            while time.monotonic() < end:
                pass
            os._exit(0)
    for _ in range(4):
        os.wait()
    return "" if throttled() else "never held back"


tell(attempt)

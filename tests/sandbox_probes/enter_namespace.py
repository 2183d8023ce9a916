"""Enter the namespace of the first process."""

import os

from probe import call, tell


def attempt():
    file = os.open("/proc/1/ns/mnt", os.O_RDONLY)
    call("setns", file, 0)
    return "entered"


tell(attempt)

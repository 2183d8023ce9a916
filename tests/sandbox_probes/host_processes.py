"""See processes of the host."""

import os

from probe import tell


def attempt():
    count = sum(name.isdigit() for name in os.listdir("/proc"))
    return f"{count} processes" if count > 10 else ""


tell(attempt)

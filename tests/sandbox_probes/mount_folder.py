"""Mount something."""

import os

from probe import call, tell


def attempt():
    os.makedirs("/tmp/here", exist_ok=True)
    call("mount", b"none", b"/tmp/here", b"tmpfs", 0, None)
    return "mounted"


tell(attempt)

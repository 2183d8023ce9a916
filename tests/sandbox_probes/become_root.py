"""Be root, or become it."""

import os

from probe import tell


def attempt():
    os.setuid(0)
    return f"uid {os.getuid()}"


tell(attempt)

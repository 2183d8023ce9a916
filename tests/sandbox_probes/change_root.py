"""Change the root folder, which is the first step of an old escape."""

import os

from probe import tell


def attempt():
    os.makedirs("/tmp/root", exist_ok=True)
    os.chroot("/tmp/root")
    return "changed"


tell(attempt)

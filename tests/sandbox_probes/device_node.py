"""Make a device of one's own."""

import os
import stat

from probe import tell


def attempt():
    os.mknod("/tmp/disk", 0o600 | stat.S_IFBLK, os.makedev(8, 0))
    return "made"


tell(attempt)

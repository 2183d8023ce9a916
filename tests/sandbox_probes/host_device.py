"""Make a device of the host's, and read it: here the kernel's log."""

import os
import stat

from probe import tell


def attempt():
    os.mknod("/dev/log", 0o600 | stat.S_IFCHR, os.makedev(1, 11))
    return len(os.read(os.open("/dev/log", os.O_RDONLY | os.O_NONBLOCK), 8192))


tell(attempt)

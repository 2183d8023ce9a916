"""Read the host's disk."""

import os
import stat

from probe import tell


def attempt():
    with open("/proc/partitions") as file:
        rows = [line.split() for line in file][2:]
    for major, minor, _, name in rows:
        path = f"/tmp/{name}"
        os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(int(major), int(minor)))
        with open(path, "rb") as disk:
            return name if disk.read(512) else ""
    raise OSError("there is no disk")


tell(attempt)

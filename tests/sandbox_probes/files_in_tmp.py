"""Make 10,000 files in /tmp."""

import os

from probe import tell


def attempt():
    os.makedirs("/tmp/many", exist_ok=True)
    for number in range(10000):
        os.close(os.open(f"/tmp/many/{number}", os.O_CREAT))
    return number


tell(attempt)

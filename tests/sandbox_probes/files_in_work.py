"""Make 20,000 files in /work."""

import os

from probe import tell


def attempt():
    os.makedirs("/work/many", exist_ok=True)
    for number in range(20000):
        os.close(os.open(f"/work/many/{number}", os.O_CREAT))
    return number


tell(attempt)

"""Write 40 MB to /dev/shm."""

import os

from probe import tell


def attempt():
    os.makedirs("/dev/shm", exist_ok=True)
    for number in range(40):
        with open(f"/dev/shm/filler{number}", "wb") as file:
            file.write(bytes(1024 * 1024))
    return number


tell(attempt)

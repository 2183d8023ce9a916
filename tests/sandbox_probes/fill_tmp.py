"""Write 64 MB to /tmp."""

import os

from probe import tell


def attempt():
    os.makedirs("/tmp", exist_ok=True)
    for number in range(64):
        with open(f"/tmp/filler{number}", "wb") as file:
            file.write(bytes(1024 * 1024))
    return number


tell(attempt)

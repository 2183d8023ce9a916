"""Write 200 MB to /work."""

import os

from probe import tell


def attempt():
    os.makedirs("/work", exist_ok=True)
    for number in range(200):
        with open(f"/work/filler{number}", "wb") as file:
            file.write(bytes(1024 * 1024))
    return number


tell(attempt)

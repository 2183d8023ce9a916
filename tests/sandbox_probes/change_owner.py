"""Give a file to another user."""

import os

from probe import tell


def attempt():
    with open("/tmp/mine", "w"):
        os.chown("/tmp/mine", 4711, 4711)
    return "given"


tell(attempt)

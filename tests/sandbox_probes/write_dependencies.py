"""Change what scripts import."""

import sysconfig

from probe import tell


def attempt():
    with open(sysconfig.get_paths()["purelib"] + "/evil.py", "w") as file:
        return file.write("evil")


tell(attempt)

"""Run a program out of /tmp."""

import os
import shutil
import subprocess

from probe import tell


def attempt():
    shutil.copy("/bin/true", "/tmp/mine")
    os.chmod("/tmp/mine", 0o755)
    return "ran" if subprocess.run(["/tmp/mine"]).returncode == 0 else ""


tell(attempt)

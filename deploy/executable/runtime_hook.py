"""Runs first in the executable: the environment becomes what the user gave, for all children.

PyInstaller's loader puts our libraries on LD_LIBRARY_PATH, where git and its like would load
them, and tells children of the same program to take it for running already.
"""

import os
import sys

theirs = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)
os.environ.pop("LD_LIBRARY_PATH", None)
if theirs is not None:
    os.environ["LD_LIBRARY_PATH"] = theirs
for name in [name for name in os.environ if name.startswith("_PYI_")]:
    del os.environ[name]
sys.argv[0] = os.environ.pop("TECKOCHECKER_CALLED", sys.argv[0])  # set by the launcher

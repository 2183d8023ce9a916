"""Find a program that runs as somebody else."""

import os
import shutil
import stat

from probe import tell


def attempt():
    os.makedirs("/work", exist_ok=True)
    shutil.copy("/bin/true", "/work/mine")
    os.chmod("/work/mine", 0o4755)
    kept = os.stat("/work/mine").st_mode & stat.S_ISUID
    suid_works = not os.statvfs("/work").f_flag & os.ST_NOSUID
    return "kept" if kept and suid_works else ""


tell(attempt)

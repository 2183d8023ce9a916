"""Open 5,000 files at once, after asking for more."""

import os
import resource

from probe import tell


def attempt():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, 6000), max(hard, 6000)))
    return len([os.open("/dev/null", os.O_RDONLY) for _ in range(5000)])


tell(attempt)

"""Leave a picture of one's memory, secrets among it."""

import resource

from probe import tell


def attempt():
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30))
    return resource.getrlimit(resource.RLIMIT_CORE)


tell(attempt)

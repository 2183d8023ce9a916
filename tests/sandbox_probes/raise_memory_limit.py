"""Give oneself more memory."""

import os

from probe import tell


def attempt():
    with open("/proc/self/cgroup") as file:
        groups = [line.strip().split(":", 2) for line in file]
    candidates = ["/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"]
    for _, controllers, path in groups:
        if controllers == "memory":
            candidates.insert(0, f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes")
        if not controllers:
            candidates.insert(0, f"/sys/fs/cgroup{path}/memory.max")
    path = next(path for path in candidates if os.path.exists(path))
    with open(path, "w") as file:
        file.write(str(8 << 30))
    return path


tell(attempt)

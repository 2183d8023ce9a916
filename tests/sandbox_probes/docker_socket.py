"""Talk to the engine."""

import socket

from probe import tell


def attempt():
    blocked = []
    for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"):
        try:
            with socket.socket(socket.AF_UNIX) as engine:
                engine.connect(path)
        except OSError as error:
            blocked.append(str(error))
        else:
            return path
    raise OSError("; ".join(blocked))


tell(attempt)

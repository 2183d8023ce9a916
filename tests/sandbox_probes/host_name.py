"""Change the machine's name."""

import socket

from probe import tell


def attempt():
    socket.sethostname("evil")
    return socket.gethostname()


tell(attempt)

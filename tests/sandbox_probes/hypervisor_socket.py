"""Talk to the hypervisor: such sockets belong to no network that could be taken away."""

import socket

from probe import tell


def attempt():
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
        return f"descriptor {sock.fileno()}"


tell(attempt)

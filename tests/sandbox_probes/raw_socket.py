"""Read and forge the network's packets."""

import socket

from probe import tell


def attempt():
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as raw:
        return f"descriptor {raw.fileno()}"


tell(attempt)

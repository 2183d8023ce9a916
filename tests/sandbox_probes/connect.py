"""Connect to TARGET, an address and a port."""

import os
import socket

from probe import tell


def attempt():
    host, _, port = os.environ["TARGET"].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=3) as connection:
        return f"connected, and heard {connection.recv(100)!r}"


tell(attempt)

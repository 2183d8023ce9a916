"""Send a datagram to TARGET and get an answer."""

import os
import socket

from probe import tell


def attempt():
    host, _, port = os.environ["TARGET"].rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.sendto(b"hello", (host, int(port)))
        return sock.recv(100)


tell(attempt)

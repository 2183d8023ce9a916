"""Take the network down."""

import fcntl
import socket
import struct

from probe import tell

SIOCSIFFLAGS = 0x8914


def attempt():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", 0))
    return "down"


tell(attempt)

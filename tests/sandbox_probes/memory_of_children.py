"""Use 700 MB of memory, spread over children."""

import os

from probe import tell


def attempt():
    ends = os.pipe()
    for _ in range(7):
        if not os.fork():
            part = bytearray(b"x" * (100 << 20))
            os.write(ends[1], b"x")
            os.read(0, 1)
            __import__("time").sleep(3)
            os._exit(len(part) & 1)
    codes = [os.wait()[1] for _ in range(7)]
    if any(codes):
        raise MemoryError(f"children ended with {codes}")
    return codes


tell(attempt)

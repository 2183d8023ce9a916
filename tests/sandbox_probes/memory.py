"""Use 700 MB of memory."""

from probe import tell


def attempt():
    parts = [bytearray(b"x" * (10 << 20)) for _ in range(70)]
    return len(parts)


tell(attempt)

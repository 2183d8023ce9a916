"""Write one file of 100 MB."""

import os
import signal

from probe import tell

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def attempt():
    os.makedirs("/work", exist_ok=True)
    with open("/work/large", "wb") as file:
        for _ in range(100):
            file.write(bytes(1024 * 1024))
    return os.path.getsize("/work/large")


tell(attempt)

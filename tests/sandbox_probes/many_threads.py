"""Run 300 threads at once."""

import threading

from probe import tell


def attempt():
    done = threading.Event()
    try:
        for _ in range(300):
            threading.Thread(target=done.wait, daemon=True).start()
        return threading.active_count()
    finally:
        done.set()


tell(attempt)

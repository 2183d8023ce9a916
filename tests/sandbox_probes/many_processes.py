"""Run 300 processes at once."""

import os
import time

from probe import tell


def attempt():
    children = []
    try:
        for _ in range(300):
            child = os.fork()
            if not child:
                time.sleep(60)
                os._exit(0)
            children.append(child)
    finally:
        for child in children:
            os.kill(child, 9)
    return len(children)


tell(attempt)

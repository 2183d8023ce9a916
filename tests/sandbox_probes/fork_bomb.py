"""Double until nothing works any more; nine times, so that it may be tried outside."""

import os
import time

from probe import say

first = os.getpid()
for _ in range(9):
    try:
        os.fork()
    except OSError:
        time.sleep(0.1)
time.sleep(1)
if os.getpid() == first:
    count = sum(name.isdigit() for name in os.listdir("/proc"))
    many = count > 200
    say("SUCCESS" if many else "FAILED", f"{'it worked' if many else 'blocked'}: {count} of them")

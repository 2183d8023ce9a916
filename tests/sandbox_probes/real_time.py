"""Never be interrupted by other programs."""

import os

from probe import tell


def attempt():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    return "real time"


tell(attempt)

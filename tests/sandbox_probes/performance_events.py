"""Watch the whole machine's performance counters."""

import ctypes
import errno

from probe import call, tell


def attempt():
    event = (ctypes.c_uint32 * 32)(1, 128)  # of the software's kind: the processor's clock
    try:
        return f"descriptor {call('perf_event_open', event, -1, 0, -1, 0)}"
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise
        return f"listened to ({error})"


tell(attempt)

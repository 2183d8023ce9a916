"""Load a program into the kernel (bpf): a right that is there complains about the size."""

import ctypes
import errno

from probe import call, tell


def attempt():
    try:
        call("bpf", 0, ctypes.create_string_buffer(128), 128)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.E2BIG):
            raise
    return "listened to"


tell(attempt)

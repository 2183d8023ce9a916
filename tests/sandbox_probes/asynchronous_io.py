"""Use io_uring, where many ways out of containers were found."""

import ctypes

from probe import call, tell

tell(lambda: f"descriptor {call('io_uring_setup', 4, ctypes.create_string_buffer(120))}")

"""Read the kernel's log."""

import ctypes

from probe import call, tell

tell(lambda: f"{call('klogctl', 3, ctypes.create_string_buffer(4096), 4096)} bytes")

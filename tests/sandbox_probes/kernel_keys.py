"""Use the kernel's key ring, which containers share."""

from probe import call, tell

tell(lambda: f"ring {call('keyctl', 0, -3, 1)}")

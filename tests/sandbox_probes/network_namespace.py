"""Make a network namespace."""

from probe import call, tell

tell(lambda: "made" if call("unshare", 0x40000000) == 0 else "")

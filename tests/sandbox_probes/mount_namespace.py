"""Make a mount namespace."""

from probe import call, tell

tell(lambda: "made" if call("unshare", 0x20000) == 0 else "")

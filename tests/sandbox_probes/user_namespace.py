"""Make a user namespace, to be root there."""

from probe import call, tell

tell(lambda: "made" if call("unshare", 0x10000000) == 0 else "")

"""Make the root writable, or writable again."""

from probe import call, tell

MS_REMOUNT, MS_BIND = 32, 4096


def attempt():
    call("mount", b"none", b"/", None, MS_REMOUNT | MS_BIND, None)
    with open("/evil", "w"):
        return "written"


tell(attempt)

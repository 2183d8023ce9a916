"""Have a capability, now or later."""

from probe import tell


def attempt():
    with open("/proc/self/status") as file:
        found = [line.split() for line in file if line.startswith("Cap")]
    return [line for line in found if int(line[1], 16)]


tell(attempt)

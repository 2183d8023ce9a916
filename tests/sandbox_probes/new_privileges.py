"""Be allowed to gain privileges by running a program."""

from probe import tell


def attempt():
    with open("/proc/self/status") as file:
        return "allowed" if "NoNewPrivs:\t0" in file.read() else ""


tell(attempt)

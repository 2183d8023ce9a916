"""Change a setting of the kernel."""

from probe import tell


def attempt():
    with open("/proc/sys/net/ipv4/ip_default_ttl", "r+") as file:
        return file.name


tell(attempt)

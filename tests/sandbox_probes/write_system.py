"""Write where the system is."""

from probe import tell


def attempt():
    blocked = []
    for path in ("/etc/evil", "/usr/local/bin/evil", "/evil", "/var/tmp/evil", "/root/evil"):
        try:
            with open(path, "w") as file:
                file.write("evil")
        except OSError as error:
            blocked.append(str(error))
        else:
            return path
    raise OSError("; ".join(blocked))


tell(attempt)

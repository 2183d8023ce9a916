"""Write 200 MB to the host's disk."""

from probe import tell


def attempt():
    for folder in ("/var/tmp", "/var/log", "/opt", "/home", "/"):
        try:
            with open(f"{folder}/filler", "wb") as file:
                for _ in range(200):
                    file.write(bytes(1024 * 1024))
        except OSError as error:
            last = error
        else:
            return folder
    raise last


tell(attempt)

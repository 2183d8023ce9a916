"""Change the program that starts every script."""

from probe import tell


def attempt():
    with open("/opt/teckochecker/entry.py", "a") as file:
        return file.write("\n")


tell(attempt)

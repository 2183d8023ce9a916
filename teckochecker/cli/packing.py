"""Makes the .tgz that a local script is sent as: the same files give the same bytes.

What a working folder gathers (packages, caches, version control) is left out. The daemon
checks every archive again and trusts none; here its rules only give an earlier answer.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Final

from teckochecker.errors import FolderError, InvalidInput
from teckochecker.scripts import tar
from teckochecker.scripts.tree import MIB, SCRIPT, Member, Tree, checked_path, shown, too_large

_PACKED: Final = (".tgz", ".tar.gz")
_SCRIPTS: Final = frozenset({".py", ".js", ".mjs", ".cjs"})
_LEFT_OUT: Final = frozenset(
    {
        *(".git", ".hg", ".svn", ".DS_Store"),
        *("node_modules", ".venv", "__pycache__"),
        *(".pytest_cache", ".mypy_cache", ".ruff_cache"),
    }
)


def pack(path: Path, *, entrypoint: str | None = None) -> bytes:
    """The archive of a script: a folder's files, one file, or an archive as it is.

    A single file is packed as `entrypoint`, else under its own name. Links in a folder are
    refused, and so is what the daemon would refuse for its names or its size.
    """
    try:
        if path.is_dir():
            return _packed(_files(path, ""))
        if path.name.endswith(_PACKED):
            return _archive(path)
        if path.exists() and not (path.is_file() and path.suffix in _SCRIPTS):
            raise InvalidInput(
                f"{path} is neither a folder nor a script: name a folder, a .tgz, .py or .js file."
            )
        return _packed(iter([(entrypoint or path.name, path)]))
    except OSError as error:
        raise FolderError(
            f"{error.filename or path} can't be read ({error.strerror}): check the script's path."
        ) from error


def _archive(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(SCRIPT.packed_bytes + 1)
    if len(data) > SCRIPT.packed_bytes:
        raise _too_large(str(path))
    return data


def _files(folder: Path, within: str) -> Iterator[tuple[str, Path]]:
    """The files below a folder, by path and with it, in the order of their paths."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if _is_left_out(entry.name):
            continue
        path = f"{within}{entry.name}"
        if entry.is_symlink():
            raise InvalidInput(
                f"{shown(path)} is a link to {shown(os.readlink(entry.path))}, which a script "
                "can't have: put the files themselves there, or remove it."
            )
        if entry.is_dir():
            yield from _files(Path(entry.path), f"{path}/")
        elif entry.is_file():
            yield path, Path(entry.path)
        else:
            raise InvalidInput(f"{shown(path)} is neither a file nor a folder: remove it.")


def _is_left_out(name: str) -> bool:
    return name in _LEFT_OUT or name.endswith((".pyc", ".pyo")) or name.startswith("._")


def _packed(files: Iterator[tuple[str, Path]]) -> bytes:
    tree = Tree(SCRIPT)
    made = BytesIO()
    unpacked_bytes = 0
    # No name and no time, which gzip would keep.
    with gzip.GzipFile(filename="", fileobj=made, mode="wb", mtime=0) as packed:
        for name, source in files:
            path = checked_path(os.fsencode(name))
            for folder in tree.add(path):
                packed.write(tar.header(Member(path=folder, folder=True)))
            unpacked_bytes += _add(packed, path, source, SCRIPT.unpacked_bytes - unpacked_bytes)
        packed.write(tar.END)
    if not unpacked_bytes:
        raise InvalidInput("The script has no content: name the folder that holds it.")
    if len(made.getvalue()) > SCRIPT.packed_bytes:
        raise _too_large("What is to be sent")
    return made.getvalue()


def _add(packed: gzip.GzipFile, path: str, source: Path, room_bytes: int) -> int:
    """Adds a file, and gives its size."""
    with source.open("rb") as file:
        data = file.read(room_bytes + 1)
        executable = bool(os.fstat(file.fileno()).st_mode & 0o100)
    if len(data) > room_bytes:
        raise too_large(SCRIPT)
    packed.write(tar.header(Member(path=path, executable=executable, size_bytes=len(data))))
    packed.write(data + tar.padding(len(data)))
    return len(data)


def _too_large(what: str) -> InvalidInput:
    return InvalidInput(
        f"{what} is larger than {SCRIPT.packed_bytes // MIB} MB when packed: leave out what the "
        "script doesn't need, such as data and installed packages."
    )

"""Accepts what somebody sends as a script, and what an installer prints as its result.

Both are hostile until shown otherwise. Run it in a process of its own that may be killed, and
call `limit_resources` there first: it takes and gives paths and values, never bytes.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Final

from teckochecker.domain import Value
from teckochecker.errors import InvalidInput
from teckochecker.scripts import tar
from teckochecker.scripts.gzipped import chunks, gunzipped
from teckochecker.scripts.shelf import Script, put, spool, storing
from teckochecker.scripts.tree import (
    INSTALLED,
    MIB,
    SCRIPT,
    Bounds,
    Member,
    Tree,
    entry_point,
    too_large,
)

# A worker maps 35 MiB, and no archive is ever held whole.
_ADDRESS_SPACE_BYTES: Final = 512 * MIB
_MAC_LITTER = ".DS_Store"


class Inspected(Value, frozen=True, kw_only=True):
    """A clean tar that was written: how large it is, and how many files it holds."""

    size_bytes: int
    files: int


def accept(packed: Path, shelf: Path, *, entrypoint: str, bounds: Bounds = SCRIPT) -> Script:
    """Check an uploaded .tgz and store it; InvalidInput says what is wrong with it.

    A single top folder is stripped. What macOS adds for itself (`._*`, `.DS_Store`) is left out.
    """
    wanted = entry_point(entrypoint)
    with storing(shelf), packed.open("rb") as file, spool(shelf) as spooled:
        entries = tar.entries(gunzipped(file, bounds), bounds)
        members = list(_members(entries, Tree(bounds), spooled))
        return put(shelf, members, spooled, wanted)


def take(packed: Path, shelf: Path, *, entrypoint: str) -> Script:
    """As `accept`, and `packed` is gone afterwards; who is killed leaves it to `shelf.forget`."""
    try:
        return accept(packed, shelf, entrypoint=entrypoint)
    finally:
        packed.unlink(missing_ok=True)


def inline(text: str, shelf: Path, *, entrypoint: str, bounds: Bounds = SCRIPT) -> Script:
    """Store a script that is one text, as the file `entrypoint`."""
    wanted = entry_point(entrypoint)
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("the script has characters that aren't UTF-8: correct them") from error
    if len(data) > bounds.unpacked_bytes:
        raise too_large(bounds)
    folders = [Member(path=path, folder=True) for path in Tree(bounds).add(wanted)]
    script = Member(path=wanted, size_bytes=len(data))
    with storing(shelf):
        return put(shelf, [*folders, script], BytesIO(data), wanted)


def inspect_installed(
    source: IO[bytes], target: IO[bytes], bounds: Bounds = INSTALLED
) -> Inspected:
    """Write the clean form of the tar that an installer printed; on InvalidInput, drop it.

    The order stays, nothing is stripped or left out.
    """
    tree = Tree(bounds)
    size_bytes = files = 0
    for entry in tar.entries(chunks(source), bounds):
        for folder in tree.add(entry.path, folder=entry.folder):
            size_bytes += target.write(tar.header(Member(path=folder, folder=True)))
        if entry.folder:
            continue
        files += 1
        size_bytes += target.write(tar.header(_file(entry, offset=0)))
        for chunk in entry.content:
            size_bytes += target.write(chunk)
        size_bytes += target.write(tar.padding(entry.size_bytes))
    size_bytes += target.write(tar.END)
    return Inspected(size_bytes=size_bytes, files=files)


def inspect(printed: Path, clean: Path) -> Inspected:
    """`inspect_installed` from file to file."""
    with printed.open("rb") as source, clean.open("wb") as target:
        return inspect_installed(source, target)


def limit_worker() -> bool:
    """`limit_resources` for all that a worker may be asked to read; true, as it may go on."""
    limit_resources(INSTALLED)
    return True


def limit_resources(bounds: Bounds = SCRIPT) -> None:
    """Bound what this process may take from now on; a clean tar may need twice the room."""
    _lower(resource.RLIMIT_AS, _ADDRESS_SPACE_BYTES)
    _lower(resource.RLIMIT_FSIZE, 2 * bounds.unpacked_bytes)
    _lower(resource.RLIMIT_CORE, 0)


def _lower(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    lowered = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (lowered, lowered))


def _members(entries: Iterator[tar.Entry], tree: Tree, spooled: IO[bytes]) -> Iterator[Member]:
    for entry in entries:
        if not entry.folder and _is_mac_litter(entry.path):
            continue
        for folder in tree.add(entry.path, folder=entry.folder):
            yield Member(path=folder, folder=True)
        if not entry.folder:
            yield _file(entry, offset=spooled.tell())
            spooled.writelines(entry.content)


def _is_mac_litter(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.startswith("._") or name == _MAC_LITTER


def _file(entry: tar.Entry, *, offset: int) -> Member:
    return Member(
        path=entry.path, executable=entry.executable, offset=offset, size_bytes=entry.size_bytes
    )

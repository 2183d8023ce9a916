"""Reads the files of a fetched commit out of git's store, without ever checking them out.

`ls-tree` says what there is and how large, and nothing is read before all of it has passed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

from teckochecker.errors import Fault, InvalidInput
from teckochecker.scripts.git_command import Git, GitError
from teckochecker.scripts.shelf import Script, copied, put, spool
from teckochecker.scripts.tree import Bounds, Member, Tree, checked_path, shown, too_large

_LINE_BYTES = 128  # of a listed file, beside its path
_LISTED = re.compile(rb"([0-7]{6}) [a-z]+ ([0-9a-f]{40,64}) +([0-9]+|-)\t(.+)", re.DOTALL)
_LINK, _SUBMODULE = b"120000", b"160000"
_EXECUTABLE = b"100755"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def stored(git: Git, tree: str, shelf: Path, entrypoint: str, bounds: Bounds) -> Script:
    """Put the files of `tree`, like `main:folder`, on the shelf; GitError if they can't be."""
    try:
        listed = git.run(
            *("ls-tree", "-r", "-z", "-l", tree),
            max_bytes=bounds.entries * (bounds.path_bytes + _LINE_BYTES),
        )
        wanted = git.folder / "wanted"
        members, ids, size_bytes = _members(listed, bounds)
        wanted.write_bytes(b"".join(id_ + b"\n" for id_ in ids))
        with wanted.open("rb") as request, spool(shelf) as spooled:
            with closing(git.stream("cat-file", "--batch", stdin=request)) as pieces:
                spooled.writelines(pieces)
            if spooled.tell() != size_bytes:
                raise GitError("git gives other files than it listed.", Fault.MALFORMED)
            _refuse_pointer(members, spooled, entrypoint)
            return put(shelf, members, spooled, entrypoint)
    except InvalidInput as error:
        raise GitError(f"the repository can't be used: {error}", Fault.REFUSED) from error


def _members(listed: bytes, bounds: Bounds) -> tuple[list[Member], list[bytes], int]:
    """Files and folders, the files' ids, and how much `--batch` prints for these, all in all."""
    tree = Tree(bounds)
    members: list[Member] = []
    ids: list[bytes] = []
    at = total = 0
    for mode, id_, size, raw in _listed(listed):
        path = checked_path(raw, bounds)
        total += size
        if total > bounds.unpacked_bytes:
            raise too_large(bounds)
        members += (Member(path=folder, folder=True) for folder in tree.add(path))
        at += len(b"%s blob %d\n" % (id_, size))
        members.append(
            Member(path=path, executable=mode == _EXECUTABLE, offset=at, size_bytes=size)
        )
        ids.append(id_)
        at += size + len(b"\n")
    return members, ids, at


def _listed(listed: bytes) -> Iterator[tuple[bytes, bytes, int, bytes]]:
    for line in listed.split(b"\0")[:-1]:
        found = _LISTED.fullmatch(line)
        if found is None:
            raise GitError("git lists files in a way that can't be read.", Fault.INTERNAL)
        mode, id_, size, raw = found.groups()
        if mode == _LINK:
            raise InvalidInput(f"links aren't allowed: {shown(raw)}; commit the file itself")
        if mode == _SUBMODULE:
            raise InvalidInput(
                f"submodules aren't fetched: {shown(raw)}; name a subfolder without one"
            )
        yield mode, id_, int(size), raw


def _refuse_pointer(members: list[Member], spooled: IO[bytes], entrypoint: str) -> None:
    for member in members:
        is_wanted = not member.folder and member.path.endswith(entrypoint)
        if is_wanted and next(copied(spooled, member), b"").startswith(_LFS_POINTER):
            raise InvalidInput(
                f"{shown(member.path)} is kept in Git LFS, which isn't fetched: "
                "commit the file itself"
            )

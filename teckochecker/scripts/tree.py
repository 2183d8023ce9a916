"""What a script may consist of: how much, how deep, and under which names.

A path that passes means the same file on every file system and to every program: below the
script's own folder, without characters that some read as something else, and never equal to
another path of the script where case or the composition of accents is ignored. Pure.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from teckochecker.domain import Value
from teckochecker.errors import InvalidInput

MIB: Final = 1024 * 1024
_MAX_SHOWN_CHARS = 100  # of a stranger's name in a message

_ORDINARY = re.compile(r"[A-Za-z0-9_+,@=-][A-Za-z0-9_.+,@=-]*")
_DRIVE = re.compile(r"[A-Za-z]:")


class Bounds(Value, frozen=True, kw_only=True):
    """How much is accepted; `entries` counts files and folders, named or implied.

    `packed_bytes` and `ratio` (beyond the first MiB) are about the compressed form.
    """

    unpacked_bytes: int
    entries: int
    depth: int
    packed_bytes: int = 10 * MIB
    ratio: int = 100
    part_bytes: int = 255  # what file systems take
    path_bytes: int = 1024  # Linux takes 4096, the folder that it is unpacked into among them


SCRIPT: Final = Bounds(unpacked_bytes=64 * MIB, entries=10_000, depth=20)
# npm puts packages into packages, two or three folders deeper each time.
INSTALLED: Final = Bounds(unpacked_bytes=256 * MIB, entries=50_000, depth=40)


class Member(Value, frozen=True, kw_only=True):
    """One file or folder of a script; a file's bytes lie at `offset` of a spool."""

    path: str
    folder: bool = False
    executable: bool = False
    offset: int = 0
    size_bytes: int = 0


class Tree:
    """The paths of one script so far: no two are the same to anybody, no file holds others."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._known: dict[str, tuple[str, bool]] = {}  # by what it is equal to: path, is folder
        self._folders = {"": ""}  # path: what it is equal to

    def add(self, path: str, *, folder: bool = False) -> list[str]:
        """Take a checked path; gives the folders that are new by it, outermost first."""
        if folder:
            return self._add_folder(path)
        new = self._add_folder(path.rpartition("/")[0])
        self._add(path, folder=False)
        return new

    def _add_folder(self, path: str) -> list[str]:
        if path in self._folders:
            return []
        new = self._add_folder(path.rpartition("/")[0])
        self._folders[path] = self._add(path, folder=True)
        return [*new, path]

    def _add(self, path: str, *, folder: bool) -> str:
        parent, _, name = path.rpartition("/")
        key = f"{self._folders[parent]}/{_folded(name)}"  # of the name alone: folding is slow
        if key in self._known:
            raise _doubled(path, folder, *self._known[key])
        if len(self._known) == self._bounds.entries:
            raise too_many(self._bounds)
        self._known[key] = (path, folder)
        return key


def checked_path(raw: bytes, bounds: Bounds = SCRIPT) -> str:
    """A path as `a/b`, less its `.` and doubled slashes ('' for `./`); InvalidInput if odd."""
    try:
        path = raw.decode()
    except UnicodeDecodeError as error:
        raise _odd(raw, "isn't UTF-8", "rename it, with plain letters") from error
    if path.startswith("/"):
        raise _odd(path, "is absolute", "pack with paths relative to the script's folder")
    if len(raw) > bounds.path_bytes:
        raise _odd(path, f"is longer than {bounds.path_bytes} bytes", "shorten it")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if len(parts) > bounds.depth:
        raise _odd(path, f"is deeper than {bounds.depth} folders", "flatten it")
    for part in parts:
        if not _ORDINARY.fullmatch(part) or len(part) > bounds.part_bytes:
            _check_part(path, part, bounds)
    return "/".join(parts)


def _check_part(path: str, part: str, bounds: Bounds) -> None:
    if part == "..":
        raise _odd(path, "leads out of its folder (..)", "pack with paths inside the folder")
    if not part.isprintable():  # control characters, and those that show as another name
        raise _odd(path, "has a control or invisible character", "rename it")
    if "\\" in part:
        raise _odd(path, "has a backslash", "use / between folders, and no backslash in names")
    if _DRIVE.match(part):
        raise _odd(path, "starts with a drive letter", "pack with paths relative to the folder")
    if len(part.encode()) > bounds.part_bytes:
        raise _odd(path, f"has a name longer than {bounds.part_bytes} bytes", "shorten it")


def entry_point(text: str) -> str:
    """The checked path of the file to start, like `main.py` or `src/main.py`."""
    path = _given("the entry point", text)
    if not path or text.endswith("/"):
        raise InvalidInput("the entry point is empty or a folder: name a file like main.py")
    return path


def subfolder(text: str) -> str:
    """The checked path of a folder, like `checks/nightly`; '' is the whole."""
    return _given("the subfolder", text)


def _given(what: str, text: str) -> str:
    try:
        return checked_path(text.encode("utf-8", "surrogatepass"))
    except InvalidInput as error:
        raise InvalidInput(f"{what}: {error}") from error


def rooted(members: list[Member], entrypoint: str) -> list[Member]:
    """The script as its entry point sees it: without the single top folder that it is in.

    Both `tar czf x.tgz main.py` and `tar czf x.tgz folder/` work. A folder that the entry
    point itself names stays. Raises InvalidInput when there is no such file.
    """
    tops = {member.path.partition("/")[0] for member in members}
    if len(tops) == 1 and any(member.folder and member.path in tops for member in members):
        inner = [_without_top(member) for member in members if "/" in member.path]
        if _has_file(inner, entrypoint):
            return inner
    if not _has_file(members, entrypoint):
        raise _no_entry_point(members, entrypoint)
    return members


def _without_top(member: Member) -> Member:
    return Member(
        path=member.path.partition("/")[2],
        folder=member.folder,
        executable=member.executable,
        offset=member.offset,
        size_bytes=member.size_bytes,
    )


def _has_file(members: list[Member], path: str) -> bool:
    return any(member.path == path and not member.folder for member in members)


def _no_entry_point(members: list[Member], entrypoint: str) -> InvalidInput:
    if any(member.path == entrypoint for member in members):
        return InvalidInput(
            f"the entry point {shown(entrypoint)} is a folder: name the file to start in it"
        )
    files = sorted(member.path for member in members if not member.folder)
    found = ", ".join(map(shown, files[:5])) + (", ..." if len(files) > 5 else "")
    return InvalidInput(
        f"the entry point {shown(entrypoint)} isn't there, only {found or 'no file at all'}: "
        "add it, or set script_entrypoint to the file to start"
    )


def shown(name: str | bytes) -> str:
    """A stranger's name for a message: short, and nothing in it acts on a terminal or page."""
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    short = text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}..."
    return short if short.isprintable() and short else ascii(short)


def too_many(bounds: Bounds) -> InvalidInput:
    return InvalidInput(
        f"there are more than {bounds.entries} files and folders: leave out what isn't needed, "
        "such as installed packages"
    )


def too_large(bounds: Bounds) -> InvalidInput:
    return InvalidInput(
        f"it unpacks to more than {bounds.unpacked_bytes // MIB} MB: leave out what isn't needed, "
        "such as data and installed packages"
    )


def _odd(path: str | bytes, what: str, advice: str) -> InvalidInput:
    return InvalidInput(f"the path {shown(path)} {what}: {advice}")


def _doubled(path: str, folder: bool, other: str, other_folder: bool) -> InvalidInput:
    if path != other:
        return InvalidInput(
            f"{shown(other)} and {shown(path)} are the same name on some systems: rename one"
        )
    if folder != other_folder:
        return InvalidInput(f"{shown(path)} is both a file and a folder: rename one")
    return InvalidInput(f"{shown(path)} is there twice: pack it once")


def _folded(name: str) -> str:
    """What is equal for two names that a system without case or composed accents mixes up."""
    if name.isascii():
        return name.lower()
    decomposed = unicodedata.normalize("NFD", name)  # not NFC, which takes three times as long
    return unicodedata.normalize("NFD", decomposed.casefold())

"""Keeps accepted scripts as clean tars, each in a file named by its SHA-256.

The same content gives the same bytes, so a script that comes again is stored once. A file
appears whole or not at all. Who is killed while writing leaves a file or folder named
`.new-...`, which `forget` removes in time.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Final

from teckochecker.domain import Value
from teckochecker.errors import FolderError
from teckochecker.scripts import tar
from teckochecker.scripts.gzipped import CHUNK_BYTES, chunks
from teckochecker.scripts.tree import Member, rooted

UNFINISHED: Final = ".new-"
MAX_TEXT_BYTES: Final = 64 * 1024  # of a script that is shown as one text

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ROOT_DEPENDENCIES = frozenset(
    {"requirements.txt", "package.json", "package-lock.json", "npm-shrinkwrap.json", ".npmrc"}
)
# What those may refer to: other lists, and packages that the archive brings along.
_OTHER_DEPENDENCIES = re.compile(
    r".*(?:(?:requirements|constraints)[^/]*\.txt|\.whl|\.tar\.gz|\.tgz|\.zip)", re.IGNORECASE
)


class Script(Value, frozen=True, kw_only=True):
    """An accepted script: `sha256` names its clean tar on the shelf, of `size_bytes`.

    `dependencies` are the paths and SHA-256 of the files that say, or are, what to install.
    """

    sha256: str
    size_bytes: int
    files: int
    entrypoint: str
    dependencies: tuple[tuple[str, str], ...] = ()

    @property
    def dependencies_key(self) -> str:
        """Equal for scripts that install the same; '' for one that installs nothing."""
        if not _ROOT_DEPENDENCIES & {path for path, _ in self.dependencies}:
            return ""
        return hashlib.sha256(repr(self.dependencies).encode()).hexdigest()


def put(shelf: Path, members: list[Member], spool: IO[bytes], entrypoint: str) -> Script:
    """Store what `members` say and `spool` holds as a clean tar, durably."""
    ordered = sorted(rooted(members, entrypoint), key=lambda member: member.path.split("/"))
    files = [member for member in ordered if not member.folder]
    with _new_file(shelf) as file:
        for member in ordered:
            file.write(tar.header(member))
            file.writelines(copied(spool, member))
            file.write(tar.padding(member.size_bytes))
        file.write(tar.END)
        size_bytes = file.tell()
        file.seek(0)
        sha256 = _sha256(chunks(file))
        _publish(file, shelf, sha256)
    return Script(
        sha256=sha256,
        size_bytes=size_bytes,
        files=len(files),
        entrypoint=entrypoint,
        dependencies=tuple(
            (member.path, _sha256(copied(spool, member)))
            for member in files
            if _matters(member.path)
        ),
    )


def path(shelf: Path, sha256: str) -> Path:
    """The file of a stored script's clean tar; FolderError when it is gone."""
    if not _SHA256.fullmatch(sha256):
        raise FolderError("a script's SHA-256 has 64 characters of 0-9 and a-f")
    found = _file(shelf, sha256)
    if not found.is_file():
        raise FolderError(f"the script {sha256[:12]} is gone from {shelf}: upload it again")
    return found


def read(shelf: Path, sha256: str) -> bytes:
    """A stored script's clean tar."""
    with storing(shelf):
        return path(shelf, sha256).read_bytes()


def listing(shelf: Path, sha256: str) -> tuple[list[tuple[str, int]], str | None]:
    """The files of a stored script with their sizes, and its text when it is one small text."""
    with storing(shelf), tarfile.open(path(shelf, sha256)) as stored:
        entries = [entry for entry in stored if entry.isreg()]
        files = [(entry.name, entry.size) for entry in entries]
        text = None
        if len(entries) == 1 and entries[0].size <= MAX_TEXT_BYTES:
            content = stored.extractfile(entries[0])
            text = _text(content.read() if content else b"")
        return files, text


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def size_bytes(shelf: Path) -> int:
    """What the shelf takes on the disk."""
    if not shelf.is_dir():
        return 0
    total = 0
    with storing(shelf):
        for file in shelf.iterdir():
            with suppress(FileNotFoundError):  # one that was being written came to its end
                total += file.stat().st_size if file.is_file() else 0
    return total


def forget(shelf: Path, keep: Collection[str], *, before: datetime) -> int:
    """Remove the scripts that aren't in `keep`, and unfinished ones; gives how many.

    What was written after `before` stays: somebody may be about to refer to it.
    """
    with storing(shelf):
        kept = {_file(shelf, sha256) for sha256 in keep}
        return sum(_removed(shelf, file, before) for file in set(shelf.iterdir()) - kept)


@contextmanager
def storing(shelf: Path) -> Iterator[None]:
    """The shelf exists, and what the system refuses meanwhile comes out as FolderError."""
    try:
        shelf.mkdir(mode=0o700, exist_ok=True)
        yield
    except OSError as error:
        reason = error.strerror or "the system gives no reason"
        raise FolderError(
            f"a script can't be stored in {shelf} ({reason}): check the disk and whose folder it is"
        ) from error


def spool(shelf: Path) -> IO[bytes]:
    """A file for what is being read, which nobody sees and nothing leaves behind."""
    return tempfile.TemporaryFile(dir=shelf, prefix=UNFINISHED)


def copied(source: IO[bytes], member: Member) -> Iterator[bytes]:
    """The bytes of a file, out of the spool that it lies in."""
    source.seek(member.offset)
    left = member.size_bytes
    while left:
        chunk = source.read(min(left, CHUNK_BYTES))
        if not chunk:
            raise OSError(errno.EIO, "a spooled file has become shorter")
        left -= len(chunk)
        yield chunk


@contextmanager
def _new_file(shelf: Path) -> Iterator[IO[bytes]]:
    with tempfile.NamedTemporaryFile(dir=shelf, prefix=UNFINISHED, delete=False) as file:
        try:
            yield file
        finally:
            Path(file.name).unlink(missing_ok=True)  # it has another name if all went well


def _publish(file: IO[bytes], shelf: Path, sha256: str) -> None:
    file.flush()
    os.fsync(file.fileno())
    with _locked(shelf) as descriptor:
        Path(file.name).replace(_file(shelf, sha256))
        os.fsync(descriptor)


@contextmanager
def _locked(shelf: Path) -> Iterator[int]:
    """Nobody else changes the shelf: else what is stored again just now might be removed."""
    descriptor = os.open(shelf, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _removed(shelf: Path, file: Path, before: datetime) -> bool:
    unfinished = file.name.startswith(UNFINISHED)
    if not unfinished and not (file.suffix == ".tar" and _SHA256.fullmatch(file.stem)):
        return False
    with _locked(shelf), suppress(FileNotFoundError):  # one that came to its end by itself
        if file.stat().st_mtime >= before.timestamp():
            return False
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink()
        return True
    return False


def _file(shelf: Path, sha256: str) -> Path:
    return shelf / f"{sha256}.tar"


def _matters(path: str) -> bool:
    return path in _ROOT_DEPENDENCIES or _OTHER_DEPENDENCIES.fullmatch(path) is not None


def _sha256(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()

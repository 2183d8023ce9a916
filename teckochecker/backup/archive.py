"""The file of a backup: a `.tar.gz` that begins with a manifest of what follows.

It appears under its name only once it has been read back. What is read may be cut off, damaged
or not a backup at all: FolderError says so, and nothing but the listed files is ever written.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import IO, Final

import msgspec

from teckochecker import __version__
from teckochecker.domain import Value
from teckochecker.errors import ConfigError, FolderError
from teckochecker.store import copies

FORMAT: Final = 1
SUFFIX: Final = ".tar.gz"
DATABASE: Final = "teckochecker.db"
_MANIFEST: Final = "manifest.json"
_MANIFEST_BYTES: Final = 16 * 1024 * 1024  # that of 100,000 scripts
_SCRIPT: Final = re.compile(r"scripts/[0-9a-f]{64}\.tar")
_CHUNK_BYTES: Final = 1024 * 1024
_TOLD_BYTES: Final = 64 * 1024 * 1024  # what is larger tells how far it is
_LEVEL: Final = 1  # of compression; more takes several times as long for a tenth of the size

Progress = Callable[[str], None]
"""Gets a few words whenever there is news."""


class Member(Value, frozen=True, kw_only=True):
    """A file in a backup."""

    name: str
    size_bytes: int
    sha256: str


class Manifest(Value, frozen=True, kw_only=True):
    """What a backup holds, and which program made it when."""

    format: int
    version: str
    schema: int
    created_at: datetime
    members: tuple[Member, ...]

    @property
    def scripts(self) -> int:
        return len(self.members) - 1


def member(folder: Path, name: str) -> Member:
    """A file of `folder` as it is to be listed."""
    with (folder / name).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Member(name=name, size_bytes=(folder / name).stat().st_size, sha256=sha256)


def is_script(name: str) -> bool:
    """Whether a name within a backup is that of a script's clean tar."""
    return _SCRIPT.fullmatch(name) is not None


def publish(manifest: Manifest, folder: Path, target: Path, progress: Progress) -> None:
    """Write the files of `folder` to `target`: durable, for its owner alone, and read back."""
    with tempfile.NamedTemporaryFile(
        dir=target.parent, prefix=copies.UNFINISHED, suffix=SUFFIX, delete=False
    ) as file:
        part = Path(file.name)
        try:
            _pack(manifest, folder, file, progress)
            file.flush()
            os.fsync(file.fileno())
            read(part, None, progress)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    copies.sync(target.parent)


def read(path: Path, into: Path | None, progress: Progress) -> Manifest:
    """Everything in a backup against its manifest; written to `into`, if that is given."""
    with reading(path), tarfile.open(path, "r|gz") as tar:
        manifest = _manifest(path, tar)
        wanted = {listed.name: listed for listed in manifest.members}
        while (entry := tar.next()) is not None:
            listed = wanted.pop(entry.name, None)
            content = tar.extractfile(entry) if entry.isreg() else None
            if listed is None or content is None:
                raise damaged(path, f"it holds {entry.name!r}, which isn't on its list")
            told = _Told(content, progress, f"reading {listed.name}", listed.size_bytes)
            if _taken(told, into and into / listed.name) != listed.sha256:
                raise damaged(path, f"{listed.name} isn't what it was")
    if wanted:
        raise damaged(path, f"{next(iter(wanted))} is missing")
    return manifest


def manifest_of(path: Path) -> Manifest:
    """The manifest at a backup's begin; nothing else is read."""
    with reading(path), tarfile.open(path, "r|gz") as tar:
        return _manifest(path, tar)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong with the file at `path` comes out as FolderError."""
    try:
        yield
    except (tarfile.TarError, EOFError) as error:
        raise damaged(path, str(error) or "it ends too early") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise FolderError(f"{path} can't be read or unpacked ({reason}).") from error


def damaged(path: Path, how: str) -> FolderError:
    return FolderError(f"{path} is no good backup: {how}. Use another one.")


def _pack(manifest: Manifest, folder: Path, file: IO[bytes], progress: Progress) -> None:
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    at = manifest.created_at
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=_LEVEL) as tar:
        tar.addfile(_entry(_MANIFEST, len(text), at), BytesIO(text))
        for listed in manifest.members:
            with (folder / listed.name).open("rb") as content:
                told = _Told(content, progress, f"packing {listed.name}", listed.size_bytes)
                tar.addfile(_entry(listed.name, listed.size_bytes, at), told)


def _entry(name: str, size_bytes: int, at: datetime) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size_bytes, 0o600, int(at.timestamp())
    return entry


def _manifest(path: Path, tar: tarfile.TarFile) -> Manifest:
    first = tar.next()
    is_manifest = first is not None and first.isreg() and first.name == _MANIFEST
    content = tar.extractfile(first) if first and is_manifest else None
    if content is None:
        raise damaged(path, "it doesn't begin with a manifest")
    text = content.read(_MANIFEST_BYTES)
    try:
        found = msgspec.json.decode(text, type=Manifest)
    except msgspec.DecodeError as error:
        raise damaged(path, "its manifest can't be read") from error
    if found.format > FORMAT:
        raise ConfigError(
            f"{path} was made by TeckoChecker {found.version}, in a format that this program "
            f"({__version__}) doesn't know: use that one, or a newer."
        )
    names = [listed.name for listed in found.members]
    known = names.count(DATABASE) == 1 and len(set(names)) == len(names)
    if not known or not all(name == DATABASE or is_script(name) for name in names):
        raise damaged(path, "its manifest lists what belongs in no backup")
    return found


def _taken(content: _Told, target: Path | None) -> str:
    """The SHA-256 of what was read; written to `target`, if that is given."""
    digest = hashlib.sha256()
    if target is None:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
        return digest.hexdigest()
    target.parent.mkdir(mode=0o700, exist_ok=True)
    with open(target, "xb", opener=_private) as file:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


class _Told:
    """A file being read; a large one tells each tenth of it."""

    def __init__(self, file: IO[bytes], progress: Progress, words: str, size_bytes: int) -> None:
        self._file = file
        self._progress = progress
        self._words = words
        self._size_bytes = size_bytes
        self._read_bytes = 0
        self._tenths = 0

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self._read_bytes += len(chunk)
        tenths = 10 * self._read_bytes // max(self._size_bytes, 1)
        if tenths > self._tenths and self._size_bytes > _TOLD_BYTES:
            self._tenths = tenths
            self._progress(f"{self._words}: {tenths}0 % of {self._size_bytes // 1_000_000} MB")
        return chunk


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

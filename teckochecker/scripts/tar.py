"""Reads tar archives made by strangers, and writes the headers of clean ones.

A reader of our own, since the standard library's believes too much: an entry may be named in
three ways, and crafted sizes and headers have hung it. This one takes a single pass over
bounded chunks, knows files and folders, and refuses whatever else there is, or could be read
in two ways. Formats: https://www.gnu.org/software/tar/manual/html_node/Standard.html and, for
extended headers, https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from teckochecker.errors import InvalidInput
from teckochecker.scripts.gzipped import CHUNK_BYTES, REPACK, cut_off
from teckochecker.scripts.tree import Bounds, Member, checked_path, shown, too_large, too_many

END: Final = bytes(1024)

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_NAME_BYTES = 100
_BLANK_SUM = 8 * ord(" ")  # the checksum itself counts as blanks
_OWNER = 1000  # the numeric user of the runner images
_MAX_EXTENSION_BYTES = 64 * 1024  # of one extended header; a path takes 1 KiB
_RECORDS_PER_ENTRY = 20  # of extended headers, on average; macOS writes about ten

_FILE, _OLD_FILE, _FOLDER = b"0", b"\0", b"5"
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
_EXTENSIONS = (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL)
_LINKS = (b"1", b"2")
_OTHERS = {
    b"3": "devices",
    b"4": "devices",
    b"6": "FIFOs",
    b"7": "contiguous files",
    b"D": "incremental dumps",
    b"M": "files split over archives",
    b"S": "sparse files",
    b"V": "volume labels",
}
_USED_KEYS = (b"path", b"linkpath", b"size")
_SPARSE_KEYS = (b"GNU.sparse.", b"SCHILY.realsize", b"SUN.holesdata")
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_RECORD = re.compile(rb"([1-9][0-9]{0,5}) ([^=\0\n]+)=")


class Entry(NamedTuple):
    """A file or folder of an archive; `content` ends when the next entry is asked for."""

    path: str
    folder: bool
    executable: bool
    size_bytes: int
    content: Iterator[bytes]


def entries(source: Iterator[bytes], bounds: Bounds) -> Iterator[Entry]:
    """The files and folders of a tar, in its order; InvalidInput at the first odd thing."""
    return _Archive(source, bounds).entries()


class _Archive:
    """A tar being read; `_said` is what extended headers say about the next entry."""

    def __init__(self, source: Iterator[bytes], bounds: Bounds) -> None:
        self._source = source
        self._bounds = bounds
        self._chunk = memoryview(b"")
        self._read = self._entries = self._records = 0
        self._said: dict[bytes, bytes] = {}

    def entries(self) -> Iterator[Entry]:
        while (header := self._exactly(_BLOCK)) != _ZEROS:
            _check_sum(header)
            kind = header[156:157]
            if kind in _EXTENSIONS:
                self._extend(kind, _number(header[124:136]))
                continue
            self._count_entry()
            entry = self._entry(kind, header)
            self._said.clear()
            yield entry
            for _ in entry.content:
                pass
        self._check_end()

    def _entry(self, kind: bytes, header: bytes) -> Entry:
        raw = self._raw_path(header)
        self._check_kind(kind, raw, header)
        folder = kind == _FOLDER or (kind == _OLD_FILE and raw.endswith(b"/"))
        mode, size = _number(header[100:108]), _number(header[124:136])
        path = checked_path(raw, self._bounds)
        if int(self._said.get(b"size", size)) != size:
            raise _unreadable(f"{shown(path)} has two sizes")
        if size > self._bounds.unpacked_bytes:
            raise too_large(self._bounds)
        if folder and size:
            raise _unreadable(f"{shown(path)} is a folder with content")
        if not folder and (not path or raw.endswith(b"/")):
            raise _unreadable(f"{shown(raw)} is a file with the name of a folder")
        if not folder and mode & 0o6000:
            raise InvalidInput(
                f"set-id bits aren't allowed: {shown(path)}; remove them with chmod ug-s"
            )
        return Entry(path, folder, bool(mode & 0o111), size, self._content(size))

    def _raw_path(self, header: bytes) -> bytes:
        given = [self._said[key] for key in (_LONG_NAME, b"path") if key in self._said]
        if len(given) > 1:
            raise _unreadable(f"{shown(given[0])} has two names")
        if given:
            return given[0]
        name = _text(header[:_NAME_BYTES])
        prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else b""
        return prefix + b"/" + name if prefix else name

    def _check_kind(self, kind: bytes, raw: bytes, header: bytes) -> None:
        if kind in _LINKS:
            target = self._said.get(_LONG_LINK) or self._said.get(b"linkpath") or header[157:257]
            raise InvalidInput(
                f"links aren't allowed: {shown(raw)} -> {shown(target.rstrip(_ZEROS[:1]))}; "
                "pack the files themselves (tar czhf)"
            )
        if kind not in (_FILE, _OLD_FILE, _FOLDER):
            words = _OTHERS.get(kind, f"entries of type {shown(kind)}")
            raise InvalidInput(f"{words} aren't allowed: {shown(raw)}; pack plain files")

    def _extend(self, kind: bytes, size: int) -> None:
        if size > _MAX_EXTENSION_BYTES:
            raise InvalidInput(
                f"an extended header of {size} bytes is too long: pack without extended "
                "attributes (tar --no-xattrs; on macOS with COPYFILE_DISABLE=1 as well)"
            )
        data = self._exactly(size)
        self._exactly(-size % _BLOCK)
        if kind in self._said:
            raise _unreadable("two extended headers of the same kind before one entry")
        if kind == _PAX_GLOBAL:  # those of `git archive` hold a comment
            self._count_entry()
            if self._pax(data):
                raise _unreadable("a global header that names or sizes entries")
            return
        self._said[kind] = data.rstrip(b"\0")
        if kind == _PAX:
            self._said |= self._pax(data)

    def _pax(self, data: bytes) -> dict[bytes, bytes]:
        """The records that matter of an extended header, like `22 path=folder/main.py`."""
        found: dict[bytes, bytes] = {}
        at = 0
        while at < len(data):
            record = _RECORD.match(data, at)
            end = at + int(record[1]) if record else 0
            self._records += 1
            if record is None or not record.end() < end <= len(data) or data[end - 1] != 0x0A:
                raise _unreadable("an extended header that can't be read")
            if self._records > self._bounds.entries * _RECORDS_PER_ENTRY:
                raise _unreadable("too many extended headers")
            if record[2].startswith(_SPARSE_KEYS):
                raise InvalidInput("sparse files aren't allowed: pack without tar's --sparse")
            if record[2] in _USED_KEYS:
                found[record[2]] = data[record.end() : end - 1]
            at = end
        if not found.get(b"size", b"0").isdigit() or len(found.get(b"size", b"")) > 20:
            raise _unreadable("a size that isn't one")
        return found

    def _content(self, size: int) -> Iterator[bytes]:
        left = size
        while left:
            chunk = self._some(left)
            if not chunk:
                raise cut_off()
            left -= len(chunk)
            yield chunk
        self._exactly(-size % _BLOCK)

    def _check_end(self) -> None:
        if self._said:
            raise _unreadable("an extended header without an entry")
        rest = iter(lambda: self._some(CHUNK_BYTES), b"")
        if any(chunk.strip(b"\0") for chunk in rest):
            raise InvalidInput(f"something follows the end of the archive: {REPACK}")

    def _count_entry(self) -> None:
        self._entries += 1
        if self._entries > self._bounds.entries:
            raise too_many(self._bounds)

    def _exactly(self, size: int) -> bytes:
        data = self._some(size)
        while len(data) < size:
            more = self._some(size - len(data))
            if not more:
                raise cut_off()
            data += more
        return data

    def _some(self, most: int) -> bytes:
        """At most `most` bytes, none at the end."""
        if not self._chunk:
            self._chunk = memoryview(next(filter(None, self._source), b""))
            self._read += len(self._chunk)
            if self._read > self._bounds.unpacked_bytes:
                raise too_large(self._bounds)
        some, self._chunk = self._chunk[:most], self._chunk[most:]
        return bytes(some)


def header(member: Member) -> bytes:
    """A clean header: nobody's ids, no times, mode 0555 or 0444; GNU's for a long path."""
    kind, mode = (_FOLDER, 0o555) if member.folder else (_FILE, 0o444)
    name = member.path.encode() + (b"/" if member.folder else b"")
    made = _header(name[:_NAME_BYTES], kind, mode | 0o111 * member.executable, member.size_bytes)
    if len(name) <= _NAME_BYTES:
        return made
    long_name = name + b"\0"
    extension = _header(b"././@LongLink", _LONG_NAME, 0o644, len(long_name))
    return extension + long_name + padding(len(long_name)) + made


def _header(name: bytes, kind: bytes, mode: int, size: int) -> bytes:
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, _OWNER, _OWNER, size, 0)
    start, end = name.ljust(_NAME_BYTES, b"\0") + numbers, kind + bytes(100) + b"ustar  \0"
    summed = sum(start) + sum(end) + _BLANK_SUM
    return (start + b"%06o\0 " % summed + end).ljust(_BLOCK, b"\0")


def padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _check_sum(header: bytes) -> None:
    summed = sum(header) - sum(header[148:156]) + _BLANK_SUM
    if _number(header[148:156]) != summed:
        raise _unreadable("a header with a wrong checksum")


def _number(field: bytes) -> int:
    if field[0] == 0x80:  # GNU's binary form; 0xff would be negative
        return int.from_bytes(field[1:], "big")
    octal = _OCTAL.fullmatch(field)
    if octal is None:
        raise _unreadable("a number that isn't one")
    return int(octal[1] or b"0", 8)


def _text(field: bytes) -> bytes:
    text, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        raise _unreadable(f"{shown(text)} goes on after its end (NUL)")
    return text


def _unreadable(what: str) -> InvalidInput:
    return InvalidInput(f"the archive isn't a plain tar ({what}): {REPACK}")

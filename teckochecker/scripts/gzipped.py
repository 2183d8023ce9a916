"""Reads a gzip stream made by a stranger: in bounded chunks, no bomb, nothing behind it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import chain
from typing import IO, Final

from teckochecker.errors import InvalidInput
from teckochecker.scripts.tree import MIB, Bounds

CHUNK_BYTES: Final = 64 * 1024
REPACK: Final = "pack it anew with: tar czf script.tgz FOLDER"

_FOREIGN = {
    b"PK": "a zip archive",
    b"\xfd7zXZ": "compressed with xz",
    b"BZh": "compressed with bzip2",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
}


def chunks(source: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: source.read(CHUNK_BYTES), b"")


def gunzipped(packed: IO[bytes], bounds: Bounds) -> Iterator[bytes]:
    """What one gzip stream holds, in bounded chunks; nothing but zeros may follow it."""
    unpacker = zlib.decompressobj(wbits=31)  # checks checksum and length
    pieces = _packed(packed, bounds)
    consumed = produced = 0
    for piece in pieces:
        consumed += len(piece)
        for chunk in _inflated(unpacker, piece):
            produced += len(chunk)
            if produced > MIB + bounds.ratio * consumed:
                raise InvalidInput(
                    f"the archive unpacks to more than {bounds.ratio} times its size: "
                    "leave out files that hold nothing but repetition"
                )
            yield chunk
        if unpacker.eof:
            break
    else:
        raise cut_off()
    if any(piece.strip(b"\0") for piece in chain([unpacker.unused_data], pieces)):
        # More gzip streams would be legal; half a million empty ones fit into 10 MB.
        raise InvalidInput(f"something follows the end of the compressed archive: {REPACK}")


def _packed(packed: IO[bytes], bounds: Bounds) -> Iterator[bytes]:
    read = 0
    for piece in chunks(packed):
        if not read:
            _check_magic(piece)
        read += len(piece)
        if read > bounds.packed_bytes:
            raise InvalidInput(
                f"the archive is larger than {bounds.packed_bytes // MIB} MB: "
                "leave out what isn't needed, such as data and installed packages"
            )
        yield piece


def _check_magic(start: bytes) -> None:
    if start.startswith(b"\x1f\x8b"):
        return
    kinds = (kind for magic, kind in _FOREIGN.items() if start.startswith(magic))
    found = "a tar without compression" if start[257:262] == b"ustar" else next(kinds, "no gzip")
    raise InvalidInput(f"a .tgz is needed, and this is {found}: {REPACK}")


def _inflated(unpacker: zlib._Decompress, piece: bytes) -> Iterator[bytes]:
    """What `piece` adds; after its last byte the unpacker may still hold more than a chunk."""
    chunk = b""
    while not unpacker.eof and (piece or len(chunk) == CHUNK_BYTES):
        try:
            chunk = unpacker.decompress(piece, CHUNK_BYTES)
        except zlib.error as error:
            raise InvalidInput(f"the archive is damaged ({error}): send it again") from error
        piece = unpacker.unconsumed_tail
        yield chunk


def cut_off() -> InvalidInput:
    return InvalidInput(f"the archive ends in the middle: send all of it, or {REPACK}")

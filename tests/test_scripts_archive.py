"""Archives of strangers: what is refused, what comes out clean, and what is left behind."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import random
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import tracemalloc
import unicodedata
import zlib
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio_parallel
from hypothesis import example, given, settings
from hypothesis import strategies as st

from teckochecker.errors import FolderError, InvalidInput
from teckochecker.scripts import shelf as shelves
from teckochecker.scripts.archive import accept, inline, inspect_installed, limit_resources
from teckochecker.scripts.shelf import Script
from teckochecker.scripts.tree import INSTALLED, MIB, SCRIPT, Bounds, checked_path
from tests import fuzz_archives
from tests.fuzz_archives import BLOCK, FIELDS, assert_clean, summed

MAX_CPU_S = 1.0  # for one archive, whatever is in it; the processor's time, since tests share it
END = bytes(2 * BLOCK)
FILE, HARD_LINK, LINK, CHARACTERS, DISK, FOLDER, FIFO = (b"%d" % kind for kind in range(7))


def block(
    name: bytes = b"x",
    kind: bytes = FILE,
    size: int | bytes = 0,
    *,
    mode: int = 0o644,
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
) -> bytes:
    """A header, field by field, with the right checksum."""
    made = bytearray(BLOCK)
    fields = {
        "name": name,
        "mode": b"%07o\0" % mode,
        "size": size if isinstance(size, bytes) else b"%011o\0" % size,
        "kind": kind,
        "link": link,
        "magic": magic,
        "prefix": prefix,
    }
    for field, value in fields.items():
        begin, end = FIELDS[field]
        assert len(value) <= end - begin
        made[begin : begin + len(value)] = value
    return summed(bytes(made))


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def file(name: bytes | str = b"x", content: bytes = b"x", **fields: Any) -> bytes:
    raw = name if isinstance(name, bytes) else name.encode()
    return block(raw, size=len(content), **fields) + padded(content)


def extended(kind: bytes, data: bytes) -> bytes:
    return block(b"extended", kind, len(data)) + padded(data)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    size = len(rest) + 1
    while len(b"%d" % size) + len(rest) != size:
        size += 1
    return b"%d" % size + rest


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    return extended(kind, b"".join(record(*each) for each in records))


def long_name(name: bytes, kind: bytes = b"L") -> bytes:
    return extended(kind, name + b"\0")


def named(path: bytes | str) -> bytes:
    """A file under any path, however long."""
    raw = path if isinstance(path, bytes) else path.encode()
    return pax((b"path", raw)) + file()


def tgz(*parts: bytes, end: bytes = END) -> bytes:
    return gzip.compress(b"".join(parts) + end, 1, mtime=0)


def flushed(*parts: tuple[bytes, int]) -> bytes:
    """A gzip stream of parts that are repeated so often, without compressing them so often."""
    packer = zlib.compressobj(9, wbits=31)
    packed = b""
    for part, times in parts:
        once = packer.compress(part) + packer.flush(zlib.Z_FULL_FLUSH)
        twice = packer.compress(part) + packer.flush(zlib.Z_FULL_FLUSH)
        packed += once + twice * (times - 1)
    return packed


MAIN = file(b"main.py", b"print(1)\n")
GOOD = tgz(MAIN)
NOISE = random.Random(1).randbytes(11 * MIB)
THIN = b"".join(NOISE[i : i + 64] + bytes(960) for i in range(0, 64 * 1024, 64))  # of 1 MiB

# Each is refused with these words, as an upload and as what an installer prints.
HOSTILE_TARS: dict[str, tuple[bytes, str]] = {
    "link out": (block(b"x", LINK, link=b"/etc/passwd"), "links aren't allowed: x -> /etc/passwd"),
    "link up": (block(b"a/x", LINK, link=b"../../etc"), "links aren't allowed"),
    "link inside": (MAIN + block(b"x", LINK, link=b"main.py"), "links aren't allowed"),
    "link as folder": (
        block(b"d", LINK, link=b"/tmp") + file(b"d/x"),
        "links aren't allowed: d -> /tmp",
    ),
    "link to itself": (block(b"x", LINK, link=b"x"), "links aren't allowed"),
    "hard link": (MAIN + block(b"x", HARD_LINK, link=b"main.py"), "links aren't allowed"),
    "hard link out": (block(b"x", HARD_LINK, link=b"/etc/shadow"), "-> /etc/shadow"),
    "hard link with content": (block(b"x", HARD_LINK, 1, link=b"y") + padded(b"x"), "links"),
    "long link": (
        long_name(b"/" + b"e" * 300, b"K") + block(b"x", LINK),
        "links aren't allowed: x -> /eee",
    ),
    "link by pax": (pax((b"linkpath", b"/etc/passwd")) + block(b"x", LINK), "-> /etc/passwd"),
    "terminal in a link": (block(b"x", LINK, link=b"\x1b]0;x\x07"), "links aren't allowed"),
    "character device": (block(b"x", CHARACTERS), "devices aren't allowed: x"),
    "block device": (block(b"x", DISK), "devices aren't allowed: x"),
    "fifo": (block(b"x", FIFO), "FIFOs aren't allowed: x"),
    "contiguous": (block(b"x", b"7"), "contiguous files"),
    "sparse": (block(b"x", b"S"), "sparse files aren't allowed"),
    "sparse by pax 0.0": (pax((b"GNU.sparse.size", b"9")) + file(), "sparse files aren't allowed"),
    "sparse by pax 1.0": (pax((b"GNU.sparse.major", b"1")) + file(), "sparse files aren't allowed"),
    "sparse of star": (pax((b"SCHILY.realsize", b"9")) + file(), "sparse files aren't allowed"),
    "dump": (block(b"x", b"D"), "incremental dumps"),
    "second volume": (block(b"x", b"M"), "split over archives"),
    "label": (block(b"x", b"V"), "volume labels"),
    "solaris": (block(b"x", b"X"), "entries of type X"),
    "unknown type": (block(b"x", b"Z"), "entries of type Z"),
    "unknown type, not text": (block(b"x", b"\xfe"), "entries of type"),
    "absolute": (file(b"/etc/cron.d/x"), "is absolute"),
    "absolute, twice": (file(b"//x"), "is absolute"),
    "absolute by prefix": (file(b"x", prefix=b"/etc"), "is absolute"),
    "absolute folder": (block(b"/tmp/", FOLDER), "is absolute"),
    "parent": (file(b"../x"), "leads out of its folder"),
    "parent inside": (file(b"a/../../x"), "leads out of its folder"),
    "parent at the end": (block(b"a/..", FOLDER), "leads out of its folder"),
    "parent by prefix": (file(b"x", prefix=b".."), "leads out of its folder"),
    "only parent": (file(b".."), "leads out of its folder"),
    "parent by pax": (pax((b"path", b"../x")) + MAIN, "leads out of its folder"),
    "parent by a long name": (long_name(b"../x") + MAIN, "leads out of its folder"),
    "absolute by pax": (pax((b"path", b"/x")) + MAIN, "is absolute"),
    "absolute by a long name": (long_name(b"/x") + MAIN, "is absolute"),
    "nul by pax": (pax((b"path", b"main.py\0.txt")) + file(), "control"),
    "nul in a long name": (long_name(b"a\0../b") + file(), "control"),
    "text behind nul": (file(b"main.py\0/../../x"), "goes on after its end"),
    "line break": (file(b"a\nb"), "control"),
    "escape": (file(b"a\x1b[2Jb"), "control"),
    "delete": (file(b"a\x7f"), "control"),
    "tab": (file(b"a\tb"), "control"),
    "C1": (file("a\u0085b"), "control"),
    "right to left": (file("a\u202egpj.py"), "invisible"),
    "zero width": (file("main\u200b.py"), "invisible"),
    "byte order mark": (file("\ufeffmain.py"), "invisible"),
    "backslash": (file(b"..\\..\\x"), "backslash"),
    "backslash inside": (file(b"a\\b"), "backslash"),
    "drive": (file(b"C:x"), "drive letter"),
    "drive, absolute": (file(b"c:/windows/x"), "drive letter"),
    "drive further down": (file(b"a/C:x"), "drive letter"),
    "not UTF-8": (file(b"\xff\xfe"), "isn't UTF-8"),
    "overlong UTF-8": (file(b"a\xc0\xafb"), "isn't UTF-8"),
    "surrogate": (file(b"\xed\xa0\x80"), "isn't UTF-8"),
    "long part": (named("n" * 256), "longer than 255 bytes"),
    "long part in bytes": (named("\u017e" * 128), "longer than 255 bytes"),
    "long path": (named("/".join(["n" * 200] * 6)), "longer than 1024 bytes"),
    "deep": (named("d/" * 40 + "x"), "deeper than"),
    "no name": (file(b""), "the name of a folder"),
    "dot as a file": (file(b"."), "the name of a folder"),
    "slash after a file": (file(b"x/"), "the name of a folder"),
    "same but for case": (file(b"Lib.py") + file(b"lib.py"), "Lib.py and lib.py are the same name"),
    "folder, same but for case": (file(b"Lib/a") + file(b"lib/b"), "the same name"),
    "same composed": (file("caf\u00e9") + file("cafe\u0301"), "the same name"),
    "same when folded": (file("stra\u00dfe") + file("STRASSE"), "the same name"),
    "same ligature": (file("\ufb01x") + file("fix"), "the same name"),
    "same kelvin": (file("\u212a") + file("k"), "the same name"),
    "twice": (MAIN + MAIN, "main.py is there twice"),
    "twice, spelled otherwise": (MAIN + file(b".//main.py"), "main.py is there twice"),
    "file, then folder": (file(b"x") + block(b"x", FOLDER), "both a file and a folder"),
    "folder, then file": (block(b"x/", FOLDER) + file(b"x"), "both a file and a folder"),
    "file with files in it": (file(b"x") + file(b"x/y"), "both a file and a folder"),
    "files in it, then file": (file(b"x/y") + file(b"x"), "both a file and a folder"),
    "set-user-id": (file(b"x", mode=0o4755), "set-id bits aren't allowed: x"),
    "set-group-id": (file(b"x", mode=0o2755), "set-id bits aren't allowed: x"),
    "two long names": (long_name(b"a") + long_name(b"b") + file(), "two extended headers"),
    "two pax headers": (pax((b"path", b"a")) * 2 + file(), "two extended headers"),
    "long name and pax": (long_name(b"a") + pax((b"path", b"b")) + file(), "has two names"),
    "global path": (pax((b"path", b"main.py"), kind=b"g") + file(), "a global header"),
    "global size": (pax((b"size", b"1"), kind=b"g") + file(), "a global header"),
    "global sparse": (pax((b"GNU.sparse.major", b"1"), kind=b"g") + file(), "sparse files"),
    "pax size, other": (pax((b"size", b"512")) + file(), "has two sizes"),
    "pax size, huge": (pax((b"size", b"9" * 20)) + file(), "has two sizes"),
    "pax size, negative": (pax((b"size", b"-1")) + file(), "a size that isn't one"),
    "pax size, no number": (pax((b"size", b"1e3")) + file(), "a size that isn't one"),
    "pax size, endless": (pax((b"size", b"0" * 5000 + b"1")) + file(), "a size that isn't one"),
    "pax, length 0": (extended(b"x", b"0 path=x\n") + file(), "can't be read"),
    "pax, too long": (extended(b"x", b"99 path=x\n") + file(), "can't be read"),
    "pax, too short": (extended(b"x", b"5 path=main.py\n") + file(), "can't be read"),
    "pax, endless length": (extended(b"x", b"9" * 5000 + b" path=x\n") + file(), "can't be read"),
    "pax, no equals sign": (extended(b"x", b"8 pathx\n") + file(), "can't be read"),
    "pax, no line end": (extended(b"x", b"9 path=xy") + file(), "can't be read"),
    "pax, negative": (extended(b"x", b"-9 path=x\n") + file(), "can't be read"),
    "pax, blanks": (extended(b"x", b" " * 60_000) + file(), "can't be read"),
    "pax of 1 MB": (pax((b"comment", b"x" * MIB)) + file(), "extended header of"),
    "pax of 8 GiB": (block(b"x", b"x", b"77777777777\0"), "extended header of"),
    "long name of 1 MB": (long_name(b"a/" * (MIB // 2)) + file(), "extended header of"),
    "pax without an entry": (MAIN + pax((b"path", b"x")), "without an entry"),
    "long name without an entry": (MAIN + long_name(b"x"), "without an entry"),
    "negative size": (block(size=b"\xff" * 12), "a number that isn't one"),
    "negative octal": (block(size=b"-0000000001\0"), "a number that isn't one"),
    "size of 2^88": (block(size=b"\x80" + b"\xff" * 11), "unpacks to more than"),
    "size of 8 GiB": (block(size=b"77777777777\0"), "unpacks to more than"),
    "size in hex": (block(size=b"0x10\0"), "a number that isn't one"),
    "size with a sign": (block(size=b"+1\0"), "a number that isn't one"),
    "size with more behind": (block(size=b"1\x007"), "a number that isn't one"),
    "size beyond the end": (block(size=10 * MIB), "ends in the middle"),
    "folder with content": (block(b"d/", FOLDER, 512) + bytes(512), "a folder with content"),
    "old folder with content": (block(b"d/", b"\0", 1) + padded(b"x"), "a folder with content"),
    "mode unreadable": (summed(MAIN[:100] + b"rwxr-xr-" + MAIN[108:512]), "a number that isn't"),
    "wrong checksum": (MAIN[:148] + b"000001\0 " + MAIN[156:], "wrong checksum"),
    "noise": (NOISE[:10240], "isn't a plain tar"),
    "text": (b"#!/bin/sh\nrm -rf /\n" * 100, "isn't a plain tar"),
    "something behind the end": (MAIN + END + file(b"x"), "something follows the end"),
    "implied folders": (
        b"".join(file(b"%d/" % i * 15 + b"x") for i in range(4000)),
        "files and folders",
    ),
    "one folder 10,001 times": (block(b"d", FOLDER) * 10_001, "more than"),
    "pax records": (
        b"".join(extended(b"x", b"6 a=b\n" * 10_000) + file(b"%d" % i) for i in range(400)),
        "too many extended headers",
    ),
}

# Each is refused as an upload.
HOSTILE_PACKED: dict[str, tuple[bytes, str]] = {
    "1 GiB of zeros": (
        flushed((block(b"x", size=b"10000000000\0"), 1), (bytes(MIB), 1024)),
        "unpacks to more than 64 MB",
    ),
    "zeros without end": (
        flushed((MAIN + block(b"x", size=60 * MIB), 1), (bytes(MIB), 1024)),
        "more than 100 times its size",
    ),
    "zeros before the first header": (flushed((bytes(MIB), 1024)), "more than 100 times its size"),
    "200,000 empty entries": (flushed((block(b"d/", FOLDER) * 2000, 100)), "more than"),
    "10,001 entries": (
        tgz(*(block(NOISE[i : i + 9].hex().encode()) for i in range(10_001))),
        "more than 10000 files and folders",
    ),
    "66 MB": (
        flushed(
            (block(b"x", size=63 * MIB), 1), (THIN, 63), (block(b"y", size=3 * MIB), 1), (THIN, 3)
        ),
        "more than 64 MB",
    ),
    "packed larger than 10 MB": (tgz(file(b"main.py", NOISE)), "larger than 10 MB"),
    "packed larger than 10 MB, behind its end": (GOOD + bytes(10 * MIB), "larger than 10 MB"),
    "many empty members": (gzip.compress(b"") * 100_000, "something follows"),
    "two members": (
        gzip.compress(MAIN) + gzip.compress(END),
        "something follows the end of the compressed",
    ),
    "many members": (
        b"".join(gzip.compress(MAIN + END) for _ in range(1000)),
        "something follows the end of the compressed",
    ),
    "garbage behind the end": (GOOD + b"x", "something follows the end of the compressed"),
    "a file name of 5 MB": (
        b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 5 * MIB,
        "ends in the middle",
    ),
    "no bytes": (b"", "ends in the middle"),
    "one byte": (b"\x1f", "this is no gzip"),
    "cut in the header": (GOOD[:8], "ends in the middle"),
    "cut in half": (GOOD[: len(GOOD) // 2], "ends in the middle"),
    "cut in the checksum": (GOOD[:-5], "ends in the middle"),
    "cut by one byte": (GOOD[:-1], "ends in the middle"),
    "cut tar": (tgz(MAIN[:700], end=b""), "ends in the middle"),
    "tar without an end": (tgz(MAIN, end=b""), "ends in the middle"),
    "empty gzip": (gzip.compress(b""), "ends in the middle"),
    "wrong checksum": (GOOD[:-8] + bytes(4) + GOOD[-4:], "damaged"),
    "wrong length": (GOOD[:-4] + bytes(4), "damaged"),
    "damaged": (GOOD[:20] + b"\xff\xff\xff\xff" + GOOD[24:], "damaged"),
    "unknown method": (b"\x1f\x8b\x07" + GOOD[3:], "damaged"),
    "zip": (b"PK\x03\x04" + bytes(100), "this is a zip archive"),
    "xz": (lzma.compress(MAIN + END), "compressed with xz"),
    "bzip2": (bz2.compress(MAIN + END), "compressed with bzip2"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(100), "compressed with zstd"),
    "plain tar": (MAIN + END, "a tar without compression"),
    "script": (b"#!/usr/bin/env python3\n", "this is no gzip"),
    "nothing in it": (tgz(), "only no file at all"),
    "no entry point": (tgz(file(b"app.py")), "main.py isn't there, only app.py"),
    "entry point in two": (tgz(file(b"a/main.py"), file(b"b/main.py")), "isn't there"),
    "entry point too deep": (tgz(file(b"a/b/main.py")), "isn't there"),
    "entry point beside a folder": (tgz(file(b"README"), file(b"a/main.py")), "isn't there"),
    "entry point in other case": (tgz(file(b"Main.py")), "isn't there, only Main.py"),
    "entry point is a folder": (tgz(file(b"main.py/__main__.py")), "is a folder"),
    "entry point is a folder, too": (tgz(file(b"main.py/x"), file(b"y")), "is a folder"),
    "entry point is a link": (
        tgz(block(b"main.py", LINK, link=b"/etc/passwd")),
        "links aren't allowed: main.py -> /etc/passwd",
    ),
}


def upload(folder: Path, data: bytes, **options: Any) -> Script:
    packed = folder / "upload.tgz"
    packed.write_bytes(data)
    return accept(packed, folder / "shelf", **({"entrypoint": "main.py"} | options))


def everything(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def refused(folder: Path, data: bytes, **options: Any) -> str:
    """The words of a refusal, which comes soon and leaves nothing."""
    (folder / "shelf").mkdir(exist_ok=True)
    began = time.process_time()
    with pytest.raises(InvalidInput) as refusal:
        upload(folder, data, **options)
    assert time.process_time() - began <= MAX_CPU_S
    assert list(everything(folder)) == [str(folder / "upload.tgz")]
    words = str(refusal.value)
    assert words.isprintable()
    assert len(words) < 500
    return words


def test_there_are_more_than_sixty_hostile_archives() -> None:
    assert len(HOSTILE_TARS) + len(HOSTILE_PACKED) > 60


@pytest.mark.parametrize("name", HOSTILE_TARS)
def test_a_hostile_tar_is_refused(tmp_path: Path, name: str) -> None:
    hostile, words = HOSTILE_TARS[name]
    assert words in refused(tmp_path, tgz(hostile))


@pytest.mark.parametrize("name", HOSTILE_PACKED)
def test_a_hostile_upload_is_refused(tmp_path: Path, name: str) -> None:
    hostile, words = HOSTILE_PACKED[name]
    assert words in refused(tmp_path, hostile)


@pytest.mark.parametrize("name", HOSTILE_TARS)
def test_an_installer_that_prints_it_is_refused(name: str) -> None:
    hostile, words = HOSTILE_TARS[name]
    began = time.process_time()
    with pytest.raises(InvalidInput) as refusal:
        inspect_installed(io.BytesIO(hostile + END), io.BytesIO(), SCRIPT)
    assert time.process_time() - began <= MAX_CPU_S
    assert words in str(refusal.value)


def test_a_refusal_says_what_to_do(tmp_path: Path) -> None:
    words = refused(tmp_path, tgz(block(b"main.py", LINK, link=b"/etc/passwd")))
    assert words == (
        "links aren't allowed: main.py -> /etc/passwd; pack the files themselves (tar czhf)"
    )


def members(folder: Path, script: Script) -> dict[str, bytes | None]:
    """What a script holds, by another reader: None for a folder."""
    path = shelves.path(folder / "shelf", script.sha256)
    assert_clean(path)
    with tarfile.open(path) as opened:
        return {
            member.name: None if file is None else file.read()
            for member in opened
            for file in [opened.extractfile(member)]
        }


def packed_by_tar(folder: Path, form: str, *names: str, options: tuple[str, ...] = ()) -> bytes:
    command = ["tar", "cz", f"--format={form}", *options, "-C", str(folder), *names]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder as people keep one, modes and all."""
    made = tmp_path / "work" / "project"
    (made / "lib" / "empty").mkdir(parents=True)
    (made / "main.py").write_text("print(1)\n")
    (made / "run.sh").write_text("#!/bin/sh\n")
    (made / "run.sh").chmod(0o777)
    (made / "lib" / "data").write_bytes(bytes(range(256)) * 10)
    (made / ".env.example").touch()
    (made / "lib").chmod(0o2775)  # a folder shared by a group
    return made


PROJECT = {
    ".env.example": b"",
    "lib": None,
    "lib/data": bytes(range(256)) * 10,
    "lib/empty": None,
    "main.py": b"print(1)\n",
    "run.sh": b"#!/bin/sh\n",
}


@pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "v7", "oldgnu"])
@pytest.mark.parametrize("way", ["folder", "dot", "names"])
def test_whatever_tar_packs_is_the_same_script(
    tmp_path: Path, project: Path, form: str, way: str
) -> None:
    names = {"folder": ["project"], "dot": ["."], "names": sorted(os.listdir(project))}[way]
    folder = project.parent if way == "folder" else project
    script = upload(tmp_path, packed_by_tar(folder, form, *names))
    assert members(tmp_path, script) == PROJECT
    assert script.files == 4
    again = upload(tmp_path, GOOD)
    os.utime(project / "main.py", (1, 1))
    reversed_ = packed_by_tar(project, form, *sorted(os.listdir(project), reverse=True))
    assert upload(tmp_path, reversed_) == script
    assert again != script


def test_what_git_packs_is_accepted(tmp_path: Path) -> None:
    """Its archives begin with a global header that holds the commit."""
    comment = pax((b"comment", b"0" * 40), kind=b"g")
    script = upload(tmp_path, tgz(comment, block(b"repo-1/", FOLDER), file(b"repo-1/main.py")))
    assert members(tmp_path, script) == {"main.py": b"x"}


def test_what_macos_packs_is_accepted_without_its_own_files(tmp_path: Path) -> None:
    attributes = pax(
        (b"mtime", b"1700000000.123456789"),
        (b"LIBARCHIVE.xattr.com.apple.provenance", b"AQIDBA"),
        (b"SCHILY.xattr.com.apple.provenance", b"\0\x01\x02=\n"),
    )
    script = upload(
        tmp_path,
        tgz(
            *(file(b"./._project"), block(b"./project/", FOLDER), file(b"./project/._main.py")),
            *(attributes, file(b"./project/main.py"), file(b"./.DS_Store")),
        ),
    )
    assert members(tmp_path, script) == {"main.py": b"x"}


def test_long_and_foreign_names_come_through(tmp_path: Path) -> None:
    names = [
        "\u017elu\u0165 \U0001f40e.py",
        "n" * 255,
        "d" * 99 + "/x",
        "/".join(["part" * 12] * 20),
    ]
    parts = [named(names[0]), long_name(names[1].encode()) + file(), named(names[2])]
    script = upload(tmp_path, tgz(MAIN, *parts, named(names[3]), file(b"b", prefix=b"a/a")))
    found = members(tmp_path, script)
    assert {name for name, content in found.items() if content == b"x"} == {*names, "a/a/b"}
    listed = subprocess.run(
        ["tar", "tf", shelves.path(tmp_path / "shelf", script.sha256)],
        capture_output=True,
        check=True,
        env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]},
    )
    assert names[3] in listed.stdout.decode()


ODD = {
    "filled up to a record": tgz(MAIN, end=END + bytes(8192)),
    "one block of zeros": tgz(MAIN, end=bytes(BLOCK)),
    "filled up behind gzip": GOOD + bytes(512),
    "before 1988": tgz(block(b"main.py", b"\0", 9, magic=bytes(8)) + padded(b"print(1)\n")),
    "binary size": tgz(block(b"main.py", size=b"\x80" + bytes(10) + b"\x09") + MAIN[BLOCK:]),
    "size with blanks": tgz(block(b"main.py", size=b"         11 ") + MAIN[BLOCK:]),
    "the same size twice": tgz(pax((b"size", b"9"), (b"mtime", b"-1.5")) + MAIN),
    "the root itself": tgz(block(b"./", FOLDER) + MAIN),
    "name of its own in gzip": b"\x1f\x8b\x08\x08" + bytes(6) + b"x.tar\0" + GOOD[10:],
}


@pytest.mark.parametrize("name", ODD)
def test_harmless_oddities_pass(tmp_path: Path, name: str) -> None:
    assert members(tmp_path, upload(tmp_path, ODD[name])) == {"main.py": b"print(1)\n"}


def test_a_folder_that_the_entry_point_names_stays(tmp_path: Path) -> None:
    data = tgz(file(b"src/main.py"), file(b"src/lib/x"))
    kept = upload(tmp_path, data, entrypoint="src/main.py")
    assert "src/main.py" in {*members_of(tmp_path, kept)}
    assert {*members_of(tmp_path, upload(tmp_path, data))} == {"lib", "lib/x", "main.py"}


def members_of(folder: Path, script: Script) -> list[str]:
    with tarfile.open(shelves.path(folder / "shelf", script.sha256)) as opened:
        return opened.getnames()


@pytest.mark.parametrize(
    "entrypoint", ["", ".", "src/", "/main.py", "../x", "a\\b", "a\nb", "\ud800"]
)
def test_odd_entry_points_are_refused(tmp_path: Path, entrypoint: str) -> None:
    assert "the entry point" in refused(tmp_path, GOOD, entrypoint=entrypoint)


def test_the_clean_tar_says_nothing_about_its_maker(tmp_path: Path) -> None:
    data = tgz(MAIN, file(b"run", mode=0o100), block(b"z/", FOLDER, mode=0o1777))
    script = upload(tmp_path, data)
    path = shelves.path(tmp_path / "shelf", script.sha256)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == script.sha256
    assert path.stat().st_size == script.size_bytes
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as opened:
        found = [(m.name, m.mode, m.uid, m.gid, m.uname, m.mtime) for m in opened]
    assert found == [
        ("main.py", 0o444, 1000, 1000, "", 0),
        ("run", 0o555, 1000, 1000, "", 0),
        ("z", 0o555, 1000, 1000, "", 0),
    ]


def test_the_bytes_of_a_clean_tar_never_change(tmp_path: Path) -> None:
    """Another digest makes all scripts that are stored strangers."""
    long = named("n" * 120)
    script = upload(tmp_path, tgz(MAIN, file(b"lib/a", mode=0o755), long))
    assert script.sha256 == ("f44715c64921fd07e04f00d148f064351b2b498a17e35d54da107ad3fe2b09ba")


def test_dependencies_are_what_an_installer_may_read(tmp_path: Path) -> None:
    files = {
        *("requirements.txt", "requirements/base-requirements.txt", "constraints.txt"),
        *("wheels/x-1-py3-none-any.whl", "vendor/y.tar.gz", "package.json", "package-lock.json"),
    }
    others = ["main.py", "lib/package.json", "notes.txt", "lib/requirements.py"]
    script = upload(tmp_path, tgz(*(file(name) for name in [*sorted(files), *others])))
    assert {path for path, _ in script.dependencies} == files
    assert {digest for _, digest in script.dependencies} == {hashlib.sha256(b"x").hexdigest()}


def test_the_key_of_the_dependencies_is_theirs_alone(tmp_path: Path) -> None:
    needs = file(b"requirements.txt", b"httpx\n")
    one = upload(tmp_path, tgz(MAIN, needs, file(b"x.whl", b"1")))
    script_changed = upload(tmp_path, tgz(file(b"main.py", b"2"), needs, file(b"x.whl", b"1")))
    wheel_changed = upload(tmp_path, tgz(MAIN, needs, file(b"x.whl", b"2")))
    nothing = upload(tmp_path, tgz(MAIN, file(b"x.whl", b"1")))
    assert one.sha256 != script_changed.sha256
    assert one.dependencies_key == script_changed.dependencies_key
    assert one.dependencies_key != wheel_changed.dependencies_key
    assert nothing.dependencies_key == ""


def test_a_large_archive_is_never_held_in_memory(tmp_path: Path) -> None:
    data = tgz(MAIN, block(b"x", size=30 * MIB), THIN * 30)
    tracemalloc.start()
    upload(tmp_path, data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * MIB


def test_a_text_is_a_script(tmp_path: Path) -> None:
    text = "print('\u017e')\n"
    script = inline(text, tmp_path / "shelf", entrypoint="main.py")
    assert members(tmp_path, script) == {"main.py": text.encode()}
    assert script == upload(tmp_path, tgz(file(b"main.py", text.encode())))
    deeper = inline(text, tmp_path / "shelf", entrypoint="src/main.py")
    assert members_of(tmp_path, deeper) == ["src", "src/main.py"]


@pytest.mark.parametrize(
    ("text", "entrypoint"), [("\ud800", "main.py"), ("x", "../x"), ("x" * 2000, "main.py")]
)
def test_a_text_that_is_none_is_refused(tmp_path: Path, text: str, entrypoint: str) -> None:
    bounds = Bounds(unpacked_bytes=1000, entries=1, depth=1)
    with pytest.raises(InvalidInput):
        inline(text, tmp_path / "shelf", entrypoint=entrypoint, bounds=bounds)
    assert not everything(tmp_path)


def test_an_installed_tree_passes_through_a_pipe(tmp_path: Path) -> None:
    """In its own order, whole, and through streams that give what they have."""
    content = NOISE[: 3 * MIB]
    printed = (
        block(b"./", FOLDER)
        + file(b"./httpx/__init__.py", b"1")
        + file(b"./httpx/._x", content)
        + file(b"./bin/httpx", mode=0o755)
        + END
    )
    (tmp_path / "printed").write_bytes(printed)
    target = io.BytesIO()
    with subprocess.Popen(["cat", tmp_path / "printed"], stdout=subprocess.PIPE, bufsize=0) as cat:
        assert cat.stdout is not None
        found = inspect_installed(cat.stdout, target)
    assert found.files == 3
    assert found.size_bytes == len(target.getvalue())
    target.seek(0)
    with tarfile.open(fileobj=target) as opened:
        names = ["httpx", "httpx/__init__.py", "httpx/._x", "bin", "bin/httpx"]
        assert opened.getnames() == names
        assert opened.getmember("bin/httpx").mode == 0o555
        copied = opened.extractfile("httpx/._x")
        assert copied is not None
        assert copied.read() == content


def test_an_installed_tree_may_be_larger_and_deeper() -> None:
    deep = named("node_modules/x/" * 15 + "index.js")
    large = b"".join(block(b"%d" % i, size=50 * MIB) + bytes(50 * MIB) for i in range(2))
    found = inspect_installed(io.BytesIO(deep + large + END), io.BytesIO())
    assert found.files == 3
    assert INSTALLED.unpacked_bytes == 256 * MIB
    assert INSTALLED.entries == 50_000


def test_a_stored_script_is_read_by_its_digest(tmp_path: Path) -> None:
    script = upload(tmp_path, GOOD)
    data = shelves.read(tmp_path / "shelf", script.sha256)
    assert hashlib.sha256(data).hexdigest() == script.sha256


@pytest.mark.parametrize("digest", ["", "../upload", "0" * 63, "A" * 64, "0" * 64 + "\n", "0" * 64])
def test_what_is_not_stored_is_not_found(tmp_path: Path, digest: str) -> None:
    with pytest.raises(FolderError):
        shelves.read(tmp_path / "shelf", digest)


def aged(path: Path, days: float) -> Path:
    at = (datetime.now(UTC) - timedelta(days=days)).timestamp()
    os.utime(path, (at, at))
    return path


def test_scripts_that_nobody_refers_to_are_forgotten(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    old, kept, young = (inline(text, shelf, entrypoint="main.py").sha256 for text in "abc")
    for digest in (old, kept):
        aged(shelves.path(shelf, digest), 2)
    (shelf / ".new-1").write_text("of one who was killed")
    (shelf / ".new-2").mkdir()
    (shelf / ".new-2" / "pack").touch()
    (shelf / ".new-3").write_text("of one at work")
    (shelf / "notes.txt").write_text("not ours")
    for name in (".new-1", ".new-2", "notes.txt"):
        aged(shelf / name, 2)

    removed = shelves.forget(shelf, {kept}, before=datetime.now(UTC) - timedelta(days=1))

    assert removed == 3
    left = {path.name for path in shelf.iterdir()}
    assert left == {f"{kept}.tar", f"{young}.tar", ".new-3", "notes.txt"}


def test_the_shelf_is_measured_and_tidied_while_scripts_come_in(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    stored = inline("x", shelf, entrypoint="main.py").size_bytes
    ended = threading.Event()

    def come_in() -> None:
        while not ended.is_set():
            (shelf / ".new-1").write_bytes(b"")
            (shelf / ".new-1").unlink()

    coming = threading.Thread(target=come_in)
    coming.start()
    try:
        for _ in range(500):
            assert shelves.size_bytes(shelf) == stored
            assert shelves.forget(shelf, set(), before=datetime.now(UTC) - timedelta(days=1)) == 0
    finally:
        ended.set()
        coming.join()


def test_a_script_that_comes_again_is_young_again(tmp_path: Path) -> None:
    """Else it might be forgotten before its new job refers to it."""
    shelf = tmp_path / "shelf"
    digest = inline("x", shelf, entrypoint="main.py").sha256
    aged(shelves.path(shelf, digest), 2)
    inline("x", shelf, entrypoint="main.py")
    assert shelves.forget(shelf, set(), before=datetime.now(UTC) - timedelta(days=1)) == 0


def in_a_process(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "upload.tgz").write_bytes(tgz(MAIN, file(b"x", NOISE[: 2 * MIB])))
    said = in_a_process(f"""
        import resource
        from pathlib import Path
        from teckochecker.errors import FolderError
        from teckochecker.scripts.archive import accept
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        folder = Path({str(tmp_path)!r})
        try:
            accept(folder / "upload.tgz", folder / "shelf", entrypoint="main.py")
        except FolderError as error:
            print(error)
    """)
    assert "can't be stored" in said
    assert "File too large" in said
    assert list(everything(tmp_path)) == [str(tmp_path / "upload.tgz")]


def test_a_worker_limits_itself(tmp_path: Path) -> None:
    said = in_a_process(f"""
        import resource
        from teckochecker.scripts.archive import limit_resources
        limit_resources()
        for kind in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
            print(resource.getrlimit(kind))
        try:
            bytearray(512 * 1024 ** 2)
        except MemoryError:
            print("no memory")
        with open({str(tmp_path / "large")!r}, "wb") as file:
            try:
                file.truncate(129 * 1024 ** 2)
            except OSError as error:
                print(error.strerror)
        limit_resources()
    """)
    room, double = 512 * MIB, 128 * MIB
    assert said.splitlines() == [
        str((room, room)),
        str((double, double)),
        str((0, 0)),
        "no memory",
        "File too large",
    ]


async def test_it_works_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Values and refusals come back; a worker that is killed takes nothing with it."""
    packed = tmp_path / "upload.tgz"
    packed.write_bytes(GOOD)
    work = partial(accept, packed, tmp_path / "shelf", entrypoint="main.py")
    async with trio_parallel.open_worker_context(init=limit_resources) as context:
        script = await context.run_sync(work)
        assert script == work()
        packed.write_bytes(tgz(block(b"main.py", LINK, link=b"/etc/passwd")))
        with pytest.raises(InvalidInput, match="links aren't allowed: main"):
            await context.run_sync(work)


NAMES = st.text(
    st.one_of(st.characters(), st.sampled_from("./\\:\0\n~ -")), min_size=1, max_size=30
).filter(lambda name: not any("\ud800" <= char <= "\udfff" for char in name))


@settings(max_examples=300)
@given(name=NAMES)
@example("./../x")
@example("a/./b//c/")
@example("\u2025/x")  # two dots in one character
@example("\uff0fx")
def test_any_name_is_refused_or_harmless(name: str) -> None:
    try:
        path = checked_path(name.encode())
    except InvalidInput as refusal:
        words = str(refusal)
        path = ""
        assert words.isprintable()
    assert path.isprintable()
    assert not path.startswith("/")
    assert not {"..", "."} & set(path.split("/"))
    assert "\\" not in path
    assert path in (name, os.path.normpath(name), "")
    assert os.path.normpath(os.path.join("/root", path)).startswith("/root")


@settings(max_examples=100)
@given(names=st.lists(NAMES, min_size=2, max_size=4))
@example(["a", "A"])
@example(["\u00c5", "\u212b"])
def test_any_names_that_pass_together_are_different_everywhere(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("names")
    try:
        script = upload(folder, tgz(MAIN, *(named(f"{name}.x") for name in names)))
    except InvalidInput:
        return
    found = [name for name, content in members(folder, script).items() if content == b"x"]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in found}) == len(found)
    litter = [name for name in names if os.path.basename(f"{name}.x").startswith("._")]
    assert len(found) + len(litter) == len(names)


@given(data=st.binary(max_size=2000))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        inspect_installed(io.BytesIO(data + b"x"), io.BytesIO())


@pytest.mark.parametrize("seed", range(4))
def test_archives_bent_at_random(seed: int) -> None:
    """The same for a million: python -m tests.fuzz_archives."""
    found = fuzz_archives.run(seed, 0, 400)
    assert found["refused"] > 100
    assert found["accepted"] > 10

"""Archives bent at random: each is refused, or comes out clean; nothing else ever happens.

`python -m tests.fuzz_archives [HOW_MANY [SEED]]` runs on all processors and prints what became
of them. A failure names its seed and number, and leaves the archive in the present folder.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import sys
import tarfile
import tempfile
import time
import unicodedata
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from teckochecker.errors import InvalidInput
from teckochecker.scripts import archive

MAX_CPU_S = 1.0
BLOCK = 512
# Where a header's fields begin and end.
FIELDS = {
    "name": (0, 100),
    "mode": (100, 108),
    "size": (124, 136),
    "kind": (156, 157),
    "link": (157, 257),
    "magic": (257, 265),
    "prefix": (345, 500),
}
NASTY = {
    "name": [
        b"../x",
        b"/etc/x",
        b"a\\b",
        b"C:x",
        b"main.py",
        b"MAIN.PY",
        b"lib",
        b"\xff",
        b"",
        b"./",
    ],
    "mode": [b"0004755\0", b"\xff" * 8, b"\x80" + bytes(6) + b"\x01", b"-000644\0", b"        "],
    "size": [
        b"77777777777\0",
        b"\xff" * 12,
        b"\x80" + b"\xff" * 11,
        b"-0000000001\0",
        b"00000000000\0",
        b"00000001000\0",
        b"0x000000010\0",
    ],
    "kind": [bytes([value]) for value in range(256)],
    "link": [b"/etc/passwd", b"../../x", b"main.py"],
    "magic": [b"ustar\x0000", b"ustar  \0", bytes(8), b"ustar\x0001"],
    "prefix": [b"..", b"/", b"lib", b"\xc3"],
}
PAX = [
    b"16 path=../evil\n",
    b"19 path=/etc/passwd\n",
    b"13 size=99999\n",
    b"11 size=-1\n",
    b"30 GNU.sparse.realsize=1000000\n",
    b"999999 path=x\n",
    b"0 a=b\n",
    b"12 path=a\0b\n",
    b"22 linkpath=/etc/shadow\n",
    b"6 a=b\n" * 90,
]


def seeds() -> list[bytes]:
    """Good archives, uncompressed, in the formats that people use."""
    files = {
        "main.py": b"print(1)\n",
        "lib/a.py": b"x" * 700,
        "lib/" + "long/" * 12 + "n" * 120 + ".py": b"y",
        "requirements.txt": b"httpx\n",
        "caf\u00e9.txt": b"",
    }
    return [_tar(files, form) for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)] + [
        _tar({"top/main.py": b"1", "top/a": b"2"}, tarfile.USTAR_FORMAT)
    ]


def _tar(files: dict[str, bytes], form: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as opened:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return file.getvalue()


def summed(block: bytes) -> bytes:
    """The header with its checksum put right."""
    blank = block[:148] + b" " * 8 + block[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def bent(tar: bytes, dice: random.Random) -> bytes:
    """A few changes to a tar, most of which keep its headers' checksums right."""
    blocks = [tar[at : at + BLOCK] for at in range(0, len(tar), BLOCK)]
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        at = dice.randrange(min(len(blocks), 40))
        match dice.randrange(8):
            case 0:
                del blocks[at]
            case 1:
                blocks.insert(at, blocks[dice.randrange(len(blocks))])
            case 2:
                blocks[at] = dice.randbytes(BLOCK)
            case 3:
                blocks[at : at + 1] = _pax(dice)
            case 4:
                spot = dice.randrange(BLOCK)
                flipped = bytes([dice.randrange(256)])
                blocks[at] = blocks[at][:spot] + flipped + blocks[at][spot + 1 :]
            case _:
                name = dice.choice(list(FIELDS))
                begin, end = FIELDS[name]
                value = dice.choice(NASTY[name]).ljust(end - begin, b"\0")
                blocks[at] = summed(blocks[at][:begin] + value + blocks[at][end:])
        if not blocks:
            break
        if dice.random() < 0.5:
            at = dice.randrange(len(blocks))
            blocks[at] = summed(blocks[at].ljust(BLOCK, b"\0"))
    return b"".join(blocks)


def _pax(dice: random.Random) -> list[bytes]:
    data = b"".join(dice.choice(PAX) for _ in range(dice.randrange(1, 4)))
    kind = dice.choice((b"x", b"x", b"g", b"L", b"K"))
    header = bytearray(BLOCK)
    header[0:3], header[124:136] = b"pax", b"%011o\0" % len(data)
    header[156:157], header[257:265] = kind, b"ustar\x0000"
    padded = data + bytes(-len(data) % BLOCK)
    return [summed(bytes(header)), *(padded[i : i + BLOCK] for i in range(0, len(padded), BLOCK))]


def packed(tar: bytes, dice: random.Random) -> bytes:
    """The tar compressed; in one case of six with damage to the compressed form."""
    data = bytearray(gzip.compress(tar, 1, mtime=0))
    match dice.randrange(24):
        case 0:
            return bytes(data[: dice.randrange(len(data))])
        case 1:
            return bytes(data) + dice.randbytes(dice.randrange(1, 600))
        case 2 | 3:
            data[dice.randrange(len(data))] = dice.randrange(256)
    return bytes(data)


def play(data: bytes, folder: Path) -> str:
    """Offer the archive; gives `accepted` or `refused`, AssertionError for anything else."""
    (folder / "upload").write_bytes(data)
    shelf, words = folder / "shelf", ""
    began = time.process_time()
    try:
        script = archive.accept(folder / "upload", shelf, entrypoint="main.py")
    except InvalidInput as error:
        words = str(error)
    finally:
        assert time.process_time() - began < MAX_CPU_S, "too slow"
        assert {path.name for path in folder.iterdir()} == {"upload", "shelf"}
    if words:
        assert words.isprintable(), repr(words)
        assert not any(shelf.iterdir()), "a refusal leaves something behind"
        return "refused"
    assert [path.name for path in shelf.iterdir()] == [f"{script.sha256}.tar"]
    assert_clean(shelf / f"{script.sha256}.tar")
    (shelf / f"{script.sha256}.tar").unlink()
    return "accepted"


def assert_clean(tar: Path) -> None:
    """Nothing but harmless files and folders, as another reader sees it."""
    seen: set[str] = set()
    with tarfile.open(tar, "r:") as opened:
        for member in opened:
            assert member.isreg() or member.isdir(), member.name
            parts = member.name.split("/")
            assert len(parts) <= 20
            assert not {"", ".", ".."} & set(parts), member.name
            assert member.name.isprintable()
            assert "\\" not in member.name
            assert all(len(part.encode()) <= 255 for part in parts)
            folded = unicodedata.normalize("NFC", member.name).casefold()
            assert folded not in seen, member.name
            seen.add(folded)
            assert (member.uid, member.gid, member.mtime) == (1000, 1000, 0)
            assert member.mode in (0o444, 0o555)
            assert (member.uname, member.gname, member.pax_headers) == ("", "", {})
    assert "main.py" in seen


def run(seed: int, first: int, count: int) -> Counter[str]:
    """What became of so many archives, each made from the seed and its number alone."""
    good = seeds()
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + count):
            dice = random.Random(seed * 1_000_003 + number)
            data = packed(bent(dice.choice(good), dice), dice)
            try:
                found[play(data, Path(folder))] += 1
            except BaseException:
                Path(f"archive-{seed}-{number}.tgz").write_bytes(data)
                print(f"seed {seed}, number {number}:", file=sys.stderr)
                raise
    return found


def main(count: int = 1_000_000, seed: int = 1) -> None:
    share = 2000
    firsts = range(0, count, share)
    found: Counter[str] = Counter()
    began = time.monotonic()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        sizes = (min(share, count - first) for first in firsts)
        for part in pool.map(run, [seed] * len(firsts), firsts, sizes):
            found += part
    print(f"{dict(found)} in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))

"""Makes one file of the folder that PyInstaller built: the launcher, and the folder behind it.

    python deploy/executable/pack.py build/teckochecker dist/teckochecker

The same folder gives the same bytes, so that the cache of an executable outlives a new build.
"""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Final

LAUNCHER: Final = Path(__file__).with_name("launcher.sh")
NAME_CHARACTERS: Final = 16  # of the hash; the launcher knows its old folders by that length


def main() -> None:
    folder, target = map(Path, sys.argv[1:])
    archive = packed(folder)
    files = sum(path.is_file() for path in folder.rglob("*"))
    text = launcher(archive, files)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(text.encode() + archive)
    target.chmod(0o755)
    sys.stdout.write(f"{target}: {target.stat().st_size / 1e6:.1f} MB, {files} files\n")


def launcher(archive: bytes, files: int) -> str:
    """The lines before the archive."""
    content = sha256(archive).hexdigest()
    text = LAUNCHER.read_text()
    values = {
        "CONTENT": content,
        "NAME": content[:NAME_CHARACTERS],
        "LINE": str(text.count("\n") + 1),
        "FILES": str(files),
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def packed(folder: Path) -> bytes:
    """A compressed tar of what is in a folder, links as the files they lead to."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", dereference=True, format=tarfile.GNU_FORMAT) as made:
        for path in sorted(folder.rglob("*")):
            made.add(path, str(path.relative_to(folder)), recursive=False, filter=_anonymous)
    return gzip.compress(tar.getvalue(), mtime=0)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


if __name__ == "__main__":
    main()

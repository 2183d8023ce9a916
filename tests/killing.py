"""Does a piece of work again and again, killed with SIGKILL one step later each time.

`python -m tests.killing WORK FOLDER` copies FOLDER/begin to FOLDER/1, FOLDER/2 and so on, and
does WORK there in a child that dies at its first, second ... step, until one comes to its end.
A step is a write, sync or cut of a file by SQLite, or a file that Python is about to open,
link, rename or remove. It prints how many steps there were.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from teckochecker import backup
from teckochecker.store import Store
from tests.parts import NOW

FILE_EVENTS = frozenset({"open", "os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir"})
ORDINARY = 500  # steps; more means that it never ends


class Fate:
    """Counts steps; dies at the one that it was given."""

    def __init__(self, at: int) -> None:
        self.left = at

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def heard(self, event: str, _arguments: object) -> None:
        if event in FILE_EVENTS:
            self.step()


def mortal_vfs(fate: Fate) -> apsw.VFS:
    """The usual files of SQLite, before each of whose writes `fate` is asked."""
    usual = apsw.vfs_names()[0]

    class File(apsw.VFSFile):
        def __init__(self, path: Any, flags: list[int]) -> None:
            super().__init__(usual, path, flags)

        def xWrite(self, data: bytes, offset: int) -> None:
            fate.step()
            super().xWrite(data, offset)

        def xTruncate(self, size: int) -> None:
            fate.step()
            super().xTruncate(size)

        def xSync(self, flags: int) -> None:
            fate.step()
            super().xSync(flags)

    class Mortal(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("mortal", base=usual, makedefault=True)

        def xOpen(self, path: Any, flags: list[int]) -> apsw.VFSFile:
            return File(path, flags)

    return Mortal()


def upgrade(home: Path) -> None:
    Store(home / "teckochecker.db", backups=home / "backups").close()


def create(home: Path) -> None:
    backup.create(home, home / "teckochecker.db", home / "made.tar.gz", NOW, silent)


def restore(home: Path) -> None:
    with backup.unpacked(home / "kept.tar.gz", home, NOW, silent) as found:
        backup.restore(found, home, home / "teckochecker.db", NOW)


def silent(_words: str) -> None:
    """Nobody looks."""


WORK: dict[str, Callable[[Path], None]] = {
    "upgrade": upgrade,
    "create": create,
    "restore": restore,
}


def killed_everywhere(work: str, folder: Path) -> list[Path]:
    """What each death left behind; the last one is of a life that came to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.killing", work, str(folder)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [folder / str(number) for number in range(1, int(done.stdout) + 1)]


def main(work: str, folder: Path) -> int:
    for number in itertools.count(1):
        home = folder / str(number)
        shutil.copytree(folder / "begin", home)
        child = os.fork()
        if child == 0:
            fate = Fate(number)
            vfs = mortal_vfs(fate)
            sys.addaudithook(fate.heard)
            WORK[work](home)
            fate.left = 0
            vfs.unregister()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == 0:
            sys.stdout.write(str(number))
            return 0
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL or number > ORDINARY:
            return 1
    raise AssertionError


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))

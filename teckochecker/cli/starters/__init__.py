"""The scripts that `custom-check init` starts people with: they run as they are.

Their texts are files beside this module, which a frozen executable carries as data.
"""

from __future__ import annotations

from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from teckochecker.errors import FolderError, InvalidInput

Runtime = Literal["python", "node"]

FILES: Final[dict[Runtime, tuple[str, ...]]] = {
    "python": ("main.py", "requirements.txt", "test_main.py", "README.md"),
    "node": ("index.js", "package.json", "index.test.js", "README.md"),
}


def write(runtime: Runtime, folder: Path) -> list[Path]:
    """Write a runtime's starter, all of it or nothing, and give its files.

    The folder is made if it isn't there. InvalidInput when a file of the starter is there
    already, FolderError when the system refuses.
    """
    texts = files(__name__) / runtime
    made = []
    with ExitStack() as undo:
        try:
            _make(folder, undo)
            for name in FILES[runtime]:
                data = (texts / name).read_bytes()
                made.append(_write(folder / name, data, undo))
        except FileExistsError as error:
            raise InvalidInput(
                f"{error.filename} is there already, and nothing was written: name another folder."
            ) from error
        except OSError as error:
            raise FolderError(
                f"{folder} can't be written ({error.strerror}): check its owner and rights."
            ) from error
        undo.pop_all()
    return made


def _make(folder: Path, undo: ExitStack) -> None:
    if folder.is_dir():
        return
    _make(folder.parent, undo)
    folder.mkdir()
    undo.callback(folder.rmdir)


def _write(path: Path, data: bytes, undo: ExitStack) -> Path:
    with path.open("xb") as file:
        undo.callback(path.unlink)
        file.write(data)
    return path

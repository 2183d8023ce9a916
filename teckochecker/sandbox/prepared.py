"""Prepared images: a runner image plus what a script depends on, installed once.

The installer runs hardened like a check and prints what it installed as one tar. That tar is
inspected like a stranger's upload, put into a container that is never started, and committed.
Only files that say what to install, or are it, reach the installer, so that nothing else can
change its result: the image's name is a hash of them and of the runner image.
"""

from __future__ import annotations

import secrets
import tarfile
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from teckochecker.errors import Fault, FolderError, OutsideError
from teckochecker.sandbox.engine import Engine
from teckochecker.sandbox.images import RUNNER, RUNNERS
from teckochecker.sandbox.runs import Ending, Program, Runs
from teckochecker.sandbox.settings import INSTANCE, Runtime, Shape
from teckochecker.sandbox.stream import Capture, End
from teckochecker.verdicts import Limits

if TYPE_CHECKING:
    from docker import APIClient

PREPARED: Final = "teckochecker.prepared"  # label: the key
INSTALL_TIMEOUT_S: Final = 600
YOUNG: Final = timedelta(hours=1)  # an image that was made just now is about to be used
MAX_INSTALLED_BYTES: Final = 256 * 1024 * 1024
_OUTPUT_CHARS: Final = 1500  # of the installer's end, in a message
_WAIT_S: Final = 0.5
_ROOT_FILE: Final[dict[Runtime, str]] = {"python": "requirements.txt", "node": "package.json"}
_FOLDER: Final[dict[Runtime, str]] = {
    "python": "/opt/teckochecker/installed",
    "node": "/node_modules",
}
_PREAMBLE: Final = "set -eu; mkdir -p /work/tmp; export TMPDIR=/work/tmp; "
_INSTALL: Final[dict[Runtime, str]] = {
    "python": (
        "uv pip install --python /opt/teckochecker/venv/bin/python3 --target /work/installed "
        "--requirements requirements.txt --no-cache --link-mode hardlink --no-progress 1>&2; "
        "cd /work/installed; rm -f .lock; "
        # The clean tar has no times: only these compiled files stay valid without them.
        "/opt/teckochecker/venv/bin/python3 -m compileall -q -j 1 "
        "--invalidation-mode unchecked-hash . 1>&2 || true; "
        "exec tar -cf - ."
    ),
    "node": (
        "if [ -f package-lock.json ] || [ -f npm-shrinkwrap.json ]; "
        "then how=ci; else how=install; fi; "
        "npm $how --omit=dev --no-bin-links --ignore-scripts --no-audit --no-fund "
        "--no-update-notifier --no-progress --cache /work/cache 1>&2; "
        "mkdir -p node_modules; cd node_modules; rm -f .package-lock.json; "
        "exec tar -cf - ."
    ),
}

Inspect = Callable[[Path, Path], object]
"""Reads the tar that an installer printed and writes its clean form; raises a TeckoError."""


class InstallFailed(OutsideError):
    """What a script depends on can't be installed; `answer` is the end of what was printed."""

    code = 2005


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a script needs: `dependencies` are paths and SHA-256 of files in its clean tar."""

    runtime: Runtime
    script: Path
    dependencies: tuple[tuple[str, str], ...] = ()

    @property
    def installs(self) -> bool:
        return any(path == _ROOT_FILE[self.runtime] for path, _ in self.dependencies)


class Prepared:
    """The prepared images of one installation."""

    def __init__(
        self, engine: Engine, runs: Runs, instance: str, now: Callable[[], datetime]
    ) -> None:
        self._engine = engine
        self._runs = runs
        self._instance = instance
        self._now = now
        self._keys = Locks()

    def image(self, needs: Needs) -> str:
        """The name of the image that a script runs in, there or not."""
        with self._engine.client() as api:
            return self._image(api, needs)

    def prepare(self, needs: Needs, inspect: Inspect, checkpoint: Callable[[], None]) -> str:
        """The image that a script runs in, made if it isn't there; InstallFailed otherwise."""
        if not needs.installs:
            return RUNNERS[needs.runtime]
        with self._engine.client() as api:
            image = self._image(api, needs)
            if self._there(api, image):
                return image
            with self._keys.held(image, checkpoint):
                if not self._there(api, image):  # whoever held the key before may have made it
                    self._make(needs, image, inspect, checkpoint)
        return image

    def prune(self, keep: Collection[str]) -> int:
        """Removes this installation's prepared images but those named, used or young."""
        oldest = (self._now() - YOUNG).timestamp()
        labels = [PREPARED, f"{INSTANCE}={self._instance}"]
        removed = 0
        with self._engine.client() as api:
            with self._engine.told("list its images"):
                there = api.images(filters={"label": labels})
            for found in there:
                if found["Created"] > oldest or set(found["RepoTags"] or ()) & set(keep):
                    continue
                with self._engine.told("remove an image", unless=(404, 409)):  # gone; in use
                    api.remove_image(found["Id"])
                    removed += 1
            with self._engine.told("remove what builds left behind", unless=(409,)):
                api.prune_images(filters={"dangling": True, "label": RUNNER})
        return removed

    def _image(self, api: APIClient, needs: Needs) -> str:
        if not needs.installs:
            return RUNNERS[needs.runtime]
        with self._engine.told("look for an image"):
            runner = str(api.inspect_image(RUNNERS[needs.runtime])["Id"])
        files = [f"{path} {digest}" for path, digest in needs.dependencies]
        text = "\n".join([self._instance, runner, _INSTALL[needs.runtime], *files])
        return f"teckochecker/prepared:{sha256(text.encode()).hexdigest()[:40]}"

    def _there(self, api: APIClient, image: str) -> bool:
        with self._engine.told("look for an image", unless=(404,)):
            api.inspect_image(image)
            return True
        return False

    def _make(
        self, needs: Needs, image: str, inspect: Inspect, checkpoint: Callable[[], None]
    ) -> None:
        # Beside the script, by a name that is tidied away there after a kill -9.
        beside = needs.script.parent
        with _kept(), tempfile.TemporaryDirectory(prefix=".new-", dir=beside) as folder:
            wanted, printed, clean = (Path(folder, name) for name in ("wanted", "printed", "clean"))
            _select(needs, wanted)
            self._install(needs, wanted, printed, checkpoint)
            inspect(printed, clean)
            printed.unlink()
            checkpoint()
            with clean.open("rb") as tar:
                self._runs.bake(
                    RUNNERS[needs.runtime], _FOLDER[needs.runtime], tar, image, {PREPARED: image}
                )

    def _install(
        self, needs: Needs, wanted: Path, printed: Path, checkpoint: Callable[[], None]
    ) -> None:
        program = Program(
            run_id=f"install-{secrets.token_hex(8)}",
            job_id="",
            image=RUNNERS[needs.runtime],
            shape=Shape(
                limits=Limits(memory_mb=1024, cpu_cores=1.0, timeout_s=INSTALL_TIMEOUT_S),
                network="open",
                work_mb=512,
                work_files=131072,
                file_mb=256,
            ),
            argv=("sh", "-c", _PREAMBLE + _INSTALL[needs.runtime]),
            environment={},
            script=wanted,
            max_output_bytes=MAX_INSTALLED_BYTES,
        )
        stderr = Capture()
        with printed.open("wb") as file:
            ending = self._runs.play(program, _File(file), stderr, checkpoint)
        failure = _failure(ending)
        if failure is not None:
            shown = stderr.stream()
            end = (shown.head + shown.tail).strip()[-_OUTPUT_CHARS:]
            raise InstallFailed(f"{failure} {end}".strip(), Fault.TRANSIENT, answer=end)


class Locks:
    """One lock for each key that somebody holds or waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, _Shared] = {}

    @contextmanager
    def held(self, key: str, checkpoint: Callable[[], None]) -> Iterator[None]:
        with self._lock:
            shared = self._held.setdefault(key, _Shared())
            shared.users += 1
        try:
            while not shared.lock.acquire(timeout=_WAIT_S):
                checkpoint()
            try:
                yield
            finally:
                shared.lock.release()
        finally:
            with self._lock:
                shared.users -= 1
                if not shared.users:
                    del self._held[key]


@dataclass(slots=True)
class _Shared:
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0


class _File:
    """What an installer prints, kept on disk; its size is bounded by the run."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def take(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise FolderError(f"The installer's output can't be kept: {error}.") from error


def _failure(ending: Ending) -> str | None:
    if ending.end is End.FULL:
        return (
            f"What the script depends on takes more than {MAX_INSTALLED_BYTES >> 20} MiB: "
            f"depend on less."
        )
    if ending.end is End.DEADLINE:
        return f"Installing what the script depends on took longer than {INSTALL_TIMEOUT_S} s."
    if ending.oom_killed:
        return "Installing what the script depends on needed more than 1024 MB of memory."
    if ending.error is not None:
        return f"What the script depends on couldn't be installed: {ending.error}"
    if ending.exit_code != 0:
        return (
            f"What the script depends on couldn't be installed "
            f"(exit code {ending.exit_code}); the installer's last words:"
        )
    return None


@contextmanager
def _kept() -> Iterator[None]:
    """What the system refuses meanwhile, such as room on the disk, comes out as FolderError."""
    try:
        yield
    except OSError as error:
        raise FolderError(
            f"What a script depends on can't be kept in {tempfile.gettempdir()} "
            f"({error.strerror}): check the disk."
        ) from error


def _select(needs: Needs, target: Path) -> None:
    """Writes a tar with those files of the script that an installer may see."""
    wanted = {path for path, _ in needs.dependencies}
    with tarfile.open(needs.script) as source, tarfile.open(target, "w") as selected:
        for entry in source:
            if entry.isreg() and entry.name in wanted:
                selected.addfile(entry, source.extractfile(entry))

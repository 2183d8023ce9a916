"""The runner images: built from the files that come with the package, and looked for.

An index URL is kept in the image, where every script can read it: give one without a password.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

from teckochecker.errors import FolderError
from teckochecker.sandbox.engine import SLOW_TIMEOUT_S, DockerError, Engine, ImageMissing
from teckochecker.sandbox.settings import INSTANCE, Runtime

RUNNERS: Final[dict[Runtime, str]] = {
    "python": "teckochecker/runner:python-3.11",
    "node": "teckochecker/runner:node-20",
}
RUNNER: Final = "teckochecker.runner"  # label: the runtime
CONTENT: Final = "teckochecker.content"  # label: a hash of the files that it was built from
PROTOCOL: Final = "teckochecker.protocol"  # label: of the entry program
_PROTOCOL: Final = "1"  # raise it when older images can't serve any more
_RUNNERS_FOLDER: Final = Path(__file__).parents[1] / "runners"  # in a checkout a link
_FILES: Final[dict[Runtime, tuple[str, ...]]] = {
    "python": ("Dockerfile", "entry.py"),
    "node": ("Dockerfile", "entry.js"),
}


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that checks need and the machine lacks: `engine` or a runtime."""

    what: Literal["engine", "python", "node"]
    message: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image that scripts run in; `instance` says for whom it was prepared, None for all.

    The size of a prepared one counts the runner image below it, which is there once.
    """

    name: str
    runtime: str
    size_bytes: int
    created_at: datetime
    instance: str | None


def build(
    engine: Engine,
    runtime: Runtime,
    base: str | None = None,
    *,
    ca_bundle: Path | None = None,
    index_url: str | None = None,
    registry: str | None = None,
    progress: Callable[[str], None],
) -> str:
    """Builds a runtime's image and gives its id; `progress` gets each line that the engine says.

    `base` must have Python 3.11 with venv, or Node 20 with npm. `ca_bundle` is a PEM file with
    authorities that installers and scripts trust too. `index_url` is for Python packages,
    `registry` for Node's.
    """
    arguments = {
        "BASE": base,
        "CA_BUNDLE": "yes" if ca_bundle else None,
        "INDEX_URL" if runtime == "python" else "REGISTRY": (
            index_url if runtime == "python" else registry
        ),
    }
    context = _context(runtime, b"" if ca_bundle is None else _certificates(ca_bundle))
    options = {
        "fileobj": context,
        "custom_context": True,
        "tag": RUNNERS[runtime],
        "buildargs": {name: value for name, value in arguments.items() if value},
        "labels": {RUNNER: runtime, CONTENT: content(runtime), PROTOCOL: _PROTOCOL},
        "rm": True,
        "forcerm": True,
        "decode": True,
    }
    with engine.client(timeout_s=SLOW_TIMEOUT_S) as api:
        for line in _said(engine, api, options):
            progress(line)
        with engine.told("look for an image"):
            return str(api.inspect_image(RUNNERS[runtime])["Id"])


def missing(engine: Engine, runtimes: Iterable[Runtime] = ("python", "node")) -> list[Missing]:
    """What checks of these runtimes would lack now; empty when all is there."""
    try:
        with engine.client() as api:
            return [
                Missing(runtime, told)
                for runtime in runtimes
                if (told := _lacking(engine, api, runtime)) is not None
            ]
    except DockerError as error:
        return [Missing("engine", str(error))]


def there(engine: Engine) -> list[Image]:
    """The images that scripts run in, of all installations."""
    with engine.client() as api, engine.told("list its images"):
        found = api.images(filters={"label": RUNNER})
    return [
        Image(
            name=name,
            runtime=one["Labels"][RUNNER],
            size_bytes=int(one["Size"]),
            created_at=datetime.fromtimestamp(one["Created"], UTC),
            instance=one["Labels"].get(INSTANCE),
        )
        for one in found
        for name in one["RepoTags"] or ()
        if not name.startswith("<none>")
    ]


def content(runtime: Runtime) -> str:
    """A hash of the files that a runtime's image is built from."""
    digest = sha256()
    for name in _FILES[runtime]:
        digest.update(_file(runtime, name))
    return digest.hexdigest()


def _lacking(engine: Engine, api: Any, runtime: Runtime) -> str | None:
    how = f"run `teckochecker runners build {runtime}`"
    try:
        with engine.told("look for an image"):
            found = api.inspect_image(RUNNERS[runtime])
    except ImageMissing:
        return f"The image {RUNNERS[runtime]} isn't there: {how}."
    if (found["Config"]["Labels"] or {}).get(PROTOCOL) != _PROTOCOL:
        return f"The image {RUNNERS[runtime]} belongs to another version: {how}."
    return None


def _context(runtime: Runtime, certificates: bytes) -> io.BytesIO:
    """What the engine builds from, as a tar."""
    entries = {name: _file(runtime, name) for name in _FILES[runtime]}
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in {**entries, "ca.pem": certificates}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    made.seek(0)
    return made


def _file(runtime: Runtime, name: str) -> bytes:
    return (_RUNNERS_FOLDER / runtime / name).read_bytes()


def _certificates(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FolderError(f"The CA bundle {path} can't be read: {error.strerror}.") from error
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise FolderError(f"The CA bundle {path} has no certificate: give a PEM file.")
    return data if data.endswith(b"\n") else data + b"\n"


def _said(engine: Engine, api: Any, options: dict[str, Any]) -> Iterator[str]:
    """A build's progress, without the bars of a pull; DockerError when it fails."""
    with engine.told(f"build the image {options['tag']}"):
        for event in api.build(**options):
            if "error" in event:
                raise DockerError(f"The image couldn't be built: {event['error'].strip()}")
            text = event.get("stream") or (event.get("status") if "progress" not in event else "")
            yield from filter(None, (line.rstrip() for line in (text or "").splitlines()))

"""What tests of the sandbox share: a real engine with the runner images, or the reason to skip.

The images are made once from the bases that TECKO_BASE_PYTHON and TECKO_BASE_NODE name (see
`.ci/bases`), else from the usual ones, which the engine pulls.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import functools
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import uuid
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import docker

from teckochecker.domain import Finding, JobId
from teckochecker.masking import Mask
from teckochecker.sandbox import RunRequest, Sandbox
from teckochecker.sandbox.images import CONTENT, RUNNERS, content
from teckochecker.sandbox.settings import INSTANCE, RUN, Network, Runtime
from teckochecker.scripts import archive, git
from teckochecker.sources import CheckContext, Script
from teckochecker.sources.script import stored
from teckochecker.validation import Fields
from teckochecker.verdicts import Limits, RunResult, finding
from tests.required import absent

WHEEL = "tinydep-1.0-py3-none-any.whl"
PROBES = Path(__file__).parent / "sandbox_probes"
TESTS = f"tests-{uuid.uuid4().hex[:12]}"
"""The instance of this process; whatever it leaves on the engine carries it."""

ENVIRONMENT = {name: text for name, text in os.environ.items() if name.startswith("DOCKER_")}


def now() -> datetime:
    return datetime.now(UTC)


def nobody_cancels() -> None:
    return


@functools.cache
def ready() -> Sandbox:
    """A sandbox on a real engine, its images up to date; skips where there is no engine.

    Under TECKO_REQUIRE=docker it fails instead.
    """
    sandbox = Sandbox(ENVIRONMENT, TESTS, now)
    for one in sandbox.missing(()):
        if one.what == "engine":
            absent("docker", one.message)
    with Path(tempfile.gettempdir(), "teckochecker-test-images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes run side by side
        for runtime in RUNNERS:
            _update(sandbox, runtime)
    return sandbox


def engine() -> docker.DockerClient:
    return docker.DockerClient.from_env(environment=ENVIRONMENT)


def leftovers() -> list[str]:
    """The containers of this process that are still there."""
    client = engine()
    try:
        mine = {"label": f"{INSTANCE}={TESTS}"}
        found = client.api.containers(all=True, filters=mine)
        return [one["Labels"][RUN] for one in found]
    finally:
        client.close()


def containers_of(instance: str, **filters: str) -> list[Any]:
    """The containers of an installation, as the engine lists them."""
    client = engine()
    try:
        wanted = {"label": f"{INSTANCE}={instance}", **filters}
        found: list[Any] = client.api.containers(all=True, filters=wanted)
        return found
    finally:
        client.close()


def purge(instance: str) -> None:
    """Remove whatever an installation has on the engine."""
    client = engine()
    try:
        for one in containers_of(instance):
            with contextlib.suppress(docker.errors.APIError):  # its own program was faster
                client.api.remove_container(one["Id"], v=True, force=True)
        for image in client.api.images(filters={"label": f"{INSTANCE}={instance}"}):
            client.api.remove_image(image["Id"], force=True)
    finally:
        client.close()


def packed(files: Mapping[str, str | bytes]) -> bytes:
    """A clean tar."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, text in files.items():
            data = text.encode() if isinstance(text, str) else text
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.uid, entry.gid = len(data), 0o444, 1000, 1000
            tar.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def request(
    text: str | Mapping[str, str | bytes],
    *,
    runtime: Runtime = "python",
    network: Network = "none",
    timeout_s: float = 30,
    memory_mb: int = 512,
    image: str | None = None,
    environment: Mapping[str, str] | None = None,
    script: bytes | Path | None = None,
) -> RunRequest:
    """A run of a script given as one text or as files."""
    entrypoint = "main.py" if runtime == "python" else "index.js"
    files = {entrypoint: text} if isinstance(text, str) else text
    return RunRequest(
        run_id=uuid.uuid4().hex,
        job_id="1",
        image=image or RUNNERS[runtime],
        runtime=runtime,
        script=packed(files) if script is None else script,
        entrypoint=entrypoint,
        environment=environment or {},
        limits=Limits(timeout_s=timeout_s, memory_mb=memory_mb),
        network=network,
    )


def found(wanted: RunRequest, mask: Mask | None = None) -> tuple[Finding, RunResult]:
    """Runs it, and reads the verdict."""
    result = ready().run(wanted, nobody_cancels)
    return finding(result, wanted.limits, mask or Mask([])), result


def checked(
    files: Mapping[str, str | bytes],
    *,
    network: Network = "none",
    timeout_s: int = 30,
    environment: Mapping[str, str] | None = None,
) -> tuple[Finding, RunResult]:
    """Takes files as an upload and runs them as a job's script, by the product's own source."""
    with tempfile.TemporaryDirectory() as folder:
        shelf, upload = Path(folder, "scripts"), Path(folder, "upload.tgz")
        upload.write_bytes(gzip.compress(packed(files)))
        script = archive.accept(upload, shelf, entrypoint="main.py")
        source = Script(ready(), shelf, git.Access, archive.inspect, cpus=1)
        given = {"script_runtime": "python", "network": network, "env_vars": environment}
        doc = source.parse(Fields(given)).part.doc
        context = CheckContext(
            job_id=JobId(1),
            number=1,
            state=None,
            now=now(),
            secrets={},
            pool_key="",
            previous=None,
            checkpoint=nobody_cancels,
        )
        doc = {**doc, "timeout_seconds": timeout_s}  # some are shorter than a job may ask for
        return source.run_once(doc, stored(script, now()), context)


def wheel(*, zeros: int = 0) -> bytes:
    """The Python package `tinydep`, with so many zeros twice in it."""
    made = io.BytesIO()
    info = "tinydep-1.0.dist-info"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("tinydep/__init__.py", "VALUE = 42\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinydep\nVersion: 1.0\n")
        tag = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tag)
        wheel.writestr(f"{info}/RECORD", "")
        for name in ("a", "b") if zeros else ():
            wheel.writestr(f"tinydep/{name}", bytes(zeros), compresslevel=1)
    return made.getvalue()


def node_dependency() -> dict[str, str | bytes]:
    """What a script that imports `tinynode` brings along: lock file, package and all."""
    name = "file:vendor/tinynode-1.0.0.tgz"
    told = json.dumps({"name": "tinynode", "version": "1.0.0", "main": "index.js"})
    files = {"package/package.json": told, "package/index.js": "module.exports = 42"}
    package = gzip.compress(packed(files), mtime=0)
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(package).digest()).decode()
    root = {"name": "check", "version": "1.0.0", "dependencies": {"tinynode": name}}
    tiny = {"version": "1.0.0", "resolved": name, "integrity": integrity}
    packages = {"": root, "node_modules/tinynode": tiny}
    lock = {"name": "check", "version": "1.0.0", "lockfileVersion": 3, "packages": packages}
    return {
        "package.json": json.dumps(root),
        "package-lock.json": json.dumps(lock),
        "vendor/tinynode-1.0.0.tgz": package,
    }


def ca_bundle() -> Path | None:
    path = os.environ.get("SSL_CERT_FILE", "")
    return Path(path) if path and Path(path).is_file() else None


def _update(sandbox: Sandbox, runtime: Runtime) -> None:
    client = engine()
    try:
        labels = client.images.get(RUNNERS[runtime]).labels
    except docker.errors.ImageNotFound:
        labels = {}
    finally:
        client.close()
    if labels.get(CONTENT) == content(runtime):
        return
    sandbox.build(
        runtime,
        os.environ.get(f"TECKO_BASE_{runtime.upper()}"),
        ca_bundle=ca_bundle(),
        index_url=_index_url() if runtime == "python" else None,
        progress=lambda line: None,
    )


def _index_url() -> str | None:
    """The index that this machine's pip uses, if it isn't the usual one."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or None

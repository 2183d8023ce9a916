"""What tests of the sandbox share: a real engine with the runner images, or the reason to skip.

The images are made once from the bases that TECKO_BASE_PYTHON and TECKO_BASE_NODE name (see
`.ci/bases`), else from the usual ones, which the engine pulls.
"""

from __future__ import annotations

import fcntl
import functools
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import docker
import pytest

from teckochecker.domain import Finding
from teckochecker.masking import Mask
from teckochecker.sandbox import RunRequest, Sandbox
from teckochecker.sandbox.images import CONTENT, RUNNERS, content
from teckochecker.sandbox.settings import INSTANCE, RUN, Network, Runtime
from teckochecker.verdicts import Limits, RunResult, finding

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
    absent = [one.message for one in sandbox.missing(()) if one.what == "engine"]
    if absent and "docker" in os.environ.get("TECKO_REQUIRE", "").split(","):
        pytest.fail(absent[0])
    if absent:
        pytest.skip(absent[0])
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

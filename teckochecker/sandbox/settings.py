"""The settings of a container, as the engine's API takes them; pure, so that a test reads them.

Each line that looks optional is a probe that succeeds without it (tests/sandbox_probes). Never
here: auto_remove (it loses results), privileged, host namespaces, devices, binds, the engine's
socket, a limit on processes per user (it counts a uid across all containers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from teckochecker.sandbox.engine import Host
from teckochecker.sandbox.seccomp import PROFILE
from teckochecker.verdicts import Limits

Runtime = Literal["python", "node"]
Network = Literal["open", "none"]

OPEN_NETWORK: Final = "teckochecker-open"
INSTANCE: Final = "teckochecker.instance"
JOB: Final = "teckochecker.job"
RUN: Final = "teckochecker.run"
DEADLINE: Final = "teckochecker.deadline"
GUEST: Final = "teckochecker.guest"
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """One run of a script.

    `script` is a clean tar, or the path of one. `environment` holds opened secrets: it goes to
    the container's standard input and nowhere else. `run_id` is unique, of letters, digits,
    `_`, `.` and `-`.
    """

    run_id: str
    job_id: str
    image: str
    runtime: Runtime
    script: bytes | Path = field(repr=False)
    entrypoint: str
    environment: Mapping[str, str] = field(repr=False)
    limits: Limits = field(default_factory=Limits)
    network: Network = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What differs between a check and an installer."""

    limits: Limits
    network: Network
    work_mb: int = 128
    work_files: int = 16384
    file_mb: int = 64


def settings(image: str, shape: Shape, host: Host, labels: Mapping[str, str]) -> dict[str, Any]:
    """The body of the engine's call to create a container (API 1.41 and later)."""
    return {
        "Image": image,
        "User": "1000:1000",  # numeric: a name that the image lacks fails at start
        "Hostname": "check",
        "Labels": dict(labels),
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": _host_settings(shape, host),
    }


def _host_settings(shape: Shape, host: Host) -> dict[str, Any]:
    memory = shape.limits.memory_mb * MIB
    return {
        "NetworkMode": OPEN_NETWORK if shape.network == "open" else "none",
        "ReadonlyRootfs": True,
        "Tmpfs": {
            "/work": (
                f"rw,exec,nosuid,nodev,size={shape.work_mb}m,nr_inodes={shape.work_files},"
                f"mode=0700,uid=1000,gid=1000"
            ),
            "/tmp": "rw,noexec,nosuid,nodev,size=32m,nr_inodes=8192,mode=1777",  # noqa: S108
        },
        "CapDrop": ["ALL"],
        "SecurityOpt": [
            "no-new-privileges:true",
            *([f"seccomp={PROFILE}"] if host.seccomp else []),
            *(["apparmor=docker-default"] if host.apparmor else []),
        ],
        "Memory": memory,
        "MemorySwap": memory,
        "NanoCpus": int(min(shape.limits.cpu_cores, host.cpus) * 1e9),
        "PidsLimit": 128,
        "Ulimits": [
            {"Name": "nofile", "Soft": 1024, "Hard": 1024},
            {"Name": "fsize", "Soft": shape.file_mb * MIB, "Hard": shape.file_mb * MIB},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        "ShmSize": 16 * MIB,
        "IpcMode": "private",
        "Init": True,
        "OomScoreAdj": 500,
        "LogConfig": {"Type": "none"},  # output is read from the attached stream only
    }

"""The fields of a custom check that say what its script is, and how it is run.

They are read out of what somebody sends, with every fault told at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from teckochecker.addresses import Allowed
from teckochecker.domain import MAX_DATA_BYTES, SANDBOXED, Document, Part, SecretRef
from teckochecker.errors import InvalidInput
from teckochecker.scripts import git
from teckochecker.scripts.tree import entry_point, subfolder
from teckochecker.validation import Fields, Parsed

MIN_TIMEOUT_S, DEFAULT_TIMEOUT_S, MAX_TIMEOUT_S = 10, 300, 3600
MIN_MEMORY_MB, DEFAULT_MEMORY_MB, MAX_MEMORY_MB = 64, 512, 4096
MIN_CORES, DEFAULT_CORES = 0.1, 0.5
MAX_VARIABLE_BYTES: Final = 120 * 1024  # one environment string ends at 128 KiB, its name in it
ENTRY_POINTS: Final = {"python": "main.py", "node": "index.js"}
OURS: Final = frozenset({"CHECK_PARAMS", "CHECK_NUMBER", "PREVIOUS_DATA"})
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


class SourceType(StrEnum):
    UPLOAD = "upload"
    GIT = "git"


class Runtime(StrEnum):
    PYTHON = "python"
    NODE = "node"


class Network(StrEnum):
    OPEN = "open"
    NONE = "none"


def parsed(fields: Fields, allowed: Allowed, cpus: int) -> Parsed:
    """What a job's document says of its script; `cpus` bounds `cpu_cores`."""
    runtime = Runtime(fields.choice("script_runtime", Runtime))
    default = SourceType.GIT if fields.sent("script_git_url") else SourceType.UPLOAD
    came_from = SourceType(fields.choice("script_source_type", SourceType, default=default))
    inline_text(fields)  # which the caller stores
    params = fields.mapping("check_params", default={})
    env_vars = fields.mapping("env_vars", default=None)
    _check_params(fields, params)
    _check_variables(fields, env_vars or {})
    doc = {
        "script_source_type": came_from,
        "script_runtime": runtime,
        "script_entrypoint": _entry_point(fields, runtime),
        "check_params": params,
        "env_vars": env_vars,
        "timeout_seconds": fields.integer(
            "timeout_seconds",
            MIN_TIMEOUT_S,
            MAX_TIMEOUT_S,
            default=DEFAULT_TIMEOUT_S,
            unit="seconds",
        ),
        "resource_limits": _limits(fields, cpus),
        "network": fields.choice("network", Network, default=Network.OPEN),
        **_repository(fields, came_from, allowed),
    }
    token = fields.secret("script_git_secret", None, default=None)
    if token is not None and came_from is SourceType.UPLOAD:
        if fields.sent(token.field):
            fields.fault(token.field, "needs script_source_type git")
        token = None
    mentions = fields.mentions("env_vars", (env_vars or {}).values())
    refs: tuple[SecretRef, ...] = (*mentions, *((token,) if token else ()))
    return Parsed(part=Part(kind=SANDBOXED, doc=doc), secrets=refs)


def memory_wanted_mb(docs: Iterable[Document], places: int) -> int:
    """What checks of these documents may take when all `places` are full.

    Each is counted as the largest there is, and as the default at least: any job may run in
    every place one day, and the next one to be added brings the default.
    """
    limits_mb = [int(doc["resource_limits"]["memory_mb"]) for doc in docs]
    return places * max([DEFAULT_MEMORY_MB, *limits_mb])


def inline_text(fields: Fields) -> str | None:
    """The script as one text, None when the document brings none."""

    def checked(given: object) -> str:
        if not isinstance(given, str):
            raise ValueError("must be the script's text")
        if not given.strip():
            raise ValueError("must not be blank")
        return given

    text: str | None = fields.value("script", None, checked, None)
    return text


def _repository(fields: Fields, came_from: SourceType, allowed: Allowed) -> dict[str, object]:
    names = ("script_git_url", "script_git_branch", "script_git_subfolder")
    if came_from is not SourceType.GIT:
        for name in names:
            if fields.sent(name):
                fields.fault(name, "needs script_source_type git")
        return dict.fromkeys(names)
    if fields.sent("script"):
        fields.fault("script", "needs script_source_type upload")
    url = fields.text("script_git_url", max_chars=500)
    branch = fields.text("script_git_branch", default="main", max_chars=100) or "main"
    folder = fields.text(
        "script_git_subfolder", default=None, max_chars=500, check=_sentence(subfolder)
    )
    if url is None:  # the stored job came by upload
        fields.fault("script_git_url", "is required")
    elif url and "secret_ref:" in url:
        fields.fault("script_git_url", "must not hold a secret: name a script_git_secret")
    elif url and not fields.given.isdisjoint(names):  # a stored one isn't judged again
        wanted = git.Repository(url=url, branch=branch, subfolder=folder or "")
        try:
            git.check(wanted, allowed)
        except InvalidInput as error:
            about_branch = "can't be a branch" in str(error)
            fields.fault("script_git_branch" if about_branch else "script_git_url", str(error))
    return dict(zip(names, (url, branch, folder), strict=True))


def _limits(fields: Fields, cpus: int) -> dict[str, object]:
    given = fields.mapping("resource_limits", default={})
    inner = Fields(given)
    limits: dict[str, object] = {
        "memory_mb": inner.integer(
            "memory_mb", MIN_MEMORY_MB, MAX_MEMORY_MB, default=DEFAULT_MEMORY_MB, unit="MB"
        ),
        "cpu_cores": inner.number("cpu_cores", MIN_CORES, cpus, default=min(DEFAULT_CORES, cpus)),
    }
    if "resource_limits" not in fields.given:  # a stored one isn't judged again
        return {**limits, **given}
    try:
        inner.done("limit of resources")
    except InvalidInput as error:
        for fault in error.errors:
            fields.fault(f"resource_limits.{fault.field}", fault.message)
    return limits


def _entry_point(fields: Fields, runtime: Runtime) -> str:
    usual = ENTRY_POINTS[runtime]
    found: str = fields.text(
        "script_entrypoint", default=usual, max_chars=255, check=_sentence(entry_point)
    )
    chosen = fields.sent("script_entrypoint") or found not in ENTRY_POINTS.values()
    return usual if fields.sent("script_runtime") and not chosen else found


def _check_params(fields: Fields, params: Document) -> None:
    if "check_params" not in fields.given:
        return
    size = len(msgspec.json.encode(params))
    if size > MAX_DATA_BYTES:
        fields.fault("check_params", f"must have at most {MAX_DATA_BYTES} bytes, not {size}")
    if "secret_ref:" in json.dumps(params):
        fields.fault("check_params", "must not hold a secret: it is shown, so use env_vars")


def _check_variables(fields: Fields, env_vars: Mapping[str, object]) -> None:
    if "env_vars" not in fields.given:
        return
    for name, value in env_vars.items():
        if not _VARIABLE.fullmatch(name):
            fields.fault("env_vars", f"{name!r} isn't a name of letters, digits and '_'")
        elif name in OURS:
            fields.fault("env_vars", f"must not hold {name}: we set it")
        elif not isinstance(value, str):
            fields.fault("env_vars", f"{name} must be text: write numbers in quotes")
        elif "\0" in value or len(value.encode()) > MAX_VARIABLE_BYTES:
            fields.fault("env_vars", f"{name} must have at most {MAX_VARIABLE_BYTES} bytes, no NUL")


def _sentence(check: Callable[[str], str]) -> Callable[[str], str]:
    def checked(text: str) -> str:
        try:
            return check(text)
        except InvalidInput as error:
            raise ValueError(str(error)) from error

    return checked

"""The fields that declare a job, in one form for the file and for what the API shows.

A declared job is whole: what it leaves out has the default that the API gives. Two fields
have none that is known here, so their absence asks for nothing: `poll_interval_seconds`, whose
default is a setting, and the script of a custom check.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from teckochecker.cli.declaration import CUSTOM_CHECK, POLLING

Document = Mapping[str, Any]

PATHS: Final = {POLLING: "/api/jobs", CUSTOM_CHECK: "/api/custom-checks"}
SECRETS: Final = {  # fields that name one, and the type that it must have
    "openai_secret": "openai",
    "keboola_secret": "keboola",
    "webhook_signing_secret": "generic",
    "script_git_secret": None,
}
MENTIONING: Final = ("webhook_headers", "env_vars")
ENTRY_POINTS: Final = {"python": "main.py", "node": "index.js"}
LIMITS: Final = {"memory_mb": 512, "cpu_cores": 0.5}
_REQUIRED: Final = object()
_KNOWN_ELSEWHERE: Final = object()  # a default that only the installation knows
_MENTION: Final = re.compile(r"secret_ref:([A-Za-z0-9_.-]+)")

# In the order of the file; values are the API's defaults.
_SOURCES: Final[dict[str, dict[str, Any]]] = {
    POLLING: {
        "batch_ids": _REQUIRED,
        "openai_secret": _REQUIRED,
        "openai_base_url": None,
        "max_failed_percent": 100,
    },
    CUSTOM_CHECK: {
        "script_runtime": _REQUIRED,
        "script_source_type": "upload",
        "script_entrypoint": None,
        "script_git_url": None,
        "script_git_branch": None,
        "script_git_subfolder": None,
        "script_git_secret": None,
        "check_params": None,
        "env_vars": None,
        "timeout_seconds": 300,
        "resource_limits": LIMITS,
        "network": "open",
        "max_consecutive_errors": None,
    },
}
_ACTIONS: Final[dict[str, dict[str, Any]]] = {  # by the field without which there is none
    "keboola_stack_url": {
        "keboola_secret": _REQUIRED,
        "keboola_component_id": "keboola.orchestrator",
        "keboola_configuration_id": _REQUIRED,
        "keboola_variables": None,
        "follow_up": True,
    },
    "webhook_url": {
        "webhook_method": "POST",
        "webhook_headers": None,
        "webhook_query_params": None,
        "webhook_signing_secret": None,
        "webhook_timeout_seconds": 30,
    },
}
_TRIGGER_ON: Final = {POLLING: "success", CUSTOM_CHECK: "terminal"}


@dataclass(frozen=True, slots=True)
class Secrets:
    """The stored secrets: names by id, types by name."""

    names: Mapping[int, str]
    types: Mapping[str, str]

    @classmethod
    def of(cls, document: Document) -> Secrets:
        found = document["secrets"]
        return cls(
            {one["id"]: one["name"] for one in found}, {one["name"]: one["type"] for one in found}
        )

    def named(self, wanted: object) -> object:
        """The name of a secret that is given by id or name; what isn't known stays."""
        is_id = isinstance(wanted, int) or (isinstance(wanted, str) and wanted.isdecimal())
        return self.names.get(int(str(wanted)), wanted) if is_id else wanted

    def with_names(self, texts: object) -> object:
        """Texts whose mentions of secrets are names."""
        if not isinstance(texts, dict):
            return texts
        return {
            key: _MENTION.sub(lambda found: f"secret_ref:{self.named(found[1])}", text)
            if isinstance(text, str)
            else text
            for key, text in texts.items()
        }


def of_file(kind: str, fields: Document, secrets: Secrets) -> dict[str, Any]:
    """All fields that a declared job asks for, defaults among them; without its script."""
    given = _usual(fields, secrets)
    if kind == CUSTOM_CHECK:
        missing = {name for name in given if given[name] is None}
        given = _dependent(given) | {n: given[n] for n in given.keys() - missing}
    wanted = {"name": given.pop("name")}
    for field, default in _defaults(kind, given).items():
        value = given.pop(field, None)
        if value is not None or default is not _KNOWN_ELSEWHERE:
            wanted[field] = _plain(value, default)
    return wanted | given  # what isn't known is for the API to refuse


def of_job(kind: str, job: Document, secrets: Secrets) -> dict[str, Any]:
    """The same of a job as the API shows it."""
    found: dict[str, Any] = {"name": job["name"]}
    for field in _defaults(kind, job):
        value = job.get(f"{field}_name") if field in SECRETS else job.get(field)
        found[field] = _plain(secrets.with_names(value) if field in MENTIONING else value, None)
    return found


def differences(wanted: Document, found: Document) -> dict[str, Any]:
    """What has to be sent to make a job as wanted; an action that isn't wanted is sent as null."""
    return {field: value for field, value in wanted.items() if value != found.get(field)}


def declared(kind: str, fields: Document) -> dict[str, Any]:
    """The fields that a file needs: those that aren't the defaults, in their order."""
    defaults = _defaults(kind, fields)
    if kind == CUSTOM_CHECK:
        defaults |= _dependent(fields)
    return {"name": fields["name"]} | {
        field: fields[field]
        for field, default in defaults.items()
        if fields.get(field) is not None and fields[field] != default
    }


def mentions(fields: Document) -> Iterator[tuple[str, object, str | None]]:
    """Each secret that a job needs: the field, the secret, and the type that it must have."""
    for field, type_ in SECRETS.items():
        if fields.get(field) is not None:
            yield field, fields[field], type_
    for field in MENTIONING:
        texts = fields.get(field)
        for text in texts.values() if isinstance(texts, dict) else ():
            yield from ((field, name, None) for name in _MENTION.findall(str(text)))


def _usual(fields: Document, secrets: Secrets) -> dict[str, Any]:
    """A copy under the main spellings, with secrets by name."""
    given = dict(fields)
    if given.get("batch_id") is not None and "batch_ids" not in given:
        given["batch_ids"] = [given.pop("batch_id")]
    for field in SECRETS:
        if f"{field}_id" in given and field not in given:
            given[field] = given.pop(f"{field}_id")
        if field in given:
            given[field] = secrets.named(given[field])
    for field in MENTIONING:
        if field in given:
            given[field] = secrets.with_names(given[field])
    if isinstance(given.get("keboola_stack_url"), str):
        given["keboola_stack_url"] = given["keboola_stack_url"].rstrip("/")
    return given


def _dependent(given: Document) -> dict[str, Any]:
    """Defaults of a custom check that depend on other fields of it."""
    by_git = given.get("script_source_type") == "git" or bool(given.get("script_git_url"))
    return {
        "script_source_type": "git" if given.get("script_git_url") else "upload",
        "script_entrypoint": ENTRY_POINTS.get(str(given.get("script_runtime"))),
        "script_git_branch": "main" if by_git else None,
    }


def _defaults(kind: str, given: Document) -> dict[str, Any]:
    """Fields and defaults of a job; those of an action only where it is there."""
    found = dict(_SOURCES[kind])
    for main, group in _ACTIONS.items():
        found[main] = None
        if given.get(main) is not None:
            found |= group
    return found | {"poll_interval_seconds": _KNOWN_ELSEWHERE, "trigger_on": _TRIGGER_ON[kind]}


def _plain(value: Any, default: Any) -> Any:
    if value is None:
        return None if default is _REQUIRED else default
    if default is LIMITS and isinstance(value, dict):
        return {**LIMITS, **value}
    return None if value == {} else value

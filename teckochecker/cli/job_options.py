"""Options that both kinds of jobs have, under the names of the API's fields."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from teckochecker.errors import FieldError, FolderError, InvalidInput

Name = Annotated[str | None, Parameter(help="Unique among the jobs that haven't ended.")]
PollInterval = Annotated[
    int | None,
    Parameter(name="--poll-interval", help="Seconds between checks (120 for new jobs)."),
]
Clear = Annotated[
    tuple[str, ...],
    Parameter(help="Take a field away, by its name in the API, like webhook_url; repeatable."),
]
_PAIRS: Final = ("keboola_variables", "webhook_headers", "webhook_query_params")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ActionFields:
    """What a job triggers."""

    keboola_secret: Annotated[str | None, Parameter(help="Id or name of the token.")] = None
    keboola_stack_url: Annotated[
        str | None, Parameter(name="--keboola-stack", help="Like https://connection.keboola.com.")
    ] = None
    keboola_configuration_id: Annotated[
        str | None, Parameter(name="--config-id", help="The configuration to run.")
    ] = None
    keboola_component_id: Annotated[
        str | None,
        Parameter(name="--component-id", help="Its component: keboola.orchestrator by default."),
    ] = None
    keboola_variables: Annotated[
        tuple[str, ...] | None,
        Parameter(name="--variable", help="KEY=VALUE for the run; may be repeated."),
    ] = None
    follow_up: Annotated[
        bool | None,
        Parameter(negative="--no-follow-up", help="Watch the Keboola job until it has ended."),
    ] = None
    webhook_url: Annotated[
        str | None, Parameter(help="Call it, instead of or beside a Keboola job.")
    ] = None
    webhook_method: Annotated[str | None, Parameter(help="POST by default.")] = None
    webhook_headers: Annotated[
        tuple[str, ...] | None,
        Parameter(
            name="--webhook-header",
            help="NAME=VALUE, where secret_ref:ID_OR_NAME stands for a secret; may be repeated.",
        ),
    ] = None
    webhook_query_params: Annotated[
        tuple[str, ...] | None,
        Parameter(
            name="--webhook-query",
            help="NAME=TEMPLATE, like job={job_id} or id={data.batches.0.batch_id}; repeatable.",
        ),
    ] = None
    webhook_signing_secret: Annotated[
        str | None, Parameter(help="Id or name of a generic secret, `whsec_...`.")
    ] = None
    webhook_timeout_seconds: Annotated[
        int | None, Parameter(name="--webhook-timeout", help="Seconds, 5 to 60 (30).")
    ] = None

    def body(self) -> dict[str, object]:
        """The API's document of what was given."""
        found = given(self)
        for name in _PAIRS:
            if name in found:
                found[name] = pairs(name, found[name])
        return found


def given(fields: Any) -> dict[str, Any]:
    """The fields that somebody gave, by name."""
    return {name: value for name, value in asdict(fields).items() if value is not None}


def cleared(body: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """`body` with null in the fields of these names."""
    fields = [name.replace("-", "_") for name in names]
    said = {name.removesuffix("_id") for name in body}  # a secret's field has two spellings
    twice = next((name for name in fields if name.removesuffix("_id") in said), None)
    if twice is not None:
        raise InvalidInput(
            f"{twice} is given and cleared: say one of the two.",
            (FieldError(twice, "can't be both given and cleared"),),
        )
    return {**body, **dict.fromkeys(fields)}


def pairs(field: str, texts: Iterable[str]) -> dict[str, str]:
    """KEY=VALUE texts; InvalidInput names the one that isn't."""
    return dict(_pair(field, text, "KEY=VALUE") for text in texts)


def params(file: Path | None, texts: Iterable[str]) -> dict[str, Any]:
    """A file's JSON object, and over it KEY=TEXT and KEY:=JSON."""
    found = {} if file is None else dict(_object(file))
    for text in texts:
        key, value = _pair("check_params", text, "KEY=VALUE or KEY:=JSON")
        if key.endswith(":"):
            found[key[:-1]] = parsed("check_params", value)
        else:
            found[key] = value
    return found


def parsed(field: str, text: str) -> Any:
    """A value given as JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{text[:60]!r} isn't JSON: {error}.", (FieldError(field, "must be given as JSON"),)
        ) from error


def _object(file: Path) -> Mapping[str, Any]:
    try:
        found = parsed("check_params", file.read_text())
    except OSError as error:
        raise FolderError(
            f"{file} can't be read ({error.strerror}): check --params-file."
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file} isn't UTF-8 text: write it anew as JSON.") from error
    if not isinstance(found, dict):
        raise InvalidInput(f'{file} must hold a JSON object, like {{"key": "value"}}.')
    return found


def _pair(field: str, text: str, form: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or key in ("", ":"):
        raise InvalidInput(
            f"{text!r} isn't {form}.", (FieldError(field, f"must be given as {form}"),)
        )
    return key, value

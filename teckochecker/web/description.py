"""The OpenAPI document: what quart-schema collects, with what it leaves out of msgspec's types.

It drops every definition that a document refers to, and gives two operations of one name the
same id. Errors are described here too: whatever else an operation answers is a `Problem`.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.json import schema_components
from quart_schema.openapi import OpenAPIProvider
from quart_schema.typing import Model
from quart_schema.validation import DataSource
from werkzeug.routing.converters import BaseConverter
from werkzeug.routing.rules import Rule

from teckochecker.web import job_schemas, schemas

_REFS: Final = "#/components/schemas/{name}"
_OPTIONAL: Final = frozenset({schemas.SecretTrial})  # bodies that may be left out
_STREAM: Final = "events.stream"
_STREAM_ANSWER: Final = {
    "description": "Server-sent events, without an end: `jobs`, `counts`, `pulse`, `reload`.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}
_PATH: Final = {
    "job": ({"type": "string"}, "Id or name of a job."),
    "secret": ({"type": "string"}, "Id or name of a secret."),
    "delivery": ({"type": "integer", "minimum": 1}, "Id of a delivery."),
}


_ARCHIVE: Final = {
    "type": "string",
    "format": "binary",
    "description": "The script, packed: .tgz or .tar.gz, at most 10 MB.",
}
_FORM: Final = {
    "type": "object",
    "required": ["config"],
    "properties": {
        "config": {"type": "string", "description": "The JSON document, as text."},
        "script": _ARCHIVE,
    },
}
_UPLOAD: Final = {"type": "object", "required": ["file"], "properties": {"file": _ARCHIVE}}


class Description(OpenAPIProvider):
    def build_paths(self, rule: Rule) -> tuple[dict[str, Any], dict[str, Any]]:
        paths, components = super().build_paths(rule)
        problem, more = _referred(schemas.Problem)
        for operation in (one for path in paths.values() for one in path.values()):
            found = {str(status): one for status, one in operation["responses"].items()}
            if rule.endpoint == _STREAM:
                found = {"200": _STREAM_ANSWER}
            responses = found or {"204": {"description": "Done."}}
            error = {
                "description": "An error (RFC 9457); `code` is the product's number for it.",
                "content": {"application/problem+json": {"schema": problem}},
            }
            operation["responses"] = {**responses, "default": error}
            operation["operationId"] = rule.endpoint.replace(".", "_").rstrip("_")
        return paths, components | more

    def build_path_parameter(self, name: str, converter: BaseConverter) -> dict[str, Any]:
        schema, description = _PATH[name]
        return {
            "name": name,
            "in": "path",
            "required": True,
            "schema": schema,
            "description": description,
        }

    def build_querystring_parameters(
        self, model: type[Model]
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        _, components = _referred(model)
        found = components.pop(model.__name__)["properties"]
        parameters = [{"name": name, "in": "query", "schema": one} for name, one in found.items()]
        return parameters, components

    def build_request_body(
        self, model: type[Model], source: DataSource
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        schema, components = _referred(model)
        content = {"application/json": {"schema": schema}}
        if model is job_schemas.NewCustomCheck:
            content["multipart/form-data"] = {"schema": _FORM}
        if model is schemas.Upload:
            content = {"multipart/form-data": {"schema": _UPLOAD}}
        return {"required": model not in _OPTIONAL, "content": content}, components

    def build_response_object(
        self, model: type[Model], headers_model: type[Model] | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        schema, components = _referred(model)
        description = components[model.__name__].get("description", model.__name__)
        content = {"application/json": {"schema": schema}}
        return {"description": description, "content": content}, components


def _referred(model: type[Model]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A reference to a type, and every definition that it needs."""
    (reference,), components = schema_components([model], ref_template=_REFS)
    return reference, components

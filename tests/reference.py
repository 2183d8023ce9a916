"""The references of `docs/`, made from the program: `python -m tests.reference` writes them.

With `--check` it writes nothing and ends with 1 where one is out of date. The command line's is
the help of every command, the API's is what `/openapi.json` says.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import trio
from cyclopts import App
from rich.console import Console

from teckochecker.app import assemble
from teckochecker.cli.program import program
from teckochecker.config import Settings
from teckochecker.web import create_web

FOLDER: Final = Path(__file__).parents[1] / "docs" / "reference"
COLUMNS: Final = 80
COMMAND: Final = "python -m tests.reference"
_HELP: Final = ("--help", "-h")
_TOKEN: Final = "tck_for-the-reference"
_KEY: Final = "Q2hlY2tzLXRoaW5ncy1mb3ItdGVzdHMtb25seS0xMjM0NTY3ODkw"
_BOUNDS: Final = (
    ("minimum", "at least {}"),
    ("maximum", "at most {}"),
    ("minLength", "{} characters or more"),
    ("maxLength", "at most {} characters"),
    ("minItems", "{} or more of them"),
    ("maxItems", "at most {} of them"),
    ("pattern", "like `{}`"),
    ("default", "{} if not sent"),
)
_CLI_HEAD: Final = f"""\
# Command line

What `--help` says, of every command.

<!-- made from the program by `{COMMAND}` -->

Names and ids both address a thing. Every command takes `--output json`, but for `demo`, `export`
(which writes YAML), `completion`, `--version` and `--licenses`. Exit codes are in the
[README](../../README.md#exit-codes).
"""
_API_HEAD: Final = f"""\
# HTTP API

What `/openapi.json` says, as tables.

<!-- made from the program by `{COMMAND}` -->

Each call needs the header `Authorization: Bearer` with the access token, where it doesn't say
that it is open. Bodies are JSON where nothing else is said; unknown fields are refused. Paths
work with and without a slash at the end. Times are RFC 3339 in UTC. An answer other than those
listed is a [Problem](#problem); the numbers in its `code` are in the
[README](../../README.md#http-api). `GET /metrics` and the page are no part of this document.
"""


@functools.cache
def references() -> Mapping[str, str]:
    """Each file of `docs/reference`, and what must stand in it.

    The command line comes first: typing keeps one `Literal` for all of the same words, so what
    is imported before decides in which order a help lists them.
    """
    return {"cli.md": cli_reference(), "api.md": api_reference(openapi())}


def outdated(folder: Path = FOLDER) -> list[str]:
    """The references in `folder` that aren't what the program says."""
    return [
        name
        for name, text in references().items()
        if not (folder / name).is_file() or (folder / name).read_text() != text
    ]


# The command line


def commands() -> dict[tuple[str, ...], str]:
    """The help of every command and group of commands, by its words."""
    found: dict[tuple[str, ...], str] = {(): _help(program(), ())}
    for name in _names(program()):
        app = program(name)
        for words in _below(app[name], (name,)):
            found[words] = _help(app, words)
    return found


def cli_reference() -> str:
    blocks = []
    for words, text in commands().items():
        title = " ".join(("teckochecker", *words))
        blocks.append(f"{'##' if len(words) < 2 else '###'} {title}\n\n```text\n{text}\n```\n")
    return "\n".join([_CLI_HEAD, *blocks])


def _below(app: App, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield words
    if app.default_command is None:
        for name in _names(app):
            yield from _below(app[name], (*words, name))


def _names(app: App) -> list[str]:
    """The commands of a group, and not the flags that each group has by itself."""
    flags = {*_HELP, *app.version_flags}
    return [name for name in app if name not in flags]


def _help(app: App, words: Sequence[str]) -> str:
    shown = io.StringIO()
    app.help_print(list(words), console=Console(file=shown, width=COLUMNS, color_system=None))
    return "\n".join(line.rstrip() for line in shown.getvalue().strip("\n").split("\n"))


# The API


def openapi() -> dict[str, Any]:
    """The program's own description, asked for by HTTP in this process."""
    with tempfile.TemporaryDirectory() as folder:
        env = {"SECRET_KEY": _KEY, "LOG_FILE": "-"}
        with closing(assemble(Settings.from_env(env, Path(folder)))) as app:
            digest = hashlib.sha256(_TOKEN.encode()).digest()
            app.store.secrets.replace_token(digest, datetime.now(UTC))
            document: dict[str, Any] = trio.run(_asked, create_web(app))
            return document


async def _asked(web: Any) -> Any:
    headers = {"authorization": f"Bearer {_TOKEN}"}
    transport = httpx.ASGITransport(web)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return (await client.get("/openapi.json", headers=headers)).raise_for_status().json()


def api_reference(document: Mapping[str, Any]) -> str:
    schemas: Mapping[str, Any] = document["components"]["schemas"]
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            tag = operation.get("tags", ["Other"])[0]
            by_tag.setdefault(tag, []).append(_operation(method, path, operation, schemas))
    parts = [_API_HEAD]
    for tag in sorted(by_tag):
        parts += [f"## {tag}\n", *by_tag[tag]]
    tables = [(name, one) for name, one in sorted(schemas.items()) if "enum" not in one]
    return "\n".join([*parts, "## Documents\n", *(_document(*one, schemas) for one in tables)])


def _operation(
    method: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]
) -> str:
    lines = [f"### {method.upper()} {path}", "", operation["summary"]]
    if operation.get("security") == []:
        lines[-1] += " Open: it needs no token."
    if operation["parameters"]:
        rows = [
            (f"`{one['name']}`", one["in"], *_described(one["schema"], schemas, one))
            for one in operation["parameters"]
        ]
        lines += ["", *_table(("parameter", "in", "type", "meaning"), rows)]
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        lines += ["", *_body(media, content["schema"], schemas)]
    rows = [_answer(status, one, schemas) for status, one in operation["responses"].items()]
    return "\n".join([*lines, "", *_table(("answer", "body"), [one for one in rows if one]), ""])


def _body(media: str, schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> list[str]:
    if "$ref" in schema:
        return [f"Body, `{media}`: {_type(schema, schemas)}"]
    return [f"Body, `{media}`:", "", *_fields(schema, schemas)]


def _answer(
    status: str, answer: Mapping[str, Any], schemas: Mapping[str, Any]
) -> tuple[str, str] | None:
    if status == "default":
        return None
    for media, content in answer.get("content", {}).items():
        if "$ref" in content["schema"]:
            return status, _type(content["schema"], schemas)
        return status, f"`{media}`: {answer['description']}"
    return status, "nothing"


def _document(name: str, schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    said = _one_line(schema.get("description", ""))
    head = [f"### {name}", "", *([said, ""] if said else [])]
    return "\n".join([*head, *_fields(schema, schemas), ""])


def _fields(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> list[str]:
    required = schema.get("required", ())
    rows = [
        (f"`{name}`", "yes" if name in required else "", *_described(one, schemas, one))
        for name, one in schema["properties"].items()
    ]
    return _table(("field", "required", "type", "meaning"), rows)


def _described(
    schema: Mapping[str, Any], schemas: Mapping[str, Any], holder: Mapping[str, Any]
) -> tuple[str, str]:
    """Type and meaning; `holder` is the parameter or field, which may tell more."""
    variants = [schema, *schema.get("anyOf", ())]
    words = [one["description"] for one in (holder, *variants) if "description" in one]
    bounds = [
        text.format(_shown(one[key])) for one in variants for key, text in _BOUNDS if key in one
    ]
    sentence = "; ".join(bounds)
    said = [*dict.fromkeys(map(_one_line, words)), *([f"{sentence}."] if sentence else [])]
    return _type(schema, schemas), " ".join(said)


def _type(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        words = schemas[name].get("enum")
        return _words(words) if words else f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return _words(schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one, schemas) for one in schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'], schemas)}"
    if isinstance(schema.get("additionalProperties"), dict) and schema["additionalProperties"]:
        return f"object of {_type(schema['additionalProperties'], schemas)}"
    kinds = schema.get("type", "anything")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    told = {"date-time": "time", "binary": "file"}.get(schema.get("format", ""))
    return told or " or ".join(kinds)


def _words(words: Sequence[object]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _shown(value: object) -> str:
    """A bound as people read it; `|` would end a table's cell."""
    return (value if isinstance(value, str) else json.dumps(value)).replace("|", "\\|")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def main(arguments: Sequence[str], folder: Path = FOLDER) -> int:
    if list(arguments) not in ([], ["--check"]):
        sys.stderr.write(f"Usage: {COMMAND} [--check]\n")
        return 2
    if arguments:
        late = outdated(folder)
        if late:
            sys.stderr.write(f"Out of date: {', '.join(late)}. `{COMMAND}` writes them anew.\n")
        return 1 if late else 0
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in references().items():
        (folder / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

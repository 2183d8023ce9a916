"""`secret`: keys and tokens of the services. Values come in unseen and never come out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import App, Parameter

from teckochecker.cli.client import call, segment
from teckochecker.cli.exits import Exit, Refusal
from teckochecker.cli.input import ValueFile, Yes, confirmed, secret_value
from teckochecker.cli.output import Output, answer, local_time, printable, say, show_table
from teckochecker.cli.rotation import rotate_key

app = App(name="secret", help="Keys and tokens of the services.")
app.command(rotate_key)

SecretName = Annotated[str, Parameter(name="SECRET", help="Id or name.")]


@app.command
def add(
    *,
    name: Annotated[str, Parameter(help="Letters, digits, '_', '.' and '-'.")],
    type: Annotated[str, Parameter(help="openai, keboola or generic.")],  # noqa: A002
    value_file: ValueFile = None,
    output: Output = "table",
) -> int:
    """Store a secret, encrypted. Its value is asked for, piped in, or read from a file.

    Example: teckochecker secret add --name openai-prod --type openai < key.txt
    """
    body = {"name": name, "type": type, "value": secret_value(value_file)}
    reply = call("POST", "/api/admin/secrets", body=body)
    answer(reply.body, output, lambda: say(f"Secret {_named(reply.document())} added."))
    return Exit.OK


@app.command(name="list")
def list_(*, output: Output = "table") -> int:
    """List secrets: never their values.

    Example: teckochecker secret list
    """
    reply = call("GET", "/api/admin/secrets")
    answer(reply.body, output, lambda: _show(reply.document()["secrets"]))
    return Exit.OK


@app.command(name="test")
def try_(
    secret: SecretName,
    /,
    *,
    stack: Annotated[
        str | None, Parameter(help="Keboola stack to ask; else that of a job with this secret.")
    ] = None,
    base_url: Annotated[
        str | None, Parameter(help="OpenAI address to ask; else a job's, else OPENAI_BASE_URL.")
    ] = None,
    output: Output = "table",
) -> int:
    """Ask the service whether it accepts the secret: exit code 0 if so, 1 if not.

    Example: teckochecker secret test keboola-prod --stack https://connection.keboola.com
    """
    given = {"keboola_stack_url": stack, "openai_base_url": base_url}
    body = {name: value for name, value in given.items() if value is not None}
    try:
        reply = call("POST", f"/api/admin/secrets/{segment(secret)}/test", body=body)
    except Refusal as refusal:
        raise _by_option(refusal) from refusal
    found = reply.document()
    answer(reply.body, output, lambda: say(f"{_verdict(found)}: {printable(found['message'])}"))
    return Exit.OK if found["valid"] else Exit.FAILURE


@app.command(name="set")
def set_(secret: SecretName, /, *, value_file: ValueFile = None, output: Output = "table") -> int:
    """Replace the value of a secret; its jobs use the new one from their next check on.

    Example: teckochecker secret set openai-prod --value-file key.txt
    """
    path = f"/api/admin/secrets/{segment(secret)}"
    reply = call("PUT", path, body={"value": secret_value(value_file)})
    answer(reply.body, output, lambda: say(f"Secret {_named(reply.document())} changed."))
    return Exit.OK


@app.command
def delete(secret: SecretName, /, *, yes: Yes = False, output: Output = "table") -> int:
    """Delete a secret that no job uses any more.

    Example: teckochecker secret delete openai-old --yes
    """
    found = call("GET", f"/api/admin/secrets/{segment(secret)}").document()
    if not yes and not confirmed(f"Delete secret {_named(found)}?"):
        return Exit.FAILURE
    call("DELETE", f"/api/admin/secrets/{found['id']}")
    told = {"id": found["id"], "name": found["name"], "deleted": True}
    answer(json.dumps(told).encode(), output, lambda: say(f"Secret {_named(found)} deleted."))
    return Exit.OK


def _by_option(refusal: Refusal) -> Refusal:
    """The same about the options of `test`, which a job's are not called."""
    options = {"keboola_stack_url": "--stack", "openai_base_url": "--base-url"}
    detail = str(refusal)
    for field, option in options.items():
        detail = detail.replace(field, option)
    errors = tuple((options.get(field, field), message) for field, message in refusal.errors)
    return Refusal(refusal.status, refusal.code, detail, errors)


def _named(secret: Mapping[str, Any]) -> str:
    return f"{secret['id']} {secret['name']!r}"


def _verdict(found: Mapping[str, Any]) -> str:
    return "Valid" if found["valid"] else "Not valid"


def _show(secrets: list[dict[str, Any]]) -> None:
    if not secrets:
        say("No secrets yet: `teckochecker secret add --name NAME --type openai` stores one.")
        return
    show_table(
        ("ID", "Name", "Type", "Created", "Last used", "Used by"),
        (
            (
                secret["id"],
                secret["name"],
                secret["type"],
                local_time(secret["created_at"]),
                local_time(secret["last_used_at"]),
                ", ".join(f"{use['kind']} {use['id']} {use['name']}" for use in secret["used_by"]),
            )
            for secret in secrets
        ),
    )

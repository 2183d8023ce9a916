"""`runners`: the images that custom checks run in, on this machine's Docker engine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from cyclopts import App, Parameter

from teckochecker.cli.engine import RUNTIMES, Runtime, sandbox
from teckochecker.cli.exits import Exit
from teckochecker.cli.job_tables import megabytes
from teckochecker.cli.output import Output, answer, local_time, note, printable, say, show_table
from teckochecker.errors import InvalidInput

if TYPE_CHECKING:
    from teckochecker.sandbox import Image

app = App(name="runners", help="The images that custom checks run in.")


@app.command
def build(
    *runtimes: Annotated[Runtime, Parameter(name="RUNTIME", help="Both without one.")],
    base: Annotated[
        tuple[str, ...],
        Parameter(
            name="--base",
            help="RUNTIME=IMAGE to build on: with Python 3.11 and venv, or Node 20 and npm. "
            "May be repeated.",
        ),
    ] = (),
    ca_bundle: Annotated[
        Path | None, Parameter(help="PEM file of authorities that installers and scripts trust.")
    ] = None,
    index_url: Annotated[
        str | None, Parameter(help="Where Python packages come from; every script can read it.")
    ] = None,
    registry: Annotated[
        str | None, Parameter(help="Where Node packages come from; every script can read it.")
    ] = None,
    output: Output = "table",
) -> int:
    """Build the runner images; what the engine says goes to standard error.

    Example: teckochecker runners build

    Example: teckochecker runners build python --ca-bundle company.pem
      --base python=registry.example.com/python:3.11
      --index-url https://packages.example.com/python
    """
    wanted = tuple(dict.fromkeys(runtimes)) or RUNTIMES
    bases = _bases(base, wanted)
    for option, url in (("--index-url", index_url), ("--registry", registry)):
        _refuse_password(option, url)
    box = sandbox()
    made = []
    for runtime in wanted:
        begun = time.monotonic()
        image = box.build(
            runtime,
            bases.get(runtime),
            ca_bundle=ca_bundle,
            index_url=index_url,
            registry=registry,
            progress=_progress(runtime),
        )
        seconds = round(time.monotonic() - begun, 1)
        made.append({"runtime": runtime, "id": image, "seconds": seconds})
    answer(json.dumps({"built": made}).encode(), output, lambda: _say_built(made))
    return Exit.OK


@app.command(name="list")
def list_(*, output: Output = "table") -> int:
    """The runner images, and those with what scripts depend on, prepared from them.

    Example: teckochecker runners list
    """
    found = sorted(sandbox().images(), key=lambda image: (image.instance or "", image.name))
    document = {"images": [_described(image) for image in found]}
    answer(json.dumps(document).encode(), output, lambda: _show(found))
    return Exit.OK


@app.command
def status(*, output: Output = "table") -> int:
    """Whether checks can run: exit code 6 while the engine or an image is missing.

    Example: teckochecker runners status
    """
    box = sandbox()
    missing = {one.what: one.message for one in box.missing()}
    host = box.host()
    document = {
        "engine": host.version,
        "runners": [
            {"runtime": one, "there": one not in missing, "message": missing.get(one)}
            for one in RUNTIMES
        ],
        "prepared": sum(image.instance is not None for image in box.images()),
    }
    answer(json.dumps(document).encode(), output, lambda: _show_status(document))
    return Exit.UNREACHABLE if missing else Exit.OK


@app.command
def prune(*, output: Output = "table") -> int:
    """Remove images that `custom-check run` prepared, but those of the last hour.

    A daemon removes its own once no job needs them. Images in use stay.

    Example: teckochecker runners prune
    """
    removed = sandbox().prune(())
    document = json.dumps({"removed": removed}).encode()
    answer(document, output, lambda: say(f"Images removed: {removed}."))
    return Exit.OK


def _bases(texts: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        runtime, _, image = text.partition("=")
        if runtime not in wanted or not image:
            raise InvalidInput(
                f"--base {text} isn't RUNTIME=IMAGE of a runtime that is built "
                f"({', '.join(wanted)})."
            )
        found[runtime] = image
    return found


def _refuse_password(option: str, url: str | None) -> None:
    if url is not None and urlsplit(url).username is not None:
        raise InvalidInput(
            f"{option} must not hold a user or a password: it is kept in the image, where every "
            f"script can read it."
        )


def _progress(runtime: Runtime) -> Callable[[str], None]:
    return lambda line: note(f"{runtime}: {printable(line)}")


def _say_built(made: Iterable[dict[str, Any]]) -> None:
    for one in made:
        short = one["id"].removeprefix("sha256:")[:12]
        say(f"{one['runtime']}: built in {one['seconds']} s ({short}).")


def _described(image: Image) -> dict[str, Any]:
    at = image.created_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return asdict(image) | {"created_at": at}


def _show(found: list[Image]) -> None:
    if not found:
        say("No runner images yet: `teckochecker runners build` makes them.")
        return
    show_table(
        ("Image", "Runtime", "For", "Made", "Size with its base"),
        (
            (
                image.name,
                image.runtime,
                image.instance or "all",
                local_time(image.created_at.isoformat()),
                megabytes(image.size_bytes),
            )
            for image in found
        ),
    )


def _show_status(document: dict[str, Any]) -> None:
    say(f"The Docker engine {document['engine']} answers.")
    for one in document["runners"]:
        say(one["message"] or f"The image for {one['runtime']} is there.")
    say(f"{document['prepared']} images are prepared with what scripts depend on.")

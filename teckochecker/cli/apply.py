"""`export` and `apply`: jobs as a file, so that a set of them can live in version control.

Everything is looked at before anything is changed: the API itself judges each document, by
one unknown field too many, for which it tells all faults and refuses.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cyclopts import Parameter

from teckochecker.cli import declaration, job_fields
from teckochecker.cli.client import Reply, call, segment
from teckochecker.cli.declaration import CUSTOM_CHECK, POLLING, Entry, Written
from teckochecker.cli.exits import Exit, Refusal
from teckochecker.cli.input import Yes, confirmed
from teckochecker.cli.job_fields import PATHS, Secrets
from teckochecker.cli.output import Output, answer, counted, note, say, show_table
from teckochecker.errors import FieldError, FolderError, InvalidInput, TeckoError

Document = Mapping[str, Any]
Deed = Literal["create", "change", "unchanged", "ended", "delete"]

PAGE: Final = 1000
_KINDS: Final = {POLLING: "polling job", CUSTOM_CHECK: "custom check"}
_JUDGE: Final = "only_judged_by_apply"  # no field of a job, so that the API refuses the document
_SCRIPT_FIELDS: Final = ("script", "script_path")
_LATER: Final = "the script's content"  # in the plan; it is sent as a file


@dataclass(frozen=True, slots=True)
class Script:
    """A local script: its content as the API names it, and a text or an archive to send."""

    sha256: str
    text: str | None = None
    packed: bytes | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done about one job; `fields` is what is sent, `script` what is uploaded."""

    deed: Deed
    entry: Entry
    job_id: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    script: Script | None = None

    def told(self) -> str:
        """The fields that change."""
        names = [*self.fields] if self.deed == "change" else []
        return ", ".join([*names, *([_LATER] if self.deed == "change" and self.script else [])])


def export(
    *,
    output: Annotated[
        Path | None, Parameter(name="--output", help="File to write, instead of printing it.")
    ] = None,
) -> int:
    """Write all jobs that haven't ended as YAML, with secrets by name only.

    The same jobs give the same bytes. A script is in it when it is one small text.

    Example: teckochecker export --output jobs.yaml
    """
    secrets = _secrets()
    text = declaration.write(_written(job, secrets) for job in _open_jobs())
    if output is None:
        say(text.rstrip("\n"))
        return Exit.OK
    try:
        output.write_text(text)
    except OSError as error:
        raise FolderError(f"{output} can't be written ({error.strerror}).") from error
    note(f"Note: written to {output}; without the values of secrets.")
    return Exit.OK


def apply(
    *,
    file: Annotated[
        Path,
        Parameter(
            name=("--file", "-f"),
            help="YAML; `-` reads it from a pipe.",
            allow_leading_hyphen=True,
        ),
    ],
    dry_run: Annotated[bool, Parameter(help="Only tell what would be done.")] = False,
    prune: Annotated[bool, Parameter(help="Delete jobs that the file doesn't name; asks.")] = False,
    yes: Yes = False,
    output: Output = "table",
) -> int:
    """Create and change jobs, so that they are as a file has them.

    Jobs are found by name among those that haven't ended. A field that the file
    leaves out has its default. A job that has ended as the file has it stays ended.
    Nothing is changed unless the whole file is good; applied again, it changes
    nothing.

    Example: teckochecker apply -f jobs.yaml --dry-run
    """
    entries = declaration.read(_content(file))
    steps = _planned(entries, Path() if str(file) == "-" else file.parent)
    steps += _pruned(entries) if prune else []
    if dry_run:
        _show(steps, output, applied=False)
        return Exit.OK
    doomed = [step for step in steps if step.deed == "delete"]
    if (
        doomed
        and not yes
        and not confirmed(f"Delete {counted(len(doomed), 'job')}: {_names(doomed)}?")
    ):
        return Exit.FAILURE
    _do([step for step in steps if step.deed in ("create", "change", "delete")])
    _show(steps, output, applied=True)
    return Exit.OK


# Planning


def _planned(entries: Sequence[Entry], folder: Path) -> list[Step]:
    """What the file asks for; InvalidInput with every fault, and where it stands."""
    secrets = _secrets()
    there = {job["name"]: job for job in _open_jobs()}
    faults: list[FieldError] = []
    steps = []
    for entry in entries:
        found = list(_faults(entry, there.get(entry.name), secrets))
        try:
            script = _script(entry, folder) if not found else None
            step = _step(entry, there.get(entry.name), script, secrets) if not found else None
        except (InvalidInput, FolderError) as error:
            found.append(entry.fault("script", str(error)))
            step = None
        if step is not None:
            steps.append(step)
            found += _judged(step)
        faults += found
    if faults:
        raise InvalidInput("The file can't be applied, and nothing was.", tuple(faults))
    return steps


def _step(entry: Entry, job: Document | None, script: Script | None, secrets: Secrets) -> Step:
    apart = _SCRIPT_FIELDS if entry.kind == CUSTOM_CHECK else ()
    fields = {name: value for name, value in entry.fields.items() if name not in apart}
    wanted = job_fields.of_file(entry.kind, fields, secrets)
    if job is None:
        ended = _ended(entry)
        if ended is not None and not _changes(wanted, ended, script, secrets):
            return Step("ended", entry, ended["id"])
        given = {name: value for name, value in wanted.items() if value is not None}
        return Step("create", entry, None, _with_text(given, script), script)
    changes = _changes(wanted, job, script, secrets)
    if not changes:
        return Step("unchanged", entry, job["id"])
    fresh = script if changes.pop(_LATER, False) else None
    return Step("change", entry, job["id"], _with_text(changes, fresh), fresh)


def _changes(
    wanted: Document, job: Document, script: Script | None, secrets: Secrets
) -> dict[str, Any]:
    found = job_fields.of_job(job["kind"], job, secrets)
    changes = job_fields.differences(wanted, found)
    if script is not None and (job.get("script") or {}).get("sha256") != script.sha256:
        changes[_LATER] = True
    return changes


def _with_text(fields: dict[str, Any], script: Script | None) -> dict[str, Any]:
    return fields if script is None or script.text is None else fields | {"script": script.text}


def _ended(entry: Entry) -> Document | None:
    """The newest job of this name; called when none of that name is open."""
    try:
        return call("GET", f"{PATHS[entry.kind]}/{segment(entry.name)}").document()
    except Refusal as refusal:
        if refusal.status != 404:
            raise
        return None


def _faults(entry: Entry, job: Document | None, secrets: Secrets) -> Iterator[FieldError]:
    """What the API would tell only while it does it."""
    if job is not None and job["kind"] != entry.kind:
        yield entry.fault("name", f"job {job['id']} has it, and is a {_KINDS[job['kind']]}")
    given = {name.removesuffix("_id"): value for name, value in entry.fields.items()}
    for place, wanted, type_ in job_fields.mentions(given):
        name = str(secrets.named(wanted))
        if name not in secrets.types:
            how = "store it with `teckochecker secret add`"
            yield entry.fault(place, f"no secret is named {name!r}: {how}")
        elif type_ is not None and secrets.types[name] != type_:
            yield entry.fault(
                place, f"the secret {name!r} is of type {secrets.types[name]}, not {type_}"
            )


def _judged(step: Step) -> Iterator[FieldError]:
    """The API's faults of what would be sent; it changes nothing, since one is of our making."""
    if step.deed not in ("create", "change"):
        return
    kind = step.entry.kind
    method = "POST" if step.deed == "create" else "PUT"
    path = PATHS[kind] if step.job_id is None else f"{PATHS[kind]}/{step.job_id}"
    try:
        call(method, path, body={_JUDGE: True, **step.fields})
    except Refusal as refusal:
        if _JUDGE not in dict(refusal.errors):
            raise
        for name, message in refusal.errors:
            if name != _JUDGE:
                yield step.entry.fault(name, message)
        return
    raise TeckoError("The API accepted a field that no job has: it isn't one that `apply` knows.")


def _script(entry: Entry, folder: Path) -> Script | None:
    """The content that the entry brings, by a text or a path; None when it brings none."""
    text, path = (entry.fields.get(name) for name in _SCRIPT_FIELDS)
    if entry.kind != CUSTOM_CHECK or (text is None and path is None):
        return None
    if text is not None and path is not None:
        raise InvalidInput("give script or script_path, not both")
    if not isinstance(text if path is None else path, str):
        raise InvalidInput("must be a text")
    if path is not None and entry.fields.get("script_git_url") is not None:
        raise InvalidInput("script_path and script_git_url can't both be given")
    from teckochecker.cli.packing import pack
    from teckochecker.scripts import archive

    default = job_fields.ENTRY_POINTS.get(str(entry.fields.get("script_runtime")), "main.py")
    entrypoint = str(entry.fields.get("script_entrypoint") or default)
    with tempfile.TemporaryDirectory() as name:
        shelf = Path(name)
        if path is None:
            return Script(archive.inline(str(text), shelf, entrypoint=entrypoint).sha256, text=text)
        packed = pack(folder / path, entrypoint=entrypoint)
        (shelf / "packed").write_bytes(packed)
        accepted = archive.accept(shelf / "packed", shelf, entrypoint=entrypoint)
        return Script(accepted.sha256, packed=packed)


def _pruned(entries: Iterable[Entry]) -> list[Step]:
    named = {entry.name for entry in entries}
    return [
        Step("delete", Entry(job["kind"], job["name"], {}), job["id"])
        for job in _open_jobs()
        if job["name"] not in named
    ]


# Doing


def _do(steps: Sequence[Step]) -> None:
    for done, step in enumerate(steps):
        try:
            _done(step)
        except TeckoError:
            note(f"{done} of {len(steps)} jobs are done; apply the file again for the rest.")
            raise


def _done(step: Step) -> None:
    path = PATHS[step.entry.kind]
    if step.deed == "delete":
        call("DELETE", f"{path}/{step.job_id}")
    elif step.deed == "create":
        _create(path, step)
    else:
        if step.fields:
            call("PUT", f"{path}/{step.job_id}", body=step.fields)
        if step.script is not None and step.script.packed is not None:
            upload = {"file": step.script.packed}
            call("POST", f"{path}/{step.job_id}/script/upload", form=upload)


def _create(path: str, step: Step) -> Reply:
    if step.script is None or step.script.packed is None:
        return call("POST", path, body=step.fields)
    config = json.dumps(dict(step.fields))
    return call("POST", path, form={"config": config, "script": step.script.packed})


# Reading and telling


def _open_jobs() -> list[Document]:
    """Those of both kinds that haven't ended, as the API lists them."""
    found: dict[int, Document] = {}
    for status in ("active", "paused"):
        offset = 0
        while True:
            query = {"status": status, "kind": "all", "limit": PAGE, "offset": offset}
            jobs = call("GET", "/api/jobs", query=query).document()["jobs"]
            found |= {job["id"]: job for job in jobs}
            offset += len(jobs)
            if len(jobs) < PAGE:
                break
    return list(found.values())


def _secrets() -> Secrets:
    return Secrets.of(call("GET", "/api/admin/secrets").document())


def _written(job: Document, secrets: Secrets) -> Written:
    kind = str(job["kind"])
    fields = job_fields.declared(kind, job_fields.of_job(kind, job, secrets))
    remarks: tuple[str, ...] = ()
    if kind == CUSTOM_CHECK and job["script_source_type"] == "upload" and job["script"]:
        info = call("GET", f"{PATHS[kind]}/{job['id']}/script/info").document()
        stored = info["metadata"] or {}
        if stored.get("text"):
            fields["script"] = stored["text"]
        else:
            files = job["script"]["files"]
            remarks = (
                f"Its script ({files} files, SHA-256 {job['script']['sha256'][:12]}...) isn't "
                f"here: name its folder with script_path.",
            )
    return Written(Entry(kind, str(job["name"]), fields), remarks)


def _content(file: Path) -> str:
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise FolderError(f"{file} can't be read ({error.strerror}).") from error
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file} isn't UTF-8.") from error


def _show(steps: Sequence[Step], output: str, *, applied: bool) -> None:
    plan = [
        {
            "action": step.deed,
            "kind": step.entry.kind,
            "name": step.entry.name,
            "id": step.job_id,
            "fields": step.told().split(", ") if step.told() else [],
        }
        for step in steps
    ]
    answer(
        json.dumps({"applied": applied, "plan": plan}).encode(), output, lambda: _say_plan(steps)
    )
    if not applied:
        note("Note: a dry run, so nothing was changed.")


def _say_plan(steps: Sequence[Step]) -> None:
    if not steps:
        say("The file names no jobs.")
        return
    words = {POLLING: "job", CUSTOM_CHECK: "custom check"}
    show_table(
        ("Action", "Kind", "Name", "Fields"),
        ((one.deed, words[one.entry.kind], one.entry.name, one.told()) for one in steps),
    )


def _names(steps: Iterable[Step]) -> str:
    return ", ".join(repr(step.entry.name) for step in steps)

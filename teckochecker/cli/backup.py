"""`backup`: database and scripts in one file, and back.

A backup is made beside a running daemon; a restore holds the data, so none may run.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter

from teckochecker.cli import environment, installation
from teckochecker.cli.exits import Exit
from teckochecker.cli.input import Yes, confirmed
from teckochecker.cli.output import (
    Output,
    answer,
    counted,
    local_time,
    note,
    printable,
    say,
    show_fields,
    show_table,
)
from teckochecker.errors import ConfigError, FolderError

if TYPE_CHECKING:
    from teckochecker.backup import Made, Manifest, Unpacked
    from teckochecker.config import Settings

app = App(name="backup", help="Back up database and scripts, and restore them.")

NO_KEY: Final = (
    "SECRET_KEY isn't in it, and without it the secrets can't be read: keep a copy of the key in "
    "another place."
)
AGAIN: Final = (
    "Jobs are back as they were then: one that has ended since is checked, and may trigger, again."
)
BackupPath = Annotated[Path, Parameter(name="PATH", help="File that `backup create` wrote.")]


@app.command
def create(
    path: Annotated[
        Path | None,
        Parameter(name="PATH", help="File to write, or a folder; else `backups` in the home."),
    ] = None,
    /,
    *,
    output: Output = "table",
) -> int:
    """Write database and scripts to one file, while the daemon runs or not.

    It is read back and checked before it gets its name. SECRET_KEY isn't in it.

    Example: teckochecker backup create /mnt/backups/teckochecker.tar.gz
    """
    from teckochecker import backup

    settings, now = environment.settings(), datetime.now(UTC)
    made = backup.create(settings.home, settings.database, _target(path, now), now, _progress())
    document = {
        "path": str(made.path),
        "size_bytes": made.size_bytes,
        **_described(made.manifest),
        "damaged_scripts": made.damaged,
        "holds_key": False,
    }
    answer(json.dumps(document).encode(), output, lambda: _say_made(made))
    for sha256 in made.damaged:
        note(f"Note: the script {sha256} is damaged on the disk and was left out: upload it again.")
    note(f"Note: {NO_KEY}")
    return Exit.OK


@app.command
def restore(path: BackupPath, /, *, yes: Yes = False, output: Output = "table") -> int:
    """Replace database and scripts by those of a backup; the daemon must be stopped.

    The backup is read in full before, and SECRET_KEY must be the one it was made
    with. The database that it replaces is kept in `backups`. It also takes the
    copies there that an upgrade or a restore has made.

    Example: teckochecker backup restore /mnt/backups/teckochecker.tar.gz
    """
    from teckochecker import backup

    settings, now = environment.settings(), datetime.now(UTC)
    with (
        installation.held(settings.home),
        backup.unpacked(path, settings.database.parent, now, _progress()) as found,
    ):
        _refuse_unfit(found, settings)
        if not yes and not confirmed(_question(found, settings)):
            return Exit.FAILURE
        done = backup.restore(found, settings.home, settings.database, now)
        token_fits = _token_fits(found)
    document = {
        "database": str(done.database),
        "replaced": str(done.replaced) if done.replaced else None,
        "scripts": done.scripts,
        "token_fits": token_fits,
    }
    kept = f"; the former one is {done.replaced}" if done.replaced else ""
    answer(
        json.dumps(document).encode(),
        output,
        lambda: say(f"Restored {done.database} with {counted(done.scripts, 'script')}{kept}."),
    )
    note(f"Note: {AGAIN}")
    if not token_fits:
        note("Note: the access token isn't the backup's: `teckochecker token new` makes one.")
    return Exit.OK


@app.command(name="list")
def list_(*, output: Output = "table") -> int:
    """The backups in the home, the newest first; also copies that upgrades and restores made.

    Example: teckochecker backup list
    """
    folder = environment.home() / "backups"
    found = [_listed(file) for file in _files(folder)]
    answer(json.dumps({"backups": found}).encode(), output, lambda: _show(found))
    return Exit.OK


@app.command
def verify(path: BackupPath, /, *, output: Output = "table") -> int:
    """Read a backup in full: checksums, the database's integrity, and whether the key fits.

    Example: teckochecker backup verify /mnt/backups/teckochecker.tar.gz
    """
    from teckochecker import backup

    settings, now = environment.settings(), datetime.now(UTC)
    folder = settings.home / "backups"
    with backup.unpacked(path, folder, now, _progress()) as found:
        unfit = _unfit(found, settings)
    document = {
        "path": str(path),
        "jobs": found.facts.jobs,
        "schema": found.facts.schema,
        "scripts": found.scripts,
        "restorable": unfit is None,
        "reason": unfit,
    }
    pairs = {"State": "good", "Jobs": found.facts.jobs, "Scripts": found.scripts}
    answer(json.dumps(document).encode(), output, lambda: show_fields(pairs.items()))
    if unfit is not None:
        note(f"Note: it is good, and can't be restored here as things are: {unfit}")
    return Exit.OK


def _target(path: Path | None, now: datetime) -> Path:
    from teckochecker import backup

    name = backup.named(backup.PREFIX, now, backup.SUFFIX)
    if path is None:
        return environment.home() / "backups" / name
    path = path.expanduser().absolute()
    if path.is_dir():
        return path / name
    if not path.parent.is_dir():
        raise FolderError(f"The folder {path.parent} doesn't exist: make it first.")
    return path


def _progress() -> Callable[[str], None]:
    """At a terminal every word, else nothing: an answer follows soon, or an error."""
    if sys.stderr.isatty():
        return lambda words: note(f"... {printable(words)}")
    return lambda words: None


def _say_made(made: Made) -> None:
    scripts = counted(made.manifest.scripts, "script")
    say(f"{made.path}: {_size(made.size_bytes)}, the database and {scripts}.")


def _described(manifest: Manifest) -> dict[str, object]:
    return {
        "created_at": _rfc3339(manifest.created_at),
        "version": manifest.version,
        "schema": manifest.schema,
        "scripts": manifest.scripts,
    }


def _refuse_unfit(found: Unpacked, settings: Settings) -> None:
    if (reason := _unfit(found, settings)) is not None:
        raise ConfigError(f"Nothing was changed. {reason}")


def _unfit(found: Unpacked, settings: Settings) -> str | None:
    """Why this installation can't take the backup; None when it can."""
    from teckochecker import backup

    try:
        backup.refuse_unfit(found, settings.secret_key, settings.secret_key_old)
    except ConfigError as error:
        return str(error)
    return None


def _question(found: Unpacked, settings: Settings) -> str:
    made = found.manifest.created_at if found.manifest else None
    when = f" of {local_time(_rfc3339(made))}" if made else ""
    return f"Replace {settings.database} by the backup{when} ({counted(found.facts.jobs, 'job')})?"


def _token_fits(found: Unpacked) -> bool:
    """Whether the token in the home is one that the restored database knows."""
    token = environment.token_in(environment.token_file())
    return hashlib.sha256(token.encode()).digest() in found.facts.tokens


def _files(folder: Path) -> list[Path]:
    from teckochecker import backup

    patterns = (
        f"*{backup.SUFFIX}",
        f"{backup.BEFORE_UPGRADE}*.db",
        f"{backup.BEFORE_RESTORE}*.db",
    )
    found = {file for pattern in patterns for file in folder.glob(pattern)}
    visible = (file for file in found if not file.name.startswith("."))
    return sorted(visible, key=lambda file: (file.stat().st_mtime_ns, file.name), reverse=True)


def _listed(file: Path) -> dict[str, Any]:
    """What is told of a file without reading all of it."""
    from teckochecker import backup

    status = file.stat()
    facts: dict[str, Any] = {"path": str(file), "size_bytes": status.st_size}
    if file.suffix == ".db":
        upgrade = file.name.startswith(backup.BEFORE_UPGRADE)
        kind = "before an upgrade" if upgrade else "before a restore"
        at = datetime.fromtimestamp(status.st_mtime, UTC)
        return facts | {"kind": kind, "created_at": _rfc3339(at)}
    try:
        return facts | {"kind": "backup", **_described(backup.manifest_of(file))}
    except (FolderError, ConfigError) as error:
        return facts | {"kind": "unreadable", "reason": str(error)}


def _show(found: list[dict[str, Any]]) -> None:
    if not found:
        say("No backups here yet: `teckochecker backup create` makes one.")
        return
    show_table(
        ("Made", "Kind", "Size", "Version", "Schema", "Scripts", "File"),
        (_row(one) for one in found),
    )


def _row(one: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        local_time(one.get("created_at")),
        one["kind"],
        _size(one["size_bytes"]),
        *(one.get(name) for name in ("version", "schema", "scripts")),
        one["path"],
    )


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.1f} kB"


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

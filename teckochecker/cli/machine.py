"""Commands about this machine's installation: its folder, settings, token and shell."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import App, Parameter

from teckochecker.cli import envfile, environment, installation
from teckochecker.cli.exits import Exit
from teckochecker.cli.output import Output, answer, say, show_table
from teckochecker.errors import ConfigError, FolderError, InvalidInput

config = App(name="config", help="The settings, and where each comes from.")
tokens = App(name="token", help="The access token of this installation.")

Shell = Literal["bash", "zsh", "fish", "powershell"]
_MASK: Final = "***"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an installation, and what `init` did about it."""

    path: str
    what: str
    state: Literal["made", "exists"]


def init(*, output: Output = "table") -> int:
    """Make the folder, the settings with a fresh key, and the access token.

    It may be run again: it makes what is missing, tells what exists, and changes nothing.

    Example: teckochecker init
    """
    home = environment.home()
    parts = [_folder(home), *_parts(home)]
    document = {"home": str(home), "parts": [asdict(part) for part in parts]}
    answer(_json(document), output, lambda: _show_parts(parts))
    return Exit.OK


@config.command
def show(*, output: Output = "table") -> int:
    """Each setting's value and where it comes from; secrets are masked.

    Example: teckochecker config show
    """
    from teckochecker.config import SETTINGS

    home, layer = environment.home_and_origin()
    hidden = {setting.name for setting in SETTINGS if setting.secret}
    rows = [("TECKOCHECKER_HOME", str(home), layer)]
    for name, origin in environment.origins().items():
        shown = _MASK if name in hidden and origin.text else origin.text
        rows.append((name, shown, origin.layer))
    settings = [{"name": name, "value": value, "source": layer} for name, value, layer in rows]
    answer(
        _json({"settings": settings}), output, lambda: show_table(("Name", "Value", "From"), rows)
    )
    return Exit.OK


@tokens.command
def new(*, output: Output = "table") -> int:
    """Replace the access token: the old one and every session end.

    It needs the daemon stopped, since a running one knows the old token.

    Example: teckochecker token new
    """
    with installation.opened(environment.settings()) as app:
        token, file = _new_token(), environment.token_file()
        envfile.write_private(file, f"{token}\n")
        app.store.secrets.replace_token(_digest(token), app.now())
    answer(
        _json({"path": str(file)}),
        output,
        lambda: say(f"The new token is in {file}; the old one and all sessions have ended."),
    )
    return Exit.OK


def completion(
    shell: Annotated[Shell | None, Parameter(help="Yours (SHELL) where it isn't given.")] = None,
) -> int:
    """Print the script that completes commands and options in a shell.

    To install it, send it to the file that a new bash, zsh or fish reads:
      ~/.local/share/bash-completion/completions/teckochecker
      "${fpath[1]}/_teckochecker"
      ~/.config/fish/completions/teckochecker.fish

    Example: teckochecker completion bash
    """
    from teckochecker.cli.program import program

    wanted: str = shell or environment.shell()
    for known in ("bash", "zsh", "fish", "powershell"):
        if wanted == known:
            say(program().generate_completion(shell=known).rstrip("\n"))
            return Exit.OK
    raise InvalidInput(f"There is no completion for {wanted or 'an unknown shell'}: give --shell.")


def _show_parts(parts: list[Part]) -> None:
    rows = [(part.state, part.path, part.what) for part in parts]
    show_table(("State", "Path", "What"), rows)
    if any(part.state == "made" for part in parts):
        say("Next: store keys with `teckochecker secret add`, then `teckochecker start --detach`.")


def _parts(home: Path) -> list[Part]:
    """The files; where a daemon runs they can be looked at only."""
    files = (environment.settings_file(), environment.token_file())
    if installation.settled(home) is not None and all(file.exists() for file in files):
        return [Part(str(file), "in use by the daemon", "exists") for file in files]
    with installation.held(home):
        return [_settings(), _token()]


def _folder(home: Path) -> Part:
    if home.is_dir():
        return Part(str(home), "folder of the installation", "exists")
    try:
        home.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise FolderError(
            f"The folder {home} can't be made ({error.strerror}): check the rights above it, or "
            f"set TECKOCHECKER_HOME to another place."
        ) from error
    return Part(str(home), "folder of the installation", "made")


def _settings() -> Part:
    """`.env` with a key, unless it or the environment has one.

    A key in `./.env` doesn't count: it may be another program's, and isn't there elsewhere.
    """
    file, has_file = environment.settings_file(), environment.settings_file().exists()
    key = environment.origins()["SECRET_KEY"]
    has_key = bool(key.text) and key.layer.startswith((environment.ENVIRONMENT, str(file)))
    if has_file and has_key:
        return Part(str(file), "settings and SECRET_KEY", "exists")
    made = None if has_key else _new_key()
    if has_file:
        text = envfile.changed(envfile.read(file), {"SECRET_KEY": made})
    else:
        text = envfile.template(made)
    envfile.write_private(file, text)
    what = "SECRET_KEY; keep a copy of it elsewhere" if made else "settings; SECRET_KEY was set"
    return Part(str(file), what, "made")


def _new_key() -> str:
    """A key for a new database; one that exists opens with its own key only."""
    from teckochecker.vault import new_key

    database = environment.settings().database
    if database.exists() and database.stat().st_size:
        raise ConfigError(
            f"The database {database} exists, and its SECRET_KEY is gone: set SECRET_KEY to that "
            f"key, or move the database away to begin anew."
        )
    return new_key()


def _token() -> Part:
    """The token in its file, and its hash in the database."""
    file = environment.token_file()
    with installation.assembled(environment.settings()) as app:
        known = [digest for _, digest in app.store.secrets.tokens()]
        token = environment.token_in(file)
        if token and _digest(token) in known:
            return Part(str(file), "access token", "exists")
        if token and known:
            raise ConfigError(
                f"The token in {file} isn't the one that the database knows: `teckochecker token "
                f"new` makes one that is."
            )
        if not token:
            token = _new_token()
            envfile.write_private(file, f"{token}\n")
        app.store.secrets.replace_token(_digest(token), app.now())
    return Part(str(file), "access token; the command line reads it there", "made")


def _new_token() -> str:
    return f"tck_{secrets.token_urlsafe(32)}"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _json(document: object) -> bytes:
    return json.dumps(document).encode()

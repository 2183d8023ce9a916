"""The only door to the process' environment: the home, the layers of settings, the token.

Settings come from flags, the environment, `$TECKOCHECKER_HOME/.env` and `./.env`, the first
that gives one. `SECRET_KEY_FILE` and `SECRET_KEY_OLD_FILE` name files that hold the value;
relative paths start at the home.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from teckochecker.errors import AccessDenied, ConfigError, FolderError

if TYPE_CHECKING:
    from teckochecker.config import Origin, Settings
    from teckochecker.notify import Notifier

Layer = tuple[str, Mapping[str, str]]
"""Where texts come from, in words for people, and the texts by name."""

ENVIRONMENT: Final = "environment"
_IN_FILES: Final = ("SECRET_KEY", "SECRET_KEY_OLD")


def home() -> Path:
    """The installation's folder, absolute; it need not exist."""
    return home_and_origin()[0]


def home_and_origin() -> tuple[Path, str]:
    """The folder, and the variable that names it or `default`."""
    state_folders = os.environ.get("STATE_DIRECTORY", "")  # of systemd; more than one with colons
    for name, folder in (
        ("TECKOCHECKER_HOME", os.environ.get("TECKOCHECKER_HOME", "")),
        ("STATE_DIRECTORY", state_folders.partition(":")[0]),
    ):
        if folder:
            return Path(folder).expanduser().absolute(), name
    from platformdirs import user_data_dir

    return Path(user_data_dir("teckochecker")), "default"


def settings_file() -> Path:
    return home() / ".env"


def token_file() -> Path:
    return home() / "token"


def url() -> str | None:
    """Where the API is when it isn't this machine's installation."""
    return os.environ.get("TECKOCHECKER_URL", "").strip() or None


def token() -> str:
    """The access token, or AccessDenied that says where one belongs."""
    given = os.environ.get("TECKOCHECKER_TOKEN", "").strip()
    named = os.environ.get("TECKOCHECKER_TOKEN_FILE", "").strip()
    file = home() / named if named else token_file()
    found = given or token_in(file)
    if not found:
        raise AccessDenied(
            f"There is no access token: run `teckochecker init`, which writes it to {file}, or "
            f"set TECKOCHECKER_TOKEN."
        )
    if not (found.isascii() and found.isprintable()):
        raise AccessDenied("The access token holds characters that no token has: set it again.")
    return found


def token_in(file: Path) -> str:
    """The token that a file holds; empty without the file."""
    try:
        return file.read_text(errors="replace").strip().partition("\n")[0].strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise AccessDenied(
            f"The token in {file} can't be read ({error.strerror}): run this as the file's owner, "
            f"or set TECKOCHECKER_TOKEN."
        ) from error


def settings(flags: Mapping[str, str] | None = None) -> Settings:
    """The checked settings; ConfigError names every bad one."""
    from teckochecker.config import Settings

    try:
        return Settings.from_env({n: one.text for n, one in origins(flags).items()}, home())
    except ConfigError as error:
        hint = "`teckochecker config show` tells where each value comes from."
        raise ConfigError(f"{error} {hint}") from error


def origins(flags: Mapping[str, str] | None = None) -> dict[str, Origin]:
    """Each setting's text and the layer that gave it, unchecked."""
    from teckochecker.config import resolve

    return resolve(list(_layers(flags or {})))


def set_here(flags: Mapping[str, str] | None = None) -> list[str]:
    """The settings that a `.env` of the present folder gives, which may be another program's."""
    here = Path(".env").absolute()
    found = origins(flags).items() if here != settings_file() else ()
    return [name for name, one in found if one.layer.startswith(str(here))]


def program() -> list[str]:
    """The command that starts this program again.

    Without `-P` a folder `teckochecker` where the user stands would be taken for it.
    """
    frozen = getattr(sys, "frozen", False)
    return [sys.executable] if frozen else [sys.executable, "-P", "-m", "teckochecker"]


def of_child() -> dict[str, str]:
    """The environment for a second process of this program."""
    return dict(os.environ)


def notifier() -> Notifier:
    """The service manager that wants to hear of this process, if there is one."""
    from teckochecker.notify import Notifier

    return Notifier.from_env(os.environ, os.getpid())


def variable(name: str) -> str | None:
    """A variable that somebody named."""
    return os.environ.get(name)


def shell() -> str:
    """The name of the user's shell, like `bash`; empty when nothing tells."""
    return Path(os.environ.get("SHELL", "")).name


def _layers(flags: Mapping[str, str]) -> Iterator[Layer]:
    yield "flag", flags
    yield from _with_files(ENVIRONMENT, os.environ)
    yield from _with_files(str(settings_file()), _dotenv(settings_file()))
    here = Path(".env")
    if here.exists() and here.absolute() != settings_file():
        yield from _with_files(str(here.absolute()), _dotenv(here))


def _with_files(label: str, texts: Mapping[str, str]) -> Iterator[Layer]:
    """The layer, and behind it the files that it names; a text itself is the stronger one."""
    yield label, texts
    for name in _IN_FILES:
        if file := texts.get(f"{name}_FILE"):
            yield f"{label}, {name}_FILE", {name: _text(home() / file).strip()}


def _dotenv(file: Path) -> dict[str, str]:
    from dotenv import dotenv_values

    try:
        found = dotenv_values(file, interpolate=False)
    except OSError as error:
        raise _unreadable(file, error) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} isn't UTF-8: write it anew as plain text.") from error
    return {name: text for name, text in found.items() if text is not None}


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise _unreadable(file, error) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} isn't UTF-8: write it anew as plain text.") from error


def _unreadable(file: Path, error: OSError) -> FolderError:
    return FolderError(f"{file} can't be read ({error.strerror}): check its owner and rights.")

"""`secret rotate-key`: another SECRET_KEY, without a moment in which a crash could lose a secret.

First both keys stand in `.env`, then one transaction re-encrypts everything, then the old key
goes. Opening a database with both keys set does the middle step by itself, so whatever was
cut off is finished by the next start.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from teckochecker.cli import envfile, environment, installation
from teckochecker.cli.exits import Exit
from teckochecker.cli.output import Output, answer, note, say
from teckochecker.errors import ConfigError

if TYPE_CHECKING:
    from teckochecker.config import Settings

KEY, OLD_KEY = "SECRET_KEY", "SECRET_KEY_OLD"


def rotate_key(*, output: Output = "table") -> int:
    """Change SECRET_KEY and encrypt every secret anew; the daemon must be stopped.

    Where the key isn't in the installation's .env, nothing is changed: two values
    to set in its place are printed, and the next start does the rest.

    Example: teckochecker secret rotate-key
    """
    settings = environment.settings()
    with installation.held(settings.home):
        number = _open_all(settings)
        if environment.origins()[KEY].layer != str(environment.settings_file()):
            return _handed_out(settings, output)
        _rotate(settings)
    answer(
        json.dumps({"secrets": number}).encode(),
        output,
        lambda: say(
            f"SECRET_KEY is changed and {number} secrets are encrypted anew. Keep a copy of the "
            f"new key: {environment.settings_file()}."
        ),
    )
    return Exit.OK


def _open_all(settings: Settings) -> int:
    """How many secrets there are; VaultError for one that the present keys don't open.

    Found out before anything is changed: afterwards it would keep the daemon from starting.
    """
    with installation.assembled(settings) as app:
        return installation.open_all(app)


def _rotate(settings: Settings) -> None:
    old = environment.origins()[OLD_KEY]
    file = environment.settings_file()
    if old.layer not in ("default", str(file)):
        raise ConfigError(
            f"{OLD_KEY} is set in {old.layer}: take it out there, since everything is encrypted "
            f"with {KEY} by now."
        )
    both = _new_pair(settings)
    envfile.write_private(file, envfile.changed(envfile.read(file), both))
    _open_all(environment.settings())
    envfile.write_private(file, envfile.changed(envfile.read(file), {OLD_KEY: None}))


def _new_pair(settings: Settings) -> dict[str, str]:
    from teckochecker.vault import new_key

    return {KEY: new_key(), OLD_KEY: settings.secret_key.reveal()}


def _handed_out(settings: Settings, output: str) -> int:
    layer, pair = environment.origins()[KEY].layer, _new_pair(settings)
    answer(
        json.dumps(pair).encode(),
        output,
        lambda: say("\n".join(f"{name}={value}" for name, value in pair.items())),
    )
    note(
        f"Nothing is changed yet: {KEY} comes from {layer}. Set both values there and start the "
        f"daemon, which encrypts everything anew; take {OLD_KEY} out after that."
    )
    return Exit.OK

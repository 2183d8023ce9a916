"""Settings: every name, its default and its bounds, in one table.

`resolve` is pure: it takes layers of names and texts, strongest first, and tells for each
setting its value and the layer it came from. Reading files and the environment is the
command line's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from teckochecker.addresses import Allowed, parse_url
from teckochecker.domain import Secret
from teckochecker.errors import ConfigError, InvalidInput

LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
DEFAULT_OPENAI_BASE_URL: Final = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class Setting:
    """One name: how its text becomes a value, and what `init` writes beside it."""

    name: str
    default: str
    parse: Callable[[str], Any]
    help: str
    secret: bool = False


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,12}", text):
            raise ValueError(f"must be a whole number from {low} to {high}")
        if not low <= int(text) <= high:
            raise ValueError(f"must be from {low} to {high}")
        return int(text)

    return parse


def _level(text: str) -> str:
    if text.upper() not in LOG_LEVELS:
        raise ValueError(f"must be one of {', '.join(LOG_LEVELS)}")
    return text.upper()


def _database(text: str) -> str:
    """The file's path: `sqlite:///relative.db` or `sqlite:////absolute.db`."""
    if not text.startswith("sqlite:///") or len(text) <= len("sqlite:///"):
        raise ValueError("must be sqlite:///PATH (relative to the home) or sqlite:////PATH")
    return text.removeprefix("sqlite:///")


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(host.strip().lower() for host in text.split(",") if host.strip())
    if not all(re.fullmatch(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]", host) for host in hosts):
        raise ValueError("must be host names with commas between them, without scheme and port")
    return hosts


SETTINGS: Final = (
    Setting("SECRET_KEY", "", Secret, "Encrypts all secrets. Keep a copy elsewhere.", secret=True),
    Setting("SECRET_KEY_OLD", "", Secret, "The key before, while a rotation runs.", secret=True),
    Setting("DATABASE_URL", "sqlite:///teckochecker.db", _database, "SQLite file, in the home."),
    Setting("DEFAULT_POLL_INTERVAL", "120", _integer(1, 86400), "Seconds, for new jobs."),
    Setting("MIN_POLL_INTERVAL", "30", _integer(1, 86400), "Seconds; smallest interval of a job."),
    Setting("MAX_POLL_INTERVAL", "3600", _integer(1, 604800), "Seconds; largest interval."),
    Setting("MAX_RETRIES", "3", _integer(0, 10), "Quick tries of a delivery: after 1, 2, 4 s ..."),
    Setting("RETRY_DELAY", "60", _integer(1, 86400), "Seconds before the first slow try."),
    Setting("API_HOST", "127.0.0.1", str, "Address to listen on."),
    Setting("API_PORT", "8000", _integer(0, 65535), "Port to listen on; 0 takes a free one."),
    Setting("ALLOWED_HOSTS", "", _hosts, "More Host names that requests may carry, with commas."),
    Setting("ALLOWED_PRIVATE_HOSTS", "", Allowed.parse, "Private hosts that jobs may call."),
    Setting("OPENAI_BASE_URL", DEFAULT_OPENAI_BASE_URL, str, "Where batches are asked for."),
    Setting("MAX_CONCURRENT_REQUESTS", "100", _integer(1, 500), "HTTP checks at the same time."),
    Setting("MAX_CONCURRENT_CHECKS", "50", _integer(1, 500), "Containers at the same time."),
    Setting("DOCKER_HOST", "", str, "The Docker engine; unix:///var/run/docker.sock if blank."),
    Setting("DOCKER_TLS_VERIFY", "", str, "Not blank: the engine must show a certificate."),
    Setting("DOCKER_CERT_PATH", "", str, "Folder with ca.pem, cert.pem and key.pem for it."),
    Setting("GIT_CA_BUNDLE", "", str, "PEM file of authorities that git trusts, if not its own."),
    Setting("LOG_RETENTION_DAYS", "30", _integer(1, 3650), "Days that job logs are kept."),
    Setting("LOG_MAX_PER_JOB", "10000", _integer(10, 1000000), "Log entries kept per job."),
    Setting("DRAIN_SECONDS", "25", _integer(0, 3600), "Time for work in flight at a stop."),
    Setting("LOG_LEVEL", "INFO", _level, "DEBUG, INFO, WARNING or ERROR."),
    Setting("LOG_FILE", "teckochecker.log", str, "In the home; '-' writes none."),
)
_DOCKER: Final = ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
NAMES: Final = frozenset(setting.name for setting in SETTINGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Checked settings; names ending in `_s` are seconds. Paths are absolute."""

    home: Path
    secret_key: Secret
    secret_key_old: Secret | None
    database: Path
    default_poll_interval_s: int
    min_poll_interval_s: int
    max_poll_interval_s: int
    max_retries: int
    retry_delay_s: int
    api_host: str
    api_port: int
    allowed_hosts: tuple[str, ...]
    allowed_private_hosts: Allowed
    openai_base_url: str
    max_concurrent_requests: int
    max_concurrent_checks: int
    docker: Mapping[str, str]
    git_ca_bundle: Path | None
    log_retention_days: int
    log_max_per_job: int
    drain_s: int
    log_level: str
    log_file: Path | None

    @classmethod
    def from_env(cls, env: Mapping[str, str], home: Path) -> Settings:
        """The settings that `env` gives; ConfigError names every bad one."""
        values, faults = _parsed(env)
        faults += _contradictions(values)
        if faults:
            raise ConfigError("Settings: " + "; ".join(faults) + ".")
        log_file = values["LOG_FILE"]
        old = values["SECRET_KEY_OLD"]
        return cls(
            home=home,
            secret_key=values["SECRET_KEY"],
            secret_key_old=old if old.reveal() else None,
            database=home / values["DATABASE_URL"],
            default_poll_interval_s=values["DEFAULT_POLL_INTERVAL"],
            min_poll_interval_s=values["MIN_POLL_INTERVAL"],
            max_poll_interval_s=values["MAX_POLL_INTERVAL"],
            max_retries=values["MAX_RETRIES"],
            retry_delay_s=values["RETRY_DELAY"],
            api_host=values["API_HOST"],
            api_port=values["API_PORT"],
            allowed_hosts=values["ALLOWED_HOSTS"],
            allowed_private_hosts=values["ALLOWED_PRIVATE_HOSTS"],
            openai_base_url=values["OPENAI_BASE_URL"],
            max_concurrent_requests=values["MAX_CONCURRENT_REQUESTS"],
            max_concurrent_checks=values["MAX_CONCURRENT_CHECKS"],
            docker={name: values[name] for name in _DOCKER if values[name]},
            git_ca_bundle=home / bundle if (bundle := values["GIT_CA_BUNDLE"]) else None,
            log_retention_days=values["LOG_RETENTION_DAYS"],
            log_max_per_job=values["LOG_MAX_PER_JOB"],
            drain_s=values["DRAIN_SECONDS"],
            log_level=values["LOG_LEVEL"],
            log_file=None if log_file == "-" else home / log_file,
        )

    @property
    def scripts(self) -> Path:
        """The folder of the scripts of custom checks."""
        return self.home / "scripts"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a setting's text came from, for `config show`."""

    text: str
    layer: str


def resolve(layers: Sequence[tuple[str, Mapping[str, str]]]) -> dict[str, Origin]:
    """Each setting's text from the strongest layer that gives one; blank texts give none."""
    found: dict[str, Origin] = {}
    for setting in SETTINGS:
        given = ((layer.get(setting.name, "").strip(), name) for name, layer in layers)
        text, name = next((one for one in given if one[0]), (setting.default, "default"))
        found[setting.name] = Origin(text, name)
    return found


def _parsed(env: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {}
    faults: list[str] = []
    for setting in SETTINGS:
        text = env.get(setting.name) or setting.default
        try:
            values[setting.name] = setting.parse(text)
        except (ValueError, InvalidInput) as error:
            shown = "" if setting.secret else f" (it is {text[:60]!r})"
            faults.append(f"{setting.name} {error}{shown}")
    return values, faults


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    faults: list[str] = []
    low, high = values.get("MIN_POLL_INTERVAL", 0), values.get("MAX_POLL_INTERVAL", 2**31)
    default = values.get("DEFAULT_POLL_INTERVAL", low)
    if low > high:
        faults.append(f"MIN_POLL_INTERVAL ({low}) is above MAX_POLL_INTERVAL ({high})")
    elif not low <= default <= high:
        faults.append(f"DEFAULT_POLL_INTERVAL ({default}) is not within {low} to {high}")
    allowed = values.get("ALLOWED_PRIVATE_HOSTS")
    if allowed is not None:
        try:
            parse_url(values["OPENAI_BASE_URL"], allowed)
        except InvalidInput as error:
            faults.append(f"OPENAI_BASE_URL {error}")
    if "?" in values["OPENAI_BASE_URL"]:
        faults.append("OPENAI_BASE_URL must not have a query: paths are appended to it")
    return faults

"""Settings: their layers, their bounds, and that each of them does something."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import teckochecker
from teckochecker.cli import environment
from teckochecker.config import NAMES, SETTINGS, Origin, Settings, resolve
from teckochecker.errors import ConfigError
from tests.conftest import SECRET_KEY

HOME = Path("/srv/teckochecker")
PACKAGE = Path(teckochecker.__file__).parent
REQUIRED_NAMES = {
    "DATABASE_URL", "SECRET_KEY", "DEFAULT_POLL_INTERVAL", "MIN_POLL_INTERVAL",
    "MAX_POLL_INTERVAL", "MAX_RETRIES", "RETRY_DELAY", "API_HOST", "API_PORT", "LOG_LEVEL",
    "LOG_FILE", "OPENAI_BASE_URL", "ALLOWED_PRIVATE_HOSTS", "MAX_CONCURRENT_REQUESTS",
    "LOG_RETENTION_DAYS", "DRAIN_SECONDS", "ALLOWED_HOSTS",
}  # fmt: skip


def made(**env: str) -> Settings:
    return Settings.from_env({"SECRET_KEY": SECRET_KEY, **env}, HOME)


def complaint(**env: str) -> str:
    with pytest.raises(ConfigError) as refused:
        made(**env)
    return str(refused.value)


# Names and defaults


def test_every_name_of_the_requirements_is_a_setting() -> None:
    assert REQUIRED_NAMES <= NAMES


def test_nothing_needs_to_be_set_but_the_key() -> None:
    settings = made()

    assert settings.database == HOME / "teckochecker.db"
    assert settings.log_file == HOME / "teckochecker.log"
    assert (settings.api_host, settings.api_port) == ("127.0.0.1", 8000)
    assert (
        settings.min_poll_interval_s,
        settings.default_poll_interval_s,
        settings.max_poll_interval_s,
    ) == (30, 120, 3600)
    assert (settings.max_retries, settings.retry_delay_s) == (3, 60)
    assert settings.openai_base_url == "https://api.openai.com/v1"
    assert settings.secret_key_old is None


def test_every_default_is_a_value_that_its_setting_takes() -> None:
    for setting in SETTINGS:
        setting.parse(setting.default)
        assert setting.help.endswith(".")


def test_every_setting_is_used_outside_of_the_table_that_defines_it() -> None:
    sources = {path: path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "config.py"}
    for field in fields(Settings):
        users = [path for path, text in sources.items() if re.search(rf"\.{field.name}\b", text)]
        assert users, f"nobody reads Settings.{field.name}"


def test_reading_settings_touches_neither_files_nor_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_PORT", "9999")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("API_PORT=8888\n")
    before = sorted(tmp_path.iterdir())

    settings = Settings.from_env({"SECRET_KEY": SECRET_KEY}, tmp_path / "home")

    assert settings.api_port == 8000
    assert sorted(tmp_path.iterdir()) == before


def test_a_key_never_shows_itself() -> None:
    assert SECRET_KEY not in repr(made())
    assert SECRET_KEY not in repr(made(SECRET_KEY_OLD=SECRET_KEY))


# Paths


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///data/my.db", HOME / "data/my.db"),
        ("sqlite:///./teckochecker.db", HOME / "teckochecker.db"),
        ("sqlite:////var/lib/t.db", Path("/var/lib/t.db")),
    ],
)
def test_a_relative_path_starts_at_the_home(url: str, path: Path) -> None:
    assert made(DATABASE_URL=url).database == path


def test_a_log_file_may_be_left_out() -> None:
    assert made(LOG_FILE="-").log_file is None
    assert made(LOG_FILE="logs/a.log").log_file == HOME / "logs/a.log"
    assert made(LOG_FILE="/var/log/a.log").log_file == Path("/var/log/a.log")


# Bad values


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("API_PORT", "65536", "0 to 65535"),
        ("API_PORT", "-1", "0 to 65535"),
        ("API_PORT", "80a", "whole number"),
        ("API_PORT", "8000.0", "whole number"),
        ("API_PORT", "٨٠", "whole number"),
        ("API_PORT", "9" * 5000, "whole number"),
        ("MIN_POLL_INTERVAL", "0", "1 to 86400"),
        ("MAX_POLL_INTERVAL", "1e3", "whole number"),
        ("MAX_RETRIES", "11", "0 to 10"),
        ("MAX_RETRIES", "-1", "0 to 10"),
        ("RETRY_DELAY", "0", "1 to 86400"),
        ("MAX_CONCURRENT_REQUESTS", "501", "1 to 500"),
        ("LOG_RETENTION_DAYS", "0", "1 to 3650"),
        ("LOG_LEVEL", "LOUD", "DEBUG, INFO, WARNING, ERROR"),
        ("DATABASE_URL", "postgres://x", "sqlite:///"),
        ("DATABASE_URL", "sqlite:///", "sqlite:///"),
        ("OPENAI_BASE_URL", "ftp://x", "https://"),
        ("OPENAI_BASE_URL", "http://10.0.0.1/v1", "ALLOWED_PRIVATE_HOSTS"),
        ("OPENAI_BASE_URL", "https://user:pw@x.example", "password"),
        ("OPENAI_BASE_URL", "https://x.example/v1?key=1", "query"),
        ("ALLOWED_HOSTS", "https://x.example", "without scheme and port"),
        ("ALLOWED_HOSTS", "a.example, b.example:8000", "without scheme and port"),
        ("ALLOWED_PRIVATE_HOSTS", "a b", "can't be read"),
        ("ALLOWED_PRIVATE_HOSTS", "10.0.0.0/99", "can't be read"),
    ],
)
def test_a_bad_value_is_refused_by_name_with_what_it_may_be(
    name: str, value: str, said: str
) -> None:
    text = complaint(**{name: value})

    assert name in text
    assert said in text
    assert len(text) < 400


def test_all_bad_values_are_told_at_once() -> None:
    text = complaint(API_PORT="x", LOG_LEVEL="y", MAX_RETRIES="z")

    assert all(name in text for name in ("API_PORT", "LOG_LEVEL", "MAX_RETRIES"))


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"MIN_POLL_INTERVAL": "7200"}, "MIN_POLL_INTERVAL (7200) is above MAX_POLL_INTERVAL"),
        ({"MIN_POLL_INTERVAL": "200"}, "DEFAULT_POLL_INTERVAL (120) is not within 200 to 3600"),
        ({"MAX_POLL_INTERVAL": "60"}, "DEFAULT_POLL_INTERVAL (120) is not within 30 to 60"),
        ({"DEFAULT_POLL_INTERVAL": "5"}, "DEFAULT_POLL_INTERVAL (5) is not within 30 to 3600"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(env: dict[str, str], said: str) -> None:
    assert said in complaint(**env)


def test_the_operator_may_lower_the_smallest_interval_to_a_second() -> None:
    assert made(MIN_POLL_INTERVAL="1").min_poll_interval_s == 1


def test_an_openai_on_a_private_host_is_taken_once_that_is_listed() -> None:
    url = "http://llm.internal:8080/v1"

    assert made(OPENAI_BASE_URL=url, ALLOWED_PRIVATE_HOSTS="llm.internal:8080")
    assert "llm.internal:8080" in complaint(OPENAI_BASE_URL=url)


@given(st.dictionaries(st.sampled_from(sorted(NAMES - {"SECRET_KEY"})), st.text(max_size=40)))
def test_any_text_gives_settings_or_a_config_error(env: dict[str, str]) -> None:
    try:
        settings = made(**env)
    except ConfigError:
        return
    low, high = settings.min_poll_interval_s, settings.max_poll_interval_s
    assert low <= settings.default_poll_interval_s <= high


# Layers

LAYERS: list[tuple[str, Mapping[str, str]]] = [
    ("flags", {"API_PORT": "1"}),
    ("environment", {"API_PORT": "2", "API_HOST": "b", "LOG_LEVEL": ""}),
    ("/srv/.env", {"API_PORT": "3", "API_HOST": "c", "LOG_LEVEL": "DEBUG", "OTHER": "x"}),
]


def test_the_strongest_layer_that_gives_a_text_wins() -> None:
    found = resolve(LAYERS)

    assert found["API_PORT"] == Origin("1", "flags")
    assert found["API_HOST"] == Origin("b", "environment")
    assert found["LOG_LEVEL"] == Origin("DEBUG", "/srv/.env")
    assert found["MAX_RETRIES"] == Origin("3", "default")


def test_every_setting_is_resolved_and_nothing_else() -> None:
    assert resolve(LAYERS).keys() == NAMES
    assert resolve([]).keys() == NAMES


def test_blanks_around_a_text_do_not_count() -> None:
    found = resolve([("environment", {"API_PORT": " 8001 ", "API_HOST": "   "})])

    assert found["API_PORT"].text == "8001"
    assert found["API_HOST"] == Origin("127.0.0.1", "default")


def test_what_is_resolved_can_be_read() -> None:
    found = resolve([("flags", {"SECRET_KEY": SECRET_KEY}), *LAYERS[2:]])

    settings = Settings.from_env({name: one.text for name, one in found.items()}, HOME)

    assert (settings.api_port, settings.log_level) == (3, "DEBUG")


def test_what_the_env_file_of_the_present_folder_sets_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    for folder, texts in ((home, "API_PORT=9000\n"), (here, "API_PORT=1\nLOG_LEVEL=DEBUG\n")):
        folder.mkdir()
        (folder / ".env").write_text(texts)
    monkeypatch.setenv("TECKOCHECKER_HOME", str(home))
    monkeypatch.delenv("LOG_LEVEL", raising=False)
    monkeypatch.chdir(here)

    assert environment.set_here() == ["LOG_LEVEL"]

    monkeypatch.chdir(home)
    assert environment.set_here() == []

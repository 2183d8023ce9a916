"""Every released schema becomes the present one, whatever happens meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from teckochecker import scheduler, upkeep
from teckochecker.app import App, assemble
from teckochecker.config import Settings
from teckochecker.simulators import Keboola, OpenAI
from teckochecker.store import Store, copies
from teckochecker.store.schema import COPY_PREFIX, KEPT_COPIES, MIGRATIONS, migrate
from tests.conftest import Api, eventually
from tests.fixtures.__main__ import FOLDER, SIGNING, STATES
from tests.killing import killed_everywhere

FIXTURES = sorted(FOLDER.glob("schema-*.sql"))
Rows = dict[str, list[tuple[Any, ...]]]

every_schema = pytest.mark.parametrize("fixture", FIXTURES, ids=lambda file: file.stem)


def loaded(fixture: Path, target: Path) -> Path:
    """The database that a fixture describes."""
    with opened(target) as connection:
        connection.execute("PRAGMA auto_vacuum = incremental; PRAGMA journal_mode = wal")
        connection.execute(fixture.read_text())
    return target


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    connection = apsw.Connection(str(path))
    try:
        yield connection
    finally:
        connection.close()


def names(path: Path, kind: str) -> list[str]:
    with opened(path) as connection:
        return [
            row[0]
            for row in connection.execute(
                "SELECT name FROM sqlite_schema WHERE type = ? AND name NOT LIKE 'sqlite_%' "
                "ORDER BY name",
                (kind,),
            )
        ]


def columns(path: Path, table: str) -> list[str]:
    with opened(path) as connection:
        return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def rows(path: Path, wanted: dict[str, list[str]]) -> Rows:
    with opened(path) as connection:
        return {
            table: sorted(
                connection.execute(f"SELECT {', '.join(of)} FROM {table}").fetchall(), key=repr
            )
            for table, of in wanted.items()
        }


def everything(path: Path) -> Rows:
    """All rows of all tables and views."""
    parts = [*names(path, "table"), *names(path, "view")]
    return rows(path, {part: columns(path, part) for part in parts})


def migrated(path: Path) -> None:
    Store(path, backups=path.parent / "backups").close()


def test_there_is_a_fixture_of_every_schema_before_this_one() -> None:
    numbers = {int(file.stem.removeprefix("schema-")) for file in FIXTURES}

    assert numbers >= set(range(1, len(MIGRATIONS)))
    assert max(numbers) <= len(MIGRATIONS)


@every_schema
def test_no_row_is_lost_or_changed(fixture: Path, tmp_path: Path) -> None:
    path = loaded(fixture, tmp_path / "t.db")
    wanted = {table: columns(path, table) for table in names(path, "table")}
    before = rows(path, wanted)

    migrated(path)

    assert rows(path, wanted) == before
    assert len(before["jobs"]) >= len(STATES) + 2


@every_schema
def test_it_ends_with_the_schema_of_a_new_database(fixture: Path, tmp_path: Path) -> None:
    migrated(loaded(fixture, tmp_path / "t.db"))
    migrated(tmp_path / "new.db")

    for kind in ("table", "index", "view"):
        assert names(tmp_path / "t.db", kind) == names(tmp_path / "new.db", kind)
    for table in names(tmp_path / "new.db", "table"):
        assert columns(tmp_path / "t.db", table) == columns(tmp_path / "new.db", table)
    with opened(tmp_path / "t.db") as connection:
        assert connection.pragma("auto_vacuum") == 2
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert copies.examined(tmp_path / "t.db").schema == len(MIGRATIONS)


@every_schema
def test_its_views_show_what_they_showed(fixture: Path, tmp_path: Path) -> None:
    path = loaded(fixture, tmp_path / "t.db")
    wanted = {view: columns(path, view) for view in names(path, "view")}
    before = rows(path, wanted)

    migrated(path)

    assert rows(path, wanted) == before
    assert before["polling_jobs"]


@pytest.fixture
def old_app(
    request: pytest.FixtureRequest, make_settings: Callable[..., Settings], openai: OpenAI
) -> Iterator[App]:
    settings = make_settings(OPENAI_BASE_URL=openai.base_url, RETRY_DELAY=86400)
    loaded(request.param, settings.database)
    app = assemble(settings)
    yield app
    app.close()


@pytest.mark.parametrize("old_app", FIXTURES, ids=lambda file: file.stem, indirect=True)
def test_its_secrets_open(old_app: App) -> None:
    found = {
        one.name: old_app.vault.open(old_app.store.secrets.sealed(one.id)).reveal()
        for one in old_app.store.secrets.all()
    }

    assert found["openai-prod"] == "value-of-openai-prod"
    assert found["signing"] == SIGNING


@pytest.mark.parametrize("old_app", FIXTURES, ids=lambda file: file.stem, indirect=True)
async def test_its_jobs_go_on(
    old_app: App, openai: OpenAI, keboola: Keboola, nursery: trio.Nursery
) -> None:
    openai.add("batch_polling", "completed")
    keboola.plan("*", "success")
    api = Api(old_app)
    for name, kind, value in (
        ("openai-prod", "openai", "sk-test-openai-key-1"),
        ("keboola-prod", "keboola", "4711-test-storage-token"),
    ):
        assert (await api("PUT", f"/api/admin/secrets/{name}", {"value": value}))["type"] == kind
    await api("PUT", "/api/jobs/polling", {"keboola_stack_url": keboola.url})
    await nursery.start(scheduler.run, old_app)
    await nursery.start(upkeep.run, old_app)

    await eventually(api, "/api/jobs/polling", lambda job: job["status"] == "completed", 30)

    listed = await api("GET", "/api/jobs?limit=1000")
    assert {job["name"] for job in listed["jobs"]} >= set(STATES)
    assert (await api("POST", "/api/jobs/paused/resume"))["status"] == "active"
    await api.client.aclose()
    nursery.cancel_scope.cancel()


# Crashes and copies


@pytest.mark.slow
@pytest.mark.parametrize(
    "fixture",
    [file for file in FIXTURES if file.stem != f"schema-{len(MIGRATIONS)}"],
    ids=lambda file: file.stem,
)
def test_a_kill_at_any_write_leaves_the_old_database_or_the_new_one(
    fixture: Path, tmp_path: Path
) -> None:
    begin = tmp_path / "begin"
    begin.mkdir()
    old = everything(loaded(fixture, begin / "teckochecker.db"))
    number = int(fixture.stem.removeprefix("schema-"))

    deaths = killed_everywhere("upgrade", tmp_path)

    new = everything(deaths[-1] / "teckochecker.db")
    assert len(deaths) > 20
    for home in deaths:
        path = home / "teckochecker.db"
        with opened(path) as connection:
            have = connection.pragma("user_version")
        assert number <= have <= len(MIGRATIONS)
        if have in (number, len(MIGRATIONS)):
            assert everything(path) == (old if have == number else new)
        for copy in home.glob("backups/*.db"):
            if not copy.name.startswith("."):
                assert copies.examined(copy).schema == number
        migrated(path)
        assert everything(path) == new


def test_only_the_newest_copies_of_upgrades_are_kept(tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    (backups / "mine.db").touch()
    made: list[Path] = []
    for number in range(KEPT_COPIES + 2):
        store = Store(tmp_path / f"{number}.db", backups=backups)
        migrate(store._database, backups, (*MIGRATIONS, lambda database: None))
        store.close()
        made += set(backups.glob(f"{COPY_PREFIX}*")) - set(made)

    assert set(backups.iterdir()) == {*made[-KEPT_COPIES:], backups / "mine.db"}


def test_a_copy_is_its_owners_alone(tmp_path: Path) -> None:
    migrated(tmp_path / "t.db")
    copies.copy(tmp_path / "t.db", tmp_path / "copy.db")

    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    shutil.copy(tmp_path / "copy.db", tmp_path / "again.db")
    assert copies.examined(tmp_path / "again.db").schema == len(MIGRATIONS)

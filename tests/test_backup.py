"""Backups: what is in them, what refuses them, and what a crash leaves behind."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from teckochecker import backup
from teckochecker.backup import archive
from teckochecker.errors import FolderError
from teckochecker.lock import holder
from teckochecker.store import Store, copies
from teckochecker.store.schema import MIGRATIONS
from tests import test_cli
from tests.killing import killed_everywhere, silent
from tests.parts import NOW
from tests.test_cli import JOB, OTHER_KEY, Shell

bare, machine, prepared = test_cli.bare, test_cli.machine, test_cli.prepared
sh, stocked = test_cli.sh, test_cli.stocked


@contextmanager
def database(path: Path) -> Iterator[Any]:
    connection = apsw.Connection(str(path))
    try:
        connection.set_busy_timeout(5000)
        yield connection
    finally:
        connection.close()


def names(shell: Shell) -> set[str]:
    return {job["name"] for job in shell.json("job", "list")["jobs"]}


def on_the_shelf(home: Path, content: bytes) -> Path:
    (home / "scripts").mkdir(exist_ok=True)
    file = home / "scripts" / f"{hashlib.sha256(content).hexdigest()}.tar"
    file.write_bytes(content)
    return file


def made(shell: Shell, name: str = "kept.tar.gz") -> Path:
    path = shell.machine.folder / name
    shell.good("backup", "create", str(path))
    return path


def create_job(shell: Shell, name: str) -> None:
    shell.good("job", "create", f"--name={name}", *JOB)


# Making and restoring


def test_what_was_there_is_there_again(stocked: Shell) -> None:
    home = stocked.machine.home
    create_job(stocked, "before")
    script = on_the_shelf(home, b"a script")
    path = made(stocked)
    create_job(stocked, "after")
    script.unlink()

    done = stocked("backup", "restore", str(path), "--yes", "--output=json")

    assert done.code == 0, done.err
    assert names(stocked) == {"before"}
    assert script.read_bytes() == b"a script"
    assert done.json["scripts"] == 1
    assert done.json["token_fits"] is True
    assert "may trigger, again" in done.err
    replaced = Path(done.json["replaced"])
    with database(replaced) as found:
        assert found.execute("SELECT name FROM jobs ORDER BY id").fetchall() == [
            ("before",),
            ("after",),
        ]
    assert stocked.json("doctor", "--offline")["checks"]
    for file in (path, replaced, home / "teckochecker.db", script):
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


def test_a_restore_is_undone_by_restoring_what_it_replaced(stocked: Shell) -> None:
    path = made(stocked)
    create_job(stocked, "after")
    replaced = stocked.json("backup", "restore", str(path), "--yes")["replaced"]
    assert names(stocked) == set()

    stocked.good("backup", "restore", replaced, "--yes")

    assert names(stocked) == {"after"}


def test_a_database_alone_is_taken_with_its_log_and_stays_as_it_is(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    Store(copy, backups=tmp_path).close()
    copy.chmod(0o444)
    before = copy.read_bytes()
    with backup.unpacked(copy, tmp_path / "into", NOW, silent) as found:
        assert found.manifest is None
        assert (found.folder / "teckochecker.db").read_bytes() == before
        assert stat.S_IMODE((found.folder / "teckochecker.db").stat().st_mode) == 0o600
    copy.chmod(0o600)
    with database(copy) as held:
        held.execute("BEGIN; INSERT INTO meta VALUES ('only in', 'the log'); COMMIT")
        with backup.unpacked(copy, tmp_path / "into", NOW, silent) as found:
            assert found.facts.meta["only in"] == "the log"


def test_the_key_is_not_in_it_and_it_says_so(stocked: Shell) -> None:
    done = stocked.good("backup", "create", "--output=json")
    assert done.json["holds_key"] is False
    assert "SECRET_KEY isn't in it" in done.err
    unpacked = gzip.decompress(Path(done.json["path"]).read_bytes())
    for secret in (stocked.machine.secret_key, stocked.machine.token, test_cli.KEY):
        assert secret.encode() not in unpacked


def test_without_a_path_it_goes_to_the_home_and_into_a_folder_under_its_own_name(
    stocked: Shell,
) -> None:
    one = Path(stocked.json("backup", "create")["path"])
    other = Path(stocked.json("backup", "create", str(stocked.machine.folder))["path"])

    assert one.parent == stocked.machine.home / "backups"
    assert other.parent == stocked.machine.folder
    assert one.name.startswith("teckochecker-20")
    assert one.name.endswith("Z.tar.gz")
    assert list(one.parent.iterdir()) == [one]


def test_it_is_restored_into_an_empty_home_with_the_same_key(stocked: Shell) -> None:
    create_job(stocked, "before")
    path, key = made(stocked), stocked.machine.secret_key
    shutil.rmtree(stocked.machine.home)
    stocked.env(SECRET_KEY=key)

    done = stocked("backup", "restore", str(path), "--yes", "--output=json")

    assert (done.code, done.json["replaced"], done.json["token_fits"]) == (0, None, False)
    assert "`teckochecker token new`" in done.err
    stocked.good("token", "new")
    assert names(stocked) == {"before"}


@pytest.mark.slow
def test_it_is_made_beside_a_busy_daemon_and_not_restored_there(stocked: Shell) -> None:
    create_job(stocked, "before")
    with stocked.machine.started():
        for number in range(3):
            create_job(stocked, f"job{number}")
            stocked.good("backup", "verify", str(made(stocked, f"{number}.tar.gz")))
        kept = stocked.machine.folder / "1.tar.gz"
        refused = stocked("backup", "restore", str(kept), "--yes")
        assert refused.code == 5
        assert "stop it first" in refused.err
        assert len(names(stocked)) == 4
    stocked.good("backup", "restore", str(kept), "--yes")
    assert names(stocked) == {"before", "job0", "job1"}


@pytest.mark.slow
def test_the_log_of_a_killed_daemon_is_kept_and_not_played_into_the_restored_database(
    stocked: Shell,
) -> None:
    path = made(stocked)
    with stocked.machine.started():
        create_job(stocked, "in the log")
        found = holder(stocked.machine.home)
        assert found
        os.kill(found.pid, signal.SIGKILL)
        time.sleep(0.2)
    log = stocked.machine.home / "teckochecker.db-wal"
    assert log.stat().st_size

    replaced = Path(stocked.json("backup", "restore", str(path), "--yes")["replaced"])

    assert not log.exists()
    assert names(stocked) == set()
    with database(replaced) as found_there:
        assert found_there.execute("SELECT name FROM jobs").fetchall() == [("in the log",)]


def test_a_broken_database_can_be_replaced_and_is_kept(stocked: Shell) -> None:
    path = made(stocked)
    broken = stocked.machine.home / "teckochecker.db"
    broken.write_bytes(b"nothing that SQLite knows" * 1000)
    broken.with_name("teckochecker.db-wal").write_bytes(b"a log")

    replaced = Path(stocked.json("backup", "restore", str(path), "--yes")["replaced"])

    assert replaced.read_bytes().startswith(b"nothing that SQLite knows")
    assert replaced.with_name(f"{replaced.name}-wal").read_bytes() == b"a log"
    assert names(stocked) == set()


def test_no_answer_is_no(stocked: Shell) -> None:
    path = made(stocked)
    create_job(stocked, "after")

    done = stocked("backup", "restore", str(path))

    assert done.code == 1
    assert "Nobody is there to answer" in done.err
    assert names(stocked) == {"after"}


def test_a_damaged_script_is_left_out_and_told(stocked: Shell) -> None:
    script = on_the_shelf(stocked.machine.home, b"a script")
    script.write_bytes(b"not that script")

    done = stocked.good("backup", "create", "--output=json")

    assert done.json["damaged_scripts"] == [script.stem]
    assert done.json["scripts"] == 0
    assert f"the script {script.stem} is damaged" in done.err


# Looking


def test_a_list_tells_backups_from_the_copies_of_upgrades_and_restores(stocked: Shell) -> None:
    assert stocked.json("backup", "list") == {"backups": []}
    folder = stocked.machine.home / "backups"
    path = Path(stocked.json("backup", "create")["path"])
    stocked.good("backup", "restore", str(path), "--yes")
    copies.copy(stocked.machine.home / "teckochecker.db", folder / "before-schema-2-from-1-7.db")
    (folder / "odd.tar.gz").write_bytes(b"odd")

    found = stocked.json("backup", "list")["backups"]

    assert sorted(one["kind"] for one in found) == [
        "backup",
        "before a restore",
        "before an upgrade",
        "unreadable",
    ]
    kept = next(one for one in found if one["kind"] == "backup")
    assert (kept["schema"], kept["version"], kept["path"]) == (len(MIGRATIONS), "1.0.0", str(path))
    assert "before a restore" in stocked.good("backup", "list").out


def test_verify_says_what_is_in_it_and_whether_it_can_be_restored_here(stocked: Shell) -> None:
    create_job(stocked, "a")
    path = made(stocked)

    found = stocked.json("backup", "verify", str(path))
    stocked.env(SECRET_KEY=OTHER_KEY)
    unfit = stocked.good("backup", "verify", str(path), "--output=json")

    assert (found["jobs"], found["scripts"], found["restorable"]) == (1, 0, True)
    assert unfit.json["restorable"] is False
    assert "SECRET_KEY isn't the key" in unfit.json["reason"]


# Refusals


def test_an_existing_file_is_never_written_over(stocked: Shell) -> None:
    path = made(stocked)
    before = path.read_bytes()

    assert stocked("backup", "create", str(path)).code == 5

    assert path.read_bytes() == before


def test_what_is_missing_is_told(sh: Shell) -> None:
    assert sh("backup", "verify", "nowhere.tar.gz").code == 3
    assert sh("backup", "restore", "nowhere.tar.gz", "--yes").code == 3
    assert sh("backup", "create", "no/folder/file.tar.gz").code == 74
    (sh.machine.home / "teckochecker.db").unlink()
    assert sh("backup", "create").code == 3


def test_another_key_changes_nothing(stocked: Shell) -> None:
    path = made(stocked)
    create_job(stocked, "after")
    home = stocked.machine.home
    before = (home / "teckochecker.db").read_bytes()
    key = stocked.machine.secret_key
    stocked.env(SECRET_KEY=OTHER_KEY)

    done = stocked("backup", "restore", str(path), "--yes")

    assert done.code == 78
    assert done.err.startswith("Error: Nothing was changed. SECRET_KEY isn't the key")
    assert (home / "teckochecker.db").read_bytes() == before
    assert list((home / "backups").iterdir()) == []
    stocked.env(SECRET_KEY_OLD=key)  # as while a rotation runs
    stocked.good("backup", "restore", str(path), "--yes")


def test_a_newer_schema_is_refused(stocked: Shell) -> None:
    with database(stocked.machine.home / "teckochecker.db") as found:
        found.execute("PRAGMA user_version = 99")
    path = made(stocked)

    done = stocked("backup", "restore", str(path), "--yes")

    assert done.code == 78
    assert "schema 99, this program knows" in done.err


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A backup with a script."""
    home = tmp_path / "made"
    home.mkdir()
    Store(home / "teckochecker.db", backups=home).close()
    on_the_shelf(home, b"a script" * 1000)
    backup.create(home, home / "teckochecker.db", home / "good.tar.gz", NOW, silent)
    return home / "good.tar.gz"


def parts(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def packed(path: Path, members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.type = len(content), kind
            tar.addfile(entry, io.BytesIO(content))
    return path


def listing(members: dict[str, bytes], *names_: str) -> dict[str, bytes]:
    """The members, and a manifest that lists them under these names."""
    manifest = json.loads(members.pop("manifest.json"))
    manifest["members"] = [
        {"name": name, "size_bytes": 1, "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in zip(names_ or members, members.values(), strict=True)
    ]
    return {"manifest.json": json.dumps(manifest).encode(), **members}


def refused(path: Path) -> str:
    """Why a file is no backup; nothing is left of it."""
    folder = path.parent / "into"
    with pytest.raises(FolderError) as error, backup.unpacked(path, folder, NOW, silent):
        raise AssertionError("it was taken")
    assert list(folder.iterdir()) == []
    return str(error.value)


def test_a_backup_cut_off_anywhere_is_refused(good: Path, tmp_path: Path) -> None:
    data = good.read_bytes()
    for size in [*range(0, len(data) - 8, 97), len(data) // 2]:
        cut = tmp_path / "cut.tar.gz"
        cut.write_bytes(data[:size])
        assert "is no good backup" in refused(cut), size


def test_a_changed_byte_is_found(good: Path, tmp_path: Path) -> None:
    members = parts(good)
    for name in members:
        if name == "manifest.json":
            continue
        for at in (0, len(members[name]) // 2, len(members[name]) - 1):
            changed = bytearray(members[name])
            changed[at] ^= 1
            path = packed(tmp_path / "changed.tar.gz", members | {name: bytes(changed)})
            assert f"{name} isn't what it was" in refused(path)


def test_a_damaged_database_is_found_though_its_checksum_fits(good: Path, tmp_path: Path) -> None:
    members = parts(good)
    broken = bytearray(members["teckochecker.db"])
    broken[4096:] = os.urandom(len(broken) - 4096)
    fitting = listing(members | {"teckochecker.db": bytes(broken)})

    assert "finds faults" in refused(packed(tmp_path / "b.tar.gz", fitting))


def test_another_programs_database_is_no_backup(good: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    with database(foreign) as found:
        found.execute("CREATE TABLE t (a); PRAGMA user_version = 1")
    members = parts(good) | {"teckochecker.db": foreign.read_bytes()}

    assert "finds faults" in refused(packed(tmp_path / "b.tar.gz", listing(members)))
    assert "finds faults" in refused(foreign)


@pytest.mark.parametrize(
    "name", ["../evil.db", "/etc/passwd", "scripts/../../x.tar", "scripts/short.tar", "token"]
)
def test_nothing_but_a_database_and_scripts_is_taken(name: str, good: Path, tmp_path: Path) -> None:
    members = parts(good)
    script = next(one for one in members if one.startswith("scripts/"))
    odd = {name if one == script else one: content for one, content in members.items()}

    assert "lists what belongs in no backup" in refused(packed(tmp_path / "b.tar.gz", listing(odd)))
    assert "isn't on its list" in refused(packed(tmp_path / "b.tar.gz", members | {name: b"x"}))


def test_a_member_that_is_missing_twice_or_a_link_is_refused(good: Path, tmp_path: Path) -> None:
    members = parts(good)
    target = tmp_path / "b.tar.gz"
    manifest = {"manifest.json": members["manifest.json"]}

    assert "is missing" in refused(packed(target, manifest))
    assert "begin with a manifest" in refused(packed(target, members, tarfile.SYMTYPE))
    without = {name: content for name, content in members.items() if name != "manifest.json"}
    assert "begin with a manifest" in refused(packed(target, without))
    assert "manifest can't be read" in refused(packed(target, members | {"manifest.json": b"{}"}))
    assert "is no good backup" in refused(packed(target, {}))


def test_a_newer_format_names_the_program_that_made_it(good: Path, tmp_path: Path) -> None:
    members = parts(good)
    manifest = json.loads(members["manifest.json"]) | {"format": archive.FORMAT + 1}
    path = packed(tmp_path / "b.tar.gz", members | {"manifest.json": json.dumps(manifest).encode()})

    with pytest.raises(backup.ConfigError, match=r"made by TeckoChecker 1\.0\.0"):
        backup.manifest_of(path)


# Crashes


def prepared_home(folder: Path, jobs: int) -> Path:
    folder.mkdir(parents=True)
    store = Store(folder / "teckochecker.db", backups=folder)
    store.care.set_meta({f"job{number}": "x" * 100 for number in range(jobs)})
    store.close()
    return folder


def marks(home: Path) -> int:
    facts = copies.examined(home / "teckochecker.db")
    return sum(key.startswith("job") for key in facts.meta)


@pytest.mark.slow
def test_a_kill_while_it_is_made_leaves_a_whole_backup_or_none(tmp_path: Path) -> None:
    home = prepared_home(tmp_path / "begin", 20)
    on_the_shelf(home, b"a script")

    deaths = killed_everywhere("create", tmp_path)

    assert len(deaths) > 20
    for left in deaths:
        assert marks(left) == 20
        if (left / "made.tar.gz").exists():
            with backup.unpacked(left / "made.tar.gz", left, NOW, silent) as found:
                assert found.scripts == 1
    assert (deaths[-1] / "made.tar.gz").exists()


@pytest.mark.slow
def test_a_kill_while_it_is_restored_leaves_the_old_database_or_the_new_one(
    tmp_path: Path,
) -> None:
    kept = prepared_home(tmp_path / "kept", 5)
    script = on_the_shelf(kept, b"a script")
    home = prepared_home(tmp_path / "begin", 20)
    backup.create(kept, kept / "teckochecker.db", home / "kept.tar.gz", NOW, silent)

    deaths = killed_everywhere("restore", tmp_path)

    found = [marks(left) for left in deaths]
    assert set(found) == {5, 20}
    assert found == sorted(found, reverse=True)
    for left, number in zip(deaths, found, strict=True):
        if number == 5:
            assert (left / "scripts" / script.name).read_bytes() == b"a script"
            assert [copies.examined(copy).schema for copy in left.glob("backups/*.db")]
        Store(left / "teckochecker.db", backups=left).close()


def test_what_killed_runs_left_goes_after_a_day(good: Path) -> None:
    home = good.parent
    for name, age_s in ((".new-old", 90_000), (".new-young", 60)):
        folder = home / "backups" / name
        folder.mkdir(parents=True)
        (folder / "teckochecker.db").touch()
        at = NOW.timestamp() - age_s
        os.utime(folder, (at, at))

    backup.create(home, home / "teckochecker.db", home / "again.tar.gz", NOW, silent)

    assert [file.name for file in (home / "backups").iterdir()] == [".new-young"]


def test_a_full_disk_is_told_and_leaves_nothing(good: Path) -> None:
    home = good.parent
    code = (
        "import resource, signal, sys; from pathlib import Path; from tests.killing import create;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); create(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(home)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr.splitlines()[-1].startswith("teckochecker.errors.Store")
    assert not (home / "made.tar.gz").exists()
    assert list((home / "backups").iterdir()) == []


def test_progress_is_told_of_what_is_large(tmp_path: Path) -> None:
    words: list[str] = []
    home = prepared_home(tmp_path / "home", 1)
    script = on_the_shelf(home, bytes(65 * 1024 * 1024))

    backup.create(home, home / "teckochecker.db", home / "b.tar.gz", NOW, words.append)

    assert words[0] == "copying the database"
    assert f"packing scripts/{script.name}: 50 % of 68 MB" in words
    assert words[-1] == f"reading scripts/{script.name}: 100 % of 68 MB"

"""The wheel and the source archive work without the checkout that they were built in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("LICENSE", "README.md", "pyproject.toml", "runners", "teckochecker")
LOOK = """
import json
from importlib import resources

import teckochecker
from teckochecker.store.schema import MIGRATIONS

package = resources.files("teckochecker")
names = [f"runners/{name}" for name in ("python/entry.py", "node/entry.js")]
names += [f"web/static/{file.name}" for file in (package / "web/static").iterdir()]
found = {name: bool((package / name).read_bytes()) for name in names}
print(json.dumps({"at": teckochecker.__file__, "found": found, "migrations": len(MIGRATIONS)}))
"""

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output; nothing of this process' environment that would lead to the checkout."""
    env = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source archive of a copy of the checkout, and a wheel made of that."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "copy"
    copy.mkdir()
    litter = shutil.ignore_patterns("__pycache__", ".*_cache")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, symlinks=True, ignore=litter)
        else:
            shutil.copy(source, copy / name)
    backend = "import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])('..')"
    run(sys.executable, "-c", backend, "build_sdist", cwd=copy)
    (source_archive,) = folder.glob("*.tar.gz")
    with tarfile.open(source_archive) as archive:
        assert not [one.name for one in archive if one.issym() or one.islnk()]
        archive.extractall(folder, filter="data")
    unpacked = folder / source_archive.name.removesuffix(".tar.gz")
    run(sys.executable, "-c", backend, "build_wheel", cwd=unpacked)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; its dependencies are looked up in this one."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    """Tests, caches and this machine's paths have no place in it."""
    with zipfile.ZipFile(wheel) as archive:
        names = {one.filename for one in archive.infolist() if one.file_size}
    held = {name for name in names if name.startswith("teckochecker/")}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "teckochecker"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    files = [name for name in listed if (ROOT / name).is_file() and (ROOT / name).stat().st_size]
    tracked = {name for name in files if not name.endswith("/ruff.toml")}  # for the linter alone
    runners = {f"teckochecker/{path.relative_to(ROOT)}" for path in ROOT.glob("runners/*/*.*")}
    if tracked:  # in a checkout
        assert tracked <= held
        assert {name for name in held - tracked if "/runners/" not in name} == set()
    assert runners <= held
    assert {name.partition("/")[0] for name in names - held} == {
        wheel.name.rpartition("-py3")[0] + ".dist-info"
    }


def test_the_program_of_a_wheel_runs_without_a_checkout(installed: Path, tmp_path: Path) -> None:
    program = installed / "bin" / "teckochecker"
    assert run(program, "--version", cwd=tmp_path) == "teckochecker 1.0.0\n"
    assert "commit    unknown" in run(program, "--version", "-v", cwd=tmp_path)
    run("/usr/bin/env", f"TECKOCHECKER_HOME={tmp_path / 'home'}", program, "init", cwd=tmp_path)


def test_the_files_of_a_wheel_are_found(installed: Path, tmp_path: Path) -> None:
    told = json.loads(run(installed / "bin" / "python", "-c", LOOK, cwd=tmp_path))
    assert Path(told["at"]).is_relative_to(installed)
    assert "web/static/docs.html" in told["found"]
    assert set(told["found"].values()) == {True}
    assert told["migrations"] > 0

"""Collects the licences of everything that the executable holds, from where each came.

Python packages bring theirs in their metadata, the interpreter beside its library, and the
system's shared libraries in their Debian packages. What has none ends the build: it must not
be handed out.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path
from typing import Final

ALWAYS: Final = ("pyinstaller",)  # its loader is in the executable, though no module is
_TEXTS: Final = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS)", re.IGNORECASE)
_RULE: Final = "=" * 80


@dataclass(frozen=True, slots=True)
class Component:
    """Something that others made; `texts` are what must be handed on with it."""

    name: str
    licence: str
    texts: tuple[str, ...]


def document(sources: Iterable[str], root: Path) -> str:
    """One text about all that the files at `sources` belong to, but for the project at `root`.

    PyInstaller names what has no file, such as a namespace, `-`.
    """
    named = {Path(source).resolve() for source in sources if source not in ("", "-")}
    foreign = {path for path in named if not _is_ours(path, root)}
    found = {one.name: one for one in _components(foreign)}
    bare = [one.name for one in found.values() if not one.texts]
    if bare:
        sys.exit(f"No licence is found for {', '.join(sorted(bare))}.")
    chapters = [found[name] for name in sorted(found, key=str.lower)]
    head = "TeckoChecker holds the following works of others, under these licences.\n\n"
    index = "".join(f"  {one.name}: {one.licence}\n" for one in chapters)
    return head + index + "".join(_chapter(one) for one in chapters)


def _components(files: set[Path]) -> Iterator[Component]:
    owners = _owners()
    packages = {owners[path] for path in files if path in owners}
    for name in sorted({*packages, *ALWAYS}):
        yield _package(distribution(name))
    yield _python()
    stdlib = Path(sysconfig.get_path("stdlib")).resolve()
    base = Path(sys.base_prefix).resolve()
    system = {
        path for path in files - owners.keys() if not {stdlib, base}.intersection(path.parents)
    }
    for package in sorted(_debian_packages(system)):
        yield _debian(package)


def _is_ours(path: Path, root: Path) -> bool:
    environment = Path(sys.prefix).resolve()
    return root in path.parents and environment not in path.parents


def _owners() -> dict[Path, str]:
    """Which distribution each installed file belongs to."""
    return {
        Path(str(one.locate_file(file))).resolve(): one.name
        for one in distributions()
        for file in one.files or ()
    }


def _package(found: Distribution) -> Component:
    files = sorted(file for file in found.files or () if _TEXTS.match(file.name))
    texts = tuple(Path(str(found.locate_file(file))).read_text() for file in files)
    about = found.metadata
    classifiers = [
        one.rpartition(" :: ")[2]
        for one in about.get_all("Classifier") or ()
        if one.startswith("License ::")
    ]
    short = "".join(about.get_all("License-Expression") or about.get_all("License") or ())
    licence = short if 0 < len(short) < 60 else ", ".join(classifiers) or "see its text"
    return Component(f"{found.name} {found.version}", licence, texts)


def _python() -> Component:
    text = Path(sysconfig.get_path("stdlib"), "LICENSE.txt").read_text()
    version = ".".join(map(str, sys.version_info[:3]))
    return Component(f"Python {version}", "PSF-2.0 and those of its parts", (text,))


def _debian_packages(files: Iterable[Path]) -> set[str]:
    found = set()
    for path in files:
        said = ""
        if shutil.which("dpkg-query"):
            # The database may know a file by the place where /lib was before it became a link.
            for known in (path, Path("/", *path.parts[2:])):
                asked = ["dpkg-query", "--search", str(known)]
                said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
                if said:
                    break
        if not said:
            sys.exit(f"{path} belongs to no package that is known here: its licence isn't found.")
        found.add(said.partition(":")[0])
    return found


def _debian(package: str) -> Component:
    text = Path("/usr/share/doc", package, "copyright")
    version = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Version}", package],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    texts = (text.read_text(),) if text.exists() else ()
    return Component(f"{package} {version}", "see its text", texts)


def _chapter(one: Component) -> str:
    return f"\n{_RULE}\n{one.name}: {one.licence}\n{_RULE}\n\n" + "\n\n".join(
        text.strip() + "\n" for text in one.texts
    )

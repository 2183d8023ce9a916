"""The arrows of the architecture, read from the imports: core <- edges <- shell <- roots."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import teckochecker

PACKAGE = Path(teckochecker.__file__).parent
NAME = PACKAGE.name
LAYERS = {
    "core": {
        "errors", "domain", "lifecycle", "outbox", "validation", "secret_fields", "config",
        "masking", "addresses", "verdicts",
    },
    "edges": {
        "vault", "store", "http", "network", "scripts", "sandbox", "sources", "actions", "lock",
    },
    "shell": {
        "lanes", "telemetry", "notify", "pulse", "backup", "app", "scheduler", "steps", "reports",
        "upkeep", "trials", "web",
    },
    "roots": {"daemon", "cli", "simulators", "__main__"},
}  # fmt: skip
ORDER = list(LAYERS)
LAYER_OF = {part: layer for layer, parts in LAYERS.items() for part in parts}
# An edge imports no other edge but these.
ALLOWED_EDGES = {
    ("sources", "http"), ("actions", "http"), ("scripts", "http"), ("http", "network"),
    ("scripts", "network"), ("sources", "scripts"), ("sources", "sandbox"),
}  # fmt: skip
# One library, one door.
DOORS = {
    "peewee": {"store"}, "playhouse": {"store"}, "apsw": {"store"}, "sqlite3": set(),
    "cryptography": {"vault"}, "docker": {"sandbox"}, "git": {"scripts"},
    "quart": {"web"}, "quart_schema": {"web"}, "quart_trio": {"web"}, "werkzeug": {"web"},
    "hypercorn": {"daemon"}, "cyclopts": {"cli"}, "rich": {"cli"}, "dotenv": {"cli"},
    "platformdirs": {"cli"}, "yaml": {"cli"},
    "httpx": {"http", "network", "cli"}, "httpcore": {"http", "network"},
    "trio_parallel": {"lanes"}, "prometheus_client": {"telemetry"}, "asyncio": set(),
    "requests": set(), "anyio": set(),
}  # fmt: skip
# What a pure core has no use for.
IMPURE = {
    "os", "io", "socket", "subprocess", "threading", "time", "random", "secrets", "uuid",
    "logging", "structlog", "trio", "tempfile", "shutil", "sqlite3", "asyncio", "ssl", "sys",
}  # fmt: skip


@cache
def trees() -> dict[str, ast.Module]:
    """Every module of the package, by its dotted name without the package's."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__") or "__init__"
        found[name] = ast.parse(path.read_text(), str(path))
    return found


@cache
def imported(tree: ast.Module) -> frozenset[str]:
    """Dotted names of all imported modules, those inside functions too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


@cache
def expressions(tree: ast.Module) -> frozenset[str]:
    """Every name and dotted expression in a module."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Name))
    return frozenset(ast.unparse(node) for node in nodes)


def part_of(module: str) -> str:
    """The part of the package that a dotted name belongs to; '' for the package itself."""
    first = module.partition(".")[0]
    return first if first in LAYER_OF else ""


def ours(tree: ast.Module) -> set[str]:
    """The parts of the package that a module imports."""
    names = [name for name in imported(tree) if name.split(".")[0] == NAME]
    return {part_of(name.removeprefix(NAME).removeprefix(".")) for name in names} - {""}


def test_every_module_has_a_layer() -> None:
    assert [name for name in trees() if name != "__init__" and not part_of(name)] == []


def test_no_arrow_points_outwards() -> None:
    wrong = [
        f"{name} ({LAYER_OF[part_of(name)]}) imports {other} ({LAYER_OF[other]})"
        for name, tree in trees().items()
        if part_of(name)
        for other in ours(tree)
        if ORDER.index(LAYER_OF[other]) > ORDER.index(LAYER_OF[part_of(name)])
    ]

    assert wrong == []


def test_an_edge_imports_no_other_edge() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, tree in trees().items()
        if LAYER_OF.get(part_of(name)) == "edges"
        for other in ours(tree) & LAYERS["edges"]
        if other != part_of(name) and (part_of(name), other) not in ALLOWED_EDGES
    ]

    assert wrong == []


def test_the_simulators_know_nothing_of_the_product() -> None:
    for name, tree in trees().items():
        if part_of(name) == "simulators":
            assert ours(tree) <= {"simulators"}, name


def test_only_roots_start_the_daemon_or_the_command_line() -> None:
    for name, tree in trees().items():
        if part_of(name) not in ("cli", "__main__"):
            assert not ours(tree) & {"cli", "simulators"} - {part_of(name)}, name
            assert not ours(tree) & {"daemon"} - {part_of(name)}, name


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_one_door(library: str) -> None:
    users = {
        part_of(name)
        for name, tree in trees().items()
        for one in imported(tree)
        if one.split(".")[0] == library
    }

    assert users <= DOORS[library]


def test_the_core_is_pure() -> None:
    for name, tree in trees().items():
        if LAYER_OF.get(part_of(name)) == "core":
            used = {one.split(".")[0] for one in imported(tree)}
            assert not used & IMPURE, name
            calls = {node.func.id for node in ast.walk(tree) if is_named_call(node)}
            assert not calls & {"open", "print", "input"}, name


def test_an_edge_is_synchronous() -> None:
    for name, tree in trees().items():
        if LAYER_OF.get(part_of(name)) in ("core", "edges"):
            assert not [one for one in imported(tree) if one.split(".")[0] == "trio"], name
            assert not [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]


def is_named_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def users_of(expression: str) -> set[str]:
    """The parts in whose code an expression like `os.environ` stands."""
    pattern = re.compile(expression)
    return {
        part_of(name)
        for name, tree in trees().items()
        if any(map(pattern.fullmatch, expressions(tree)))
    }


@pytest.mark.parametrize(
    ("expression", "doors"),
    [
        # A command has no engine whose time a test would hold; importing `app` takes it 0.3 s.
        (r"datetime\.(now|utcnow|today)", {"app", "cli"}),
        (r"(date\.today|time\.time|time\.localtime|time\.gmtime)", {"simulators", "cli"}),
        (r"os\.(environ|environb|getenv)", {"cli"}),
        (r"trio\.to_thread(\.run_sync)?", {"lanes"}),
        (r"trio\.from_thread(\.\w+)?", {"lanes"}),
        (r"(os\.fork|os\.system|eval|exec|__import__)", set()),
    ],
)
def test_a_door_to_the_outside_stands_in_one_place(expression: str, doors: set[str]) -> None:
    assert users_of(expression) <= doors


# Handlers

BROAD = {"Exception", "BaseException"}


def handlers(tree: ast.Module) -> Iterator[tuple[ast.ExceptHandler, list[str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            types = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            yield node, [ast.unparse(one) if one else "BaseException" for one in types]


def only_cleans_up(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_any_exception_is_caught_in_one_place_only() -> None:
    broad = [
        name
        for name, tree in trees().items()
        for handler, types in handlers(tree)
        if set(types) & BROAD and not only_cleans_up(handler)
    ]

    assert [name for name in broad if part_of(name) != "simulators"] == ["steps"]


def test_no_handler_lists_more_than_three_types() -> None:
    for name, tree in trees().items():
        for handler, types in handlers(tree):
            assert len(types) <= 3, f"{name}:{handler.lineno}"


def test_nothing_broad_is_suppressed() -> None:
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
                kinds = {ast.unparse(one) for one in node.args}
                assert not kinds & BROAD, f"{name}:{node.lineno}"
                assert len(kinds) <= 3, f"{name}:{node.lineno}"


# State, words and size


def test_no_module_holds_state() -> None:
    """Constants only: nothing at the top of a module is changed by its functions."""
    for name, tree in trees().items():
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)], name


def test_sets_of_status_words_stand_in_the_domain_only() -> None:
    words = {"active", "paused", "completed", "failed"}
    for name, tree in trees().items():
        if part_of(name) in ("domain", "simulators", "cli"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Tuple | ast.Set | ast.List):
                found = {one.value for one in node.elts if isinstance(one, ast.Constant)}
                assert not (found and found <= words), f"{name}:{node.lineno}"


def test_modules_say_why_they_exist() -> None:
    for name, tree in trees().items():
        if tree.body:
            assert ast.get_docstring(tree), name


def test_no_module_is_named_for_nothing() -> None:
    for name in trees():
        last = name.rpartition(".")[2]
        assert last not in {"utils", "util", "helpers", "common", "misc", "base", "manager"}, name

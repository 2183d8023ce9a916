"""The file of declared jobs: YAML in, entries out, and back.

    jobs:
      - name: nightly
        batch_ids: [batch_abc123]
        ...
    custom_checks:
      - name: exports
        script_runtime: python
        script_path: scripts/exports
        ...

Words are read as YAML 1.2 has them: `no` and `on` are texts, `010` and `12:30` too, and a key
stands once in a mapping. Fields have the names of the API.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import yaml

from teckochecker.errors import FieldError, InvalidInput

POLLING, CUSTOM_CHECK = "polling", "custom_check"
SECTIONS: Final = {"jobs": POLLING, "custom_checks": CUSTOM_CHECK}
HEADER: Final = """\
# Jobs of a TeckoChecker: `teckochecker apply -f FILE` creates and changes them as they stand here.
# A field that is left out has its default. Secrets are names, whose values are stored with
# `teckochecker secret add`.
"""
_WIDTH: Final = 100
_MAX_DEPTH: Final = 40  # the API takes 32 within a job
_MAX_VALUES: Final = 1_000_000  # 10,000 jobs have a third of them
_PLAIN: Final = frozenset({"null", "bool", "int", "float", "str", "seq", "map"})
_ODD_BREAK: Final = re.compile("[\r\x85\u2028\u2029]")  # YAML would make line ends of them


@dataclass(frozen=True, slots=True)
class Entry:
    """A declared job: its kind, name, and fields with the name among them."""

    kind: str
    name: str
    fields: Mapping[str, Any]

    def fault(self, field: str, message: str) -> FieldError:
        """A complaint that tells where in the file to look."""
        return FieldError(f"{self.name!r}, {field}", message)


@dataclass(frozen=True, slots=True)
class Written:
    """An entry to be written, and remarks that stand above it."""

    entry: Entry
    remarks: tuple[str, ...] = ()


def read(text: str) -> list[Entry]:
    """The entries of a file; InvalidInput names each fault and where it stands."""
    try:
        document = yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader with fewer words
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        place = f"line {at.line + 1}, column {at.column + 1}: " if at else ""
        raise InvalidInput(f"This isn't YAML: {place}{error.problem}.") from error
    except (yaml.YAMLError, ValueError) as error:  # a number that Python can't read
        raise InvalidInput(f"This isn't YAML: {error}") from error
    except RecursionError as error:
        raise _too_deep() from error
    _refuse_odd(document)
    if not isinstance(document, dict):
        raise InvalidInput("The file must hold `jobs:` or `custom_checks:`, each with a list.")
    faults: list[FieldError] = []
    entries = list(_entries(document, faults))
    faults += _repeated(entries)
    if faults:
        raise InvalidInput("The file can't be applied, and nothing was.", tuple(faults))
    return entries


def write(entries: Iterable[Written]) -> str:
    """The file of these entries, ordered by their names; the same ones give the same bytes."""
    ordered = sorted(entries, key=lambda one: one.entry.name)
    pieces = [HEADER]
    for section, kind in SECTIONS.items():
        found = [one for one in ordered if one.entry.kind == kind]
        if found:
            pieces.append(f"\n{section}:\n" + "\n".join(_text(one) for one in found))
    return "".join(pieces) if len(pieces) > 1 else f"{HEADER}\njobs: []\n"


def _entries(document: Mapping[str, Any], faults: list[FieldError]) -> Iterator[Entry]:
    for section, listed in document.items():
        if section not in SECTIONS:
            faults.append(FieldError(str(section), f"isn't one of {', '.join(SECTIONS)}"))
        elif not isinstance(listed, list | None):
            faults.append(FieldError(section, "must be a list of jobs"))
        else:
            for number, fields in enumerate(listed or (), 1):
                place = f"{section}, number {number}"
                if not isinstance(fields, dict):
                    faults.append(FieldError(place, "must be the fields of a job"))
                elif not isinstance(fields.get("name"), str):
                    faults.append(FieldError(f"{place}, name", "is required, as a text"))
                else:
                    yield Entry(SECTIONS[section], fields["name"], fields)


def _repeated(entries: Iterable[Entry]) -> Iterator[FieldError]:
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            yield entry.fault("name", "stands in this file twice; both kinds of jobs share names")
        seen.add(entry.name)


def _text(one: Written) -> str:
    """An entry as an item of its section's list."""
    text = yaml.dump(
        [dict(one.entry.fields)],
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=_WIDTH,
    )
    lines = [*(f"# {remark}" for remark in one.remarks), *text.rstrip("\n").split("\n")]
    return "".join(f"  {line}\n" if line else "\n" for line in lines)


def _refuse_odd(document: object) -> None:
    """A file may be a stranger's: of a few lines, aliases make gigabytes or what has no end."""
    layer, values = [document], 0
    for _ in range(_MAX_DEPTH):
        values += len(layer)
        if values > _MAX_VALUES:
            raise InvalidInput(f"The file holds more than {_MAX_VALUES} values: split it.")
        for value in layer:
            _refuse_odd_text(value)
        layer = list(islice(_inner(layer), _MAX_VALUES + 1))
    if layer:
        raise _too_deep()


def _inner(layer: Iterable[object]) -> Iterator[object]:
    for value in layer:
        if isinstance(value, dict):
            yield from value
            yield from value.values()
        elif isinstance(value, list):
            yield from value


def _refuse_odd_text(value: object) -> None:
    if not isinstance(value, str):
        return
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("The file holds half a character (a lone surrogate).") from error


def _too_deep() -> InvalidInput:
    return InvalidInput(f"The file is nested deeper than {_MAX_DEPTH} levels.")


def _fault(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Reads plain data only."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # the base class' is not ours
    yaml_constructors = {  # noqa: RUF012
        tag: made
        for tag, made in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in _PLAIN
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        seen: set[str] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise _fault(key, f"the key {name!r} must be a text: put it in quotes")
            if name in seen:
                raise _fault(key, f"the key {name!r} stands here twice")
            seen.add(name)
        return found


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first)
    )


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes lists indented and longer texts as blocks."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, data: object) -> bool:
        return True


def _as_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _ODD_BREAK.search(text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _as_text)

"""The documents: their commands run, their code works, and what they name exists."""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import standardwebhooks

from teckochecker import outbox
from teckochecker.actions.keboola import variables
from teckochecker.actions.webhook import signature
from teckochecker.domain import Event, JobId, Kind, Secret, Verdict
from teckochecker.sandbox import Sandbox
from teckochecker.store import copies
from teckochecker.telemetry import Metrics
from tests import reference
from tests.sandboxed import ENVIRONMENT, now, ready
from tests.test_examples import node
from tests.test_readme import blocks, home, run_document, run_in_order

__all__ = ["home"]  # a fixture

ROOT = Path(__file__).parents[1]
GUIDE, OPERATIONS, SECURITY = (
    ROOT / "docs" / f"{name}.md" for name in ("guide", "operations", "security")
)
DOCUMENTS = sorted((ROOT / "docs").rglob("*.md"))
PROSE = [document for document in DOCUMENTS if document.parent != reference.FOLDER]
SIGNING = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
OTHER = "whsec_" + base64.b64encode(b"another-key-of-some-32-bytes-too").decode()
EVENT = Event(
    id="evt_1",
    job_id=JobId(11),
    job_name="night & day",
    verdict=Verdict.SUCCESS,
    message="Task ä is done",
    data={"looks": 3},
    occurred_at=datetime(2026, 11, 22, tzinfo=UTC),
    execution_time_ms=905,
    job_kind=Kind.CUSTOM_CHECK,
)

_FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_LINK = re.compile(r"\[[^\]]*\]\((?P<to>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_CAPITALS = re.compile(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]\b")
_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+")
_METRIC = re.compile(
    r"(?:teckochecker|custom_check|docker_containers?|script_storage)_\w+"
    r"|webhook_\w+_(?:total|seconds)"
)
_OPTION = re.compile(r"--[a-z][a-z-]*")
_FOLLOWED = re.compile(r"\|\||&&|[|;\n()]")

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
every_prose = pytest.mark.parametrize("document", PROSE, ids=lambda path: path.name)


def fenced(document: Path, kind: str) -> list[str]:
    return [one["text"] for one in _FENCE.finditer(document.read_text()) if one["kind"] == kind]


def words_in_code(document: Path) -> list[str]:
    """The inline code of a document, each on one line."""
    plain = _FENCE.sub("", document.read_text())
    return [" ".join(one.split()) for one in _CODE.findall(plain)]


@functools.cache
def sources() -> str:
    """All that the product consists of, where texts that are cut into parts are whole."""
    folders = ("teckochecker", "runners", "deploy", "examples")
    suffixes = {".py", ".js", ".yml", ".yaml", ".sh", ".service", ""}
    files = [
        path
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and path.suffix in suffixes and "__pycache__" not in path.parts
    ]
    text = "\n".join(path.read_text(errors="replace") for path in files)
    return re.sub(r"[\"']\s*\n\s*f?[\"']", "", text)


# The references


def test_the_references_say_what_the_program_says() -> None:
    """In a process of its own, as whoever writes them has it: see `reference.references`."""
    command = [sys.executable, "-m", "tests.reference", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reference_that_is_out_of_date_is_found(tmp_path: Path) -> None:
    assert reference.main(["--check"], tmp_path) == 1
    assert reference.main([], tmp_path) == 0
    assert reference.main(["--check"], tmp_path) == 0
    (tmp_path / "cli.md").write_text((tmp_path / "cli.md").read_text() + "more\n")
    assert reference.outdated(tmp_path) == ["cli.md"]


# Commands


@every_prose
def test_every_command_block_runs_or_says_why_not(document: Path) -> None:
    assert len(blocks(document)) == len(fenced(document, "sh"))
    assert {one.needs for one in blocks(document)} <= {None, "docker", "curl"}


@pytest.mark.slow
@every_prose
def test_its_commands_work_in_order_in_an_empty_home(
    document: Path, home: Path, tmp_path: Path
) -> None:
    run_document(document, home, tmp_path)


@pytest.mark.slow
@pytest.mark.docker
def test_the_guides_commands_work_with_an_engine(home: Path, tmp_path: Path) -> None:
    ready()
    runnable = [one.text for one in blocks(GUIDE) if not one.not_run]
    try:
        run_in_order(runnable, home, tmp_path, ENVIRONMENT)
    finally:
        instance = copies.examined(home / "teckochecker.db").meta["instance"]
        Sandbox(ENVIRONMENT, instance, lambda: now() + timedelta(hours=2)).prune(())


@functools.cache
def help_of() -> Mapping[tuple[str, ...], str]:
    return reference.commands()


def called(text: str) -> Iterator[list[str]]:
    """The words of each call of the program within a shell's text."""
    joined = text.replace("\\\n", " ")
    for part in _FOLLOWED.split(joined):
        try:
            words = shlex.split(part, comments=True)
        except ValueError:  # a quote that a separator cut
            continue
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words[:1] == ["teckochecker"]:
            yield words[1:]


def faults_of(words: list[str]) -> list[str]:
    """What of a call the program doesn't know."""
    known = help_of()
    chain = max((words[:n] for n in range(len(words) + 1) if tuple(words[:n]) in known), key=len)
    rest = words[len(chain) :]
    is_group = any(other[: len(chain)] == tuple(chain) and other != tuple(chain) for other in known)
    faults = []
    if is_group and rest and not rest[0].startswith("-") and rest[0] != "...":
        faults.append(f"{' '.join(words)}: {rest[0]} is no command")
    text = known[tuple(chain)]
    options = [word.partition("=")[0] for word in rest if re.match(r"-{1,2}[a-z]", word)]
    faults += [f"{' '.join(words)}: {one}" for one in options if one not in text]
    return faults


@every_prose
def test_the_commands_and_options_that_it_names_exist(document: Path) -> None:
    texts = [*fenced(document, "sh"), *fenced(document, "text"), *words_in_code(document)]
    calls = [words for text in texts for words in called(text)]
    assert document == SECURITY or len(calls) > 20
    assert [fault for words in calls for fault in faults_of(words)] == []


@every_prose
def test_an_option_that_stands_alone_is_one_of_some_command(document: Path) -> None:
    alone = {
        option
        for code in words_in_code(document)
        if code.startswith("--")
        for option in _OPTION.findall(code)
    }
    flags_of_npm = {"--no-bin-links", "--ignore-scripts"}
    everything = "\n".join(help_of().values())
    assert [option for option in alone - flags_of_npm if option not in everything] == []


def test_a_command_or_option_that_is_not_there_is_found() -> None:
    (words,) = called("printf x | A=1 teckochecker job list --status active # --nonsense")
    assert faults_of(words) == []
    assert faults_of(["job", "lst"]) == ["job lst: lst is no command"]
    assert faults_of(["job", "list", "--nonsense=1"]) == ["job list --nonsense=1: --nonsense"]


# Names


@every_document
def test_its_links_lead_somewhere(document: Path) -> None:
    broken = []
    for link in _LINK.finditer(_FENCE.sub("", document.read_text())):
        path, _, anchor = link["to"].partition("#")
        if path.startswith("https://"):
            continue
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link["to"])
    assert broken == []


def anchors(document: Path) -> set[str]:
    """The headings of a document as links name them."""
    plain = _FENCE.sub("", document.read_text())
    lower = (heading.lower().strip() for heading in _HEADING.findall(plain))
    return {re.sub(r"[^\w\- ]", "", one).replace(" ", "-") for one in lower}


@every_prose
def test_the_settings_and_variables_that_it_names_exist(document: Path) -> None:
    text = document.read_text()
    own = set(re.findall(r"\b([A-Z][A-Z0-9_]+)=", "\n".join(fenced(document, "sh"))))
    named = set(_CAPITALS.findall(text)) - own
    assert [name for name in named if not re.search(rf"\b{name}\b", sources())] == []


@every_prose
def test_the_fields_and_metrics_that_it_names_exist(document: Path) -> None:
    named = {name for code in words_in_code(document) for name in _NAME.findall(code)}
    ours = set(variables({}, EVENT)) | set(variables({}, replaced(Kind.POLLING)))
    metrics = set(metric_names())
    unknown = [
        name
        for name in sorted(named - ours - metrics)
        if _METRIC.fullmatch(name) or not re.search(rf"\b{name}\b", sources())
    ]
    assert unknown == []


def metric_names() -> Iterator[str]:
    for line in Metrics().exposition().decode().splitlines():
        if line.startswith("# TYPE "):
            yield line.split()[2]


def replaced(kind: Kind) -> Event:
    return msgspec.structs.replace(EVENT, job_kind=kind, data={})


def test_the_messages_that_the_guide_explains_are_the_programs() -> None:
    section = GUIDE.read_text().partition("### What the messages mean")[2].partition("\n## ")[0]
    explained = re.findall(r"^\| `(.+?)`", section, re.MULTILINE)
    assert len(explained) > 20
    pieces = [piece.strip() for message in explained for piece in message.split("…")]
    assert [piece for piece in pieces if piece not in sources()] == []


@every_prose
def test_its_json_is_json(document: Path) -> None:
    for text in fenced(document, "json"):
        assert json.loads(text)


def test_the_payload_of_the_guide_has_the_fields_that_are_sent() -> None:
    shown = next(json.loads(text) for text in fenced(GUIDE, "json") if "event_id" in text)
    sent = json.loads(outbox.body(EVENT))
    assert list(shown) == list(sent)
    assert {name: type(value) for name, value in shown.items()} == {
        name: type(value) for name, value in sent.items()
    }


# The code that verifies signatures


class Request(NamedTuple):
    """A webhook as it arrives, and whether it is one."""

    headers: Mapping[str, str]
    body: str
    good: bool
    secret: str = SIGNING


def signed(body: str, *, secret: str = SIGNING, age_s: int = 0) -> dict[str, str]:
    at = int(time.time()) - age_s
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(at),
        "webhook-signature": signature(Secret(secret), "evt_1", at, body.encode()),
    }


def of_the_public_package(body: str) -> dict[str, str]:
    at = datetime.now(UTC)
    made = standardwebhooks.Webhook(SIGNING).sign("evt_1", at, body)
    return {
        **signed(body),
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": made,
    }


def requests() -> list[Request]:
    body = outbox.body(EVENT).decode()
    right = signed(body)
    two = f"v1,{'A' * 43}= v1a,x {right['webhook-signature']}"
    return [
        Request(right, body, good=True),
        Request(signed(""), "", good=True),
        Request(of_the_public_package(body), body, good=True),
        Request({**right, "webhook-signature": two}, body, good=True),
        Request(signed(body, age_s=290), body, good=True),
        Request(right, body.replace("SUCCESS", "FAILED"), good=False),
        Request(signed(body, secret=OTHER), body, good=False),
        Request({**right, "webhook-id": "evt_2"}, body, good=False),
        Request(signed(body, age_s=400), body, good=False),
        Request(signed(body, age_s=-400), body, good=False),
        Request({**right, "webhook-timestamp": "1700000000"}, body, good=False),
        Request({**right, "webhook-signature": ""}, body, good=False),
        Request({**right, "webhook-signature": "v1,"}, body, good=False),
        Request({}, body, good=False),
    ]


def test_the_guides_python_verifies_signatures() -> None:
    (code,) = fenced(GUIDE, "python")
    names: dict[str, Any] = {}
    exec(compile(code, "guide.md", "exec"), names)  # it is what is tested
    verify: Callable[[str, Mapping[str, str], bytes], str] = names["verify"]
    for one in requests():
        if one.good:
            assert verify(one.secret, one.headers, one.body.encode()) == "evt_1"
        else:
            with pytest.raises(ValueError, match=r"wrong signature|clocks is wrong"):
                verify(one.secret, one.headers, one.body.encode())


def test_the_guides_node_verifies_signatures(tmp_path: Path) -> None:
    (code,) = fenced(GUIDE, "js")
    (tmp_path / "verify.js").write_text(code)
    (tmp_path / "main.js").write_text(
        "const { verify } = require('./verify.js');\n"
        "const said = (one) => {\n"
        "  try { return verify(one.secret, one.headers, Buffer.from(one.body)); }\n"
        "  catch (error) { return error.message; }\n"
        "};\n"
        "const asked = JSON.parse(require('node:fs').readFileSync(0));\n"
        "console.log(JSON.stringify(asked.map(said)));\n"
    )
    asked = requests()
    done = subprocess.run(
        [node(), tmp_path / "main.js"],
        input=json.dumps([one._asdict() for one in asked]),
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    wrong = {"wrong signature", "too old, or one of the clocks is wrong"}
    assert [said == "evt_1" for said in told] == [one.good for one in asked]
    assert {said for said, one in zip(told, asked, strict=True) if not one.good} <= wrong


def test_the_documents_say_nothing_of_one_machine() -> None:
    """No path of a checkout, no address of a private registry."""
    for document in DOCUMENTS:
        assert not re.search(r"/(?:work|root|home/\w)/|\.local\b(?!/)", document.read_text())
        assert str(ROOT) not in document.read_text()

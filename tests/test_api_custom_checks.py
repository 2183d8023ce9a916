"""The API of custom checks: forms and JSON, every field and bound, scripts, secrets, views."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import apsw
import httpx
import jsonschema
import pytest
import standardwebhooks
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from teckochecker.app import App, assemble
from teckochecker.config import Settings
from teckochecker.domain import Execution, Finding, Verdict
from teckochecker.errors import Fault
from teckochecker.scripts import shelf
from teckochecker.simulators import Answer, Keboola, Receiver
from teckochecker.sources.script_fields import MAX_VARIABLE_BYTES
from teckochecker.validation import Fields
from teckochecker.web import create_web, schemas
from teckochecker.web.custom_checks import check_draft
from tests.conftest import TOKEN, Api
from tests.serving import CLOSE, exchange, raw, served, status_of
from tests.states import check

CHECKS = "/api/custom-checks"
GEMINI = f"{CHECKS}/gemini"
MIB = 1024 * 1024
TEXT = 'print(\'{"status": "PENDING"}\')\n'
SIGNING = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
FIELDS = {"name": "gemini", "script_runtime": "python"}
GIT = {**FIELDS, "script_source_type": "git", "script_git_url": "https://git.example/a/b.git"}
DEFAULTS = {
    "kind": "custom_check", "name": "gemini", "status": "active", "phase": "awaiting_script",
    "status_reason": None, "poll_interval_seconds": 120, "trigger_on": "terminal",
    "max_consecutive_errors": None, "script_source_type": "upload", "script_runtime": "python",
    "script_entrypoint": "main.py", "script_git_url": None, "script_git_branch": None,
    "script_git_subfolder": None, "script": None, "check_params": {}, "env_vars": None,
    "timeout_seconds": 300, "resource_limits": {"memory_mb": 512, "cpu_cores": 0.5},
    "network": "open", "webhook_url": None, "webhook_method": "POST", "webhook_headers": None,
    "webhook_query_params": None, "last_check_status": None, "last_check_data": None,
    "last_check_at": None, "next_check_at": None, "completed_at": None, "keboola_job": None,
}  # fmt: skip


def packed(files: Mapping[str, bytes]) -> bytes:
    """A .tgz as `tar czf` makes it."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return made.getvalue()


ARCHIVE = packed({"main.py": TEXT.encode(), "lib/a.txt": b"a"})
Make = Callable[..., Awaitable[dict[str, Any]]]


async def in_json(
    api: Api, fields: dict[str, Any], expect: int = 201, archive: bytes | None = None
) -> Any:
    assert archive is None
    return await api("POST", CHECKS, fields, expect=expect)


async def in_a_form(
    api: Api, fields: dict[str, Any], expect: int = 201, archive: bytes | None = None
) -> Any:
    parts: dict[str, Any] = {"config": (None, json.dumps(fields))}
    if archive is not None:
        parts["script"] = ("check.tgz", archive)
    return await posted(api, CHECKS, parts, expect)


async def posted(api: Api, path: str, parts: Any, expect: int = 200) -> Any:
    answer = await api.client.post(path, files=parts)
    assert answer.status_code == expect, answer.text
    return answer.json()


async def upload(api: Api, archive: bytes, expect: int = 200, name: str = "check.tgz") -> Any:
    return await posted(api, f"{GEMINI}/script/upload", {"file": (name, archive)}, expect)


either = pytest.mark.parametrize("send", [in_json, in_a_form])


def faults(problem: dict[str, Any]) -> dict[str, str]:
    return {one["field"]: one["message"] for one in problem["errors"]}


@pytest.fixture
async def waiting(api: Api) -> Any:
    """A check that has no script yet."""
    return await api("POST", CHECKS, FIELDS, expect=201)


@pytest.fixture
async def scripted(api: Api) -> Any:
    """A check with a script, due at once."""
    return await api("POST", CHECKS, FIELDS | {"script": TEXT}, expect=201)


@pytest.fixture
async def generic(api: Api) -> dict[str, int]:
    """Secrets of type generic, by name."""
    given = {"gemini-key": "AIza-planted-value", "signing": SIGNING, "git-token": "ghp_planted"}
    made = [
        await api(
            "POST",
            "/api/admin/secrets",
            {"name": name, "type": "generic", "value": value},
            expect=201,
        )
        for name, value in given.items()
    ]
    return {one["name"]: one["id"] for one in made}


@pytest.fixture
def receiver() -> Any:
    with Receiver() as simulator:
        yield simulator


# Create


@either
async def test_a_new_check_shows_every_field_with_its_default(
    api: Api, send: Callable[..., Any]
) -> None:
    made = await send(api, FIELDS)

    assert {name: made[name] for name in made.keys() - {"id", "created_at"}} == DEFAULTS


SENT_FIELDS: dict[str, Any] = {
    "name": "gemini",
    "script_source_type": "upload",
    "script_runtime": "node",
    "script_entrypoint": "src/check.js",
    "check_params": {"batch_id": "b1", "n": 3, "deep": {"a": [1, None, True]}},
    "env_vars": {"API_KEY": "secret_ref:gemini-key", "_x1": "plain", "EMPTY": ""},
    "timeout_seconds": 10,
    "resource_limits": {"memory_mb": 64, "cpu_cores": 0.1},
    "network": "none",
    "max_consecutive_errors": 1,
    "webhook_url": "http://127.0.0.1:9/hook",
    "webhook_method": "PATCH",
    "webhook_headers": {"Authorization": "Bearer secret_ref:gemini-key"},
    "webhook_query_params": {"id": "{data.id}"},
    "webhook_timeout_seconds": 5,
    "poll_interval_seconds": 86400,
    "trigger_on": "success",
}


@either
async def test_every_field_that_is_sent_is_kept_and_shown(
    api: Api, generic: dict[str, int], send: Callable[..., Any]
) -> None:
    made = await send(api, SENT_FIELDS | {"webhook_signing_secret": "signing"})

    assert {name: made[name] for name in SENT_FIELDS} == SENT_FIELDS
    assert made["webhook_signing_secret_name"] == "signing"
    assert await api("GET", GEMINI) == made | {"logs": (await api("GET", GEMINI))["logs"]}


EDGES: list[tuple[str, Any]] = [
    ("name", "n" * 255),
    ("script_entrypoint", "e" * 252 + ".py"),
    ("check_params", {"x": "p" * (64 * 1024 - 8)}),
    ("check_params", {f"k{n}": n for n in range(100)}),
    ("env_vars", {"V" * 255: "v"}),
    ("env_vars", {"V": "v" * MAX_VARIABLE_BYTES}),
    ("timeout_seconds", 10),
    ("timeout_seconds", 3600),
    ("resource_limits", {"memory_mb": 64}),
    ("resource_limits", {"memory_mb": 4096, "cpu_cores": os.cpu_count()}),
    ("resource_limits", {}),
    ("poll_interval_seconds", 1),
    ("poll_interval_seconds", 86400),
    ("max_consecutive_errors", 1000),
    ("script", "x"),
    *((name, None) for name in ("script_entrypoint", "env_vars", "timeout_seconds", "network")),
    *((name, None) for name in ("resource_limits", "check_params", "script", "script_git_url")),
    *((name, None) for name in ("max_consecutive_errors", "webhook_url", "trigger_on")),
]


async def test_every_bound_itself_and_null_for_a_default_are_taken(api: Api) -> None:
    for number, (field, value) in enumerate(EDGES):
        fields = {**FIELDS, "name": f"edge {number}", field: value}
        await api("POST", CHECKS, fields, expect=201)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"name": None}, "name", "null"),
    ({"name": ""}, "name", "blank"),
    ({"name": "n" * 256}, "name", "at most 255"),
    ({"name": "a/b"}, "name", "'/'"),
    ({"name": "7"}, "name", "digits"),
    ({"script_runtime": None}, "script_runtime", "null"),
    ({"script_runtime": "ruby"}, "script_runtime", "python, node, not 'ruby'"),
    ({"script_runtime": "Python"}, "script_runtime", "python, node"),
    ({"script_runtime": 3}, "script_runtime", "not a number"),
    ({"script_source_type": "ftp"}, "script_source_type", "upload, git"),
    ({"script_source_type": ["git"]}, "script_source_type", "not a list"),
    ({"script_source_type": "git"}, "script_git_url", "is required"),
    ({"script_entrypoint": ""}, "script_entrypoint", "blank"),
    ({"script_entrypoint": "e" * 256}, "script_entrypoint", "at most 255"),
    ({"script_entrypoint": "../main.py"}, "script_entrypoint", "leads out"),
    ({"script_entrypoint": "/main.py"}, "script_entrypoint", "/"),
    ({"script_entrypoint": "a\\main.py"}, "script_entrypoint", "\\"),
    ({"script_entrypoint": 1}, "script_entrypoint", "must be text"),
    ({"check_params": []}, "check_params", "must be an object, not a list"),
    ({"check_params": "{}"}, "check_params", "must be an object, not text"),
    ({"check_params": {"x": "p" * 64 * 1024}}, "check_params", "at most 65536 bytes"),
    ({"check_params": {f"k{n}": n for n in range(101)}}, "check_params", "at most 100 keys"),
    ({"check_params": {"key": "secret_ref:1"}}, "check_params", "use env_vars"),
    ({"check_params": {"a": [{"b": "x secret_ref:n"}]}}, "check_params", "use env_vars"),
    ({"env_vars": ["A=1"]}, "env_vars", "must be an object"),
    ({"env_vars": {"A": 1}}, "env_vars", "A must be text"),
    ({"env_vars": {"A": None}}, "env_vars", "A must be text"),
    ({"env_vars": {"A-B": "1"}}, "env_vars", "'A-B' isn't a name"),
    ({"env_vars": {"1A": "1"}}, "env_vars", "'1A' isn't a name"),
    ({"env_vars": {"A=B": "1"}}, "env_vars", "isn't a name"),
    ({"env_vars": {"": "1"}}, "env_vars", "blank"),
    ({"env_vars": {"É": "1"}}, "env_vars", "isn't a name"),
    ({"env_vars": {"CHECK_PARAMS": "1"}}, "env_vars", "we set it"),
    ({"env_vars": {"CHECK_NUMBER": "1"}}, "env_vars", "we set it"),
    ({"env_vars": {"PREVIOUS_DATA": "1"}}, "env_vars", "we set it"),
    ({"env_vars": {"A": "v" * (MAX_VARIABLE_BYTES + 1)}}, "env_vars", "at most 122880 bytes"),
    ({"env_vars": {f"V{n}": "" for n in range(101)}}, "env_vars", "at most 100 keys"),
    ({"timeout_seconds": 9}, "timeout_seconds", "from 10 to 3600 seconds, not 9"),
    ({"timeout_seconds": 3601}, "timeout_seconds", "from 10 to 3600 seconds"),
    ({"timeout_seconds": "300"}, "timeout_seconds", "whole number, not text"),
    ({"timeout_seconds": 300.0}, "timeout_seconds", "whole number"),
    ({"timeout_seconds": True}, "timeout_seconds", "not a boolean"),
    ({"resource_limits": 512}, "resource_limits", "must be an object"),
    ({"resource_limits": {"memory_mb": 63}}, "resource_limits.memory_mb", "from 64 to 4096 MB"),
    ({"resource_limits": {"memory_mb": 4097}}, "resource_limits.memory_mb", "64 to 4096"),
    ({"resource_limits": {"memory_mb": 512.5}}, "resource_limits.memory_mb", "whole number"),
    ({"resource_limits": {"cpu_cores": 0.09}}, "resource_limits.cpu_cores", "from 0.1"),
    ({"resource_limits": {"cpu_cores": 10_000}}, "resource_limits.cpu_cores", "from 0.1"),
    ({"resource_limits": {"cpu_cores": "1"}}, "resource_limits.cpu_cores", "must be a number"),
    ({"resource_limits": {"disk_mb": 1}}, "resource_limits.disk_mb", "cpu_cores, memory_mb"),
    ({"network": "host"}, "network", "open, none"),
    ({"network": False}, "network", "open, none"),
    ({"max_consecutive_errors": 0}, "max_consecutive_errors", "from 1 to 1000"),
    ({"max_consecutive_errors": 1001}, "max_consecutive_errors", "from 1 to 1000"),
    ({"max_consecutive_errors": "3"}, "max_consecutive_errors", "whole number"),
    ({"poll_interval_seconds": 0}, "poll_interval_seconds", "from 1 to 86400 seconds"),
    ({"poll_interval_seconds": 86401}, "poll_interval_seconds", "from 1 to 86400 seconds"),
    ({"trigger_on": "always"}, "trigger_on", "success, terminal"),
    ({"script": ""}, "script", "blank"),
    ({"script": ["print()"]}, "script", "must be the script's text"),
    ({"script_git_branch": "main"}, "script_git_branch", "needs script_source_type git"),
    ({"script_git_subfolder": "a"}, "script_git_subfolder", "needs script_source_type git"),
    ({"script_git_secret": "git-token"}, "script_git_secret", "needs script_source_type git"),
    ({"script_git_secret_id": "git-token"}, "script_git_secret_id", "script_source_type git"),
    ({"webhook_method": "POST"}, "webhook_url", "is required"),
    ({"webhook_url": "ftp://a.example"}, "webhook_url", "http"),
    ({"webhook_url": "https://a.example/" + "x" * 500}, "webhook_url", "at most 500"),
    ({"webhook_url": "http://10.0.0.1/"}, "webhook_url", "ALLOWED_PRIVATE_HOSTS"),
    ({"webhook_url": "https://a.example/?t=secret_ref:1"}, "webhook_url", "secret"),
    ({"keboola_variables": {"a": ["secret_ref:1"]}}, "keboola_variables", "a secret"),
    ({"script_path": "/x"}, "script_path", "isn't a field of a job"),
    ({"execution_runtime": "docker"}, "execution_runtime", "isn't a field of a job"),
    ({"batch_id": "batch_a"}, "batch_id", "isn't a field of a job"),
]


@either
async def test_it_refuses_a_bad_field_by_its_name_and_says_what_it_may_be(
    api: Api, generic: dict[str, int], send: Callable[..., Any]
) -> None:
    for changes, field, said in BAD:
        problem = await send(api, FIELDS | changes, 400)
        assert problem["code"] == 1100
        assert said in faults(problem).get(field, ""), (changes, faults(problem))
    assert (await api("GET", CHECKS))["total"] == 0


BAD_WEBHOOKS: list[tuple[dict[str, Any], str, str]] = [
    ({"webhook_method": "HEAD"}, "webhook_method", "POST, GET, PUT, PATCH, DELETE"),
    ({"webhook_method": "post"}, "webhook_method", "POST, GET"),
    ({"webhook_headers": {"A b": "x"}}, "webhook_headers", "isn't a header name"),
    ({"webhook_headers": {"A": 1}}, "webhook_headers", "must be text"),
    ({"webhook_headers": {"Host": "x"}}, "webhook_headers", "we send it"),
    ({"webhook_headers": {"A": "x\ny"}}, "webhook_headers", "line breaks"),
    ({"webhook_query_params": {"a": "secret_ref:1"}}, "webhook_query_params", "in a header"),
    ({"webhook_query_params": {"a": None}}, "webhook_query_params", "must be text"),
    ({"webhook_timeout_seconds": 4}, "webhook_timeout_seconds", "from 5 to 60"),
    ({"webhook_timeout_seconds": 61}, "webhook_timeout_seconds", "from 5 to 60"),
]


async def test_it_refuses_a_bad_field_of_the_webhook(api: Api) -> None:
    webhook = FIELDS | {"webhook_url": "https://a.example/hook"}
    for changes, field, said in BAD_WEBHOOKS:
        problem = await api("POST", CHECKS, webhook | changes, expect=400)
        assert said in faults(problem)[field], changes


BAD_REPOSITORIES: list[tuple[dict[str, Any], str, str]] = [
    ({"script_git_url": "http://git.example/a"}, "script_git_url", "https"),
    ({"script_git_url": "git@git.example:a/b.git"}, "script_git_url", "http"),
    ({"script_git_url": "file:///etc"}, "script_git_url", "http"),
    ({"script_git_url": "https://u:p@git.example/a"}, "script_git_url", "git secret"),
    ({"script_git_url": "https://10.0.0.1/a"}, "script_git_url", "ALLOWED_PRIVATE_HOSTS"),
    ({"script_git_url": "https://169.254.169.254/a"}, "script_git_url", "metadata"),
    ({"script_git_url": "https://git.example/" + "a" * 500}, "script_git_url", "at most 500"),
    (
        {"script_git_url": "https://git.example/secret_ref:1/a"},
        "script_git_url",
        "script_git_secret",
    ),
    ({"script_git_url": "https://git.example/a?b=1"}, "script_git_url", "of the form"),
    ({"script_git_branch": "--upload-pack=x"}, "script_git_branch", "can't be a branch"),
    ({"script_git_branch": "a..b"}, "script_git_branch", "can't be a branch"),
    ({"script_git_branch": "b" * 101}, "script_git_branch", "at most 100"),
    ({"script_git_subfolder": "../x"}, "script_git_subfolder", "leads out"),
    ({"script": TEXT}, "script", "needs script_source_type upload"),
    ({"script_git_secret": "a", "script_git_secret_id": 1}, "script_git_secret_id", "not both"),
]


async def test_it_refuses_a_repository_that_cant_be_fetched(api: Api) -> None:
    for changes, field, said in BAD_REPOSITORIES:
        problem = await api("POST", CHECKS, GIT | changes, expect=400)
        assert said in faults(problem).get(field, ""), (changes, faults(problem))


async def test_a_repository_alone_says_that_the_script_comes_from_it(api: Api) -> None:
    made = await api("POST", CHECKS, FIELDS | {"script_git_url": GIT["script_git_url"]}, expect=201)

    assert (made["script_source_type"], made["script_git_branch"]) == ("git", "main")
    assert (made["phase"], made["script"]) == ("polling", None)


async def test_it_tells_all_faults_at_once_and_what_is_required(api: Api) -> None:
    bad = {"timeout_seconds": 1, "network": "x", "resource_limits": {"a": 1}, "nonsense": 1}

    problem = await api("POST", CHECKS, bad, expect=400)

    assert set(faults(problem)) == {
        "name", "script_runtime", "timeout_seconds", "network", "resource_limits.a", "nonsense",
    }  # fmt: skip


async def test_the_default_entry_point_is_that_of_the_runtime(api: Api) -> None:
    made = await api("POST", CHECKS, FIELDS | {"script_runtime": "node"}, expect=201)

    assert made["script_entrypoint"] == "index.js"


# Forms


async def test_a_form_with_an_archive_makes_a_check_that_is_due_at_once(api: Api) -> None:
    made = await in_a_form(api, FIELDS, archive=ARCHIVE)

    assert made["phase"] == "polling"
    assert made["next_check_at"] == made["created_at"]
    assert made["script"]["files"] == 2
    assert made["script"]["commit"] is None


async def test_the_config_may_come_as_a_file_too(api: Api) -> None:
    parts = {"config": ("config.json", json.dumps(FIELDS)), "script": ("s.TAR.GZ", ARCHIVE)}

    assert (await posted(api, CHECKS, parts, 201))["script"]["files"] == 2


def form(*parts: bytes, end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + end


NAMED = b'Content-Disposition: form-data; name="%b"\r\n\r\n%b'
CONFIG = NAMED % (b"config", json.dumps(FIELDS).encode())
BAD_FORMS: list[tuple[str, bytes, str]] = [
    ("nothing", b"", "isn't a form"),
    ("garbage", b"\xff\x00 garbage", "isn't a form"),
    ("no end", form(CONFIG, end=b""), "isn't a form"),
    ("no part", b"--x--\r\n", "config is required"),
    ("a part without a disposition", form(b"\r\n\r\n{}"), "isn't a form"),
    ("a part without a name", form(b"Content-Disposition: form-data\r\n\r\n{}"), "isn't a part"),
    ("another part", form(CONFIG, NAMED % (b"Config", b"{}")), "Config isn't a part"),
    ("the part of the upload", form(CONFIG, NAMED % (b"file", b"x")), "known are config, script"),
    ("the config twice", form(CONFIG, CONFIG), "config must not be given twice"),
    ("a script without its name", form(CONFIG, NAMED % (b"script", b"x")), "must be a file"),
    ("no config", form(NAMED % (b"script", b"x")), "config is required"),
    ("a config that isn't JSON", form(NAMED % (b"config", b"{name}")), "valid JSON"),
    ("a config that is a list", form(NAMED % (b"config", b"[]")), "JSON object"),
    ("a config with a key twice", form(NAMED % (b"config", b'{"a":1,"a":1}')), "twice"),
    ("a config of other bytes", form(NAMED % (b"config", b'{"name": "\xff"}')), "UTF-8"),
    ("two thousand parts", form(*[NAMED % (b"p%d" % n, b"") for n in range(2000)]), "isn't a part"),
]


@pytest.mark.parametrize(("body", "said"), [one[1:] for one in BAD_FORMS], ids=[
    one[0] for one in BAD_FORMS
])  # fmt: skip
async def test_it_refuses_a_bad_form(api: Api, body: bytes, said: str) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}

    answer = await api.client.post(CHECKS, content=body, headers=headers)

    assert answer.status_code == 400, answer.text
    assert said in answer.json()["detail"]
    assert len(answer.content) < 2000


async def test_a_form_without_a_boundary_is_refused(api: Api) -> None:
    for media in ("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data;;"):
        answer = await api.client.post(
            CHECKS, content=form(CONFIG), headers={"content-type": media}
        )
        assert answer.status_code == 400, answer.text


async def test_it_refuses_an_archive_beside_another_way_to_get_the_script(api: Api) -> None:
    for changes, said in (
        ({"script": TEXT}, "send one of them"),
        ({"script_git_url": "https://git.example/a"}, "script_git_url"),
        ({"script_source_type": "git"}, "script_git_url"),
    ):
        problem = await in_a_form(api, FIELDS | changes, 400, ARCHIVE)
        assert said in problem["detail"]


async def test_it_reads_other_media_types_neither_as_json_nor_as_a_form(api: Api) -> None:
    for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/mixed", ""):
        answer = await api.client.post(CHECKS, content=b"{}", headers={"content-type": media})
        assert (answer.status_code, answer.json()["code"]) == (415, 1100), media


@pytest.mark.parametrize("name", ["check.zip", "check.tar", "check.tgz.exe", "tgz"])
async def test_an_archive_must_be_named_like_one(api: Api, waiting: Any, name: str) -> None:
    problem = await upload(api, ARCHIVE, 400, name)

    assert ".tgz or .tar.gz" in faults(problem)["file"]


# Scripts


async def test_a_script_as_one_text_is_stored_and_shown(api: Api, scripted: Any) -> None:
    assert scripted["phase"] == "polling"
    assert scripted["next_check_at"] == scripted["created_at"]

    info = await api("GET", f"{GEMINI}/script/info")

    assert info["metadata"]["text"] == TEXT
    assert info["metadata"]["files"] == [{"path": "main.py", "size_bytes": len(TEXT)}]


async def test_a_check_without_a_script_says_what_it_waits_for(api: Api, waiting: Any) -> None:
    refused = await api("POST", f"{GEMINI}/trigger", expect=409)

    assert refused["code"] == 1005
    assert "upload it" in refused["detail"]
    assert (await api("POST", f"{GEMINI}/pause"))["phase"] is None
    assert (await api("POST", f"{GEMINI}/resume"))["phase"] == "awaiting_script"


async def test_an_upload_makes_a_waiting_check_due(api: Api, waiting: Any) -> None:
    stored = await upload(api, ARCHIVE)

    assert stored.keys() == {"message", "path", "sha256", "size_bytes"}
    assert stored["path"] == f"scripts/{stored['sha256']}.tar"
    job = await api("GET", GEMINI)
    assert (job["phase"], job["script"]["sha256"]) == ("polling", stored["sha256"])
    assert job["next_check_at"] is not None
    assert [row["status"] for row in job["logs"]] == ["script", "created"]


async def test_an_upload_again_replaces_the_script(api: Api, scripted: Any) -> None:
    first = await upload(api, ARCHIVE)
    second = await upload(api, packed({"main.py": b"print(2)"}))
    third = await upload(api, ARCHIVE)

    assert first["sha256"] == third["sha256"] != second["sha256"]
    info = await api("GET", f"{GEMINI}/script/info")
    assert info["metadata"]["sha256"] == first["sha256"]
    assert [one["path"] for one in info["metadata"]["files"]] == ["lib/a.txt", "main.py"]


async def test_a_paused_check_takes_a_script_and_stays_paused(api: Api, waiting: Any) -> None:
    await api("POST", f"{GEMINI}/pause")

    await upload(api, ARCHIVE)

    assert (await api("GET", GEMINI))["status"] == "paused"
    assert (await api("POST", f"{GEMINI}/resume"))["phase"] == "polling"


async def test_an_ended_check_takes_no_script(app: App, api: Api, scripted: Any) -> None:
    check(app, scripted["id"], Finding(verdict=Verdict.SUCCESS, message="done"))

    problem = await upload(api, ARCHIVE, 409)

    assert problem["code"] == 1005
    problem = await api("PUT", GEMINI, {"script": TEXT}, expect=409)
    assert "only its name and its actions" in problem["detail"]


async def test_a_script_that_comes_from_git_cant_be_uploaded(api: Api) -> None:
    await api("POST", CHECKS, GIT, expect=201)

    problem = await upload(api, ARCHIVE, 400)

    assert "script_source_type to upload first" in problem["detail"]


HOSTILE: dict[str, tuple[bytes, str]] = {
    "no archive": (b"hello", "no gzip"),
    "an empty file": (b"", "is empty"),
    "an empty archive": (packed({}), "main.py"),
    "no entry point": (packed({"other.py": b""}), "main.py"),
    "a way out": (packed({"../main.py": b"", "main.py": b""}), "leads out"),
    "an absolute path": (packed({"/main.py": b""}), "/"),
    "a bomb": (packed({"main.py": bytes(70 * MIB)}), "MB"),
    "half of one": (ARCHIVE[: len(ARCHIVE) // 2], "ends in the middle"),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_hostile_archive_is_refused_with_the_reason(
    api: Api, waiting: Any, what: str
) -> None:
    archive, said = HOSTILE[what]

    problem = await upload(api, archive, 400)

    assert said in faults(problem)["file"], problem
    again = await in_a_form(api, FIELDS | {"name": "other"}, 400, archive)
    assert said in faults(again)["script"]
    assert (await api("GET", GEMINI))["phase"] == "awaiting_script"
    assert (await api("GET", CHECKS))["total"] == 1


async def test_nothing_of_a_refused_archive_stays(app: App, api: Api, waiting: Any) -> None:
    await upload(api, packed({"../main.py": b""}), 400)

    assert list(app.settings.scripts.iterdir()) == []


async def test_an_archive_of_ten_megabytes_is_taken(api: Api, waiting: Any) -> None:
    archive = packed({"main.py": b"print(1)", "noise": os.urandom(9_900_000)})
    assert 9_800_000 < len(archive) < 10_000_000

    assert (await upload(api, archive))["size_bytes"] > 9_900_000


async def test_an_archive_over_ten_megabytes_is_refused_by_its_size(api: Api, waiting: Any) -> None:
    archive = packed({"main.py": b"print(1)", "noise": os.urandom(10 * MIB + 1000)})

    assert "10 MB" in faults(await upload(api, archive, 400))["file"]


async def test_a_form_over_eleven_megabytes_is_a_413_wherever_one_is_taken(
    api: Api, waiting: Any
) -> None:
    for path, part in ((CHECKS, "script"), (f"{GEMINI}/script/upload", "file")):
        problem = await posted(api, path, {part: ("a.tgz", bytes(11 * MIB))}, 413)
        assert "11534336 bytes" in problem["detail"]


async def test_json_and_a_config_may_have_one_megabyte_only(api: Api) -> None:
    big = json.dumps(FIELDS | {"check_params": {"a": "x" * 2 * MIB}}).encode()
    headers = {"content-type": "application/json"}

    in_a_body = await api.client.post(CHECKS, content=big, headers=headers)
    in_a_part = await api.client.post(CHECKS, files={"config": (None, big)})

    assert (in_a_body.status_code, in_a_part.status_code) == (413, 413)


async def test_a_form_in_chunks_is_counted_as_it_comes(app: App, waiting: Any) -> None:
    form = "Content-Type: multipart/form-data; boundary=x"
    head = raw("POST", f"{GEMINI}/script/upload", form, "Transfer-Encoding: chunked", CLOSE)
    chunk = b"100000\r\n" + bytes(MIB) + b"\r\n"
    async with served(app) as url:
        too_much = await exchange(url, head, *[chunk] * 11, b"1\r\nx\r\n")
        enough = await exchange(url, head, *[chunk] * 2, b"0\r\n\r\n")

    assert status_of(too_much) == 413
    assert status_of(enough) == 400


@pytest.mark.parametrize("late", [False, True])
async def test_four_uploads_are_held_at_a_time_and_the_others_wait(
    app: App, waiting: Any, mock_clock: MockClock, late: bool
) -> None:
    web, asked, more = create_web(app), [0], trio.Event()
    answered: list[int] = []

    async def upload(length: bytes = b"5") -> None:
        pieces = iter((b"x", b""))

        async def receive() -> Any:
            piece = next(pieces, None)
            if piece is None:
                await trio.sleep_forever()  # the client stays
            elif piece:
                asked[0] += 1
            else:
                await more.wait()
            return {"type": "http.request", "body": piece, "more_body": bool(piece)}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answered.append(message["status"])

        headers = [
            (b"host", b"localhost"),
            (b"authorization", f"Bearer {TOKEN}".encode()),
            (b"content-type", b"multipart/form-data; boundary=x"),
            (b"content-length", length),
        ]
        path = f"{GEMINI}/script/upload"
        scope = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http",
                 "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
                 "headers": headers, "server": ("localhost", 80), "client": ("127.0.0.1", 9),
                 "asgi": {}, "extensions": {}}  # fmt: skip
        await web(scope, receive, send)

    await upload(b"99999999")  # from here on the token is known, and nothing waits for a thread
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(upload)
        await wait_all_tasks_blocked()
        await upload(b"99999999")
        if late:
            mock_clock.jump(21)
            await wait_all_tasks_blocked()
        begun, early = asked[0], list(answered)
        more.set()

    assert begun == 4
    assert early == ([413, 413, 503, 503] if late else [413, 413])
    assert answered[len(early) :] == [400] * (4 if late else 6)


@pytest.mark.parametrize(
    "media", ["application/json", "application/gzip", "application/x-www-form-urlencoded"]
)
async def test_an_upload_that_is_no_form_is_a_415_that_says_how(
    api: Api, waiting: Any, media: str
) -> None:
    answer = await api.client.post(
        f"{GEMINI}/script/upload", content=ARCHIVE, headers={"content-type": media}
    )

    assert answer.status_code == 415
    assert "-F 'file=@script.tgz'" in answer.json()["detail"]


async def test_an_upload_names_its_only_part(api: Api, waiting: Any) -> None:
    path = f"{GEMINI}/script/upload"

    missing = await posted(api, path, {"script": ("a.tgz", ARCHIVE)}, 400)
    text = await posted(api, path, {"file": (None, "x")}, 400)
    both = [("file", ("a.tgz", ARCHIVE)), ("file", ("b.tgz", ARCHIVE))]
    twice = await posted(api, path, both, 400)

    assert "known are file" in faults(missing)["script"]
    assert "must be a file" in faults(text)["file"]
    assert "twice" in faults(twice)["file"]


async def test_script_info_tells_where_a_script_comes_from(api: Api, waiting: Any) -> None:
    empty = await api("GET", f"{GEMINI}/script/info")

    assert empty == {
        "job_id": waiting["id"], "source_type": "upload", "git_url": None, "git_branch": None,
        "git_subfolder": None, "entrypoint": "main.py", "file_path": None, "metadata": None,
    }  # fmt: skip


async def test_script_info_goes_on_when_the_file_is_gone(app: App, api: Api, scripted: Any) -> None:
    shelf.path(app.settings.scripts, scripted["script"]["sha256"]).unlink()

    info = await api("GET", f"{GEMINI}/script/info")

    assert info["metadata"]["files"] == []


@pytest.mark.parametrize("how", ["json", "query"])
async def test_another_repository_is_named_by_json_or_in_the_query(
    api: Api, generic: dict[str, int], how: str
) -> None:
    await api("POST", CHECKS, GIT, expect=201)
    given = {
        "git_url": "https://git.example/c.git",
        "branch": "release/2.1",
        "subfolder": "checks",
        "secret": "git-token",
    }
    path = f"{GEMINI}/script/git"

    if how == "json":
        said = await api("POST", path, given)
    else:
        said = (await api.client.post(path, params=given)).json()

    assert said == {
        "message": "Git source configured",
        "url": "https://git.example/c.git",
        "branch": "release/2.1",
        "subfolder": "checks",
    }
    job = await api("GET", GEMINI)
    assert job["script_git_secret_id"] == generic["git-token"]
    assert job["script_git_secret_name"] == "git-token"
    assert (await api("GET", f"{GEMINI}/script/info"))["git_subfolder"] == "checks"


async def test_a_repository_without_a_branch_is_taken_at_main(api: Api) -> None:
    await api("POST", CHECKS, GIT | {"script_git_branch": "old"}, expect=201)

    said = await api("POST", f"{GEMINI}/script/git", {"git_url": "https://git.example/c"})

    assert (said["branch"], said["subfolder"]) == ("main", None)


async def test_a_bad_repository_is_refused_by_either_way(api: Api, waiting: Any) -> None:
    path = f"{GEMINI}/script/git"
    refused = await api("POST", path, {"git_url": "https://git.example/c"}, expect=400)
    assert "script_source_type to git first" in refused["detail"]
    await api("POST", CHECKS, GIT | {"name": "git"}, expect=201)
    path = f"{CHECKS}/git/script/git"

    for body, field in (
        ({}, "git_url"),
        ({"branch": "main"}, "git_url"),
        ({"git_url": "https://git.example/c", "url": "x"}, "url"),
        ({"git_url": "file:///etc"}, "script_git_url"),
        ({"git_url": 7}, "script_git_url"),
    ):
        assert field in faults(await api("POST", path, body, expect=400)), body
    for query in ("branch=main", "git_url=file:///etc", "git_url=https://a.example/b&x=1"):
        await api("POST", f"{path}?{query}", expect=400)
    assert (await api("GET", f"{CHECKS}/git"))["script_git_url"] == GIT["script_git_url"]


# Changes


async def test_a_change_of_one_field_keeps_all_the_others(
    api: Api, generic: dict[str, int]
) -> None:
    fields = SENT_FIELDS | {"webhook_signing_secret": "signing"}
    made = await api("POST", CHECKS, fields, expect=201)

    changed = await api("PUT", GEMINI, {"timeout_seconds": 77})

    assert changed == made | {"timeout_seconds": 77}


CHANGES: list[tuple[str, Any]] = [
    ("name", "other"), ("check_params", {"b": 2}), ("check_params", {}),
    ("env_vars", {"A": "1"}), ("env_vars", None), ("timeout_seconds", 60),
    ("resource_limits", {"memory_mb": 128, "cpu_cores": 0.2}), ("network", "none"),
    ("poll_interval_seconds", 30), ("trigger_on", "success"), ("max_consecutive_errors", 5),
    ("webhook_url", "http://127.0.0.1:9/x"), ("script_entrypoint", "other.py"),
]  # fmt: skip


async def test_every_field_can_be_changed_alone(api: Api, scripted: Any) -> None:
    for field, value in CHANGES:
        changed = await api("PUT", f"{CHECKS}/{scripted['id']}", {field: value})
        assert changed[field] == value
    assert changed["script"] == scripted["script"]


async def test_a_change_is_refused_by_the_same_rules(api: Api, scripted: Any) -> None:
    for changes, field, said in BAD:
        problem = await api("PUT", GEMINI, changes, expect=400)
        assert said in faults(problem).get(field, ""), (changes, faults(problem))
    assert (await api("GET", GEMINI))["script"] == scripted["script"]


async def test_a_change_of_variables_keeps_what_the_script_knows(
    app: App, api: Api, scripted: Any
) -> None:
    check(app, scripted["id"], Finding(verdict=Verdict.PENDING, message="m", data={"n": 1}))

    changed = await api("PUT", GEMINI, {"env_vars": {"A": "1"}})

    assert changed["last_check_data"] == {"n": 1}
    assert changed["script"] == scripted["script"]
    assert app.store.jobs.view("gemini").job.check_count == 1


async def test_a_change_of_runtime_brings_its_entry_point_along(api: Api, scripted: Any) -> None:
    changed = await api("PUT", GEMINI, {"script_runtime": "node", "script": "console.log(1)"})

    assert (changed["script_runtime"], changed["script_entrypoint"]) == ("node", "index.js")
    info = await api("GET", f"{GEMINI}/script/info")
    assert [one["path"] for one in info["metadata"]["files"]] == ["index.js"]


async def test_a_change_of_runtime_keeps_an_entry_point_of_ones_own(
    api: Api, scripted: Any
) -> None:
    await api("PUT", GEMINI, {"script_entrypoint": "check.mjs"})

    changed = await api("PUT", GEMINI, {"script_runtime": "node"})

    assert changed["script_entrypoint"] == "check.mjs"


async def test_another_entry_point_is_looked_for_in_the_next_upload(
    api: Api, scripted: Any
) -> None:
    await api("PUT", GEMINI, {"script_entrypoint": "lib/a.txt"})
    await upload(api, ARCHIVE)

    refused = await upload(api, packed({"main.py": b""}), 400)

    assert "lib/a.txt" in faults(refused)["file"]


async def test_from_upload_to_git_the_script_is_the_repositorys(api: Api, scripted: Any) -> None:
    refused = await api("PUT", GEMINI, {"script_source_type": "git"}, expect=400)
    assert faults(refused) == {"script_git_url": "is required"}

    changed = await api(
        "PUT",
        GEMINI,
        {"script_source_type": "git", "script_git_url": "https://git.example/a"},
    )

    assert (changed["script"], changed["phase"]) == (None, "polling")
    assert changed["script_git_branch"] == "main"


async def test_from_git_to_upload_the_check_waits_for_its_script(
    app: App, api: Api, generic: dict[str, int]
) -> None:
    made = await api("POST", CHECKS, GIT | {"script_git_secret": "git-token"}, expect=201)
    fetched = {"sha256": "0" * 64, "size_bytes": 1, "files": 1, "dependencies": []}
    found = Finding(verdict=Verdict.PENDING, message="m", state=fetched)
    check(app, made["id"], found)

    changed = await api("PUT", GEMINI, {"script_source_type": "upload"})

    assert (changed["phase"], changed["script"], changed["script_git_url"]) == (
        "awaiting_script",
        None,
        None,
    )
    assert "script_git_secret_id" not in changed
    await api("DELETE", "/api/admin/secrets/git-token", expect=204)
    await upload(api, ARCHIVE)
    assert (await api("GET", GEMINI))["phase"] == "polling"


async def test_a_paused_check_that_waited_is_due_when_it_has_another_source(
    api: Api, waiting: Any
) -> None:
    await api("POST", f"{GEMINI}/pause")
    await api(
        "PUT", GEMINI, {"script_source_type": "git", "script_git_url": "https://git.example/a"}
    )

    assert (await api("POST", f"{GEMINI}/resume"))["phase"] == "polling"


async def test_the_webhook_can_be_taken_away(api: Api, generic: dict[str, int]) -> None:
    fields = SENT_FIELDS | {"webhook_signing_secret": "signing"}
    await api("POST", CHECKS, fields, expect=201)

    changed = await api("PUT", GEMINI, {"webhook_url": None})

    assert (changed["webhook_url"], changed["webhook_method"]) == (None, "POST")
    await api("DELETE", "/api/admin/secrets/signing", expect=204)


# Secrets


@pytest.mark.parametrize(
    "spelled", ["secret_ref:{id}", "secret_ref:gemini-key", "a secret_ref:{id}!"]
)
async def test_a_secret_is_named_by_id_or_name_also_within_a_text(
    api: Api, generic: dict[str, int], spelled: str
) -> None:
    text = spelled.format(id=generic["gemini-key"])
    made = await api("POST", CHECKS, FIELDS | {"env_vars": {"KEY": text}}, expect=201)

    assert made["env_vars"] == {"KEY": text}
    used = (await api("GET", "/api/admin/secrets"))["secrets"]
    assert {one["name"]: one["used_by"] for one in used}["gemini-key"] == [
        {"kind": "custom_check", "id": made["id"], "name": "gemini"}
    ]


async def test_an_unknown_secret_is_a_400_that_names_the_field(
    api: Api, generic: dict[str, int]
) -> None:
    webhook = {"webhook_url": "https://a.example/"}
    for changes, field in (
        ({"env_vars": {"A": "secret_ref:nobody"}}, "env_vars"),
        ({"env_vars": {"A": "x secret_ref:4711 y"}}, "env_vars"),
        (webhook | {"webhook_headers": {"A": "secret_ref:nobody"}}, "webhook_headers"),
        (webhook | {"webhook_signing_secret": "nobody"}, "webhook_signing_secret"),
    ):
        problem = await api("POST", CHECKS, FIELDS | changes, expect=400)
        assert problem["code"] == 1001
        assert "doesn't exist" in faults(problem)[field]
    problem = await api("POST", CHECKS, GIT | {"script_git_secret": "nobody"}, expect=400)
    assert "doesn't exist" in faults(problem)["script_git_secret"]


@pytest.mark.parametrize(
    "changes",
    [
        {"env_vars": {"KEY": "secret_ref:gemini-key"}},
        {"webhook_url": "https://a.example", "webhook_headers": {"A": "B secret_ref:gemini-key"}},
        {"script_git_url": "https://git.example/a", "script_git_secret": "gemini-key"},
    ],
)
async def test_a_secret_in_use_cant_be_deleted_and_who_uses_it_is_named(
    app: App, api: Api, generic: dict[str, int], changes: dict[str, Any]
) -> None:
    made = await api("POST", CHECKS, FIELDS | changes, expect=201)

    refused = await api("DELETE", "/api/admin/secrets/gemini-key", expect=409)

    assert refused["code"] == 1004
    assert "custom_check" in refused["detail"]
    assert "gemini" in refused["detail"]
    await api("DELETE", f"{CHECKS}/{made['id']}", expect=204)
    await api("DELETE", "/api/admin/secrets/gemini-key", expect=204)


async def test_no_answer_ever_shows_a_secrets_value(
    app: App, api: Api, generic: dict[str, int]
) -> None:
    fields = SENT_FIELDS | {"webhook_signing_secret": "signing"}
    await api("POST", CHECKS, fields, expect=201)

    for path in (CHECKS, GEMINI, f"{GEMINI}/logs", f"{GEMINI}/script/info", "/api/admin/secrets"):
        text = (await api.client.get(path)).text
        assert "planted" not in text
        assert SIGNING not in text


# Two views


async def test_each_view_says_where_a_job_of_the_other_kind_is(
    api: Api, secrets: dict[str, int], job_fields: dict[str, Any], scripted: Any
) -> None:
    polling = await api("POST", "/api/jobs", job_fields, expect=201)

    for path, there in (
        (f"/api/jobs/{scripted['id']}", f"/api/custom-checks/{scripted['id']}"),
        ("/api/jobs/gemini", f"/api/custom-checks/{scripted['id']}"),
        (f"{CHECKS}/{polling['id']}", f"/api/jobs/{polling['id']}"),
        (f"{CHECKS}/nightly", f"/api/jobs/{polling['id']}"),
    ):
        problem = await api("GET", path, expect=404)
        assert problem["code"] == 1002
        assert there in problem["detail"]


ROUTES = [
    ("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"),
    ("POST", "/trigger"), ("GET", "/logs"), ("GET", "/deliveries"), ("POST", "/webhook/test"),
    ("POST", "/script/upload"), ("POST", "/script/git"), ("GET", "/script/info"),
]  # fmt: skip


async def call(api: Api, method: str, path: str) -> httpx.Response:
    content: dict[str, Any] = {"json": {}} if method in ("PUT", "POST") else {}
    if path.endswith("upload"):
        content = {"files": {"file": ("a.tgz", ARCHIVE)}}
    return await api.client.request(method, path, **content)


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_no_route_takes_a_job_that_isnt_there_or_is_of_the_other_kind(
    api: Api, secrets: dict[str, int], job_fields: dict[str, Any], method: str, path: str
) -> None:
    await api("POST", "/api/jobs", job_fields, expect=201)

    for job in ("nobody", "4711", "nightly", "0", "99999999999999999999"):
        answer = await call(api, method, f"{CHECKS}/{job}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, 1002), job


@pytest.mark.parametrize(("method", "path"), [("POST", None), ("GET", None), *ROUTES])
async def test_every_route_needs_the_token(
    app: App, waiting: Any, method: str, path: str | None
) -> None:
    url = CHECKS if path is None else f"{GEMINI}{path}"
    for token in (None, "wrong"):
        stranger = Api(app, token)
        answer = await call(stranger, method, url)
        assert answer.status_code == 401
        await stranger.client.aclose()


@pytest.mark.parametrize(
    ("method", "path"),
    [("PATCH", CHECKS), ("PUT", CHECKS), ("POST", GEMINI), ("GET", f"{GEMINI}/script/upload"),
     ("DELETE", f"{GEMINI}/script/info"), ("GET", f"{GEMINI}/webhook/test")],
)  # fmt: skip
async def test_another_method_is_a_405(api: Api, waiting: Any, method: str, path: str) -> None:
    await api(method, path, expect=405)


async def test_every_path_works_with_a_slash_at_its_end(api: Api, scripted: Any) -> None:
    for path in (CHECKS, GEMINI, f"{GEMINI}/logs", f"{GEMINI}/script/info"):
        assert await api("GET", f"{path}/") == await api("GET", path)


async def test_both_kinds_are_listed_together_where_asked_for(
    api: Api, secrets: dict[str, int], job_fields: dict[str, Any], scripted: Any
) -> None:
    await api("POST", "/api/jobs", job_fields, expect=201)

    for path, total in ((CHECKS, 1), ("/api/jobs", 1)):
        assert (await api("GET", path))["total"] == total
        both = await api("GET", f"{path}?kind=all")
        assert [one["kind"] for one in both["jobs"]] == ["polling", "custom_check"]
    assert (await api("GET", f"{CHECKS}?kind=custom_check"))["total"] == 1
    await api("GET", f"{CHECKS}?kind=polling", expect=400)


async def test_a_list_is_filtered_by_status_and_text(api: Api, scripted: Any) -> None:
    await api("POST", CHECKS, FIELDS | {"name": "other"}, expect=201)
    await api("POST", f"{CHECKS}/other/pause")

    async def named(query: str) -> list[str]:
        return [one["name"] for one in (await api("GET", f"{CHECKS}?{query}"))["jobs"]]

    assert await named("status=paused") == ["other"]
    assert await named("status=active") == ["gemini"]
    assert await named("q=emin") == ["gemini"]
    assert await named("q=%25") == []
    assert await named("limit=1") == ["other"]
    assert await named("limit=1&offset=1") == ["gemini"]
    for query in ("status=x", "limit=0", "limit=1001", "offset=-1", "q=a&q=b", "x=1"):
        await api("GET", f"{CHECKS}?{query}", expect=400)


@pytest.mark.parametrize("name", ["žluťoučký kůň", "a?b#c%2Fd&e=f", "'; DROP TABLE jobs; --", "日"])
async def test_an_odd_name_addresses_its_check_on_every_route(api: Api, name: str) -> None:
    webhook = {"webhook_url": "http://127.0.0.1:9/"}
    await api("POST", CHECKS, FIELDS | webhook | {"name": name}, expect=201)

    for method, path in sorted(ROUTES, key=lambda route: route[0] == "DELETE"):
        answer = await call(api, method, f"{CHECKS}/{quote(name, safe='')}{path}")
        assert answer.status_code != 404, path


async def test_names_are_shared_with_polling_jobs(
    api: Api, secrets: dict[str, int], job_fields: dict[str, Any], waiting: Any
) -> None:
    refused = await api("POST", "/api/jobs", job_fields | {"name": "gemini"}, expect=409)
    assert refused["code"] == 1003
    refused = await in_a_form(api, FIELDS, 409, ARCHIVE)
    assert refused["code"] == 1003


# Ends and actions


def erring(message: str = "It broke.", fault: Fault = Fault.TRANSIENT) -> Finding:
    return Finding(verdict=Verdict.ERROR, message=message, fault=fault)


async def test_too_many_errors_in_a_row_fail_the_check(app: App, api: Api) -> None:
    fields = FIELDS | {"script": TEXT, "max_consecutive_errors": 2}
    made = await api("POST", CHECKS, fields, expect=201)
    pending = Finding(verdict=Verdict.PENDING, message="m")

    for found in (erring(), pending, erring(fault=Fault.ENGINE), erring()):
        check(app, made["id"], found)
    assert (await api("GET", GEMINI))["status"] == "active"
    check(app, made["id"], erring("It broke again."))

    job = await api("GET", GEMINI)
    assert (job["status"], job["status_reason"]) == (
        "failed",
        "It broke again. (2 errors in a row)",
    )
    assert job["last_check_status"] == "ERROR"


@pytest.mark.parametrize(("trigger_on", "status"), [("terminal", "active"), ("success", "failed")])
async def test_a_check_that_was_given_up_triggers_only_if_asked(
    app: App, api: Api, receiver: Receiver, trigger_on: str, status: str
) -> None:
    fields = FIELDS | {
        "script": TEXT, "max_consecutive_errors": 1, "trigger_on": trigger_on,
        "webhook_url": receiver.url,
    }  # fmt: skip
    made = await api("POST", CHECKS, fields, expect=201)

    check(app, made["id"], erring())

    assert (await api("GET", GEMINI))["status"] == status
    deliveries = (await api("GET", f"{GEMINI}/deliveries"))["deliveries"]
    assert [one["event"]["verdict"] for one in deliveries] == (
        ["ERROR"] if status == "active" else []
    )


async def test_keboola_and_a_webhook_both_get_the_outcome(
    app: App, api: Api, keboola: Keboola, secrets: dict[str, int], receiver: Receiver
) -> None:
    fields = FIELDS | {
        "script": TEXT, "webhook_url": receiver.url, "keboola_secret": "keboola-prod",
        "keboola_stack_url": keboola.url, "keboola_configuration_id": "1",
    }  # fmt: skip
    made = await api("POST", CHECKS, fields, expect=201)
    assert (made["keboola_configuration_id"], made["webhook_url"]) == ("1", receiver.url)
    assert made["keboola_component_id"] == "keboola.orchestrator"

    check(app, made["id"], Finding(verdict=Verdict.FAILED, message="m", data={"a": 1}))

    deliveries = (await api("GET", f"{GEMINI}/deliveries"))["deliveries"]
    assert {one["action"] for one in deliveries} == {"keboola", "webhook"}
    assert len({one["event_id"] for one in deliveries}) == 1
    assert (await api("GET", GEMINI))["phase"] == "delivering"


# The test of a webhook


async def test_a_test_event_is_signed_marked_and_no_delivery(
    api: Api, generic: dict[str, int], receiver: Receiver
) -> None:
    fields = FIELDS | {
        "webhook_url": f"{receiver.url}/hook",
        "webhook_headers": {"Authorization": "Bearer secret_ref:gemini-key"},
        "webhook_query_params": {"job": "{job_name}", "status": "{status}"},
        "webhook_signing_secret": "signing",
    }
    made = await api("POST", CHECKS, fields, expect=201)

    said = await api("POST", f"{GEMINI}/webhook/test")

    (got,) = receiver.requests
    assert said["event_id"] == got.headers["webhook-id"]
    assert (said["status_code"], said["job_id"]) == (200, made["id"])
    assert json.loads(said["answer"]) == {"received": True}
    assert got.headers["authorization"] == "Bearer AIza-planted-value"
    assert got.query == {"job": ["gemini"], "status": ["SUCCESS"]}
    body = standardwebhooks.Webhook(SIGNING).verify(got.raw, got.headers)
    assert body["test"] is True
    assert (body["job_id"], body["job_name"]) == (made["id"], "gemini")
    assert (await api("GET", f"{GEMINI}/deliveries"))["total"] == 0
    (line, *_) = (await api("GET", f"{GEMINI}/logs"))["logs"]
    assert line["status"] == "tested"
    assert {(one["name"], one["variable"]) for one in line["secrets_opened"]} == {
        ("gemini-key", "Authorization"),
        ("signing", "webhook_signing_secret"),
    }
    after = await api("GET", GEMINI)
    assert (after["status"], after["phase"], after["last_check_status"]) == (
        "active",
        "awaiting_script",
        None,
    )


@pytest.mark.parametrize("status", [400, 404, 410, 429, 500, 302])
async def test_a_receiver_that_refuses_a_test_is_a_502(
    api: Api, receiver: Receiver, status: int
) -> None:
    receiver.instead("*", "*", Answer(status), forever=True)
    await api("POST", CHECKS, FIELDS | {"webhook_url": receiver.url}, expect=201)

    problem = await api("POST", f"{GEMINI}/webhook/test", expect=502)

    assert problem["code"] == 2003
    assert str(status) in problem["detail"]
    assert len(receiver.requests) == 1


async def test_a_test_is_refused_where_nobody_listens_or_there_is_no_webhook(
    api: Api, waiting: Any
) -> None:
    problem = await api("POST", f"{GEMINI}/webhook/test", expect=400)
    assert "webhook_url" in problem["detail"]
    await api("PUT", GEMINI, {"webhook_url": "http://127.0.0.1:9/"})

    problem = await api("POST", f"{GEMINI}/webhook/test", expect=502)

    assert problem["code"] == 2003


async def test_an_answer_that_repeats_a_secret_is_masked(
    api: Api, generic: dict[str, int], receiver: Receiver
) -> None:
    receiver.instead("*", "*", Answer(500, {"you sent": "AIza-planted-value"}))
    receiver.instead("*", "*", Answer(200, {"you sent": "AIza-planted-value"}))
    headers = {"webhook_headers": {"A": "secret_ref:gemini-key"}}
    await api("POST", CHECKS, FIELDS | {"webhook_url": receiver.url} | headers, expect=201)

    refused = await api("POST", f"{GEMINI}/webhook/test", expect=502)
    taken = await api("POST", f"{GEMINI}/webhook/test")

    assert "planted" not in json.dumps([refused, taken])
    assert "***" in taken["answer"]


# What is looked at with SQL


@pytest.fixture
async def looked_at(app: App, api: Api, scripted: Any) -> dict[str, list[dict[str, Any]]]:
    """The rows of both views after a check, as any other program reads them."""
    await api(
        "PUT",
        GEMINI,
        {
            "webhook_url": "http://127.0.0.1:9/",
            "webhook_headers": {"A": "b"},
            "check_params": {"p": 1},
        },
    )
    run = Execution(exit_code=0, stdout="o", stderr="e", output={"status": "PENDING"})
    found = Finding(verdict=Verdict.PENDING, message="said", data={"d": 1}, execution=run)
    check(app, scripted["id"], found)
    connection = apsw.Connection(str(app.settings.database), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows = {}
        for view in ("custom_check_jobs", "custom_check_logs"):
            cursor = connection.execute(f"SELECT * FROM {view} ORDER BY id")
            names = [one[0] for one in cursor.get_description()]
            rows[view] = [dict(zip(names, row, strict=True)) for row in cursor]
        return rows
    finally:
        connection.close()


JOB_COLUMNS = {
    "id", "name", "script_source_type", "script_git_url", "script_git_branch", "script_file_path",
    "script_runtime", "script_entrypoint", "check_params", "env_vars", "timeout_seconds",
    "resource_limits", "webhook_url", "webhook_method", "webhook_headers", "webhook_query_params",
    "poll_interval_seconds", "status", "last_check_status", "last_check_data", "last_check_at",
    "next_check_at", "created_at", "completed_at",
}  # fmt: skip
LOG_COLUMNS = {
    "id", "job_id", "status", "message", "script_output", "execution_time_ms", "created_at",
}  # fmt: skip


async def test_the_view_of_jobs_carries_the_columns_of_the_requirements(
    app: App, looked_at: dict[str, list[dict[str, Any]]], scripted: Any
) -> None:
    (row,) = looked_at["custom_check_jobs"]

    assert row.keys() == JOB_COLUMNS
    path = app.settings.home / row["script_file_path"]
    assert path == shelf.path(app.settings.scripts, scripted["script"]["sha256"])
    assert json.loads(row["check_params"]) == {"p": 1}
    assert json.loads(row["resource_limits"]) == {"memory_mb": 512, "cpu_cores": 0.5}
    assert json.loads(row["webhook_headers"]) == {"A": "b"}
    assert (row["env_vars"], row["webhook_query_params"], row["script_git_url"]) == (None,) * 3
    assert (row["webhook_method"], row["status"]) == ("POST", "active")
    assert (row["last_check_status"], json.loads(row["last_check_data"])) == ("PENDING", {"d": 1})
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["created_at"])


async def test_the_view_of_logs_carries_the_columns_of_the_requirements(
    looked_at: dict[str, list[dict[str, Any]]], scripted: Any
) -> None:
    rows = looked_at["custom_check_logs"]

    assert rows[0].keys() == LOG_COLUMNS
    last = rows[-1]
    assert (last["job_id"], last["status"], last["message"]) == (scripted["id"], "pending", "said")
    assert json.loads(last["script_output"]) == {"status": "PENDING"}
    assert isinstance(last["execution_time_ms"], int)


async def test_a_line_of_the_log_tells_how_the_script_ran(
    app: App, api: Api, scripted: Any
) -> None:
    run = Execution(
        exit_code=3, peak_memory_bytes=7, stdout="out", stderr="err", output={"status": "ERROR"}
    )
    check(app, scripted["id"], Finding(verdict=Verdict.ERROR, message="m", execution=run))

    line = (await api("GET", f"{GEMINI}/logs?limit=1"))["logs"][0]

    assert (line["status"], line["exit_code"], line["peak_memory_bytes"]) == ("error", 3, 7)
    assert (line["stdout"], line["stderr"], line["script_output"]) == (
        "out",
        "err",
        {"status": "ERROR"},
    )


# The description


@pytest.fixture
async def description(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = await api("GET", "/openapi.json")
    return found


async def test_the_described_fields_are_those_that_the_validator_reads(
    app: App, api: Api, description: dict[str, Any]
) -> None:
    fields = Fields({"webhook_url": "x", "keboola_secret": "x"})
    with pytest.raises(Exception, match="required"):
        check_draft(app, fields)

    documents = description["components"]["schemas"]
    for name in ("NewCustomCheck", "CustomCheckChange"):
        assert documents[name]["properties"].keys() == fields._read
        assert not documents[name]["additionalProperties"]
    assert documents["NewCustomCheck"]["required"] == ["name", "script_runtime"]
    assert documents["ResourceLimits"]["properties"].keys() == {"memory_mb", "cpu_cores"}


async def test_the_described_forms_are_those_that_are_read(
    api: Api, waiting: Any, description: dict[str, Any]
) -> None:
    for path, url in (
        (CHECKS, CHECKS),
        (f"{CHECKS}/{{job}}/script/upload", f"{GEMINI}/script/upload"),
    ):
        content = description["paths"][path]["post"]["requestBody"]["content"]
        form = content["multipart/form-data"]["schema"]
        told = await posted(api, url, {"nonsense": (None, "x")}, 400)
        known = faults(told)["nonsense"].partition("known are ")[2].split(", ")
        assert sorted(form["properties"]) == sorted(known)
        assert ("application/json" in content) == (url == CHECKS)
    told = await posted(api, CHECKS, {"script": ("a.tgz", ARCHIVE)}, 400)
    assert "config" in faults(told)


async def test_what_the_validator_takes_is_valid_by_the_description(
    api: Api, description: dict[str, Any]
) -> None:
    schema = {
        "$ref": "#/components/schemas/NewCustomCheck",
        "components": description["components"],
    }
    validator = jsonschema.Draft202012Validator(schema)

    for field, value in EDGES:
        validator.validate({**FIELDS, field: value})
    for changes in (SENT_FIELDS, GIT):
        validator.validate(changes)


async def test_a_changed_setting_never_makes_a_stored_repository_invalid(
    make_settings: Callable[..., Settings],
) -> None:
    """Not even for a change of something else."""
    private = {"script_git_url": "https://10.0.0.5/a.git"}
    for allowed, call in (
        ("10.0.0.5", ("POST", CHECKS, GIT | private, 201)),
        ("10.0.0.6", ("PUT", GEMINI, {"timeout_seconds": 20}, 200)),
        ("10.0.0.6", ("PUT", GEMINI, private, 400)),
    ):
        app = assemble(make_settings(ALLOWED_PRIVATE_HOSTS=allowed))
        digest = hashlib.sha256(TOKEN.encode()).digest()
        app.store.secrets.replace_token(digest, datetime.now(UTC))
        *what, expect = call
        await Api(app)(*what, expect=expect)  # type: ignore[arg-type]
        app.close()


async def test_a_list_of_both_kinds_is_as_described(
    api: Api, description: dict[str, Any], scripted: Any, secrets: Any, job_fields: dict[str, Any]
) -> None:
    await api("POST", "/api/jobs", job_fields, expect=201)
    schema = {"$ref": "#/components/schemas/JobList", "components": description["components"]}

    for path in ("/api/jobs", CHECKS):
        both = await api("GET", f"{path}?kind=all")
        assert [one["kind"] for one in both["jobs"]] == ["polling", "custom_check"]
        jsonschema.Draft202012Validator(schema).validate(both)


@pytest.mark.parametrize("kind", ["waiting", "scripted", "git"])
async def test_every_answer_is_as_described(
    api: Api, description: dict[str, Any], receiver: Receiver, kind: str
) -> None:
    more = {"waiting": {}, "scripted": {"script": TEXT}, "git": GIT}[kind]
    await api("POST", CHECKS, {**FIELDS, **more, "webhook_url": receiver.url}, expect=201)
    answers = {
        "CustomCheckDetail": await api("GET", GEMINI),
        "JobList": await api("GET", CHECKS),
        "CustomCheckVerb": await api("POST", f"{GEMINI}/pause"),
        "ScriptInfo": await api("GET", f"{GEMINI}/script/info"),
        "LogList": await api("GET", f"{GEMINI}/logs"),
        "WebhookTrial": await api("POST", f"{GEMINI}/webhook/test"),
        "CustomCheckDocument": await api("PUT", GEMINI, {"name": "gemini"}),
    }
    if kind == "git":
        asked = {"git_url": "https://git.example/c"}
        answers["GitConfigured"] = await api("POST", f"{GEMINI}/script/git", asked)
    else:
        answers["Uploaded"] = await upload(api, ARCHIVE)

    for name, document in answers.items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": description["components"]}
        jsonschema.Draft202012Validator(schema).validate(document)
        described = description["components"]["schemas"][name]["properties"]
        assert not document.keys() - described.keys(), name


async def test_the_parameters_of_lists_are_those_that_are_read(api: Api, waiting: Any) -> None:
    for path, described in (
        (CHECKS, schemas.CustomCheckQuery),
        (f"{GEMINI}/logs", schemas.LogQuery),
        (f"{GEMINI}/deliveries", schemas.Paging),
    ):
        refused = await api("GET", f"{path}?unknown=1", expect=400)
        known = refused["errors"][0]["message"].partition("known are ")[2].split(", ")
        assert sorted(known) == sorted(described.__struct_fields__)

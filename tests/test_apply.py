"""`export` and `apply`: a set of jobs as a file."""

from __future__ import annotations

import json
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import apsw
import pytest

from teckochecker.cli import declaration
from teckochecker.cli.declaration import Entry, Written
from teckochecker.errors import InvalidInput
from tests import test_cli
from tests.test_cli import Done, Shell

bare, machine, prepared = test_cli.bare, test_cli.machine, test_cli.prepared
sh, stocked = test_cli.sh, test_cli.stocked

POLLING = """
  - name: nightly
    batch_ids: [batch_1, batch_2]
    openai_secret: openai-prod
    keboola_secret: keboola-prod
    keboola_stack_url: https://connection.keboola.com
    keboola_configuration_id: '123456'
    poll_interval_seconds: 60
"""
CUSTOM = """
  - name: exports
    script_runtime: python
    check_params: {table: a, n: 3}
    env_vars: {TOKEN: 'secret_ref:hook'}
    webhook_url: https://example.com/hook
    poll_interval_seconds: 60
    script: |
      import json

      print(json.dumps({"status": "PENDING", "message": "not yet"}))
"""
BOTH = f"jobs:{POLLING}\ncustom_checks:{CUSTOM}"


@pytest.fixture
def shell(stocked: Shell) -> Shell:
    """With the secrets that the files here name."""
    stocked.good("secret", "add", "--name=hook", "--type=generic", stdin=b"hook-token-1")
    return stocked


def saved(shell: Shell, text: str) -> str:
    path = shell.machine.folder / "jobs.yaml"
    path.write_text(text)
    return f"--file={path}"


def apply(shell: Shell, text: str, *options: str) -> dict[str, tuple[str, list[str]]]:
    """Names of jobs, what was done about each, and the fields that changed."""
    found = shell.json("apply", saved(shell, text), *options)["plan"]
    return {one["name"]: (one["action"], one["fields"]) for one in found}


def unchanged(shell: Shell, text: str) -> bool:
    return all(done == ("unchanged", []) for done in apply(shell, text).values())


def refused(shell: Shell, text: str) -> list[str]:
    """The faults of a file that isn't applied."""
    before = shell.json("job", "list", "--kind=all")
    done = shell("apply", saved(shell, text))
    assert done.code == 2, done.err
    assert shell.json("job", "list", "--kind=all") == before
    return [line.strip() for line in done.err.splitlines()[1:]]


def jobs(shell: Shell) -> dict[str, Any]:
    """By name, the newest of each."""
    found = shell.json("job", "list", "--kind=all")["jobs"]
    return {job["name"]: job for job in reversed(found)}


def rows(shell: Shell, statement: str) -> list[Any]:
    connection = apsw.Connection(str(shell.machine.home / "teckochecker.db"))
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


# There and back


def test_what_is_missing_is_created_and_the_same_file_changes_nothing(shell: Shell) -> None:
    assert apply(shell, BOTH) == {"nightly": ("create", []), "exports": ("create", [])}
    before = jobs(shell)
    logs = rows(shell, "SELECT * FROM logs")

    assert apply(shell, BOTH) == {"nightly": ("unchanged", []), "exports": ("unchanged", [])}

    assert jobs(shell) == before
    assert rows(shell, "SELECT * FROM logs") == logs
    assert before["exports"]["phase"] == "polling"


def test_an_export_applied_elsewhere_gives_the_same_export(shell: Shell) -> None:
    apply(shell, BOTH)
    text = shell.good("export").out
    assert text == shell.good("export").out
    assert unchanged(shell, text)
    for job in jobs(shell).values():
        noun = "job" if job["kind"] == "polling" else "custom-check"
        shell.good(noun, "delete", job["name"], "--yes")

    assert apply(shell, text) == {"nightly": ("create", []), "exports": ("create", [])}

    assert shell.good("export").out == text
    assert "secret_ref:hook" in text
    assert "hook-token-1" not in text


def test_an_export_goes_to_a_file(shell: Shell) -> None:
    apply(shell, BOTH)
    target = shell.machine.folder / "out.yaml"

    done = shell.good("export", f"--output={target}")

    assert done.out == ""
    assert target.read_text().rstrip("\n") == shell.good("export").out.rstrip("\n")
    assert stat.S_ISREG(target.stat().st_mode)
    assert shell("export", "--output=/nowhere/out.yaml").code == 74


def test_an_export_without_jobs_can_be_applied(shell: Shell) -> None:
    text = shell.good("export").out

    assert text.startswith("# Jobs of a TeckoChecker")
    assert apply(shell, text) == {}


def test_fields_that_have_their_defaults_are_left_out(shell: Shell) -> None:
    """The defaults here are those of the API: they would be written otherwise."""
    apply(shell, BOTH)

    written = declaration.read(shell.good("export").out)

    assert {one.name: set(one.fields) for one in written} == {
        one.name: set(one.fields) for one in declaration.read(BOTH)
    }


def test_every_field_makes_the_journey(shell: Shell) -> None:
    full = """
jobs:
  - name: full
    batch_ids: [batch_1]
    openai_secret: openai-prod
    openai_base_url: https://proxy.example/v1
    max_failed_percent: 2.5
    keboola_stack_url: https://connection.keboola.com
    keboola_secret: keboola-prod
    keboola_component_id: keboola.other
    keboola_configuration_id: '1'
    keboola_variables: {mode: 'no', at: '12:30', deep: {list: [1, true, null]}}
    follow_up: false
    webhook_url: https://example.com/hook?a=b
    webhook_method: PUT
    webhook_headers: {Authorization: Bearer secret_ref:hook}
    webhook_query_params: {job: '{job_id}'}
    webhook_signing_secret: hook
    webhook_timeout_seconds: 10
    poll_interval_seconds: 60
    trigger_on: terminal
custom_checks:
  - name: other
    script_runtime: node
    script_entrypoint: src/run.js
    script_git_url: https://example.com/a/b.git
    script_git_branch: release
    script_git_subfolder: checks
    script_git_secret: hook
    timeout_seconds: 60
    resource_limits: {memory_mb: 128, cpu_cores: 0.2}
    network: none
    max_consecutive_errors: 5
    webhook_url: https://example.com/hook
    poll_interval_seconds: 60
    trigger_on: success
"""
    apply(shell, full)

    text = shell.good("export").out

    wanted = {entry.name: dict(entry.fields) for entry in declaration.read(full)}
    assert {entry.name: dict(entry.fields) for entry in declaration.read(text)} == wanted
    assert unchanged(shell, full)


# Changes


def test_only_fields_that_differ_are_sent(shell: Shell) -> None:
    apply(shell, BOTH)
    before = jobs(shell)
    changed = BOTH.replace("'123456'", "'654321'").replace("n: 3", "n: 4")

    found = apply(shell, changed)

    assert found == {
        "nightly": ("change", ["keboola_configuration_id"]),
        "exports": ("change", ["check_params"]),
    }
    after = jobs(shell)
    assert after["nightly"]["keboola_configuration_id"] == "654321"
    assert {name: job["id"] for name, job in after.items()} == {
        name: job["id"] for name, job in before.items()
    }


def test_a_field_that_is_left_out_gets_its_default_back(shell: Shell) -> None:
    more = POLLING + "    max_failed_percent: 5\n    webhook_url: https://example.com/hook\n"
    apply(shell, f"jobs:{more}")

    found = apply(shell, f"jobs:{POLLING}".replace("    poll_interval_seconds: 60\n", ""))

    assert found == {"nightly": ("change", ["max_failed_percent", "webhook_url"])}
    job = jobs(shell)["nightly"]
    assert job["max_failed_percent"] == 100
    assert job.get("webhook_url") is None
    assert job["poll_interval_seconds"] == 60  # its default is a setting


def test_an_action_can_be_added(shell: Shell) -> None:
    apply(shell, f"jobs:{POLLING}")

    found = apply(shell, f"jobs:{POLLING}    webhook_url: https://example.com/hook\n")

    assert found["nightly"][0] == "change"
    assert "webhook_url" in found["nightly"][1]
    assert jobs(shell)["nightly"]["webhook_url"] == "https://example.com/hook"


def test_a_changed_script_is_sent_and_an_unchanged_one_is_not(shell: Shell) -> None:
    folder = shell.machine.folder / "checks" / "one"
    folder.mkdir(parents=True)
    (folder / "main.py").write_text("print(1)\n")
    (folder / "more.py").write_text("x = 1\n")
    by_path = CUSTOM[: CUSTOM.index("    script: |")] + "    script_path: checks/one\n"
    text = f"custom_checks:{by_path}"
    assert apply(shell, text)["exports"][0] == "create"
    first = jobs(shell)["exports"]["script"]
    assert first["files"] == 2
    assert apply(shell, text)["exports"][0] == "unchanged"
    assert "# Its script (2 files, SHA-256" in shell.good("export").out

    (folder / "more.py").write_text("x = 2\n")

    assert apply(shell, text) == {"exports": ("change", ["the script's content"])}
    second = jobs(shell)["exports"]["script"]
    assert second["sha256"] != first["sha256"]
    assert apply(shell, text)["exports"][0] == "unchanged"
    assert apply(shell, f"custom_checks:{CUSTOM}")["exports"][0] == "change"
    assert apply(shell, f"custom_checks:{CUSTOM}")["exports"][0] == "unchanged"
    without = CUSTOM[: CUSTOM.index("    script: |")]
    assert apply(shell, f"custom_checks:{without}")["exports"][0] == "unchanged"


def test_a_job_that_ended_as_the_file_has_it_is_not_started_again(shell: Shell) -> None:
    apply(shell, BOTH)
    rows(shell, "UPDATE jobs SET status = 'completed', next_check_at = NULL, completed_at = 1")

    assert apply(shell, BOTH) == {"nightly": ("ended", []), "exports": ("ended", [])}
    again = apply(shell, BOTH.replace("batch_2", "batch_3"))

    assert again == {"nightly": ("create", []), "exports": ("ended", [])}
    assert jobs(shell)["nightly"]["status"] == "active"


def test_a_paused_job_stays_paused(shell: Shell) -> None:
    apply(shell, BOTH)
    shell.good("job", "pause", "nightly")

    assert apply(shell, BOTH)["nightly"][0] == "unchanged"
    apply(shell, BOTH.replace("'123456'", "'7'"))

    assert jobs(shell)["nightly"]["status"] == "paused"
    assert "nightly" in shell.good("export").out


def test_secrets_may_be_given_by_id_and_are_written_by_name(shell: Shell) -> None:
    ids = {one["name"]: one["id"] for one in shell.json("secret", "list")["secrets"]}
    by_id = BOTH.replace("openai_secret: openai-prod", f"openai_secret_id: {ids['openai-prod']}")
    by_id = by_id.replace("secret_ref:hook", f"secret_ref:{ids['hook']}")

    apply(shell, by_id)

    assert unchanged(shell, BOTH)
    assert "secret_ref:hook" in shell.good("export").out


def test_a_dry_run_tells_and_writes_nothing(shell: Shell) -> None:
    apply(shell, f"jobs:{POLLING}")
    before = rows(shell, "SELECT * FROM logs"), jobs(shell)
    changed = BOTH.replace("'123456'", "'654321'")

    done = shell.good("apply", saved(shell, changed), "--dry-run")

    assert re.search(r"change +job +nightly +keboola_configuration_id", done.out)
    assert re.search(r"create +custom check +exports", done.out)
    assert "nothing was changed" in done.err
    assert (rows(shell, "SELECT * FROM logs"), jobs(shell)) == before


def test_others_are_left_alone_unless_they_shall_go(shell: Shell) -> None:
    apply(shell, BOTH)
    only = f"jobs:{POLLING}"
    assert apply(shell, only) == {"nightly": ("unchanged", [])}
    assert apply(shell, only, "--prune", "--dry-run")["exports"] == ("delete", [])

    asked = shell("apply", saved(shell, only), "--prune")

    assert asked.code == 1
    assert "Delete 1 job: 'exports'?" in asked.err
    assert set(jobs(shell)) == {"nightly", "exports"}
    assert apply(shell, only, "--prune", "--yes")["exports"] == ("delete", [])
    assert set(jobs(shell)) == {"nightly"}


def test_a_file_comes_from_a_pipe(shell: Shell) -> None:
    done = shell.good("apply", "-f", "-", "--output=json", stdin=BOTH.encode())

    assert [one["action"] for one in done.json["plan"]] == ["create", "create"]


@pytest.mark.slow
def test_a_daemon_does_the_same(shell: Shell) -> None:
    with shell.machine.started():
        assert apply(shell, f"jobs:{POLLING}") == {"nightly": ("create", [])}
        assert apply(shell, f"jobs:{POLLING}") == {"nightly": ("unchanged", [])}
        assert "name: nightly" in shell.good("export").out


# Faults


def test_every_fault_is_told_with_its_place_and_nothing_is_applied(shell: Shell) -> None:
    bad = """
jobs:
  - name: one
    batch_ids: [wrong]
    openai_secret: openai-prod
    webhook_url: ftp://example.com
    poll_intervall: 60
  - name: two
    openai_secret: nobody
    batch_id: batch_1
    webhook_url: https://example.com
    webhook_headers: {A: 'secret_ref:missing'}
  - name: three
    batch_id: batch_1
    openai_secret: keboola-prod
    webhook_url: https://example.com
  - name: good
    batch_id: batch_1
    openai_secret: openai-prod
    webhook_url: https://example.com
custom_checks:
  - name: four
    script_runtime: ruby
    script: print(1)
  - name: five
    script_runtime: python
    script_path: nowhere
  - name: six
    script_runtime: python
    script: print(1)
    script_path: x.py
"""
    found = refused(shell, bad)

    assert sorted(line.partition(":")[0] for line in found) == [
        "'five', script",
        "'four', script_runtime",
        "'one', batch_ids",
        "'one', poll_intervall",
        "'one', webhook_url",
        "'six', script",
        "'three', openai_secret",
        "'two', openai_secret",
        "'two', webhook_headers",
    ]


def test_a_bad_change_of_a_job_changes_nothing(shell: Shell) -> None:
    apply(shell, BOTH)

    found = refused(shell, BOTH.replace("n: 3", "n: 4").replace("_seconds: 60", "_seconds: 0"))

    assert {line.partition(":")[0] for line in found} == {
        "'nightly', poll_interval_seconds",
        "'exports', poll_interval_seconds",
    }


def test_a_name_is_taken_by_one_kind_only(shell: Shell) -> None:
    apply(shell, f"jobs:{POLLING}")

    (other,) = refused(shell, f"custom_checks:{CUSTOM.replace('exports', 'nightly')}")
    (twice,) = refused(shell, BOTH.replace("exports", "nightly"))

    assert other.startswith("'nightly', name: job 1 has it, and is a polling job")
    assert "stands in this file twice" in twice


def test_a_script_belongs_to_custom_checks(shell: Shell) -> None:
    (found,) = refused(shell, f"jobs:{POLLING}    script_path: x\n")

    assert found.startswith("'nightly', script_path: isn't a field")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("jobs: [", "isn't YAML: line 1"),
        ("jobs:\n  - name: a\n    name: b\n", "line 3, column 5: the key 'name' stands here twice"),
        ("jobs:\n  - name: a\n    on: b\n    1: c\n", "the key 1 must be a text"),
        ("- a\n", "must hold `jobs:`"),
        ("", "must hold `jobs:`"),
        ("nobs: []\n", "nobs: isn't one of jobs, custom_checks"),
        ("jobs: {a: b}\n", "jobs: must be a list"),
        ("jobs: [a]\n", "jobs, number 1: must be the fields of a job"),
        ("jobs:\n  - name: 7\n", "jobs, number 1, name: is required, as a text"),
        ("jobs: !!python/object/apply:os.system [id]\n", "isn't YAML"),
        ("a: b\n---\nc: d\n", "isn't YAML"),
        ("jobs: !!binary aaaa\n", "isn't YAML: line 1"),
        ("jobs: !!set {a, b}\n", "isn't YAML: line 1"),
        ("jobs: !!timestamp 2026-99-99\n", "isn't YAML: line 1"),
        ("jobs: !!int a\n", "isn't YAML"),
        (f"jobs: {'9' * 5000}\n", "isn't YAML"),
        (f"jobs: {'[' * 5000}{']' * 5000}\n", "nested deeper than"),
        ("jobs: [&a {name: b, c: *a}]\n", "nested deeper than"),
        ('jobs: [{name: "\\ud800"}]\n', "half a character"),
    ],
)
def test_what_is_no_file_of_jobs_is_told(text: str, told: str, sh: Shell) -> None:
    done = sh("apply", saved(sh, text))

    assert done.code == 2
    assert told in done.err


def test_a_file_that_cannot_be_read_is_told(sh: Shell) -> None:
    assert sh("apply", "-f", "nowhere.yaml").code == 74
    (sh.machine.folder / "odd.yaml").write_bytes(b"jobs: \xff")
    done: Done = sh("apply", "-f", str(sh.machine.folder / "odd.yaml"))
    assert done.code == 2


class _Stand(BaseHTTPRequestHandler):
    """An API that judges as told, and breaks down at the second job that it shall create."""

    judges: ClassVar[bool] = True
    created: ClassVar[list[str]]

    def do_GET(self) -> None:
        if self.path.startswith("/api/admin/secrets"):
            self._answer(200, {"secrets": [{"id": 1, "name": "openai-prod", "type": "openai"}]})
        elif "?" in self.path:
            self._answer(200, {"jobs": []})
        else:
            self._answer(404, {"detail": "no such job", "code": 1002})

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "only_judged_by_apply" in job and self.judges:
            fault = {"field": "only_judged_by_apply", "message": "isn't a field"}
            self._answer(400, {"detail": "isn't a field", "code": 1100, "errors": [fault]})
        elif self.created:
            self._answer(503, {"detail": "the disk is full", "code": 3001})
        else:
            self.created.append(job["name"])
            self._answer(201, {"id": 1})

    def _answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Be silent."""


@contextmanager
def stand(shell: Shell, *, judges: bool = True) -> Iterator[list[str]]:
    """The names of the jobs that an API in place of ours has created."""
    created: list[str] = []
    handler = type("Handler", (_Stand,), {"judges": judges, "created": created})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.02))
        thread.start()
        shell.env(TECKOCHECKER_URL=f"http://127.0.0.1:{server.server_address[1]}")
        yield created
        shell.env(TECKOCHECKER_URL=None)
        server.shutdown()
        thread.join()


_ONE = "batch_id: batch_1, openai_secret: openai-prod, webhook_url: 'https://a.example'"
THREE = "".join(["jobs:\n", *(f"- {{name: {name}, {_ONE}}}\n" for name in ("one", "two", "three"))])


def test_what_was_done_before_a_failure_is_told(sh: Shell) -> None:
    with stand(sh) as created:
        done = sh("apply", saved(sh, THREE))

    assert done.code == 74
    assert "1 of 3 jobs are done; apply the file again for the rest." in done.err
    assert "the disk is full" in done.err
    assert created == ["one"]


def test_an_api_that_cannot_judge_is_not_trusted(sh: Shell) -> None:
    with stand(sh, judges=False):
        done = sh("apply", saved(sh, THREE))

    assert done.code == 1
    assert "isn't one that `apply` knows" in done.err


# The file


def fields(text: str) -> Any:
    return declaration.read(f"jobs: [{{name: a, value: {text}}}]")[0].fields["value"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("~", None),
        ("010", "010"),
        ("12:30", "12:30"),
        ("2026-01-02", "2026-01-02"),
        ("1_000", "1_000"),
        ("0x1f", "0x1f"),
        ("-7", -7),
        ("2.5", 2.5),
        ("1.5e3", 1500.0),
        ("1e3", "1e3"),
        ("=", "="),
    ],
)
def test_words_mean_what_they_look_like(text: str, value: object) -> None:
    assert fields(text) == value


@pytest.mark.parametrize(
    "value",
    [
        *("no", "on", "true", "010", "12:30", "2026-01-02", "1e3", "~", "", " a ", "a: b", "- a"),
        *("# a", "{job_id}", "a\nb\n", "a\n\n b", "a\n", "\ttab\n", "é\u2028x", "'\"", "a" * 300),
        *(1, 2.5, True, None, [], {}, [{"a": [1]}], {"a": {"b": None}}),
    ],
    ids=repr,
)
def test_what_is_written_is_read_the_same(value: object) -> None:
    text = declaration.write([Written(Entry("polling", "a", {"name": "a", "value": value}))])

    assert declaration.read(text)[0].fields["value"] == value
    assert max(len(line) for line in text.splitlines()) <= 320


def test_aliases_bring_no_flood() -> None:
    text = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
    )

    with pytest.raises(InvalidInput, match="more than 1000000 values"):
        declaration.read(text)


def test_entries_are_ordered_and_remarked() -> None:
    entries = [
        Written(Entry("custom_check", "z", {"name": "z"}), ("A remark.",)),
        Written(Entry("polling", "b", {"name": "b"})),
        Written(Entry("polling", "a", {"name": "a"})),
    ]

    text = declaration.write(entries)

    assert text.endswith(
        "\njobs:\n  - name: a\n\n  - name: b\n\ncustom_checks:\n  # A remark.\n  - name: z\n"
    )
    assert declaration.write(reversed(entries)) == text


def test_paths_start_at_the_file(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "check.py").write_text("print(1)\n")
    by_path = CUSTOM[: CUSTOM.index("    script: |")] + "    script_path: check.py\n"
    (tmp_path / "deep" / "jobs.yaml").write_text(f"custom_checks:{by_path}")

    shell.good("apply", "-f", str(tmp_path / "deep" / "jobs.yaml"))

    assert jobs(shell)["exports"]["script"]["files"] == 1

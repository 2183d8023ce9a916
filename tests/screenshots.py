"""Pictures of every view, in light, dark and narrow: to be looked at.

    python -m tests.screenshots FOLDER

The jobs are made up and put into a database before a real daemon starts on it, so that the
pictures show days of history. The times are of now, all else is always the same.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace as replaced
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from teckochecker import lifecycle, outbox
from teckochecker.app import App, assemble
from teckochecker.config import Settings
from teckochecker.domain import (
    Execution,
    Finding,
    JobDraft,
    JobId,
    Page,
    Receipt,
    Secret,
    SecretType,
    Sent,
    Verdict,
)
from teckochecker.errors import Fault, OutsideError
from teckochecker.scripts.archive import inline
from teckochecker.sources.openai import judged
from teckochecker.sources.script import stored
from teckochecker.validation import Fields
from teckochecker.vault import new_uid
from teckochecker.web.custom_checks import check_draft
from teckochecker.web.jobs import polling_draft
from tests.benchmarks.harness import KEY, Daemon
from tests.browser import NARROW, WIDE, Watched, browser, watched

HOUR = timedelta(hours=1)
SCRIPT = """import json
import os
import urllib.request

url = f"https://ci.example.com/api/builds/{os.environ['BUILD_ID']}"
request = urllib.request.Request(url, headers={"Authorization": f"Bearer {os.environ['CI_TOKEN']}"})
with urllib.request.urlopen(request, timeout=20) as answer:
    build = json.load(answer)

print(json.dumps({
    "status": {"passed": "SUCCESS", "broken": "FAILED"}.get(build["state"], "PENDING"),
    "message": f"Build {build['number']} is {build['state']}",
    "data": {"completed": build["steps_done"], "total": build["steps"]},
}))
"""
KEBOOLA = {
    "keboola_secret": "keboola-prod",
    "keboola_stack_url": "https://connection.keboola.com",
    "keboola_configuration_id": "1184427",
}
WEBHOOK = {"webhook_url": "https://hooks.example.com/batches/done"}


class History:
    """Makes jobs and lets them live through what the engine would have done with them."""

    def __init__(self, app: App, now: datetime) -> None:
        self._app = app
        self._end = now
        self._dice = random.Random(7)

    def secret(self, name: str, kind: SecretType, value: str) -> None:
        uid = new_uid()
        sealed = self._app.vault.seal(uid, kind, Secret(value))
        self._app.store.secrets.add(uid, name, kind, sealed, self._end - 200 * HOUR)

    def batches(self, name: str, began: timedelta, *ids: str, **fields: Any) -> int:
        given = {
            "name": name,
            "batch_ids": list(ids),
            "openai_secret": "openai-prod",
            "poll_interval_seconds": 120,
            **(fields or KEBOOLA),
        }
        return self._add(polling_draft(self._app, Fields(given)), began, None)

    def check(self, name: str, began: timedelta, **fields: Any) -> int:
        given = {"name": name, "script_runtime": "python", "poll_interval_seconds": 60, **fields}
        draft = check_draft(self._app, Fields(given))
        archive = inline(SCRIPT, self._app.settings.scripts, entrypoint="main.py")
        state = {**stored(archive, self._end - began)}
        return self._add(draft, began, state)

    def _add(self, draft: JobDraft, began: timedelta, state: Any) -> int:
        at = self._end - began
        return self._app.store.jobs.add(draft, at, at, state).job.id

    def looked(self, job_id: int, ago: timedelta, finding: Finding, ms: int = 0) -> None:
        at = self._end - ago
        job = self._app.store.jobs.view(job_id).job
        decide = partial(
            lifecycle.checked,
            finding=finding,
            revision=job.revision,
            event_id=f"evt_{job_id:04x}{self._dice.getrandbits(80):020x}",
            duration_ms=ms or self._dice.randint(180, 420),
            opened=(),
            now=at,
            jitter=0.5,
        )
        self._app.store.jobs.step(
            JobId(job_id), lambda found, held: decide(found, held_until=held), at
        )

    def counted(
        self, job_id: int, ago: timedelta, status: str, *counts: tuple[int, int, int]
    ) -> None:
        """A check that saw the batches in one state, with (completed, failed, total) of each."""
        doc = self._app.store.jobs.view(job_id).job.source.doc
        known = {
            id_: _batch(id_, status, *one)
            for id_, one in zip(doc["batch_ids"], counts, strict=True)
        }
        self.looked(job_id, ago, judged(doc, known))

    def sent(self, job_id: int, ago: timedelta, outcome: Sent | OutsideError) -> None:
        at = self._end - ago
        deliveries = self._app.store.deliveries
        views, _ = deliveries.page(job_id, Page(limit=10, offset=0))  # newest first
        delivery_id = views[-1].delivery.id
        assert deliveries.begin(delivery_id, at) is not None
        decide = partial(
            outbox.attempted,
            outcome=outcome,
            started_at=at,
            duration_ms=412,
            waits_s=self._app.waits_s,
            opened=(),
            now=at,
            jitter=0.5,
        )
        deliveries.finish(
            delivery_id, lambda found, job, others: decide(found, job, others=others), at
        )


def _batch(id_: str, status: str, completed: int, failed: int, total: int) -> dict[str, Any]:
    return {
        "batch_id": id_,
        "status": status,
        "request_counts": {"total": total, "completed": completed, "failed": failed},
        "output_file_id": f"file-{id_[6:]}-out" if status == "completed" else None,
        "error_file_id": None,
        "created_at": "2026-01-01T08:00:00Z",
        "completed_at": None,
        "expires_at": None,
        "errors": [],
    }


def said(verdict: Verdict, message: str, data: dict[str, Any], stderr: str = "") -> Finding:
    """What a script's check found, with what the sandbox tells of its run."""
    output = {"status": verdict, "message": message, "data": data}
    run = Execution(
        exit_code=0, peak_memory_bytes=18_400_000, stdout="", stderr=stderr, output=output
    )
    return Finding(verdict=verdict, message=message, data=data, execution=run)


def error(message: str) -> Finding:
    return Finding(verdict=Verdict.ERROR, message=message, fault=Fault.TRANSIENT)


def make_up(app: App, now: datetime) -> dict[str, int]:
    """A believable week of one installation; the ids of the jobs that the pictures show."""
    history, dice = History(app, now), random.Random(11)
    history.secret("openai-prod", SecretType.OPENAI, "sk-for-the-pictures-only")
    history.secret("keboola-prod", SecretType.KEBOOLA, "1-for-the-pictures-only")
    history.secret("ci-token", SecretType.GENERIC, "tok-for-the-pictures-only")
    history.secret("hook-signing", SecretType.GENERIC, "whsec_for-the-pictures-only-0123456789")
    for number, name in enumerate(PAST):
        _past(history, name, number, dice)
    shown = {"broken": _broken(history), "script": _script(history, dice)}
    history.looked(
        history.batches("Embeddings of the catalogue", 2 * HOUR, "batch_68fc01ab27d4"),
        timedelta(seconds=70),
        error("OpenAI answered 503: The engine is currently overloaded (request req_51f2)"),
    )
    waiting = {"script_source_type": "upload", "webhook_url": WEBHOOK["webhook_url"]}
    draft = check_draft(
        app, Fields({"name": "Warehouse refresh", "script_runtime": "node", **waiting})
    )
    app.store.jobs.add(draft, None, now - HOUR, None)
    paused = history.batches("Translations, second run", 5 * HOUR, "batch_68fb99d41c02")
    history.counted(paused, 4 * HOUR, "in_progress", (210, 0, 900))
    app.store.jobs.step(
        JobId(paused), lambda job, _: lifecycle.paused(job, now - 3 * HOUR), now - 3 * HOUR
    )
    shown["polling"] = _polling(history)
    return shown


PAST = [
    "Nightly summaries", "Support tickets, sorted", "Product descriptions", "Quality sample",
    "Invoices, read", "Nightly summaries, rerun", "Search index", "Call transcripts",
]  # fmt: skip


def _past(history: History, name: str, number: int, dice: random.Random) -> None:
    began = timedelta(hours=120 - 14 * number)
    job = history.batches(name, began, f"batch_68f{number}c2ab27d{number}")
    total, looks = 100 * dice.randint(4, 30), dice.randint(14, 40)
    for look in range(looks):
        ago = began - timedelta(minutes=2 * (look + 1))
        if dice.random() < 0.05:
            history.looked(job, ago, error("OpenAI answered 500: The server had an error."))
        history.counted(job, ago, "in_progress", (total * look // looks, 0, total))
    ended = began - timedelta(minutes=2 * (looks + 1))
    if number == 3:
        history.counted(job, ended, "expired", (total // 2, 0, total))
        return
    history.counted(job, ended, "completed", (total, 0, total))
    receipt = Receipt(id=str(90120 + number), url=None, status="success", finished=True)
    history.sent(job, ended - timedelta(seconds=1), Sent(receipt=receipt, status_code=201))


def _polling(history: History) -> int:
    """Two batches half-way."""
    job = history.batches(
        "Reviews of the week", HOUR, "batch_68fd1be2a7d481", "batch_68fd1be2b94c07",
        **KEBOOLA, **WEBHOOK, poll_interval_seconds=60,
    )  # fmt: skip
    for look in range(44):
        ago = timedelta(seconds=20 + 60 * (43 - look))
        if look in (9, 10, 27):
            history.looked(job, ago, error("OpenAI answered 429: Rate limit reached."))
            continue
        done = 25 * look + (look * 7) % 13
        history.counted(
            job, ago, "in_progress", (done, 0, 1800), (done // 2, 3 if look > 30 else 0, 900)
        )
    return job


def _broken(history: History) -> int:
    """Completed, but its webhook is refused."""
    job = history.batches("Monthly report", 31 * HOUR, "batch_68fa77aa01", **WEBHOOK)
    for look in range(18):
        done = (22 * look, 0, 400)
        history.counted(job, 31 * HOUR - look * timedelta(minutes=2), "in_progress", done)
    history.counted(job, 30 * HOUR, "completed", (398, 2, 400))
    refused = OutsideError(
        "The webhook answered 410: it is gone.", Fault.REFUSED, status_code=410,
        answer='{"error": "<b>this endpoint</b> was removed"}',
    )  # fmt: skip
    history.sent(job, 30 * HOUR, refused)
    return job


def _script(history: History, dice: random.Random) -> int:
    job = history.check(
        "Release build 512",
        HOUR,
        check_params={"build_id": "512"},
        env_vars={"CI_TOKEN": "secret_ref:ci-token"},
        webhook_url="https://hooks.example.com/release",
        webhook_signing_secret="hook-signing",
    )
    for look in range(32):
        ago = timedelta(seconds=25 + 60 * (31 - look))
        if look == 12:
            message = "The script ended with exit code 1: urllib.error.URLError: timed out"
            run = Execution(exit_code=1, peak_memory_bytes=17_000_000, stderr=TRACEBACK)
            found = Finding(
                verdict=Verdict.ERROR, message=message, fault=Fault.TRANSIENT, execution=run
            )
        else:
            done = min(47, 1 + look * 3 // 2)
            found = said(
                Verdict.PENDING, "Build 512 is running", {"completed": done, "total": 60},
                "looking at https://ci.example.com/api/builds/512\n",
            )  # fmt: skip
        history.looked(job, ago, found, dice.randint(900, 2600))
    return job


def hostile(history: History) -> int:
    """A script that prints markup; its name holds some, too."""
    job = history.check(HOSTILE, 3 * HOUR, webhook_url=WEBHOOK["webhook_url"])
    run = Execution(exit_code=1, stdout=EVIL, stderr=EVIL, output={"status": "ERROR", "x": EVIL})
    found = Finding(verdict=Verdict.ERROR, message=EVIL, fault=Fault.TRANSIENT, execution=run)
    history.looked(job, timedelta(seconds=50), found)
    return job


HOSTILE = "<b data-evil>Printed markup<"
EVIL = "<img src=x onerror=alert(1)><script>alert(2)<\\/script><b data-evil>"
TRACEBACK = """Traceback (most recent call last):
  File "/work/script/main.py", line 7, in <module>
    with urllib.request.urlopen(request, timeout=20) as answer:
urllib.error.URLError: <urlopen error timed out>
"""


def views(shown: dict[str, int]) -> dict[str, str]:
    return {
        "overview": "",
        "jobs": "jobs",
        "job": f"jobs/{shown['polling']}",
        "job-failed": f"jobs/{shown['broken']}",
        "job-script": f"checks/{shown['script']}",
        "new": "new",
        "new-batch": "new/jobs",
        "new-script": "new/checks",
        "edit": f"checks/{shown['script']}/edit",
        "secrets": "secrets",
        "system": "system",
    }


LOOKS: Sequence[tuple[str, dict[str, bool]]] = (
    ("light", {}),
    ("dark", {"dark": True}),
    ("narrow", {"narrow": True}),
)


def staged(folder: Path, *, with_markup: bool = False) -> tuple[Daemon, dict[str, int]]:
    """A daemon, not started, over a home with a history."""
    daemon = Daemon(folder, _engine())
    settings = Settings.from_env({"SECRET_KEY": KEY, "LOG_FILE": "-"}, folder)
    app = assemble(settings)
    try:
        now = datetime.now(UTC)
        shown = make_up(replaced(app, now=lambda: now), now)
        if with_markup:
            shown["hostile"] = hostile(History(app, now))
        return daemon, shown
    finally:
        app.close()


def _engine() -> dict[str, str]:
    """The engine that the environment names: without one, the pictures show its absence."""
    return {name: text for name, text in os.environ.items() if name.startswith("DOCKER_")}


def take(found: Watched, place: str, target: Path) -> None:
    """The whole view; the window is made as tall, since its bars stick to the window."""
    width = WIDE if found.page.viewport_size == WIDE else NARROW
    found.open(place)
    found.page.wait_for_timeout(300)
    height = found.page.evaluate("document.documentElement.scrollHeight")
    found.page.mouse.move(0, 0)
    found.page.set_viewport_size({**width, "height": min(max(height, width["height"]), 2400)})
    found.page.wait_for_timeout(300)
    found.page.screenshot(path=target)
    found.page.set_viewport_size(width)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="teckochecker-pictures-") as home:
        daemon, shown = staged(Path(home))
        with daemon, browser() as chromium:
            daemon.start()
            for name, options in LOOKS:
                with watched(chromium, daemon, **options) as found:
                    found.start()
                    found.page.screenshot(path=folder / f"sign-in-{name}.png")
                    found.sign_in()
                    for view, place in views(shown).items():
                        take(found, place, folder / f"{view}-{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

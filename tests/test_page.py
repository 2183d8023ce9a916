"""The page in a real browser, over a real daemon and simulated services.

Whatever the browser complains about, be it the content security policy, an error on the
console, an answer that no test asked for, or a call to somebody else, fails the test.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from teckochecker.app import assemble
from teckochecker.config import Settings
from teckochecker.domain import SecretType
from teckochecker.simulators import Answer, Keboola, OpenAI, Receiver
from teckochecker.simulators.keboola import STORAGE_TOKEN
from teckochecker.simulators.openai import API_KEY
from teckochecker.sources.openai import judged
from teckochecker.validation import Fields
from teckochecker.web.jobs import polling_draft
from tests import sandboxed, screenshots
from tests.benchmarks.harness import KEY, TOKEN, Daemon, add_secrets, wait_for
from tests.browser import Watched, browser, chromium, watched
from tests.required import absent

pytestmark = [pytest.mark.browser, pytest.mark.slow]

AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
STATIC = Path(__file__).parents[1] / "teckochecker" / "web" / "static"
WEIGHT = 200_000
MARKUP = "<img src=x onerror=alert(1)><b>bold</b>"
SOON_MS = 15_000


@dataclass
class Stage:
    """A daemon, what it talks to, and a folder for files."""

    daemon: Daemon
    openai: OpenAI
    keboola: Keboola
    receiver: Receiver

    def job(self, name: str, batch: str, *steps: str, **fields: Any) -> Any:
        """A polling job by the API; its batch takes these steps, one at a check."""
        self.openai.add(batch, *(steps or ("in_progress",)))
        given = {
            "name": name,
            "batch_id": batch,
            "openai_secret": "openai",
            "poll_interval_seconds": 1,
            **(fields or self.keboola_fields()),
        }
        return self.daemon.call("POST", "/api/jobs", given)

    def keboola_fields(self) -> dict[str, Any]:
        return {
            "keboola_secret": "keboola",
            "keboola_stack_url": self.keboola.url,
            "keboola_configuration_id": "123456",
        }

    def wait(self, job: Any, status: str) -> None:
        def found() -> bool:
            return bool(self.daemon.call("GET", f"/api/jobs/{job['id']}")["status"] == status)

        wait_for(f"{job['name']} {status}", found, seconds=20)


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    if chromium() is None:
        absent("browser", "no Chromium here: install it, or name it in CHROMIUM")
    with browser() as made:
        yield made


@pytest.fixture(scope="module")
def stage(chrome: Browser) -> Iterator[Stage]:
    with ExitStack() as stack:
        openai, keboola = stack.enter_context(OpenAI()), stack.enter_context(Keboola())
        receiver = stack.enter_context(Receiver())
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="teckochecker-page-"))
        settings = {"OPENAI_BASE_URL": openai.base_url, "MIN_POLL_INTERVAL": 1, "MAX_RETRIES": 0}
        daemon = stack.enter_context(Daemon(Path(home), settings))
        daemon.start()
        add_secrets(daemon, "openai")
        yield Stage(daemon, openai, keboola, receiver)


@pytest.fixture
def seen(chrome: Browser, stage: Stage) -> Iterator[Watched]:
    """A page that has signed in."""
    with watched(chrome, stage.daemon) as found:
        found.sign_in()
        yield found


@pytest.fixture(scope="module")
def past(chrome: Browser) -> Iterator[tuple[Daemon, dict[str, int]]]:
    """A daemon with a made-up history, as for the pictures."""
    with tempfile.TemporaryDirectory(prefix="teckochecker-page-") as home:
        daemon, shown = screenshots.staged(Path(home), with_markup=True)
        with daemon:
            daemon.start()
            yield daemon, shown


def fill(page: Page, label: str, value: str) -> None:
    page.get_by_label(label, exact=True).fill(value)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def row(page: Page, name: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))


def in_panel(page: Page, title: str) -> Locator:
    return page.get_by_role("region", name=title, exact=True)


# Signing in


def test_it_signs_in_and_out(chrome: Browser, stage: Stage) -> None:
    with watched(chrome, stage.daemon) as found:
        found.expected = {401}
        found.sign_in()
        page = found.page
        cookies = page.context.cookies()
        assert [(one["httpOnly"], one["sameSite"], one["path"]) for one in cookies] == [
            (True, "Strict", "/")
        ]
        page.reload()
        expect(page.get_by_role("heading", level=1)).to_be_visible()

        press(page, "Sign out")

        expect(page.get_by_label("Access token")).to_be_focused()
        assert page.context.cookies() == []
        page.goto(f"{found.url}/#/jobs")
        page.reload()
        expect(page.get_by_label("Access token")).to_be_visible()


def test_a_wrong_token_is_told_and_guessing_is_slowed_down(chrome: Browser, stage: Stage) -> None:
    with watched(chrome, stage.daemon) as found:
        found.expected = {401, 429}
        page = found.page
        found.start()
        fill(page, "Access token", "tck_wrong")
        press(page, "Sign in")
        expect(page.get_by_role("alert")).to_contain_text("That isn't the token")
        for _ in range(12):
            page.get_by_role("button", name="Sign in").click()
            expect(page.get_by_role("button", name="Sign in")).to_be_enabled()
        expect(page.get_by_role("alert")).to_contain_text("wait a minute")

        found.sign_in()


def test_a_session_that_ended_leads_back_to_the_start(seen: Watched) -> None:
    seen.expected = {401, 429}  # where others have guessed before
    seen.page.context.clear_cookies()

    seen.page.goto(f"{seen.url}/#/secrets")

    expect(seen.page.get_by_role("alert")).to_contain_text("session has ended")


# Making things


def test_a_polling_job_is_made_with_new_secrets_and_seen_complete(
    seen: Watched, stage: Stage
) -> None:
    stage.openai.add("batch_made", "validating", "in_progress", "in_progress", "completed")
    page = seen.page
    page.get_by_role("link", name="New job").click()
    page.get_by_role("link", name=re.compile("OpenAI batches")).click()
    fill(page, "Name", "Made on the page")
    fill(page, "Batch ids", "batch_made")
    for label, name, value in (
        ("OpenAI key", "openai-made", API_KEY),
        ("Storage token", "keboola-made", STORAGE_TOKEN),
    ):
        press(page, f"New: {label}")
        dialog = page.get_by_role("dialog", name="New secret")
        dialog.get_by_label("Name").fill(name)
        dialog.get_by_label("Value").fill(value)
        dialog.get_by_role("button", name="Add the secret").click()
        expect(page.get_by_label(label, exact=True)).to_have_value(name)
    press(page, "Test: OpenAI key")
    expect(page.get_by_text("OpenAI accepts this key.")).to_be_visible()
    fill(page, "Stack", stage.keboola.url)
    fill(page, "Configuration", "123456")
    fill(page, "Check every (seconds)", "1")

    press(page, "Create the job")

    expect(page.get_by_role("heading", name="Made on the page")).to_be_visible()
    main = page.get_by_role("main")
    expect(main.locator("header .chip")).to_have_text("Completed", timeout=SOON_MS)
    expect(main.get_by_role("status").first).to_have_text("Made on the page: Completed")
    expect(main.get_by_text("It is completed: Keboola job")).to_be_visible()
    expect(in_panel(page, "Deliveries").get_by_text("delivered", exact=True).first).to_be_visible()
    expect(in_panel(page, "Log").get_by_text("Batch completed")).to_be_visible()
    assert len(stage.keboola.jobs) >= 1


def test_a_custom_check_is_written_on_the_page_changed_and_duplicated(seen: Watched) -> None:
    page = seen.page
    seen.open("new/checks")
    fill(page, "Name", "Written here")
    page.get_by_label("Parameters", exact=True).fill('{"task_id": "42"}')
    page.get_by_label("Script", exact=True).press("Control+End")
    page.keyboard.type("if True:\nprint(1)")
    press(page, "Create the job")

    expect(page.get_by_role("heading", name="Written here")).to_be_visible()
    script = in_panel(page, "Script")
    script.get_by_text("Text", exact=True).click()
    expect(script.locator("pre")).to_contain_text("if True:\n    print(1)")

    page.get_by_role("link", name="Edit").click()
    fill(page, "Name", "Changed here")
    fill(page, "Check every (seconds)", "77")
    press(page, "Save")
    expect(page.get_by_role("heading", name="Changed here")).to_be_visible()
    expect(in_panel(page, "Facts").get_by_text("1 min 17 s")).to_be_visible()

    press(page, "More actions")
    press(page, "Duplicate")
    expect(page.get_by_label("Name", exact=True)).to_have_value("Changed here copy")
    press(page, "Create the job")
    expect(page.get_by_role("heading", name="Changed here copy")).to_be_visible()
    expect(in_panel(page, "Facts").get_by_text('{"task_id":"42"}')).to_be_visible()


@pytest.mark.docker
def test_a_script_runs_in_a_container_and_is_seen_to_its_end(
    chrome: Browser, tmp_path: Path
) -> None:
    sandboxed.ready()
    with Receiver() as receiver, Daemon(tmp_path, sandboxed.ENVIRONMENT) as daemon:
        daemon.start()
        with watched(chrome, daemon) as found:
            found.sign_in()
            page = found.page
            page.get_by_role("link", name="Run a script of yours").click()
            fill(page, "Name", "Three looks")
            fill(page, "Check every (seconds)", "10")
            page.get_by_label("Call a webhook").check()
            fill(page, "Address", f"{receiver.url}/three")
            press(page, "Create the job")

            chip = page.get_by_role("main").locator("header .chip")
            expect(chip).to_have_text("Completed", timeout=90_000)
            log = in_panel(page, "Log")
            expect(log.get_by_text("Task none: look number 3")).to_be_visible()
            log.locator("summary").filter(has_text="look number 3").click()
            expect(log.get_by_text(re.compile("exit code 0 · peak memory"))).to_be_visible()
            expect(page.get_by_text("3 of 3", exact=True)).to_be_visible()
    assert [one.path for one in receiver.requests] == ["/three"]


def test_files_are_packed_in_the_browser_and_uploaded(seen: Watched, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import other\nprint(other.LINE)\n")
    (tmp_path / "other.py").write_text('LINE = \'{"status": "PENDING"}\'\n')
    page = seen.page
    seen.open("new/checks")
    fill(page, "Name", "Uploaded")
    page.get_by_label("Where the script comes from").select_option("upload")
    page.locator("input[type=file]").set_input_files([tmp_path / "main.py", tmp_path / "other.py"])
    expect(page.get_by_text("2 files are packed and sent")).to_be_visible()
    press(page, "Create the job")

    script = in_panel(page, "Script")
    expect(script.get_by_text("2 files")).to_be_visible()
    before = script.locator("code").first.text_content()
    (tmp_path / "other.py").write_text('LINE = \'{"status": "SUCCESS"}\'\n')
    script.locator("input[type=file]").set_input_files(
        [tmp_path / "main.py", tmp_path / "other.py"]
    )

    expect(page.get_by_text("Script uploaded successfully")).to_be_visible()
    expect(script.locator("code").first).not_to_have_text(before or "")


def test_a_script_that_is_dropped_is_shown_in_the_editor(seen: Watched) -> None:
    page = seen.page
    seen.open("new/checks")
    page.get_by_label("Where the script comes from").select_option("upload")
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["console.log(1)\\n"], "look.js"));
            const drop = new DragEvent("drop", {dataTransfer: data, bubbles: true});
            document.querySelector(".drop").dispatchEvent(drop);
        }"""
    )

    expect(page.get_by_label("Script", exact=True)).to_have_value("console.log(1)\n")
    expect(page.get_by_label("Language")).to_have_value("node")


def test_what_is_wrong_is_told_beside_its_field(seen: Watched) -> None:
    seen.expected = {400, 409}
    page = seen.page
    seen.open("new/jobs")
    fill(page, "Batch ids", "not-a-batch")
    fill(page, "Stack", "http://169.254.169.254/")
    press(page, "Create the job")

    expect(page.get_by_label("Name", exact=True)).to_be_focused()
    for name in ("name", "batch_ids", "openai_secret", "keboola_stack_url", "keboola_secret"):
        field = page.locator(f"[data-field={name}]")
        expect(field.locator(".field-error")).not_to_be_empty()
        expect(field.locator("[aria-invalid=true]")).to_have_count(1)
    expect(page.locator("[data-field=name] .field-error")).to_have_text("is required")
    fill(page, "Name", "x")
    expect(page.locator("[data-field=name] .field-error")).to_be_empty()


def test_what_is_no_json_is_told_before_anything_is_sent(seen: Watched) -> None:
    page = seen.page
    seen.open("new/checks")
    fill(page, "Name", "Bad parameters")
    fill(page, "Parameters", "{task_id: 42}")
    press(page, "Create the job")

    error = page.locator("[data-field=check_params] .field-error")
    expect(error).to_contain_text("isn't valid JSON")
    expect(page.get_by_label("Parameters")).to_be_focused()


def test_a_taken_name_is_told_beside_the_name(seen: Watched, stage: Stage) -> None:
    seen.expected = {409}
    stage.job("Taken", "batch_taken")
    page = seen.page
    seen.open("new/checks")
    fill(page, "Name", "Taken")
    press(page, "Create the job")

    expect(page.locator("[data-field=name] .field-error")).to_contain_text("choose another name")


# Steering


def test_a_job_is_paused_resumed_checked_and_deleted(seen: Watched, stage: Stage) -> None:
    seen.expected = {404}  # it may ask for the log of a job that is being deleted
    job = stage.job("Steered", "batch_steered")
    page = seen.page
    seen.open(f"jobs/{job['id']}")
    chip = page.get_by_role("main").locator("header .chip")

    press(page, "Pause")
    expect(chip).to_have_text("Paused")
    expect(page.get_by_text("Nothing happens while it is paused")).to_be_visible()
    press(page, "Resume")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    press(page, "Check now")
    expect(in_panel(page, "Log").get_by_text("Check asked for by hand.")).to_be_visible()

    press(page, "More actions")
    press(page, "Delete")
    dialog = page.get_by_role("dialog", name="Delete this job?")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    press(page, "More actions")
    press(page, "Delete")
    dialog.get_by_role("button", name="Delete").click()

    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    expect(row(page, "Steered")).to_have_count(0)
    assert "Steered" not in str(stage.daemon.call("GET", "/api/jobs?q=Steered"))


def test_a_webhook_that_failed_is_redelivered(seen: Watched, stage: Stage) -> None:
    stage.receiver.instead("*", "/broken*", Answer(410, {"error": MARKUP}))
    url = f"{stage.receiver.url}/broken"
    job = stage.job("Refused", "batch_refused", "completed", webhook_url=url)
    stage.wait(job, "failed")
    page = seen.page
    seen.open(f"jobs/{job['id']}")
    deliveries = in_panel(page, "Deliveries")
    expect(deliveries.get_by_text("410", exact=True)).to_be_visible()
    expect(deliveries.locator("pre")).to_contain_text(MARKUP)
    stage.receiver.restore()

    deliveries.get_by_role("button", name="Redeliver").click()

    expect(page.get_by_role("main").locator("header .chip")).to_have_text(
        "Completed", timeout=SOON_MS
    )
    expect(deliveries.get_by_text("2 attempts")).to_be_visible()
    sent = [one for one in stage.receiver.requests if one.path == "/broken"]
    assert len({one.headers["webhook-id"] for one in sent}) == 1


def test_a_webhook_is_tried(seen: Watched, stage: Stage) -> None:
    url = f"{stage.receiver.url}/tried"
    job = stage.job("Tried", "batch_tried", webhook_url=url)
    seen.open(f"jobs/{job['id']}")

    press(seen.page, "Test webhook")

    dialog = seen.page.get_by_role("dialog", name="The webhook took the test event")
    expect(dialog).to_contain_text("200")
    assert [one.path for one in stage.receiver.requests].count("/tried") == 1


def test_news_arrive_without_a_reload(seen: Watched, stage: Stage) -> None:
    page = seen.page
    seen.open("jobs")
    page.evaluate("window.mark = 1")
    job = stage.job("Seen live", "batch_live", webhook_url=f"{stage.receiver.url}/live")
    expect(row(page, "Seen live")).to_be_visible()
    expect(
        row(page, "Seen live").get_by_role("img", name=re.compile(r"Last \d+ checks"))
    ).to_be_visible()

    stage.daemon.call("POST", f"/api/jobs/{job['id']}/pause")
    expect(row(page, "Seen live").locator(".chip")).to_have_text("Paused")
    stage.daemon.call("DELETE", f"/api/jobs/{job['id']}")

    expect(row(page, "Seen live")).to_have_count(0)
    assert page.evaluate("window.mark") == 1


def test_a_hidden_page_listens_no_more(seen: Watched) -> None:
    page = seen.page
    state = page.locator(".connection")
    expect(state).to_have_text("Live")
    hide = """hidden => {
        Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
        document.dispatchEvent(new Event("visibilitychange"));
    }"""

    page.evaluate(hide, True)
    expect(state).to_have_text("Paused")
    page.evaluate(hide, False)

    expect(state).to_have_text("Live")


def test_it_works_by_keyboard_alone(seen: Watched, stage: Stage) -> None:
    for name in ("Keys one", "Keys two"):
        stage.job(name, f"batch_{name[-3:]}", poll_interval_seconds=600, **stage.keboola_fields())
    page = seen.page
    seen.open("jobs")
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_focused()
    expect(row(page, "Keys two")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("Keys")
    expect(page.get_by_role("row")).to_have_count(3)
    page.keyboard.press("Tab")
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Keys two")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("link", name="Keys one")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Check now")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(row(page, "Keys one").locator(".chip")).to_have_text("Paused")


# Secrets and the system


def test_secrets_are_added_tried_replaced_and_deleted(seen: Watched) -> None:
    page = seen.page
    seen.open("secrets")
    press(page, "New secret")
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("short-lived")
    dialog.get_by_label("Type").select_option("openai")
    dialog.get_by_label("Value").fill("sk-wrong-key")
    dialog.get_by_role("button", name="Add the secret").click()

    press(page, "Test short-lived")
    expect(page.get_by_text("OpenAI answered 401")).to_be_visible()
    press(page, "Replace the value of short-lived")
    page.get_by_role("dialog").get_by_label("Value").fill(API_KEY)
    page.get_by_role("button", name="Replace", exact=True).click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    press(page, "Test short-lived")
    expect(page.get_by_text("OpenAI accepts this key.")).to_be_visible()
    assert "sk-wrong" not in page.content()
    press(page, "Delete short-lived")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()

    expect(page.get_by_role("heading", name="short-lived")).to_have_count(0)


def test_a_secret_in_use_is_not_deleted_and_says_by_whom(seen: Watched, stage: Stage) -> None:
    seen.expected = {409}
    stage.job("Uses it", "batch_uses")
    seen.open("secrets")
    press(seen.page, "Delete openai")
    seen.page.get_by_role("dialog").get_by_role("button", name="Delete").click()

    expect(seen.page.locator(".toast-bad")).to_contain_text("in use")
    expect(seen.page.get_by_role("heading", name="openai", exact=True)).to_be_visible()


def test_the_system_shows_settings_and_no_secret(seen: Watched) -> None:
    seen.open("system")
    page = seen.page
    expect(in_panel(page, "Settings").get_by_text("MAX_CONCURRENT_REQUESTS")).to_be_visible()
    expect(in_panel(page, "Health").get_by_text("All in all")).to_be_visible()
    assert KEY not in page.content()
    assert TOKEN not in page.content()


# Hostile text


def test_what_a_script_printed_is_shown_as_text(
    chrome: Browser, past: tuple[Daemon, dict[str, int]]
) -> None:
    daemon, shown = past
    with watched(chrome, daemon) as found:
        alerts: list[str] = []
        found.page.on("dialog", lambda dialog: alerts.append(dialog.message))
        found.sign_in()
        for place in (f"checks/{shown['hostile']}", "jobs", ""):
            found.open(place)
            found.page.wait_for_timeout(300)
            expect(found.page.get_by_text(screenshots.HOSTILE).first).to_be_visible()
            assert found.page.locator("main img, main b[data-evil], main script").count() == 0
        found.open(f"checks/{shown['hostile']}")
        entry = in_panel(found.page, "Log").locator("li").filter(has_text="onerror").first
        entry.locator("summary").click()
        expect(entry.locator("pre").first).to_contain_text("onerror")

        assert alerts == []


# The words

JOB: dict[str, Any] = {
    "status": "active", "phase": "polling", "trigger_on": "success", "batch_count": 1,
    "completed_count": 0, "failed_count": 0, "batches": [], "last_check_status": "PENDING",
    "keboola_configuration_id": "7",
}  # fmt: skip
COUNTED = {"status": "in_progress", "request_counts": {"total": 9, "completed": 4, "failed": 1}}
LATER = "2999-01-01T00:00:00Z"
ATTEMPT = {"message": "The webhook answered 503"}
WAITING = {
    "action": "webhook", "state": "pending", "attempts": [ATTEMPT], "next_attempt_at": LATER,
}  # fmt: skip
SENTENCES: dict[str, tuple[dict[str, Any], list[dict[str, Any]], str]] = {
    "new": ({"last_check_status": None}, [], "the first check comes soon. When it succeeds, "),
    "counted": ({"batches": [COUNTED]}, [], "the batch is in_progress, 5 of 9 requests are done."),
    "several": ({"batch_count": 3, "completed_count": 1}, [], "1 of 3 batches have ended."),
    "terminal": ({"trigger_on": "terminal"}, [], "When it ends, well or badly, Keboola"),
    "idle": ({"keboola_configuration_id": None}, [], "nothing is triggered"),
    "error": ({"last_check_status": "ERROR"}, [], "repeated with growing waits"),
    "script": ({"phase": "awaiting_script"}, [], "It waits for its script: upload one"),
    "paused": ({"status": "paused", "status_reason": "key refused"}, [], "paused: key refused."),
    "delivering": (
        {"phase": "delivering"},
        [WAITING],
        "telling so failed 1 time: The webhook answered 503. It is tried again in",
    ),
    "sending": (
        {"phase": "delivering"},
        [{"action": "keboola", "state": "sending", "attempts": [ATTEMPT] * 2}],
        "Keboola job: attempt 2 is under way.",
    ),
    "stuck": (
        {"status": "failed", "status_reason": "delivery failed: it is gone"},
        [{"action": "webhook", "state": "failed", "attempts": []}],
        "its delivery failed: it is gone. Mend the cause, then redeliver below.",
    ),
    "failed": ({"status": "failed", "status_reason": "expired"}, [], "It failed: expired. Nothing"),
    "started": (
        {"status": "completed", "keboola_job": {"id": "12", "status": "processing"}},
        [],
        "Keboola job 12 was started and is processing.",
    ),
    "started badly": (
        {"status": "completed", "keboola_job": {"id": "12", "status": "error", "failed": True}},
        [],
        "that job ended as error.",
    ),
}  # fmt: skip


def test_a_sentence_says_why_a_job_waits_and_what_comes_next(chrome: Browser, stage: Stage) -> None:
    with watched(chrome, stage.daemon) as found:
        found.page.goto(found.url)
        for name, (changes, deliveries, words) in SENTENCES.items():
            said = found.page.evaluate(
                """async ([job, deliveries]) =>
                    (await import("/static/explain.js")).explain(job, {deliveries})""",
                [JOB | changes, deliveries],
            )
            assert words in said, name


PACES = {
    "steady": ([(0, 0), (60, 10), (120, 20), (180, 30)], 420),
    "too few": ([(0, 0), (60, 10)], None),
    "halted": ([(0, 0), (60, 30), (120, 30), (180, 30)], None),
    "done": ([(0, 0), (60, 50), (120, 100)], None),
    "backwards": ([(0, 50), (60, 40), (120, 30)], None),
    "too short": ([(0, 0), (5, 10), (10, 20)], None),
}


def test_the_time_that_is_left_is_told_only_where_the_pace_tells_it(
    chrome: Browser, stage: Stage
) -> None:
    with watched(chrome, stage.daemon) as found:
        found.page.goto(found.url)
        for name, (points, seconds) in PACES.items():
            left = found.page.evaluate(
                """async points => (await import("/static/explain.js")).secondsLeft(points)""",
                [{"at": at * 1000, "done": done, "total": 100} for at, done in points],
            )
            assert left == seconds, name


def test_the_page_reads_the_counts_in_the_sources_own_sentences(
    chrome: Browser, stage: Stage
) -> None:
    """The log holds no numbers of a check of batches, only this sentence about them."""
    batch = {"batch_id": "batch_a", "errors": []}
    counts = {"total": 900, "completed": 300, "failed": 12}
    doc = {"batch_ids": ["batch_a"], "max_failed_percent": 100}
    with watched(chrome, stage.daemon) as found:
        found.page.goto(found.url)
        for status, done in (("in_progress", 312), ("completed", 900)):
            known = {"batch_a": {**batch, "status": status, "request_counts": counts}}
            read = found.page.evaluate(
                """async message =>
                    (await import("/static/explain.js")).countsOfCheck({message})""",
                judged(doc, known).message,
            )
            assert (read["done"], read["total"]) == (done, 900)


# A thousand jobs


@pytest.fixture(scope="module")
def crowd(chrome: Browser) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="teckochecker-page-") as home:
        daemon = Daemon(Path(home), {})
        app = assemble(Settings.from_env({"SECRET_KEY": KEY, "LOG_FILE": "-"}, Path(home)))
        now = datetime.now(UTC)
        history = screenshots.History(app, now)
        history.secret("openai-prod", SecretType.OPENAI, "sk-x")
        history.secret("keboola-prod", SecretType.KEBOOLA, "1-x")
        fields = {"openai_secret": "openai-prod", **screenshots.KEBOOLA}
        for number in range(1000):
            given = {"name": f"Job number {number:04}", "batch_id": f"batch_{number:04}", **fields}
            draft = polling_draft(app, Fields(given))
            app.store.jobs.add(draft, now + timedelta(hours=1), now)
        app.close()
        with daemon:
            daemon.start()
            yield daemon


def test_a_thousand_jobs_scroll_search_and_sort(chrome: Browser, crowd: Daemon) -> None:
    with watched(chrome, crowd) as found:
        found.sign_in()
        page = found.page
        found.open("jobs")
        expect(page.get_by_text("1,000 jobs", exact=True)).to_be_visible()
        expect(page.get_by_role("table", name="Jobs")).to_have_attribute("aria-rowcount", "1001")
        assert page.get_by_role("row").count() < 50

        frame_ms = page.evaluate(SCROLL)
        expect(row(page, "Job number 0000")).to_be_visible()
        assert page.get_by_role("row").count() < 50
        assert frame_ms < 100  # 10 on an idle machine; the tests' own is a busy one

        page.get_by_label("Search jobs").fill("batch_0500")
        expect(page.get_by_text("1 job of 1000")).to_be_visible()
        expect(row(page, "Job number 0500")).to_be_visible()
        page.get_by_label("Search jobs").fill("")
        page.get_by_label("Sort by").select_option("name")
        expect(page.get_by_role("row").nth(1)).to_contain_text("Job number 0000")
        page.get_by_label("State", exact=True).select_option("failed")
        expect(page.get_by_role("heading", name="No job fits")).to_be_visible()


SCROLL = """async () => {
    const frames = [], end = document.documentElement.scrollHeight;
    let last = performance.now();
    for (let top = 0; top < end; top += end / 120) {
        scrollTo(0, top);
        await new Promise(requestAnimationFrame);
        frames.push(performance.now() - last);
        last = performance.now();
    }
    scrollTo(0, end);
    await new Promise(requestAnimationFrame);
    return frames.sort((a, b) => a - b)[Math.floor(frames.length / 2)];
}"""


# Accessibility, and weight


LOOKS = dict(screenshots.LOOKS)


@pytest.mark.parametrize("look", LOOKS)
def test_no_view_has_a_barrier(
    chrome: Browser, past: tuple[Daemon, dict[str, int]], look: str
) -> None:
    daemon, shown = past
    barriers: dict[str, list[str]] = {}
    with watched(chrome, daemon, **LOOKS[look]) as found:
        found.start()
        barriers["sign-in"] = examined(found.page)
        found.sign_in()
        for view, place in screenshots.views(shown).items():
            found.open(place)
            found.page.wait_for_timeout(200)
            found.page.evaluate(UNFOLD)
            barriers[view] = examined(found.page)
        found.open("secrets")
        press(found.page, "New secret")
        barriers["dialog"] = examined(found.page)
        found.page.keyboard.press("Escape")
        found.open("jobs")
        found.page.get_by_role("button", name=re.compile("^Actions for")).first.click()
        barriers["menu"] = examined(found.page)

    assert {view: found for view, found in barriers.items() if found} == {}


UNFOLD = "for (const one of document.querySelectorAll('main details')) one.open = true"


def examined(page: Page) -> list[str]:
    """What axe-core finds, with the elements that it finds it at."""
    page.evaluate(AXE.read_text())
    answer = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {one['help']}: {node['html'][:120]} {node['failureSummary'][:200]}"
        for one in answer["violations"]
        for node in one["nodes"][:3]
    ]


def test_nothing_is_wider_than_a_narrow_screen(
    chrome: Browser, past: tuple[Daemon, dict[str, int]]
) -> None:
    daemon, shown = past
    with watched(chrome, daemon, narrow=True) as found:
        found.sign_in()
        for view, place in screenshots.views(shown).items():
            found.open(place)
            found.page.wait_for_timeout(100)
            width = found.page.evaluate("document.documentElement.scrollWidth")
            assert width <= 390, view


def test_a_fresh_installation_says_what_to_do_first(chrome: Browser, tmp_path: Path) -> None:
    with Daemon(tmp_path, {}) as daemon:
        daemon.start()
        with watched(chrome, daemon) as found:
            found.sign_in()
            expect(found.page.get_by_role("heading", name="Nothing is watched yet")).to_be_visible()
            for place, words in (("jobs", "No jobs yet"), ("secrets", "No secrets yet")):
                found.open(place)
                expect(found.page.get_by_role("heading", name=words)).to_be_visible()


def test_the_whole_page_is_light() -> None:
    assert sum(file.stat().st_size for file in STATIC.iterdir()) < WEIGHT


def test_the_page_has_nothing_inline_and_makes_no_markup_of_text() -> None:
    html = (STATIC / "page.html").read_text()
    assert "<style" not in html
    assert not re.search(r"\s(style|on\w+)=", html)
    assert re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL) == [""]
    for file in STATIC.glob("*.js"):
        text = file.read_text()
        for trap in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert trap not in text, file.name
        assert '"style"' not in text, file.name

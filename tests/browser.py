"""A real browser over a real daemon: what the page's tests and its screenshots share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserType,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    Response,
    ViewportSize,
    sync_playwright,
)
from playwright.sync_api import (
    TimeoutError as Late,
)

from tests.benchmarks.harness import TOKEN, Daemon

ARGUMENTS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
]
WIDE: ViewportSize = {"width": 1280, "height": 860}
NARROW: ViewportSize = {"width": 390, "height": 844}


def chromium() -> str | None:
    """The browser to use: `CHROMIUM`, else the one that is installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@contextmanager
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright, launched(playwright.chromium) as made:
        yield made


@contextmanager
def launched(kind: BrowserType) -> Iterator[Browser]:
    """One more browser: each opens six connections to a host, and a page holds one."""
    path = chromium()
    assert path, "no Chromium: install it, or name it in CHROMIUM"
    sandboxed = os.geteuid() != 0  # its sandbox refuses root
    made = kind.launch(executable_path=path, args=ARGUMENTS, chromium_sandbox=sandboxed)
    try:
        yield made
    finally:
        made.close()


@dataclass
class Watched:
    """A page, and all that it complains about; `expected` are answers that a test asks for."""

    page: Page
    url: str
    expected: set[int] = field(default_factory=set)
    network_changed: bool = False
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("response", self._response)
        self.page.on("request", lambda request: self._request(request.url))
        self.page.on("requestfailed", self._failed)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        if message.text.startswith("Failed to load resource"):  # told by its answer
            return
        self.complaints.append(f"{message.type}: {message.text}")

    def _response(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.expected:
            call = f"{response.request.method} {response.url}"
            self.complaints.append(f"{response.status} for {call}")

    def _request(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and f"{parts.scheme}://{parts.netloc}" != self.url:
            self.complaints.append(f"asked {url}, which isn't ours")

    def _failed(self, request: Request) -> None:
        if request.failure == "net::ERR_NETWORK_CHANGED":  # a container came or went
            self.network_changed = True
        elif request.failure != "net::ERR_ABORTED":  # the page itself went elsewhere
            self.complaints.append(f"{request.failure} for {request.method} {request.url}")

    def _there(self, wanted: Locator) -> None:
        """Wait for it; a page that lost a part on its way is loaded once more."""
        try:
            wanted.wait_for()
        except Late:
            if not self.network_changed:
                raise
            self.page.reload()
            wanted.wait_for()

    def open(self, place: str = "") -> None:
        """Go to a view, and wait until it is there."""
        self.page.goto(f"{self.url}/#/{place}")
        self._there(self.page.locator("h1").first)

    def start(self) -> None:
        """Go to the page, as a stranger."""
        self.page.goto(self.url)
        self._there(self.page.get_by_label("Access token"))

    def sign_in(self, token: str = TOKEN) -> None:
        self.start()
        self.page.get_by_label("Access token").fill(token)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_role("navigation", name="Main").wait_for()


@contextmanager
def watched(
    browser: Browser, daemon: Daemon, *, dark: bool = False, narrow: bool = False, scale: float = 1
) -> Iterator[Watched]:
    """A fresh profile; fails at its end when the page has complained about anything."""
    context = browser.new_context(
        viewport=NARROW if narrow else WIDE,
        color_scheme="dark" if dark else "light",
        device_scale_factor=scale,
        locale="en-GB",
        timezone_id="Europe/Prague",
        reduced_motion="reduce",
    )
    context.set_default_timeout(20_000)
    try:
        found = Watched(context.new_page(), f"http://127.0.0.1:{daemon.port}")
        try:
            yield found
        except Exception as error:
            error.add_note(f"The page has complained: {found.complaints}")
            raise
        assert found.complaints == []
    finally:
        context.close()


Make = Callable[..., Watched]

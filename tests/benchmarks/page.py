"""The page: its weight, how soon it is there, and what ten idle ones cost the daemon.

The jobs, a thousand, aren't due while this runs, so whatever the daemon does it does for the
pages; what it costs without any is measured first. Needs a Chromium.

    python -m tests.benchmarks.page [--quick]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from playwright.sync_api import Browser

from tests.benchmarks.figures import Figure, table
from tests.benchmarks.harness import Daemon, add_secrets, installation, job_fields, say
from tests.browser import Watched, browser, launched, watched

STATIC = Path(__file__).parents[2] / "teckochecker" / "web" / "static"
JOBS, PAGES, A_BROWSER = 1000, 10, 5
SETTLE_S = 3.0


def run(quick: bool) -> list[Figure]:
    seconds, rounds = (10.0, 3) if quick else (60.0, 5)
    weight = sum(file.stat().st_size for file in STATIC.iterdir()) / 1000
    with crowded() as daemon, browser() as chromium:
        views = [first_view_s(chromium, daemon) for _ in range(rounds)]
        numbers, lists = zip(*views, strict=True)
        alone = share_of_core(daemon, seconds)
        with ExitStack() as stack:
            for _ in range(PAGES // A_BROWSER):
                say("a browser with some pages")
                one = stack.enter_context(launched(chromium.browser_type))
                for _ in range(A_BROWSER):
                    stack.enter_context(signed_in(one, daemon))
            listened = share_of_core(daemon, seconds)
    return [
        Figure(what="weight of the page", unit="kB", rounds=[weight], bar=200),
        Figure(what="first view, 1,000 jobs: its numbers", unit="s", rounds=numbers, bar=1.0),
        Figure(what="first view, 1,000 jobs: its lists", unit="s", rounds=lists, bar=1.0),
        Figure(what="daemon without a page", unit="% of a core", rounds=[alone]),
        Figure(what="daemon with ten idle pages", unit="% of a core", rounds=[listened]),
        Figure(what="what the ten pages add", unit="% of a core", rounds=[listened - alone], bar=1),
    ]


@contextmanager
def crowded() -> Iterator[Daemon]:
    """A daemon with a thousand jobs, each checked once against nobody, then due in an hour."""
    with installation(OPENAI_BASE_URL="http://127.0.0.1:9/v1", LOG_FILE="-") as daemon:
        daemon.start()
        add_secrets(daemon, "openai")
        for number in range(JOBS):
            fields = job_fields(f"Job {number}", f"batch_{number}", 3600)
            daemon.call("POST", "/api/jobs", fields)
        time.sleep(SETTLE_S)
        yield daemon


@contextmanager
def signed_in(chromium: Browser, daemon: Daemon) -> Iterator[Watched]:
    with watched(chromium, daemon) as found:
        found.sign_in()
        yield found


def first_view_s(chromium: Browser, daemon: Daemon) -> tuple[float, float]:
    """From the address to the overview, for a browser that has a session."""
    with signed_in(chromium, daemon) as found:
        begun = time.perf_counter()
        found.page.goto(found.url, wait_until="commit")
        found.page.locator(".tile-number").first.wait_for()
        numbers_s = time.perf_counter() - begun
        found.page.locator(".plain-list li").first.wait_for()
        return numbers_s, time.perf_counter() - begun


def share_of_core(daemon: Daemon, seconds: float) -> float:
    time.sleep(SETTLE_S)
    before = daemon.cpu_s()
    time.sleep(seconds)
    return 100 * (daemon.cpu_s() - before) / seconds


if __name__ == "__main__":
    print(table(run("--quick" in sys.argv)))

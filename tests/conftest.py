"""What many tests need: an assembled program over a fresh folder, in-process and by HTTP."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import trio
from hypothesis import HealthCheck, settings

from teckochecker import scheduler, upkeep
from teckochecker.app import App, assemble
from teckochecker.config import Settings
from teckochecker.simulators import Keboola, OpenAI
from teckochecker.web import create_web

settings.register_profile(
    "suite", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")
structlog.configure(  # the default prints for people, and a traceback takes it half a second
    processors=[
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(default=str),
    ]
)

SECRET_KEY = "Q2hlY2tzLXRoaW5ncy1mb3ItdGVzdHMtb25seS0xMjM0NTY3ODkw"
TOKEN = "tck_test-token"


@pytest.fixture
def openai() -> Iterator[OpenAI]:
    with OpenAI(api_keys=["sk-test-openai-key-1"]) as simulator:
        yield simulator


@pytest.fixture
def keboola() -> Iterator[Keboola]:
    with Keboola(tokens=["4711-test-storage-token"]) as simulator:
        yield simulator


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    def make(**changes: object) -> Settings:
        env = {
            "SECRET_KEY": SECRET_KEY,
            "ALLOWED_PRIVATE_HOSTS": "127.0.0.1",
            "MIN_POLL_INTERVAL": "1",
            "LOG_FILE": "-",
            "DRAIN_SECONDS": "2",
        }
        env |= {name: str(value) for name, value in changes.items()}
        return Settings.from_env(env, tmp_path)

    return make


@pytest.fixture
def app(make_settings: Callable[..., Settings], openai: OpenAI) -> Iterator[App]:
    assembled = assemble(make_settings(OPENAI_BASE_URL=openai.base_url))
    assembled.store.secrets.replace_token(
        hashlib.sha256(TOKEN.encode()).digest(), datetime.now(UTC)
    )
    yield assembled
    assembled.close()


class Api:
    """The JSON API in-process; `expect` is the status that the answer must have."""

    def __init__(self, app: App, token: str | None = TOKEN) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(create_web(app), client=("127.0.0.1", 1)),
            base_url="http://localhost",
            headers=headers,
        )

    async def __call__(self, method: str, path: str, json: Any = None, *, expect: int = 200) -> Any:
        kwargs = {} if json is None else {"json": json}
        answer = await self.client.request(method, path, **kwargs)
        assert answer.status_code == expect, answer.text
        return answer.json() if answer.content else None


@pytest.fixture
async def api(app: App) -> AsyncIterator[Api]:
    made = Api(app)
    yield made
    await made.client.aclose()


@pytest.fixture
async def engine(app: App, nursery: trio.Nursery) -> AsyncIterator[None]:
    """The scheduler and upkeep run beside the test."""
    await nursery.start(scheduler.run, app)
    await nursery.start(upkeep.run, app)
    yield
    app.stop.set()
    app.wake.poke()
    nursery.cancel_scope.cancel()


@pytest.fixture
async def secrets(api: Api) -> dict[str, int]:
    """A good secret of each service, by name."""
    openai = {"name": "openai-prod", "type": "openai", "value": "sk-test-openai-key-1"}
    keboola = {"name": "keboola-prod", "type": "keboola", "value": "4711-test-storage-token"}
    return {
        made["name"]: made["id"]
        for made in [
            await api("POST", "/api/admin/secrets", one, expect=201) for one in (openai, keboola)
        ]
    }


@pytest.fixture
def job_fields(keboola: Keboola) -> dict[str, Any]:
    return {
        "name": "nightly",
        "batch_id": "batch_a",
        "openai_secret": "openai-prod",
        "keboola_secret": "keboola-prod",
        "keboola_stack_url": keboola.url,
        "keboola_configuration_id": "123456",
        "poll_interval_seconds": 1,
    }


async def eventually(
    api: Api, path: str, wanted: Callable[[Any], bool], seconds: float = 10
) -> Any:
    """The document at `path` once it is as wanted; fails with the last one otherwise."""
    found: Any = None
    with trio.move_on_after(seconds):
        while True:
            found = await api("GET", path)
            if wanted(found):
                return found
            await trio.sleep(0.02)
    raise AssertionError(f"not as wanted within {seconds} s: {found}")


_KINDS = frozenset({"docker", "browser", "binary"})  # markers whose tests skip without it
_REQUIRED = _KINDS & set(os.environ.get("TECKO_REQUIRE", "").split(","))
_passed: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        _passed.update(_REQUIRED & set(report.keywords))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A whole run in which no test of a required kind passed has shown nothing."""
    option = session.config.option
    whole = not option.keyword and not option.markexpr and option.file_or_dir == []
    absent = [kind for kind in sorted(_REQUIRED) if not _passed[kind]]
    if whole and absent and not hasattr(session.config, "workerinput"):
        print(f"TECKO_REQUIRE: no test marked {', '.join(absent)} has passed.")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

"""`/api/events`: what changes, told as it happens (server-sent events), and `/api/heartbeats`.

While somebody listens, one look a second at the newest log line serves all who do: the
listeners take turns in looking, so there is no task to start and none to stop. A listener is
told whole documents, the same that the API's lists show, so it needs to ask for nothing.

    event: jobs      {"jobs": [...], "beats": {"7": [...]}, "job_count": 12}   id: log line
    event: counts    {"jobs": {"polling": {"active": 3}}, "deliveries": {"pending": 1}}
    event: pulse     {"health": {...}, "checking": [7], "lag_seconds": {...}}
    event: reload    {}   too much was missed: ask for everything anew

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, Final, Self

import msgspec
import structlog
import trio
from quart import Blueprint, Response, request
from quart.wrappers.response import ResponseBody
from quart_schema import document_querystring, document_response, tag

from teckochecker.app import App
from teckochecker.errors import FieldError, InvalidInput, JobNotFound, StoreBusy, StoreFull
from teckochecker.lanes import Lane
from teckochecker.pulse import health, percentiles
from teckochecker.store import Beats, JobView, News
from teckochecker.web import schemas, wire
from teckochecker.web.problems import TooMany

log = structlog.stdlib.get_logger(__name__)

LOOK_EVERY_S: Final = 1.0
COMMENT_EVERY_S: Final = 15.0  # keeps proxies from closing a silent stream
MAX_STREAMS: Final = 100
MAX_CHECKING: Final = 500  # ids of jobs in flight that are named
MAX_HEARTBEATS: Final = 60
MAX_IDS: Final = 200
_KEPT: Final = 60  # frames for a listener that reads slowly; about a minute of a busy program
_RELOAD: Final = b"event: reload\ndata: {}\n\n"
_VOLATILE: Final = frozenset({"uptime_seconds", "scheduler"})  # of health: it changes each second


def events(app: App) -> Blueprint:
    routes = tag(["System"])(Blueprint("events", __name__))  # type: ignore[type-var]  # quart-schema takes blueprints too
    feed = Feed(app)

    @routes.get("/api/events")
    async def stream() -> Response:
        """Changes of jobs, counts and health as they happen, as server-sent events."""
        wire.query()
        seen = request.headers.get("last-event-id", "")  # of a browser that comes back
        after = int(seen) if _is_id(seen) else None
        if feed.listeners >= MAX_STREAMS:
            raise TooMany(f"{MAX_STREAMS} listeners are there already: close some pages.")
        answer = Response(b"", content_type="text/event-stream")
        if request.method != "HEAD":
            answer.response, answer.timeout = Stream(feed, after), None
            del answer.headers["content-length"]
        return answer

    @routes.get("/api/heartbeats")
    @document_querystring(schemas.HeartbeatQuery)
    @document_response(schemas.HeartbeatList)
    async def heartbeats() -> Response:
        """The last checks of many jobs at once, oldest first."""
        given = wire.query("ids", "limit")
        ids = _ids(given.get("ids", ""))
        limit = wire.bounded(given, "limit", 1, MAX_HEARTBEATS, 30)
        read = partial(app.store.history.beats, ids, limit)
        found = await app.lanes.run(Lane.READ, read)
        return wire.encode({"heartbeats": _beat_documents(found)})

    return routes


class Feed:
    """The frames that all listeners get, made by whichever of them has its turn."""

    def __init__(self, app: App, *, look_every_s: float = LOOK_EVERY_S) -> None:
        self._app = app
        self._look_every_s = look_every_s
        self._turn = trio.Lock()
        self._looked_at = -math.inf
        self._seen = 0
        self._job_count = -1
        self._frames: deque[bytes] = deque(maxlen=_KEPT)
        self._end = 0  # how many frames there were so far
        self._states: dict[str, tuple[object, bytes]] = {}
        self._asleep = True
        self.listeners = 0

    async def join(self, after: int | None) -> tuple[int, list[bytes]]:
        """Where a new listener begins, and what it must know first.

        `after` is the log line that it knows already; None: it has just asked for everything.
        """
        async with self._turn:
            if self._asleep:  # what happened while nobody listened is nobody's news
                self._seen = await self._read(self._app.store.history.newest)
                self._asleep = False
            await self._look(everything=True)
            begin = b"retry: 2000\nid: %d\n\n" % self._seen
            states = [frame for _, frame in self._states.values()]
            return self._end, [begin, *await self._missed(after), *states]

    def leave(self) -> None:
        self.listeners -= 1
        self._asleep = not self.listeners

    async def next(self, position: int) -> tuple[int, list[bytes]]:
        """The frames after `position`, once there are any; none when the program stops."""
        stop = self._app.stop
        while self._end == position and not stop.is_set():
            async with self._turn:
                if self._end == position:
                    with trio.move_on_at(self._looked_at + self._look_every_s):
                        await stop.wait()
                        break
                    await self._look()
        count = self._end - position
        if count > len(self._frames):
            return self._end, [_RELOAD]
        return self._end, list(self._frames)[len(self._frames) - count :]

    async def _look(self, *, everything: bool = False) -> None:
        """Make frames of what is new; a database that can't be read now is read next time."""
        self._looked_at = trio.current_time()
        try:
            news, views = await self._read(partial(self._news, self._seen))
            changed = everything or bool(news.jobs) or news.job_count != self._job_count
            if changed:
                counts = await self._read(self._app.store.history.counts)
                self._state("counts", counts, counts)
        except (StoreFull, StoreBusy) as error:
            log.warning("events.postponed", reason=str(error))
            return
        self._seen, self._job_count = news.seen, news.job_count
        if views or news.beats:
            self._add(self._jobs_frame(news, views))
        self._pulse()

    async def _missed(self, after: int | None) -> list[bytes]:
        if after is None or after == self._seen:
            return []
        news, views = await self._read(partial(self._news, after))
        if news.more or after > self._seen:  # or the database is another one
            return [_RELOAD]
        return [self._jobs_frame(news, views)]

    def _news(self, after: int) -> tuple[News, list[JobView]]:
        """In a thread: what happened, and the jobs that it happened to, as they are now."""
        news = self._app.store.history.news(after)
        return news, list(self._views(news))

    def _views(self, news: News) -> Iterator[JobView]:
        for job_id in news.jobs:
            try:
                yield self._app.store.jobs.view(job_id)
            except JobNotFound:
                continue  # deleted meanwhile, which the number of jobs tells

    async def _read(self, call: Any) -> Any:
        return await self._app.lanes.run(Lane.READ, call)

    def _jobs_frame(self, news: News, views: list[JobView]) -> bytes:
        document = {
            "jobs": [wire.job_document(self._app, view) for view in views],
            "beats": _beat_documents(news.beats),
            "job_count": news.job_count,
        }
        return _frame("jobs", document, news.seen)

    def _pulse(self) -> None:
        app = self._app
        found = health(app.pulse, app.now(), containers=app.sandbox.containers).document
        checking = sorted([*app.pulse.jobs, *app.pulse.scripts])[:MAX_CHECKING]
        steady = {name: value for name, value in found.items() if name not in _VOLATILE}
        deliveries = len(app.pulse.deliveries)
        lag = percentiles(tuple(app.pulse.lags_s))
        document = {"health": found, "checking": checking, "lag_seconds": lag}
        self._state("pulse", (steady, checking, deliveries, lag), document)

    def _state(self, name: str, steady: object, document: object) -> None:
        """A frame that a new listener gets too; sent when what is `steady` in it has changed."""
        before, _ = self._states.get(name, (None, b""))
        if before != steady:
            frame = _frame(name, document)
            self._states[name] = (steady, frame)
            self._add(frame)

    def _add(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._end += 1


class Stream(ResponseBody):
    """The answer to one listener; not a generator, since quart may drop it half-way."""

    def __init__(
        self, feed: Feed, after: int | None, *, comment_every_s: float = COMMENT_EVERY_S
    ) -> None:
        self._feed = feed
        self._after = after
        self._comment_every_s = comment_every_s
        self._position = -1
        self._too_many = False

    async def __aenter__(self) -> Self:
        self._feed.listeners += 1
        # Many may have been let in before the first of them got here: 492, tried.
        self._too_many = self._feed.listeners > MAX_STREAMS
        return self

    async def __aexit__(self, *_: object) -> None:
        self._feed.leave()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._too_many:
            raise StopAsyncIteration
        if self._position < 0:
            self._position, frames = await self._feed.join(self._after)
            return b"".join(frames)
        with trio.move_on_after(self._comment_every_s):
            self._position, frames = await self._feed.next(self._position)
            if not frames:
                raise StopAsyncIteration
            return b"".join(frames)
        return b": still here\n\n"


def _frame(name: str, document: object, seen: int | None = None) -> bytes:
    id_ = b"" if seen is None else b"id: %d\n" % seen
    data = msgspec.json.encode(document)  # JSON has no raw line breaks
    return b"%sevent: %s\ndata: %s\n\n" % (id_, name.encode(), data)


def _beat_documents(beats: Beats) -> dict[str, object]:
    return {str(job_id): list(found) for job_id, found in beats.items()}


def _ids(text: str) -> list[int]:
    parts = text.split(",") if text else []
    if not parts or len(parts) > MAX_IDS or not all(_is_id(part) for part in parts):
        message = f"must be 1 to {MAX_IDS} ids of jobs with commas between them"
        raise InvalidInput(f"ids {message}", (FieldError("ids", message),))
    return [int(part) for part in parts]


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15

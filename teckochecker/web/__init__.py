"""The web application: the only door to quart. It needs no lifespan and starts nothing."""

from __future__ import annotations

from typing import Any

import structlog
from quart import Response, request
from quart_schema import QuartSchema
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from teckochecker import __version__
from teckochecker.app import App
from teckochecker.errors import TeckoError
from teckochecker.web.about import about
from teckochecker.web.access import Access
from teckochecker.web.custom_checks import custom_checks
from teckochecker.web.description import Description
from teckochecker.web.events import events
from teckochecker.web.guard import Asgi, Guard
from teckochecker.web.jobs import jobs
from teckochecker.web.page import page
from teckochecker.web.problems import http_problem, problem
from teckochecker.web.secrets import secrets
from teckochecker.web.session import session
from teckochecker.web.system import system
from teckochecker.web.wire import job_documents

log = structlog.stdlib.get_logger(__name__)

_PROBLEM = "application/problem+json"


def create_web(app: App) -> Asgi:
    """The whole HTTP side over an assembled `app`, as an ASGI application."""
    quart = QuartTrio(__name__, static_folder=None)
    quart.url_map.merge_slashes = False
    quart.config["MAX_CONTENT_LENGTH"] = None  # the guard bounds bodies, chunked ones too
    access = Access(app)
    listed = job_documents(app)
    for routes in (jobs(app, listed), custom_checks(app, listed), secrets(app), system(app)):
        quart.register_blueprint(routes)
    for routes in (page(), session(access), events(app), about(app)):
        quart.register_blueprint(routes)
    quart.register_error_handler(TeckoError, _ours)
    quart.register_error_handler(HTTPException, _https)
    QuartSchema(
        quart,
        openapi_path="/openapi.json",
        swagger_ui_path=None,
        redoc_ui_path=None,
        scalar_ui_path=None,
        info={"title": "TeckoChecker", "version": __version__},
        conversion_preference="msgspec",
        openapi_provider_class=Description,
        security=[{"token": []}],
        security_schemes={"token": {"type": "http", "scheme": "bearer"}},
    )
    return Guard(app, access, quart)  # type: ignore[arg-type]


async def _ours(error: TeckoError) -> Response:
    status, body = problem(error, _request_id())
    headers = {"retry-after": "60"} if status == 429 else {}
    return Response(body, status, headers, content_type=_PROBLEM)


async def _https(error: HTTPException) -> Response:
    """Also every fault of our own, which quart has logged and hands over as a 500."""
    status = error.code or 500
    detail = {
        404: "Nothing is at this path: `/openapi.json` lists what there is.",
        405: f"{request.method} isn't possible at this path.",
        500: "A fault of this program: see its log, and please report it.",
    }.get(status, error.description or "The request can't be answered.")
    headers: dict[str, Any] = {}
    for name, value in error.get_headers():
        if name.lower() == "allow":
            headers["allow"] = value
    return Response(
        http_problem(status, detail, _request_id()), status, headers, content_type=_PROBLEM
    )


def _request_id() -> str:
    return request.headers.get("x-request-id", "")

"""`GET /`: the page itself; what it shows comes from the same API that everybody uses."""

from __future__ import annotations

from importlib import resources

from quart import Blueprint, Response
from quart_schema import hide


def page() -> Blueprint:
    routes = Blueprint("page", __name__)

    @routes.get("/")
    @hide
    async def index() -> Response:
        """The page: its text is the same for everybody, so it needs no token."""
        file = resources.files("teckochecker.web") / "static" / "page.html"
        return Response(file.read_bytes(), content_type="text/html; charset=utf-8")

    return routes

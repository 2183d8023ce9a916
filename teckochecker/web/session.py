"""`/api/session`: the page signs in with the token and gets a cookie; what else may do so is
in `access`.
"""

from __future__ import annotations

from quart import Blueprint, Response, request
from quart_schema import document_request, document_response, security_scheme, tag

from teckochecker.validation import Fields
from teckochecker.web import schemas, wire
from teckochecker.web.access import SESSION, Access, caller_of, session_cookies

_MAX_TOKEN_CHARS = 200


def session(access: Access) -> Blueprint:
    routes = tag(["System"])(Blueprint("session", __name__, url_prefix="/api/session"))  # type: ignore[type-var]  # quart-schema takes blueprints too

    @routes.post("")
    @security_scheme([])
    @document_request(schemas.SignIn)
    @document_response(schemas.SessionDocument)
    async def sign_in() -> Response:
        """Sign in with the token: the answer sets a cookie that stands for it."""
        fields = Fields(await wire.document())
        token = fields.text("token", max_chars=_MAX_TOKEN_CHARS)
        fields.done("sign-in")
        caller = caller_of(request.scope)
        value, ends_at = await access.sign_in(token, caller.address)
        answer = wire.encode({"expires_at": ends_at})
        _set(answer, caller.cookie_name, value, int(SESSION.total_seconds()))
        return answer

    @routes.delete("")
    async def sign_out() -> Response:
        """End the session that the request's cookie stands for."""
        caller = caller_of(request.scope)
        for cookie in session_cookies(caller):
            access.sign_out(cookie)
        answer = Response(b"", 204)
        _set(answer, caller.cookie_name, "", 0)
        return answer

    return routes


def _set(answer: Response, name: str, value: str, max_age_s: int) -> None:
    """`Secure` also where a proxy in front of us has the certificate: the browser says so."""
    tls = request.scheme == "https" or request.headers.get("origin", "").startswith("https://")
    answer.set_cookie(
        name, value, max_age=max_age_s, path="/", secure=tls, httponly=True, samesite="Strict"
    )

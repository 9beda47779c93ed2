"""Who may talk to the page's server: the page itself, and nobody else who happens to have a browser open.

A local server is reachable by every page that the browser shows. Three things keep those out: the request's `Host` must be one
that this server was started for (against names that are made to point here), requests that do something need a header
which another origin's page may not send without asking first, and a tab's name, which nobody can guess, goes with each.
"""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OWN = "x-sfumato"
"""The header that the page sends with everything it asks."""

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

PROTECTION = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
"""Headers of every answer: the page loads nothing from elsewhere, and nobody frames it."""


class Guard:
    """Turns strangers away, and sends the protecting headers with each answer."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app, self._hosts = app, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in PROTECTION.items()
                        if name.encode() not in known
                    ),
                ]
            await send(message)

        if reason := self._unwelcome(scope["path"], Headers(scope=scope)):
            await JSONResponse({"message": reason}, 403)(scope, receive, protected)
        else:
            await self._app(scope, receive, protected)

    def _unwelcome(self, path: str, headers: Headers) -> str:
        """Why a request is turned away; nothing where it is not."""
        host = headers.get("host", "")
        if host not in self._hosts:
            return f"this server does not answer for the host {host[:100]!r}"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] not in self._hosts:
            return "another page may not use this server"
        if path.startswith("/api/") and OWN not in headers:
            return "only the page itself may ask this"
        return ""

"""Requests are answered only if they come from the page itself, not from another page in the same browser.

A local server can be reached by every page in the browser. Three checks keep other pages out:

- `Host` must be a name that the server was started for. This stops other names that are made to point to this machine.
- Requests to the API need a header of their own. A browser does not send it for a page of another origin without asking the
  server first, and the server does not allow it.
- A request to the API has the name of a tab, which is random.
"""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OWN_HEADER = "x-sfumato"
"""The header of all requests of the page, with the name of the tab."""

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
"""Headers of all answers: the page loads nothing from other servers, and no other page can put it into a frame."""


class Guard:
    """Middleware that refuses requests from other pages, and adds the protecting headers to all answers."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app, self._hosts = app, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in PROTECTION.items()
                        if name.encode() not in names
                    ),
                ]
            await send(message)

        if reason := self._refusal(scope["path"], Headers(scope=scope)):
            await JSONResponse({"message": reason}, 403)(scope, receive, send_protected)
        else:
            await self._app(scope, receive, send_protected)

    def _refusal(self, path: str, headers: Headers) -> str:
        """The reason why a request is refused; empty if it is not."""
        host = headers.get("host", "")
        if host not in self._hosts:
            return f"this server does not answer for the host {host[:100]!r}"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] not in self._hosts:
            return "another page may not use this server"
        if path.startswith("/api/") and OWN_HEADER not in headers:
            return "only the explorer's page may use this address"
        return ""

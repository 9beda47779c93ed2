"""Requests are answered only if they come from the page itself, not from another page in the same browser.

A local server can be reached by every page in the browser. Four checks keep other pages out:

- `Host` must be a name that the server answers to, at any port, as a tunnel has a port of its own. This stops other names that
  are made to point to this machine.
- `Origin` must be the host of the request, or a name that was allowed by `--allowed-host`.
- Requests to the API need a header of their own. A browser does not send it for a page of another origin without asking the
  server first, and the server does not allow it.
- A request to the API has the name of a tab, which is random. If other machines can reach the server, a tab is opened only
  with the token of the address that the server printed.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OWN_HEADER = "x-sfumato"
"""The header of all requests of the page, with the name of the tab."""

TOKEN_HEADER = "x-sfumato-token"  # noqa: S105  # the name of a header
"""The header with the token, when a tab is opened."""

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

HOST = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::\d{1,5})?")
"""A host with its port: a name, or the number of an address."""

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


@dataclass(frozen=True)
class Hosts:
    """The names that a server answers to."""

    names: frozenset[str]
    allowed: frozenset[str] = frozenset()
    """Names that were allowed by the user, which pages may also have that a proxy serves."""
    any_address: bool = False
    """Whether it answers to every address in numbers. No other name can be made to point to one."""

    @classmethod
    def of(cls, host: str, allowed: Sequence[str] = (), names: Sequence[str] = ()) -> "Hosts":
        """Those of a server that listens at `host`, on a machine of these `names`.

        Raises `ValueError` for an allowed name that is none.
        """
        for name in allowed:
            if (
                not HOST.fullmatch(name)
                or (":" in name and not name.startswith("["))
                or name.endswith("]") is not ("[" in name)
            ):
                raise ValueError(f"an allowed host is a name without a port, such as lab.example.org; got {name!r:.80}")
        own = {in_address(host).casefold(), *LOOPBACK}
        wider = () if is_loopback(host) else (name.casefold() for name in names)
        return cls(frozenset({*own, *wider}), frozenset(name.casefold() for name in allowed), not is_loopback(host))

    def has(self, host: str) -> bool:
        """Whether a `Host` header is one of the names, at any port."""
        name = host_name(host)
        return name in self.names or name in self.allowed or (self.any_address and _is_address(name))

    def serves(self, origin: str, host: str) -> bool:
        """Whether an `Origin` header is that of the server's own page."""
        place = origin.partition("://")[2]
        return bool(place) and (place.casefold() == host.casefold() or host_name(place) in self.allowed)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.casefold() == "localhost"


def in_address(host: str) -> str:
    """A host as in the address of a page.

    >>> in_address("::1"), in_address("localhost")
    ('[::1]', 'localhost')
    """
    return f"[{host}]" if ":" in host else host


def host_name(host: str) -> str:
    """The name in a `Host` header, without its port; empty if it is none.

    >>> host_name("LocalHost:9000"), host_name("[::1]"), host_name("a b")
    ('localhost', '[::1]', '')
    """
    match = HOST.fullmatch(host)
    return match[1].casefold() if match else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


class Guard:
    """The application, with requests from other pages refused, and with the protecting headers in all answers."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app, self._hosts = app, hosts

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
        if not self._hosts.has(host):
            return f"this server does not answer for the host {host[:100]!r}; start it with --allowed-host"
        origin = headers.get("origin")
        if origin is not None and not self._hosts.serves(origin, host):
            return "another page may not use this server"
        if path.startswith("/api/") and OWN_HEADER not in headers:
            return "only the explorer's page may use this address"
        return ""

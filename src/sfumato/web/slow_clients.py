"""A server that does not wait for slow clients: a client that sends or reads a byte at a time is disconnected."""

import asyncio
from typing import Any

import h11
import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from sfumato.web import app as page
from sfumato.web.guard import PROTECTION

GRACE = 5.0
"""Seconds that are added to `page.SLOW`, so that the page can still answer a slow request with a sentence."""

LEAST_READ = 65536
"""Bytes that a client must read in `page.SLOW` seconds while a part of an answer waits."""

CONNECTIONS = 200
"""The limit of open connections. A new one takes the place of those whose requests are late; if none are, it is refused."""

LATE = 1.0
"""Seconds after which a request that has not arrived completely is late."""

ARRIVING = (h11.IDLE, h11.SEND_BODY)
"""States of a connection whose request has not arrived, or only in part."""


class LimitedConnection(H11Protocol):
    """A connection with time limits for the arrival of each request and for the reading of each answer."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._served, self.app = self.app, self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it if there are too many connections."""
        if len(self.connections) < CONNECTIONS:
            await self._served(scope, receive, send)
        else:
            refusal = JSONResponse(
                {"message": "the server has too many connections; try again in a moment"},
                503,
                {**PROTECTION, "connection": "close"},
            )
            await refusal(scope, receive, send)

    def send_400_response(self, msg: str) -> None:
        """As the base class, with the protecting headers, and so that the application does not answer the same request."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = {"content-type": "text/plain; charset=utf-8", "connection": "close", **PROTECTION}
            for event in (
                h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request"),
                h11.Data(data=msg.encode("ascii", "replace")),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        self.transport.close()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._make_room()
        self._unread = 0
        self._arrival_timer: asyncio.TimerHandle | None = None
        self._reading_timer: asyncio.TimerHandle | None = None
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._arrival_timer, self._reading_timer):
            if timer is not None:
                timer.cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_request()

    def _make_room(self) -> None:
        """If there are too many connections, close those whose requests are late, the latest first."""
        excess = len(self.connections) + 1 - CONNECTIONS
        if excess > 0:
            others = [other for other in self.connections if isinstance(other, LimitedConnection) and other is not self]
            late = [connection for connection in others if connection.is_late()]
            for connection in sorted(late, key=lambda connection: connection.waiting_since)[:excess]:
                connection.transport.abort()

    def is_late(self) -> bool:
        """Whether a request should have arrived, and has not."""
        late = self.loop.time() - self.waiting_since > LATE
        return late and self.conn.their_state in ARRIVING and not self.transport.is_closing()

    def _await_request(self) -> None:
        """Start the timer for the next request, or for the rest of this one."""
        self.waiting_since = self.loop.time()
        if self._arrival_timer is not None:
            self._arrival_timer.cancel()
        self._arrival_timer = self.loop.call_later(page.SLOW + GRACE, self._check_arrival)

    def _check_arrival(self) -> None:
        if self.conn.their_state in ARRIVING:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading_timer is not None:
            self._reading_timer.cancel()

    def _await_reading(self) -> None:
        """Start the timer for the reading of an answer."""
        self._unread = self.transport.get_write_buffer_size()
        self._reading_timer = self.loop.call_later(page.SLOW, self._check_reading)

    def _check_reading(self) -> None:
        if self.transport.get_write_buffer_size() > self._unread - LEAST_READ:
            self.transport.abort()
        else:
            self._await_reading()


def server(app: ASGIApp) -> uvicorn.Server:
    """The server of the page."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=LimitedConnection,
            ws="none",
            log_level="warning",
            timeout_graceful_shutdown=2,
        )
    )

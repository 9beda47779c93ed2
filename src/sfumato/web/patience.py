"""Whom the server waits for, and how long: who sends or reads a byte at a time is cut off, and nobody else waits for them."""

import asyncio
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from sfumato.web import app as answers

GRACE = 5.0
"""Seconds after `answers.SLOW`, in which a sentence is said to who was too slow."""

LEAST = 65536
"""Bytes of an answer that must be read in `answers.SLOW` seconds, while any wait."""

CONNECTIONS = 200
"""At once, less one. For others those go that keep one waiting; where nobody does, the others are turned away."""

FAIR = 1.0
"""Seconds after which a request keeps one waiting that has not arrived whole."""

ARRIVING = (h11.IDLE, h11.SEND_BODY)
"""States of a connection on which a request is to come, or has come in part."""


class Patient(H11Protocol):
    """A connection on which each request arrives whole in its time, and each answer is read."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._make_room()
        self._unread = 0
        self._arriving: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._listen()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._arriving, self._reading):
            if timer is not None:
                timer.cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._listen()

    def _make_room(self) -> None:
        """Where there are too many, those go that keep one waiting longest."""
        too_many = len(self.connections) + 1 - CONNECTIONS
        if too_many > 0:
            others = [each for each in self.connections if isinstance(each, Patient) and each is not self]
            late = [each for each in others if each.keeps_waiting()]
            for each in sorted(late, key=lambda each: each.since)[:too_many]:
                each.transport.abort()

    def keeps_waiting(self) -> bool:
        """Whether a request could have arrived, and has not."""
        late = self.loop.time() - self.since > FAIR
        return late and self.conn.their_state in ARRIVING and not self.transport.is_closing()

    def _listen(self) -> None:
        """From now on the next request, or what is left of this one, is to arrive."""
        self.since = self.loop.time()
        if self._arriving is not None:
            self._arriving.cancel()
        self._arriving = self.loop.call_later(answers.SLOW + GRACE, self._check_arrived)

    def _check_arrived(self) -> None:
        if self.conn.their_state in ARRIVING:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()

    def _watch(self) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._reading = self.loop.call_later(answers.SLOW, self._check_read)

    def _check_read(self) -> None:
        if self.transport.get_write_buffer_size() > self._unread - LEAST:
            self.transport.abort()
        else:
            self._watch()


def server(app: ASGIApp) -> uvicorn.Server:
    """What serves the page."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=Patient,
            ws="none",
            log_level="warning",
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=2,
        )
    )

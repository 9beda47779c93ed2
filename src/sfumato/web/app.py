"""The explorer's server: what the page asks, and what it is answered."""

import asyncio
import copy
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio.to_thread
import torch
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sfumato import samples
from sfumato.data.labels import synonyms
from sfumato.data.pictures import read
from sfumato.figures.report.encoding import jpeg
from sfumato.model.effects import device_of
from sfumato.models import Classifier
from sfumato.scores import probabilities
from sfumato.web import exports, uploads
from sfumato.web.desk import QUEUED, BusyError, Desk, Job
from sfumato.web.explaining import Asked, choices
from sfumato.web.guard import LOOPBACK, Guard
from sfumato.web.images import blurred
from sfumato.web.tabs import Shown, Tab, Tabs

PAGE = Path(__file__).parent / "page"
SAMPLES = [path.stem for path in samples.paths()]
TOP, FOUND = 5, 20
"""Classes told of a picture, and of a search."""

LOOK = 0.03
"""Seconds between two looks at how far a job is."""

BEAT = 5.0
"""Seconds without news after which a word is sent all the same, so that a tab that was closed is noticed."""

SLOW = 30.0
"""Seconds that an upload may take, and that an answer may wait to be read."""

MOST_WORDS = 65536
"""Bytes of what a page may say besides pictures."""


class RefusedError(Exception):
    """What cannot be served, and why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Explorer:
    """One network, shown to whoever opens the page."""

    def __init__(self, classifier: Classifier, hosts: Sequence[str]) -> None:
        self.classifier, self.hosts = classifier, tuple(hosts)
        # A second network to look with, as a search changes what the first one does while it is under way.
        self._eyes = replace(classifier, net=copy.deepcopy(classifier.net))
        self.tabs, self.desk = Tabs(), Desk()
        self._plain = [label.casefold() for label in classifier.labels]

    def app(self) -> Starlette:
        """The server."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            await anyio.to_thread.run_sync(self.desk.close)

        return Starlette(
            routes=[
                Route("/", _file("index.html")),
                *(Route(f"/{name}", _file(name)) for name in ("app.js", "style.css", "icon.svg")),
                Route("/samples/{name}", self.sample),
                Route("/api/tabs", _answered(self.open), methods=["POST"]),
                Route("/api/classes", _answered(self.classes)),
                Route("/api/pictures", _answered(self.take_picture), methods=["POST"]),
                Route("/api/jobs", _answered(self.take_job), methods=["POST"]),
                Route("/api/jobs/{job}", _answered(self.cancel), methods=["DELETE"]),
                Route("/api/jobs/{job}/events", _answered(self.events)),
                Route("/api/jobs/{job}/export/{kind}", _answered(self.export)),
            ],
            middleware=[Middleware(Guard, hosts=self.hosts)],
            lifespan=lifespan,
        )

    async def open(self, _: Request) -> Response:
        """A tab introduces itself, and hears what there is."""
        tab = self.tabs.open()
        return JSONResponse(
            {
                "tab": tab.name,
                "model": self.classifier.name,
                "classes": len(self.classifier.labels),
                "methods": choices(self.classifier),
                "samples": SAMPLES,
                "limits": {"bytes": uploads.MOST_BYTES},
            }
        )

    async def sample(self, request: Request) -> Response:
        """A sample picture, to choose from."""
        name = request.path_params["name"]
        if name not in SAMPLES:
            return JSONResponse({"message": "there is no such sample"}, 404)
        return FileResponse(samples.path(name), media_type="image/jpeg")

    async def classes(self, request: Request) -> Response:
        """The classes in whose names the words are: those that begin so first."""
        words = request.query_params.get("q", "").strip().casefold()[:100]
        found = [index for index, label in enumerate(self._plain) if words in label or words == str(index)]
        found.sort(key=lambda index: not any(each.startswith(words) for each in synonyms(self._plain[index])))
        return JSONResponse([{"index": index, "label": self.classifier.labels[index]} for index in found[:FOUND]])

    async def take_picture(self, request: Request) -> Response:
        """A picture is handed in, or a sample named; told are the classes that the network sees in it."""
        tab = self._tab(request)
        name = request.query_params.get("sample")
        if name is not None:
            if name not in SAMPLES:
                raise RefusedError(404, "there is no such sample")
            picture = await anyio.to_thread.run_sync(read, samples.path(name))
        else:
            content = await _body(request, uploads.MOST_BYTES)
            picture = await anyio.to_thread.run_sync(uploads.picture, content)
        shown, told = await anyio.to_thread.run_sync(self._look, picture)
        tab.keep_picture(shown)
        return JSONResponse(told)

    def _look(self, picture: Image.Image) -> tuple[Shown, dict[str, Any]]:
        classifier = self._eyes
        inputs = classifier.prepare(picture)[None].to(device_of(classifier.net))
        with torch.no_grad():
            logits = classifier.logits(inputs)[0].float().cpu()
        shares = probabilities(logits[None])[0]
        seen = classifier.restore(inputs)[0].cpu()
        shown = Shown(secrets.token_urlsafe(9), picture, inputs)
        top = logits.topk(min(TOP, len(logits))).indices.tolist()
        return shown, {
            "picture": shown.name,
            "seen": jpeg(seen),
            "blurred": jpeg(blurred(seen)),
            "width": seen.shape[2],
            "height": seen.shape[1],
            "top": [  # the likeliest first
                {
                    "index": index,
                    "label": classifier.labels[index],
                    "logit": float(logits[index]),
                    "share": float(shares[index]),
                }
                for index in top
            ],
        }

    async def take_job(self, request: Request) -> Response:
        """Something is asked about a picture."""
        tab = self._tab(request)
        said = await _words(request)
        shown = tab.pictures.get(str(said.get("picture")))
        if shown is None:
            raise RefusedError(404, "the picture is not here any more; choose it again")
        asked = Asked.of(said, self.classifier)
        job = Job(tab.name, asked.work(self.classifier, shown))
        self.desk.take(job)
        tab.keep_job(job)
        return JSONResponse({"job": job.name}, 201)

    async def events(self, request: Request) -> Response:
        """How a job goes, a line of JSON for each event; a reader who is slow misses steps, and never the end.

        When the reader is gone, so is the job.
        """
        job = self._job(request)

        async def lines() -> AsyncIterator[bytes]:
            version, quiet = -1, 0.0
            try:
                while True:
                    told, now = job.told, job.version
                    if now != version or quiet >= BEAT:
                        place = {"place": self.desk.place(job)} if told["type"] == QUEUED else {}
                        yield (json.dumps({**told, **place}) + "\n").encode()
                        version, quiet = now, 0.0
                        if job.ended and told is job.told:
                            return
                    await asyncio.sleep(LOOK)
                    quiet += LOOK
            finally:
                if not job.ended:
                    self.desk.cancel(job)

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def cancel(self, request: Request) -> Response:
        """A job is not wanted any more."""
        self.desk.cancel(self._job(request))
        return Response(status_code=204)

    async def export(self, request: Request) -> Response:
        """A result, to be taken away."""
        job = self._job(request)
        if job.result is None:
            raise RefusedError(409, "there is no result yet; wait for the end")
        kind = request.path_params["kind"]
        if kind not in exports.KINDS:
            raise RefusedError(404, f"there is no export {kind!r}; choose one of {', '.join(exports.KINDS)}")
        file = await anyio.to_thread.run_sync(exports.KINDS[kind], job.result, self.classifier)
        return Response(
            file.content, media_type=file.type, headers={"content-disposition": f'attachment; filename="{file.name}"'}
        )

    def _tab(self, request: Request) -> Tab:
        tab = self.tabs.of(request.headers.get("x-sfumato", ""))
        if tab is None:
            raise RefusedError(410, "this tab is not known any more; load the page again")
        return tab

    def _job(self, request: Request) -> Job:
        job = self._tab(request).jobs.get(request.path_params["job"])
        if job is None:
            raise RefusedError(404, "there is no such job in this tab")
        return job


def serving(classifier: Classifier, host: str, port: int) -> Starlette:
    """The server for one network, to be reached at that address, and by the names of this machine's own."""
    names = [host, *(LOOPBACK if host in LOOPBACK or host == "0.0.0.0" else ())]  # noqa: S104  # compared, not bound
    return Explorer(classifier, [f"{name}:{port}" for name in names]).app()


def _file(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return FileResponse(PAGE / name)

    return answer


def _answered(ask: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """What goes wrong is told in a sentence, with the status that fits."""

    async def answer(request: Request) -> Response:
        try:
            return await ask(request)
        except RefusedError as error:
            return JSONResponse({"message": str(error)}, error.status)
        except BusyError as error:
            return JSONResponse({"message": str(error)}, 429)
        except ValueError as error:
            return JSONResponse({"message": str(error)}, 422)
        except ClientDisconnect:
            return Response(status_code=400)

    return answer


async def _body(request: Request, most: int) -> bytes:
    """What was sent, if it is not too much and does not take too long."""
    too_much = RefusedError(413, f"that is more than {most // 2**20 or 1} MB; send less")
    if int(request.headers.get("content-length", 0) or 0) > most:
        raise too_much
    content = bytearray()
    try:
        async with asyncio.timeout(SLOW):
            async for part in request.stream():
                content += part
                if len(content) > most:
                    raise too_much
    except TimeoutError:
        raise RefusedError(408, f"that took more than {SLOW:g} seconds; try again") from None
    return bytes(content)


async def _words(request: Request) -> dict[str, Any]:
    try:
        said = json.loads(await _body(request, MOST_WORDS))
    except (ValueError, RecursionError):
        raise RefusedError(400, "that is no JSON") from None
    if not isinstance(said, dict):
        raise RefusedError(400, "expected names and values")
    return said

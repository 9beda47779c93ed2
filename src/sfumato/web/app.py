"""The explorer's server: the routes of the page and their answers."""

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
from sfumato.web.explaining import Question, choices
from sfumato.web.guard import LOOPBACK, OWN_HEADER, Guard
from sfumato.web.images import blur
from sfumato.web.jobs import QUEUED, BusyError, Job, JobQueue
from sfumato.web.tabs import Tab, TabPicture, Tabs

PAGE = Path(__file__).parent / "page"
SAMPLES = [path.stem for path in samples.paths()]
TOP, MATCHES = 5, 20
"""How many classes of a picture are sent, and how many that match a search."""

POLL = 0.03
"""Seconds between two checks for a new event of a job."""

HEARTBEAT = 5.0
"""Seconds after which the last event is sent again, so that a closed tab is noticed."""

SLOW = 30.0
"""Seconds that an upload may take, and that an answer may wait to be read."""

MOST_BYTES_OF_JSON = 65536
"""The largest request besides a picture."""


class RefusedError(Exception):
    """A request that is refused, with a status of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Explorer:
    """The routes for one network."""

    def __init__(self, classifier: Classifier, hosts: Sequence[str]) -> None:
        self.classifier, self.hosts = classifier, tuple(hosts)
        # Predictions need a second network, as hooks and modes of a running search change what the first one computes.
        self._predictor = replace(classifier, net=copy.deepcopy(classifier.net))
        self.tabs, self.queue = Tabs(), JobQueue()
        self._labels = [label.casefold() for label in classifier.labels]

    def app(self) -> Starlette:
        """The application for a server."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            await anyio.to_thread.run_sync(self.queue.close)

        return Starlette(
            routes=[
                Route("/", _file("index.html")),
                *(Route(f"/{name}", _file(name)) for name in ("app.js", "style.css", "icon.svg")),
                Route("/samples/{name}", self.sample),
                Route("/api/tabs", _with_errors_as_json(self.open_tab), methods=["POST"]),
                Route("/api/classes", _with_errors_as_json(self.search_classes)),
                Route("/api/pictures", _with_errors_as_json(self.add_picture), methods=["POST"]),
                Route("/api/jobs", _with_errors_as_json(self.add_job), methods=["POST"]),
                Route("/api/jobs/{job}", _with_errors_as_json(self.cancel), methods=["DELETE"]),
                Route("/api/jobs/{job}/events", _with_errors_as_json(self.events)),
                Route("/api/jobs/{job}/export/{kind}", _with_errors_as_json(self.export)),
            ],
            middleware=[Middleware(Guard, hosts=self.hosts)],
            lifespan=lifespan,
        )

    async def open_tab(self, _: Request) -> Response:
        """Open a tab; the answer has what the page offers."""
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
        """The file of a sample picture."""
        name = request.path_params["name"]
        if name not in SAMPLES:
            return JSONResponse({"message": "there is no such sample"}, 404)
        return FileResponse(samples.path(name), media_type="image/jpeg")

    async def search_classes(self, request: Request) -> Response:
        """The classes whose names contain a text. Names that begin with it come first."""
        text = request.query_params.get("q", "").strip().casefold()[:100]
        matches = [index for index, label in enumerate(self._labels) if text in label or text == str(index)]
        matches.sort(key=lambda index: not any(name.startswith(text) for name in synonyms(self._labels[index])))
        return JSONResponse([{"index": index, "label": self.classifier.labels[index]} for index in matches[:MATCHES]])

    async def add_picture(self, request: Request) -> Response:
        """Add an upload or a sample to the tab; the answer has the classes that the network predicts."""
        tab = self._tab(request)
        name = request.query_params.get("sample")
        if name is not None:
            if name not in SAMPLES:
                raise RefusedError(404, "there is no such sample")
            picture = await anyio.to_thread.run_sync(read, samples.path(name))
        else:
            content = await _body(request, uploads.MOST_BYTES)
            picture = await anyio.to_thread.run_sync(uploads.picture, content)
        tab_picture, answer = await anyio.to_thread.run_sync(self._predict, picture)
        tab.keep_picture(tab_picture)
        return JSONResponse(answer)

    def _predict(self, picture: Image.Image) -> tuple[TabPicture, dict[str, Any]]:
        """Prepare a picture, and predict its classes."""
        classifier = self._predictor
        inputs = classifier.prepare(picture)[None].to(device_of(classifier.net))
        with torch.no_grad():
            logits = classifier.logits(inputs)[0].float().cpu()
        class_probabilities = probabilities(logits[None])[0]
        rgb = classifier.restore(inputs)[0].cpu()
        tab_picture = TabPicture(secrets.token_urlsafe(9), picture, inputs)
        top = logits.topk(min(TOP, len(logits))).indices.tolist()  # the likeliest class first
        return tab_picture, {
            "picture": tab_picture.name,
            "seen": jpeg(rgb),
            "blurred": jpeg(blur(rgb)),
            "width": rgb.shape[2],
            "height": rgb.shape[1],
            "top": [
                {
                    "index": index,
                    "label": classifier.labels[index],
                    "logit": float(logits[index]),
                    "share": float(class_probabilities[index]),
                }
                for index in top
            ],
        }

    async def add_job(self, request: Request) -> Response:
        """Submit a question about a picture as a job."""
        tab = self._tab(request)
        content = await _read_json(request)
        picture = tab.pictures.get(str(content.get("picture")))
        if picture is None:
            raise RefusedError(404, "the picture is not here any more; choose it again")
        question = Question.parse(content, self.classifier)
        job = Job(tab.name, question.work(self.classifier, picture))
        self.queue.submit(job)
        tab.keep_job(job)
        return JSONResponse({"job": job.name}, 201)

    async def events(self, request: Request) -> Response:
        """The events of a job, a line of JSON for each. A slow reader may miss steps, but never the last event.

        If the reader disconnects, the job is cancelled.
        """
        job = self._job(request)

        async def lines() -> AsyncIterator[bytes]:
            sent_version, silence = -1, 0.0
            try:
                while True:
                    event, version = job.last_event, job.version
                    if version != sent_version or silence >= HEARTBEAT:
                        position = {"position": self.queue.position(job)} if event["type"] == QUEUED else {}
                        yield (json.dumps({**event, **position}) + "\n").encode()
                        sent_version, silence = version, 0.0
                        if job.ended and event is job.last_event:
                            return
                    await asyncio.sleep(POLL)
                    silence += POLL
            finally:
                if not job.ended:
                    self.queue.cancel(job)

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def cancel(self, request: Request) -> Response:
        """Cancel a job."""
        self.queue.cancel(self._job(request))
        return Response(status_code=204)

    async def export(self, request: Request) -> Response:
        """A result as a file."""
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
        tab = self.tabs.find(request.headers.get(OWN_HEADER, ""))
        if tab is None:
            raise RefusedError(410, "this tab is not known any more; load the page again")
        return tab

    def _job(self, request: Request) -> Job:
        job = self._tab(request).jobs.get(request.path_params["job"])
        if job is None:
            raise RefusedError(404, "there is no such job in this tab")
        return job


def explorer_app(classifier: Classifier, host: str, port: int) -> Starlette:
    """The application for one network. It answers at this host and port, and at the names of the local machine."""
    names = [host, *(LOOPBACK if host in LOOPBACK or host == "0.0.0.0" else ())]  # noqa: S104  # compared, not bound
    return Explorer(classifier, [f"{name}:{port}" for name in names]).app()


def _file(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return FileResponse(PAGE / name)

    return answer


def _with_errors_as_json(
    endpoint: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint, with its errors as a sentence in JSON and a status of HTTP."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
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
    """The body of a request of at most so many bytes. Raises `RefusedError` for a longer or slower one."""
    too_much = RefusedError(413, f"the request has more than {most // 2**20 or 1} MB; send less")
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
        raise RefusedError(408, f"the request took more than {SLOW:g} seconds; try again") from None
    return bytes(content)


async def _read_json(request: Request) -> dict[str, Any]:
    """The JSON object in the body of a request. Raises `RefusedError`."""
    try:
        content = json.loads(await _body(request, MOST_BYTES_OF_JSON))
    except (ValueError, RecursionError):
        raise RefusedError(400, "the request is not JSON") from None
    if not isinstance(content, dict):
        raise RefusedError(400, "the request must be a JSON object of names and values")
    return content

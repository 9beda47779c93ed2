"""The explorer's server: the routes of the page and their answers."""

import asyncio
import copy
import json
import logging
import secrets
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import anyio.to_thread
import torch
from jaxtyping import Float
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp
from torch import Tensor

from sfumato import samples
from sfumato.data.labels import synonyms
from sfumato.figures import report
from sfumato.figures.report.encoding import jpeg, thumbnail
from sfumato.model.effects import device_of
from sfumato.models import Classifier, Detector, Embedder
from sfumato.models.questions import detected
from sfumato.scores import probabilities
from sfumato.web import asking, exports, uploads
from sfumato.web.explaining import MOST_AREAS, Question, choices, layers
from sfumato.web.guard import OWN_HEADER, TOKEN_HEADER, Guard, Hosts
from sfumato.web.jobs import QUEUED, BusyError, Job, JobQueue
from sfumato.web.tabs import Tab, TabPicture, Tabs

PAGE = Path(__file__).parent / "page"
REPORT = Path(report.__file__).parent
FILES = ("app.js", "areas.js", "box.js", "dom.js", "style.css", "icon.svg")
"""The page's own files."""

PANEL = (("js", "script.js"), ("css", "style.css"))
"""The files of the report's panel, which is the page's too."""

SAMPLES = [path.stem for path in samples.paths()]
TOP, MATCHES = 5, 20
"""How many classes of a picture are sent, and how many that match a search."""

T = TypeVar("T")

SHOWN = 720
"""The longer side of the picture on the page, in pixels."""

POLL = 0.03
"""Seconds between two checks for a new event of a job."""

HEARTBEAT = 5.0
"""Seconds after which the last event is sent again, so that a closed tab is noticed."""

SLOW = 30.0
"""Seconds that an upload may take, and that an answer may wait to be read."""

UPLOADS, AT_ONCE = 8, 3
"""The largest numbers of pictures that are received at once, and of pictures and files of one client that are on their way."""

MOST_VALUES = 4_000_000
"""The largest number of values of a network's input. Only networks that take pictures of any size can have larger ones."""

FILE_HEADER = "x-file-name"
"""The header with the name of an uploaded file, percent-encoded."""

MOST_BYTES_OF_JSON = 65536
"""The largest request besides a picture."""


FAILURE = "the server made an error, which it has written to its terminal; try again"


class RefusedError(Exception):
    """A request that is refused, with a status of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Explorer:
    """The routes for one network."""

    def __init__(self, classifier: Classifier, hosts: Hosts, token: str = "") -> None:
        self.classifier, self.hosts, self._token = classifier, hosts, token
        # Predictions need a second network, as hooks and modes of a running search change what the first one computes.
        self._predictor = replace(classifier, net=copy.deepcopy(classifier.net))
        self.tabs, self.queue = Tabs(), JobQueue()
        self._layers, self._scores = layers(self._predictor), asking.offered(self._predictor)
        self._labels = [label.casefold() for label in classifier.labels]
        self._busy: Counter[str] = Counter()
        self._room = asyncio.Semaphore(UPLOADS)
        # One thread decodes pictures and one makes files: each picture takes much memory for a moment, and the C library may
        # keep the memory of every thread for its next use.
        self._pictures, self._exports = (ThreadPoolExecutor(1, f"sfumato-{name}") for name in ("pictures", "exports"))

    def app(self) -> ASGIApp:
        """The application for a server."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            await anyio.to_thread.run_sync(self.queue.close)
            for pool in (self._pictures, self._exports):
                pool.shutdown(wait=False, cancel_futures=True)

        application = Starlette(
            routes=[
                Route("/", _file(PAGE / "index.html")),
                *(Route(f"/{name}", _file(PAGE / name)) for name in FILES),
                *(Route(f"/report.{kind}", _file(REPORT / name)) for kind, name in PANEL),
                Route("/samples/{name}", self.sample),
                Route("/api/tabs", _with_errors_as_json(self.open_tab), methods=["POST"]),
                Route("/api/tab", _with_errors_as_json(self.close_tab), methods=["DELETE"]),
                Route("/api/classes", _with_errors_as_json(self.search_classes)),
                Route("/api/pictures", _with_errors_as_json(self.add_picture), methods=["POST"]),
                Route("/api/jobs", _with_errors_as_json(self.add_job), methods=["POST"]),
                Route("/api/jobs/{job}", _with_errors_as_json(self.cancel), methods=["DELETE"]),
                Route("/api/jobs/{job}/events", _with_errors_as_json(self.events)),
                Route("/api/jobs/{job}/export/{kind}", _with_errors_as_json(self.export)),
            ],
            exception_handlers={HTTPException: _as_json},
            lifespan=lifespan,
        )
        return Guard(application, self.hosts)

    async def open_tab(self, request: Request) -> Response:
        """Open a tab; the answer has what the page offers. If the server has a token, the request must have it."""
        token = request.headers.get(TOKEN_HEADER, "")
        if self._token and not secrets.compare_digest(token.encode(), self._token.encode()):
            raise RefusedError(403, "this server needs the token of its address; open the address that it printed")
        tab = self.tabs.open(_client(request))
        return JSONResponse(
            {
                "tab": tab.name,
                "model": self.classifier.name,
                "classes": len(self.classifier.labels),
                "methods": choices(self.classifier),
                "layers": self._layers,
                "scores": self._scores,
                "samples": SAMPLES,
                "limits": {"bytes": uploads.MOST_BYTES, "areas": MOST_AREAS},
            }
        )

    async def close_tab(self, request: Request) -> Response:
        """Close a tab: forget its pictures and results, and cancel its jobs."""
        tab = self._tab(request)
        self.tabs.close(tab.name)
        for job in tab.jobs.values():
            if not job.ended:
                self.queue.cancel(job)
        return Response(status_code=204)

    async def sample(self, request: Request) -> Response:
        """The file of a sample picture."""
        name = request.path_params["name"]
        if name not in SAMPLES:
            return JSONResponse({"message": "there is no such sample"}, 404)
        return FileResponse(samples.path(name), media_type="image/jpeg")

    async def search_classes(self, request: Request) -> Response:
        """The classes whose names contain a text. Names that begin with it come first."""
        self._tab(request)
        text = request.query_params.get("q", "").strip().casefold()[:100]
        matches = [index for index, label in enumerate(self._labels) if text in label or text == str(index)]
        matches.sort(key=lambda index: not any(name.startswith(text) for name in synonyms(self._labels[index])))
        return JSONResponse([{"index": index, "label": self.classifier.labels[index]} for index in matches[:MATCHES]])

    async def add_picture(self, request: Request) -> Response:
        """Add an upload or a sample to the tab; the answer has the classes that the network predicts."""
        tab = self._tab(request)
        name = request.query_params.get("sample")
        if name is not None and name not in SAMPLES:
            raise RefusedError(404, "there is no such sample")
        async with self._receiving(_client(request)):
            if name is not None:
                path = samples.path(name)
                content, file = path.read_bytes(), path.name
            else:
                content = await _body(request, uploads.MOST_BYTES)
                file = uploads.file_name(unquote(request.headers.get(FILE_HEADER, ""))[:1000])
            tab_picture, answer = await _in(self._pictures, self._predict, content, file)
        tab.keep_picture(tab_picture)
        self.tabs.keep_within_memory()
        return JSONResponse(answer)

    @asynccontextmanager
    async def _receiving(self, client: str) -> AsyncIterator[None]:
        """A place for an upload. Raises `RefusedError` if there is none for a while."""
        with self._at_once(client):
            try:
                async with asyncio.timeout(SLOW):
                    await self._room.acquire()
            except TimeoutError:
                raise RefusedError(503, "the server receives too many pictures; try again in a moment") from None
            try:
                yield
            finally:
                self._room.release()

    @contextmanager
    def _at_once(self, client: str) -> Iterator[None]:
        """Count what a client sends and fetches at once. Raises `RefusedError` if it is too much."""
        if self._busy[client] >= AT_ONCE:
            raise RefusedError(
                429, f"{AT_ONCE} pictures or files for your machine are on their way; wait for one of them"
            )
        self._busy[client] += 1
        try:
            yield
        finally:
            self._busy[client] -= 1
            if not self._busy[client]:
                del self._busy[client]

    def _predict(self, content: bytes, file: str) -> tuple[TabPicture, dict[str, Any]]:
        """Decode and prepare a picture, and predict its classes.

        Raises `ValueError` for what is no picture, and if the network fails.
        """
        classifier = self._predictor
        picture = uploads.picture(content)
        shown = thumbnail(picture, SHOWN)
        with _network_errors():
            prepared = classifier.prepare(picture)
        if prepared.numel() > MOST_VALUES:
            _, height, width = prepared.shape
            raise ValueError(
                f"the network would get an input of {width} × {height} pixels, which is too large here; crop the picture"
            )
        size = picture.size
        del picture
        with _network_errors():
            inputs = prepared[None].to(device_of(classifier.net))
            top = self._top(inputs, size)
        rgb = classifier.restore(inputs)[0].cpu()
        tab_picture = TabPicture(secrets.token_urlsafe(9), content, inputs, file, size)
        window = classifier.preparation.window(size)
        return tab_picture, {
            "picture": tab_picture.name,
            "file": file,
            "shown": shown,
            "size": size,
            "window": [place / size[index % 2] for index, place in enumerate(window)],
            "seen": jpeg(rgb),
            "width": rgb.shape[2],
            "height": rgb.shape[1],
            "top": top,
        }

    def _top(self, inputs: Float[Tensor, "1 C H W"], size: tuple[int, int]) -> list[dict[str, Any]]:
        """What the network answers for a picture of a width and height: the most probable classes, or the boxes that a
        detector is surest of, in pixels of the picture; nothing for embeddings. Raises `ValueError` for what is not finite."""
        classifier = self._predictor
        labels = classifier.labels
        if isinstance(classifier, Detector):
            return [
                {"index": one.target, "label": labels[one.target], "share": one.sureness, "box": box}
                for one, box in detected(classifier, size, inputs)[:TOP]
            ]
        with torch.no_grad():
            if isinstance(classifier, Embedder):
                classifier.net(inputs)  # it fails here for an input that it cannot take
                return []
            logits = classifier.logits(inputs)[0].float().cpu()
        if not bool(logits.isfinite().all()):
            raise ValueError(
                "the network's scores for this picture are not all finite numbers, so nothing can be explained"
            )
        shares = probabilities(logits[None])[0]
        indices = logits.topk(min(TOP, len(logits))).indices.tolist()  # the likeliest class first
        return [
            {"index": index, "label": labels[index], "logit": float(logits[index]), "share": float(shares[index])}
            for index in indices
        ]

    async def add_job(self, request: Request) -> Response:
        """Submit a question about a picture as a job."""
        tab = self._tab(request)
        content = await _read_json(request)
        picture = tab.pictures.get(str(content.get("picture")))
        if picture is None:
            raise RefusedError(404, "the picture is not here any more; choose it again")
        question = Question.parse(content, self.classifier, tab.pictures)
        job = Job(tab.name, question.work(self.classifier, picture), _client(request))
        self.queue.submit(job)
        tab.keep_job(job)
        return JSONResponse({"job": job.name}, 201)

    async def events(self, request: Request) -> Response:
        """The events of a job, a line of JSON for each. A slow reader may miss steps, but never the last event.

        If the last reader disconnects, the job is cancelled.
        """
        job = self._job(request)

        async def lines() -> AsyncIterator[bytes]:
            sent_version, silence = -1, 0.0
            job.follow()
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
                job.unfollow()
                if not job.ended and not job.followers:
                    self.queue.cancel(job)
                self.tabs.keep_within_memory()

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
        make, row = exports.KINDS[kind], request.query_params.get("row")
        if row is not None:
            if kind not in exports.OF_MASKS or not (row.isdecimal() and len(row) < 6):
                raise RefusedError(
                    422, f"row is the number of a mask, from 0 up, for one of {', '.join(exports.OF_MASKS)}"
                )
            make = partial(make, row=int(row))
        with self._at_once(_client(request)):
            file = await _in(self._exports, make, job.result, self.classifier)
        name = f"attachment; filename*=UTF-8''{quote(file.name, safe='')}"
        return Response(file.content, media_type=file.type, headers={"content-disposition": name})

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


def explorer_app(classifier: Classifier, host: str, allowed_hosts: Sequence[str] = (), token: str = "") -> ASGIApp:
    """The application for one network, of a server that listens at this host.

    It answers to this name and to the names of the local machine, at any port, to `allowed_hosts`, and, if other machines can
    reach it, to the machine's own name and to addresses in numbers. With a `token`, only pages that have it can use it.
    """
    return Explorer(classifier, Hosts.of(host, allowed_hosts, [socket.gethostname(), socket.getfqdn()]), token).app()


def _client(request: Request) -> str:
    """The address of the machine that asks."""
    return request.client.host if request.client is not None else ""


async def _in(pool: ThreadPoolExecutor, work: Callable[..., T], *values: Any) -> T:
    """The value of a function that runs in a pool of threads."""
    return await asyncio.get_running_loop().run_in_executor(pool, work, *values)


async def _as_json(_: Request, error: Exception) -> Response:
    """An error of the routes, such as an unknown path, as a sentence in JSON."""
    assert isinstance(error, HTTPException)  # noqa: S101  # for the type checker
    reason = {404: "there is no such address", 405: "this address has no such method"}.get(
        error.status_code, error.detail
    )
    return JSONResponse({"message": reason}, error.status_code, error.headers)


@contextmanager
def _network_errors() -> Iterator[None]:
    """Errors of a network as `ValueError`, with a sentence for the page. A network may raise anything."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"the network cannot answer for this picture: {type(error).__name__}: {error}") from error


def _file(path: Path) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return FileResponse(path)

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
        except (OSError, MemoryError) as error:  # such as a full disk
            return JSONResponse({"message": f"the server cannot do this now ({error}); try again later"}, 503)
        except Exception:
            logging.getLogger(__name__).exception("a request failed: %s", request.url.path)
            return JSONResponse({"message": FAILURE}, 500)

    return answer


async def _body(request: Request, most: int) -> bytes:
    """The body of a request of at most so many bytes. Raises `RefusedError` for a longer or slower one."""
    too_much = RefusedError(413, f"the request has more than {most // 2**20 or 1} MB; send less")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > most:
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

"""The explorer's server: the routes of the page and their answers."""

import asyncio
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
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from sfumato import samples
from sfumato.figures import report
from sfumato.models import Classifier
from sfumato.web import asking, exports, uploads
from sfumato.web.explaining import MOST_AREAS, Question
from sfumato.web.guard import OWN_HEADER, TOKEN_HEADER, Guard, Hosts
from sfumato.web.jobs import QUEUED, BusyError, Job, JobQueue
from sfumato.web.served import Served, served
from sfumato.web.tabs import Tab, TabPicture, Tabs

PAGE = Path(__file__).parent / "page"
REPORT = Path(report.__file__).parent
FILES = ("app.js", "areas.js", "box.js", "dom.js", "style.css", "icon.svg")
"""The page's own files."""

PANEL = (("js", "script.js"), ("css", "style.css"))
"""The files of the report's panel, which is the page's too."""

SAMPLES = [path.stem for path in samples.paths()]

T = TypeVar("T")

POLL = 0.03
"""Seconds between two checks for a new event of a job."""

HEARTBEAT = 5.0
"""Seconds after which the last event is sent again, so that a closed tab is noticed."""

SLOW = 30.0
"""Seconds that an upload may take, and that an answer may wait to be read."""

UPLOADS, AT_ONCE = 8, 3
"""The largest numbers of pictures that are received at once, and of pictures and files of one client that are on their way."""

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
    """The routes for some networks."""

    def __init__(self, classifiers: Sequence[Classifier], hosts: Hosts, token: str = "") -> None:
        self.networks, self.hosts, self._token = served(classifiers), hosts, token
        self._offers = [network.offers for network in self.networks]  # now, not when the first tab waits
        self.tabs, self.queue = Tabs(), JobQueue()
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
                "models": self._offers,
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
        """The classes of a network whose names contain a text. Names that begin with it come first.

        With `like=` and `of=`, it is the class that has this number in another network.
        """
        self._tab(request)
        network, like = self._network(request), request.query_params.get("like")
        if like is None:
            return JSONResponse(network.matches(request.query_params.get("q", "")))
        other = self._network(request, "of")
        index = asking.class_index(int(like) if like.isdecimal() and len(like) < 10 else like, "like", other.classifier)
        found = network.class_of(other, index)
        return JSONResponse([{"index": found, "label": network.classifier.labels[found]}])

    async def add_picture(self, request: Request) -> Response:
        """Add an upload or a sample to the tab; the answer has the classes that a network predicts.

        With `of=`, it is a picture of the tab, for another network.
        """
        tab, network = self._tab(request), self._network(request)
        sample, of = (request.query_params.get(name) for name in ("sample", "of"))
        if sample is not None and sample not in SAMPLES:
            raise RefusedError(404, "there is no such sample")
        name = ""
        async with self._receiving(_client(request)):
            if of is not None:
                picture = _picture(tab, of)
                content, file, name = picture.content, picture.file, tab.same_picture(picture, network.index)
            elif sample is not None:
                path = samples.path(sample)
                content, file = path.read_bytes(), path.name
            else:
                content = await _body(request, uploads.MOST_BYTES)
                file = uploads.file_name(unquote(request.headers.get(FILE_HEADER, ""))[:1000])
            tab_picture, answer = await _in(self._pictures, network.predict, content, file, name)
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

    async def add_job(self, request: Request) -> Response:
        """Submit a question about a picture as a job, to the network that the picture is prepared for."""
        tab = self._tab(request)
        content = await _read_json(request)
        picture = _picture(tab, content.get("picture"))
        network = self.networks[picture.model]
        pictures = {name: one for name, one in tab.pictures.items() if one.model == picture.model}
        question = Question.parse(content, network.classifier, pictures)
        if len(self.networks) > 1:
            question = replace(question, model=network.name)
        job = Job(tab.name, question.work(network.classifier, picture), _client(request))
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
            file = await _in(self._exports, make, job.result, self.networks[job.result.picture.model].classifier)
        name = f"attachment; filename*=UTF-8''{quote(file.name, safe='')}"
        return Response(file.content, media_type=file.type, headers={"content-disposition": name})

    def _tab(self, request: Request) -> Tab:
        tab = self.tabs.find(request.headers.get(OWN_HEADER, ""))
        if tab is None:
            raise RefusedError(410, "this tab is not known any more; load the page again")
        return tab

    def _network(self, request: Request, name: str = "model") -> Served:
        """The network whose number a parameter of a request is; the first one without it."""
        number = request.query_params.get(name, "0")
        if number.isdecimal() and len(number) < 6 and int(number) < len(self.networks):
            return self.networks[int(number)]
        raise RefusedError(
            404, f"this server has {len(self.networks)} networks, numbered from 0; there is no {number[:20]!r}"
        )

    def _job(self, request: Request) -> Job:
        job = self._tab(request).jobs.get(request.path_params["job"])
        if job is None:
            raise RefusedError(404, "there is no such job in this tab")
        return job


def explorer_app(
    classifiers: Sequence[Classifier], host: str, allowed_hosts: Sequence[str] = (), token: str = ""
) -> ASGIApp:
    """The application for some networks, of a server that listens at this host.

    It answers to this name and to the names of the local machine, at any port, to `allowed_hosts`, and, if other machines can
    reach it, to the machine's own name and to addresses in numbers. With a `token`, only pages that have it can use it.
    """
    return Explorer(classifiers, Hosts.of(host, allowed_hosts, [socket.gethostname(), socket.getfqdn()]), token).app()


def _picture(tab: Tab, name: Any) -> TabPicture:
    """A picture of a tab. Raises `RefusedError` if it is forgotten."""
    picture = tab.pictures.get(str(name))
    if picture is None:
        raise RefusedError(404, "the picture is not here any more; choose it again")
    return picture


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

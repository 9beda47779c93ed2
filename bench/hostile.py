"""Attacks the explorer's server, as a stranger in the same network can: what dies, what fails, and how much memory it takes.

`python bench/hostile.py` starts `sfumato serve` with the demo model, twice, sends it hostile inputs of many kinds, and after
each kind asks whether the server still answers. It prints a table, and exits with 1 if the server died, wrote a traceback, or
answered with 500. It needs the extras demo and ui, and Linux, from whose `/proc` it reads the memory.

    python bench/hostile.py --host 0.0.0.0     # the same through the token of a shared server
    python bench/hostile.py --only pictures    # some kinds
"""

import argparse
import io
import json
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

TIMEOUT = 120.0
"""Seconds to wait for an answer."""


@dataclass
class Target:
    """The server under attack, and what it answered."""

    process: subprocess.Popen[str]
    port: int
    token: str
    statuses: Counter[str] = field(default_factory=Counter)
    bare: list[str] = field(default_factory=list)
    """Answers without a protecting header, or errors without a sentence."""
    inputs: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, content: bytes, timeout: float = TIMEOUT) -> bytes:
        """Send bytes on a connection of its own; what is heard until the server closes it."""
        with self.lock:
            self.inputs += 1
        heard = b""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as line:
            with suppress(OSError):  # the server may close it before all is sent
                line.sendall(content)
            while part := line.recv(65536):
                heard += part
        status = heard[9:12].decode("ascii", "replace") if heard.startswith(b"HTTP/1.1 ") else "closed"
        with self.lock:
            self.statuses[status] += 1
            head, _, body = heard.partition(b"\r\n\r\n")
            if status != "closed" and b"content-security-policy" not in head:
                self.bare.append(f"{status} without headers: {content[:60]!r}")
            has_sentence = body.strip().startswith(b'{"message":') or content.startswith(b"HEAD")
            if status[0] in "45" and status != "400" and not has_sentence:
                self.bare.append(f"{status} without a sentence: {content[:60]!r}")
        return heard

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[str, bytes]:
        """A request as the page makes it; the status and the body of the answer."""
        lines = {
            "host": f"127.0.0.1:{self.port}",
            "connection": "close",
            "content-length": str(len(body)),
            "x-sfumato": "new",
        }
        if self.token:
            lines["x-sfumato-token"] = self.token
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        heard = self.send(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("utf-8", "surrogateescape") + body)
        return heard[9:12].decode("ascii", "replace"), heard.partition(b"\r\n\r\n")[2]

    def tab(self) -> str:
        """A new tab."""
        return str(json.loads(self.ask("POST", "/api/tabs")[1])["tab"])

    def picture(self, tab: str, content: bytes | None = None) -> str:
        """A picture of a tab."""
        return str(
            json.loads(self.ask("POST", "/api/pictures", content or encoded((60, 40)), x_sfumato=tab)[1])["picture"]
        )

    def is_alive(self) -> bool:
        """Whether the server runs, and serves a page and a picture within a time."""
        return self.process.poll() is None and self.ask("GET", "/")[0] == "200" and bool(self.picture(self.tab()))

    def memory(self, name: str = "VmRSS") -> float:
        """The resident memory in MB, now or (`VmHWM`) at most so far."""
        with suppress(OSError, TypeError):
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            return int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1000  # type: ignore[index]
        return float("nan")


def encoded(size: tuple[int, int], kind: str = "PNG", mode: str = "RGB", **settings: Any) -> bytes:
    """A picture file."""
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **settings)
    return file.getvalue()


def claiming(width: int, height: int, bits: int = 8, colour: int = 2) -> bytes:
    """A small PNG that says that it is large."""

    def part(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(b"\0" * 1000)) + part(b"IEND", b"")
    )


def pictures(target: Target, chance: random.Random) -> None:
    """Files that are no pictures, are damaged, or become large."""
    tab = target.tab()
    sizes = [
        (1, 100_000),
        (100_000, 1),
        (1, 1),
        (2, 65_000),
        (65_000, 2),
        (6000, 6000),
        (1, 2_000_000),
        (40_000_000, 1),
    ]
    files = [encoded(size) for size in sizes]
    files += [claiming(*size) for size in ((60_000, 60_000), (2**31 - 1, 1), (7000, 7000), (0, 0), (1, 2**31 - 1))]
    files += [encoded((5000, 5000), mode=mode) for mode in ("L", "LA", "RGBA", "P", "I;16", "1")]
    files += [encoded((5000, 5000), kind) for kind in ("BMP", "GIF", "TIFF", "WEBP", "JPEG")]
    files += [
        b"",
        b"\0",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"GIF89a" + b"\xff" * 99,
        b"x" * (21 * 2**20),
    ]
    frames = [Image.new("P", (400, 400), index % 256) for index in range(200)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    files.append(file.getvalue())
    files.append(encoded((50, 50), "TIFF", mode="F"))
    files.append(encoded((50, 50), "JPEG", mode="CMYK"))
    whole = [encoded((90, 60), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")]
    for content in whole:
        for _ in range(12):
            damaged = bytearray(content)
            for _ in range(chance.randint(1, 30)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            files.append(bytes(damaged[: chance.randint(1, len(damaged))] if chance.random() < 0.5 else damaged))
    for content in files:
        target.ask("POST", "/api/pictures", content, x_sfumato=tab)


def crowd(target: Target, chance: random.Random) -> None:
    """Many tabs with many large pictures, several at once."""

    def fill() -> None:
        tab = target.tab()
        for _ in range(3):
            target.ask(
                "POST", "/api/pictures", encoded((6000, 6000), mode=chance.choice(("RGB", "RGBA"))), x_sfumato=tab
            )

    together([fill] * 8)


def names(target: Target, chance: random.Random) -> None:
    """Names of files, classes, tabs, jobs and samples."""
    tab = target.tab()
    texts = ["", "..", "../../etc/passwd", "a" * 5000, "%00", "%ff%fe", "%E2%80%AE.png", "<script>", '"; x="', "\u732b"]
    texts.append("%0d%0aset-cookie: a=b")
    for text in texts:
        quoted = text if text.isascii() else "%E7%8C%AB"
        target.ask("POST", "/api/pictures", encoded((20, 20)), x_sfumato=tab, x_file_name=quoted)
        escaped = quoted.replace(" ", "%20").replace("<", "%3C").replace('"', "%22")
        for path in ("/api/classes?q=", "/samples/", "/api/jobs/", "/api/jobs/x/export/"):
            for end in ("", "/events", "/export/coco"):
                target.ask("GET", f"{path}{escaped}{end}", x_sfumato=tab)
        target.ask("POST", f"/api/pictures?sample={quoted}".replace(" ", "+"), x_sfumato=tab)
        target.ask("GET", "/api/classes?q=a", x_sfumato=quoted)


def questions(target: Target, chance: random.Random) -> None:
    """Questions with values of every kind, and no JSON."""
    tab = target.tab()
    picture = target.picture(tab)
    good = {"picture": picture, "target": 0, "settings": {"steps": 1, "areas": [0.1]}}
    values: list[Any] = [
        None,
        True,
        -1,
        0,
        1e308,
        10**30,
        "",
        "x" * 1000,
        [],
        {},
        [[]],
        {"use": "os:system"},
        ["a"],
        0.5,
    ]
    for key in ("picture", "target", "against", "method", "settings", "keep", "certify", "score", "box", "to"):
        for value in values:
            post(target, tab, {**good, "certify": False, key: value})
    boxes: list[Any] = [
        [0, 0, 1, 1], [-1e6, -1e6, 1e6, 1e6], [59, 39, 60, 40], [1e-9, 0, 2e-9, 1], [5, 5, 5, 5], [9, 9, 1, 1],
        [1e308, 0, 2e308, 1], [0, 0, 10**30, 1], [True, False, True, True], ["0", "0", "9", "9"], [[0], 0, 1, 1],
        [0, 0, 1], [0, 0, 1, 1, 1], {"left": 0}, "0,0,1,1", [None] * 4, [0] * 5000,
    ]  # fmt: skip
    for score in ("region", "box", "similarity", "regression", "entropy", "logit"):
        for box in boxes:
            post(target, tab, {**good, "score": score, "box": box})
        details = {"to": picture, "box": [0, 0, 9, 9] if score == "region" else None}
        follow(target, tab, {**good, "score": score, "method": "Gradient", "settings": {}, **details})
    for other in ("x", 0, [picture], {"to": picture}, None, "x" * 5000):
        post(target, tab, {**good, "score": "similarity", "to": other})
    for setting in ("steps", "samples", "areas", "game", "layer", "seed", "counts", "perturbation", "__class__"):
        for value in values:
            post(target, tab, {**good, "settings": {**good["settings"], setting: value}})  # type: ignore[dict-item]
    for text in (
        b"",
        b"[",
        b"[" * 60_000,
        b"null",
        b"\xff\xfe",
        b'{"picture": NaN}',
        b"{}" * 40_000,
        b'{"target": 1e999}',
    ):
        target.ask("POST", "/api/jobs", text, x_sfumato=tab)


def follow(target: Target, tab: str, question: dict[str, Any]) -> None:
    """Ask a question, and wait for the end of the job that comes of it."""
    status, body = target.ask("POST", "/api/jobs", json.dumps(question).encode(), x_sfumato=tab)
    if status == "201":
        target.ask("GET", f"/api/jobs/{json.loads(body)['job']}/events", x_sfumato=tab)


def post(target: Target, tab: str, question: dict[str, Any]) -> None:
    """Ask a question, and stop the job that comes of it."""
    status, body = target.ask("POST", "/api/jobs", json.dumps(question).encode(), x_sfumato=tab)
    if status == "201":
        target.ask("DELETE", f"/api/jobs/{json.loads(body)['job']}", x_sfumato=tab)


def networks(target: Target, chance: random.Random) -> None:
    """Addresses and fields that name a network, another picture of the tab, or a mask; clips in place of pictures."""
    tab, stranger = target.tab(), target.tab()
    picture, other = target.picture(tab), target.picture(stranger)
    wrong = [
        "",
        "0",
        "1",
        "2",
        "-1",
        "x",
        "1.0",
        "1e9",
        "9" * 5000,
        "%00",
        "%ff",
        "%E7%8C%AB",
        "0&model=1",
        "true",
        "[]",
    ]
    for value in wrong:
        target.ask("POST", f"/api/pictures?model={value}", encoded((60, 40)), x_sfumato=tab)
        target.ask("POST", f"/api/pictures?of={picture}&model={value}", x_sfumato=tab)
        target.ask("POST", f"/api/pictures?sample=coffee&model={value}", x_sfumato=tab)
        target.ask("GET", f"/api/classes?q=cat&model={value}", x_sfumato=tab)
        target.ask("POST", f"/api/pictures?of={value}", x_sfumato=tab)
    for of in (other, f"{picture}&of={other}", f"{picture}&sample=coffee", "../" * 50, chance.randbytes(60).hex()):
        for model in ("0", "1"):
            target.ask("POST", f"/api/pictures?of={of}&model={model}", encoded((9, 9)), x_sfumato=tab)
    good = {"picture": picture, "target": 0, "method": "Gradient", "settings": {}}
    for value in (1, 2, -1, True, 0.5, 1e308, 10**30, "0", "", None, [], {}, [0], {"use": "os:system"}, "x" * 5000):
        post(target, tab, {**good, "model": value})
    masks = [
        target.picture(tab, encoded(size, mode=mode))
        for size, mode in (((60, 40), "L"), ((40, 60), "L"), ((1, 1), "1"), ((60, 40), "RGBA"), ((61, 40), "P"))
    ]
    for mask in (*masks, picture, other, "x", 0, None, True, [], {}, [masks[0]], "x" * 5000):
        for score in ("region", "box", "logit", "similarity"):
            post(target, tab, {**good, "score": score, "mask": mask})
        post(target, tab, {**good, "score": "region", "mask": mask, "box": [0, 0, 9, 9]})
    for mask in masks:
        follow(target, tab, {**good, "score": "region", "mask": mask})
    for content in clips(chance):
        target.ask("POST", "/api/pictures", content, x_sfumato=tab, x_file_name="clip.npy")


def clips(chance: random.Random) -> Iterator[bytes]:
    """Clips and volumes, whole and damaged, which the page does not take or takes one frame of."""
    frames = [Image.new("RGB", (40, 30), (index, 0, 0)) for index in range(30)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        yield file.getvalue()
        yield file.getvalue()[: chance.randint(20, 400)]
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }"
    for shape in (b"16, 30, 40, 3", b"99999, 99999, 99999, 3", b"-1, 2", b"", b"0, 0, 0, 0", b"1e9,"):
        text = head % shape
        yield b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"\0" * 2000
    yield struct.pack("<Q", 2**60) + b'{"clip": {"dtype": "U8"}}'
    yield b"PK\x03\x04" + chance.randbytes(300)
    yield b"\0\0\0\x18ftypmp42" + chance.randbytes(300)


def protocol(target: Target, chance: random.Random) -> None:
    """Requests that are no HTTP, or say what they do not do."""
    host = f"host: 127.0.0.1:{target.port}\r\nconnection: close\r\n".encode()
    for content in (
        b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + host + b"\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"x: " + b"y" * 70_000 + b"\r\n\r\n",
        b"POST /api/tabs HTTP/1.1\r\n" + host + b"content-length: -5\r\n\r\n",
        b"POST /api/tabs HTTP/1.1\r\n" + host + b"content-length: abc\r\n\r\n",
        b"POST /api/tabs HTTP/1.1\r\n" + host + b"content-length: 99999999999999999999999\r\nx-sfumato: new\r\n\r\n",
        b"POST /api/tabs HTTP/1.1\r\n" + host + b"transfer-encoding: chunked\r\nx-sfumato: new\r\n\r\nzz\r\n",
        b"POST /api/tabs HTTP/1.1\r\n" + host + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
        b"TRACE / HTTP/1.1\r\n" + host + b"\r\n", b"HEAD / HTTP/1.1\r\n" + host + b"\r\n",
        b"OPTIONS * HTTP/1.1\r\n" + host + b"\r\n", b"GET http://elsewhere.example/ HTTP/1.1\r\n" + host + b"\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"upgrade: websocket\r\nsec-websocket-key: eA==\r\n\r\n",
        b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n" + host + b"\r\n", b"GET /\xff HTTP/1.1\r\n" + host + b"\r\n",
    ):  # fmt: skip
        target.send(content, timeout=60)
    for _ in range(40):
        target.send(chance.randbytes(chance.randint(1, 400)) + b"\r\n\r\n", timeout=60)
    for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"):
        for path in ("/", "/api/tabs", "/api/tab", "/api/pictures", "/api/jobs", "/api/jobs/x", "/nowhere"):
            target.ask(method, path)


def strangers(target: Target, chance: random.Random) -> None:
    """Requests of other pages, for other hosts, and with other tokens."""
    for host in (
        "evil.example",
        "",
        "127.0.0.1.evil.example",
        "a:b:c",
        "[::1",
        "localhost:99999999",
        "\u732b",
        "127.0.0.1 evil",
    ):
        target.ask("POST", "/api/tabs", host=host)
    for origin in ("null", "https://evil.example", "http://localhost:1", "x", "://", "http://127.0.0.1:1@evil.example"):
        target.ask("POST", "/api/tabs", origin=origin)
    for token in ("", "wrong", "\u732b", "x" * 5000):
        target.ask("POST", "/api/tabs", x_sfumato_token=token)
        target.ask("POST", "/api/pictures", encoded((9, 9)), x_sfumato=token)


def jobs(target: Target, chance: random.Random) -> None:
    """Long jobs that nobody follows, of many tabs, and tabs that are closed."""
    settings = {"steps": 1000, "areas": [index / 13 for index in range(1, 13)]}
    for _ in range(8):
        tab = target.tab()
        picture = target.picture(tab)
        question = json.dumps({"picture": picture, "target": 1, "settings": settings}).encode()
        for _ in range(5):
            target.ask("POST", "/api/jobs", question, x_sfumato=tab)
        if chance.random() < 0.5:
            target.ask("DELETE", "/api/tab", x_sfumato=tab)


def slow(target: Target, chance: random.Random) -> None:
    """Connections that say nothing, or little, in the way of others."""
    lines = []
    for index in range(250):
        with suppress(OSError):
            line = socket.create_connection(("127.0.0.1", target.port), timeout=5)
            if index % 2:
                line.sendall(b"POST /api/pictures HTTP/1.1\r\ncontent-length: 9999999\r\n")
            lines.append(line)
            target.inputs += 1
    time.sleep(2)
    target.ask("GET", "/")
    for line in lines:
        line.close()


def exports(target: Target, chance: random.Random) -> None:
    """All exports of a large picture, several times at once."""
    tab = target.tab()
    picture = target.picture(tab, encoded((6000, 6000)))
    question = {
        "picture": picture,
        "target": 1,
        "settings": {"steps": 2, "areas": [0.1, 0.2, 0.4, 0.6]},
    }
    job = json.loads(target.ask("POST", "/api/jobs", json.dumps(question).encode(), x_sfumato=tab)[1])["job"]
    target.ask("GET", f"/api/jobs/{job}/events", x_sfumato=tab)
    kinds = ("coco", "labelme", "cvat", "masks", "html", "gif", "apng", "safetensors", "exe", "", "gif?row=1")
    kinds += tuple(
        f"{kind}?row={row}" for kind in kinds[:4] for row in ("3", "99", "-1", "x", "9" * 5000, "%00", "1&row=2")
    )
    together(
        [lambda kind=kind: target.ask("GET", f"/api/jobs/{job}/export/{kind}", x_sfumato=tab) for kind in kinds * 2]
    )  # type: ignore[misc]


def together(works: list[Callable[[], Any]]) -> None:
    """Do works at the same time."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


KINDS = (strangers, protocol, names, questions, networks, pictures, crowd, exports, jobs, slow)


@contextmanager
def served(host: str) -> Iterator[tuple[Target, Path]]:
    """A server of the demo model, and the file of what it writes."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        models = ["--model", "lite0"] * 2
        command = [sys.executable, "-m", "sfumato.cli", "serve", "--port", "0", "--host", host, *models]
        with (
            log.open("w") as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
        ):
            try:
                line = process.stdout.readline() if process.stdout else ""
                found = re.search(r"http://\S+:(\d+)/(?:#token=(\S+))?", line)
                if found is None:
                    raise SystemExit(f"the server did not start: {line}{log.read_text()}")
                yield Target(process, int(found[1]), found[2] or ""), log
            finally:
                process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--only", nargs="*", default=[kind.__name__ for kind in KINDS])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    deaths = 0
    with served(options.host) as (target, log):
        print(f"{'kind':10} {'inputs':>6} {'seconds':>7} {'MB now':>7} {'MB peak':>7}  answers")
        for kind in KINDS:
            if kind.__name__ not in options.only:
                continue
            before, statuses, began = target.inputs, target.statuses.copy(), time.monotonic()
            kind(target, random.Random(options.seed))  # noqa: S311  # not for secrets
            count, answers = target.inputs - before, target.statuses - statuses
            took = time.monotonic() - began
            text = ", ".join(f"{number} × {status}" for status, number in sorted(answers.items()))
            now, peak = target.memory(), target.memory("VmHWM")
            print(f"{kind.__name__:10} {count:6} {took:7.1f} {now:7.0f} {peak:7.0f}  {text}", flush=True)
            if not target.is_alive():
                deaths += 1
                print("the server does not answer any more")
                break
        written, peak = log.read_text(), target.memory("VmHWM")
    tracebacks, failures = written.count("Traceback"), target.statuses["500"]
    print(f"\n{target.inputs} inputs: {deaths} deaths, {tracebacks} tracebacks, {failures} × 500, peak {peak:.0f} MB")
    for line in [*dict.fromkeys(target.bare)][:20]:
        print(line)
    if tracebacks:
        print(written[-4000:])
    raise SystemExit(bool(deaths or tracebacks or failures or target.bare))


if __name__ == "__main__":
    main()

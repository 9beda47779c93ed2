"""The explorer's server: whom it serves, in what turn, and what it makes of what strangers send."""

import io
import json
import socket
import struct
import threading
import time
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import nn

pytest.importorskip("starlette", reason="the page needs starlette")
pytest.importorskip("httpx2", reason="the test client of starlette needs httpx2")

from starlette.testclient import TestClient
from typer.testing import CliRunner

import sfumato
from sfumato import cli
from sfumato.attribution import Attribution
from sfumato.methods import ExtremalPerturbation
from sfumato.models import Classifier, Preparation
from sfumato.settings import as_json
from sfumato.web import app as answers
from sfumato.web import explaining, exports, uploads, warm_up
from sfumato.web.app import Explorer
from sfumato.web.jobs import MOST_JOBS, BusyError, CancelledError, Job, JobQueue
from sfumato.web.tabs import JOBS, PICTURES, TABS, TabPicture, Tabs

HOST = "127.0.0.1:8765"
LONG = 600  # seconds, for a machine that is busy


class Toy(nn.Module):
    """Logits of red, green and blue: each is a channel's mean, and next to nothing of the features."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 6, 1)

    def forward(self, inputs):
        return 4 * inputs.mean((2, 3)) + 1e-3 * self.features(inputs).mean()


def classifier():
    torch.manual_seed(0)
    preparation = Preparation(32, None, mean=(0.5,) * 3, std=(0.25,) * 3)
    layers = {"GradCAM": "features", "ExtremalChannels": "features"}
    return Classifier("toy", Toy().eval(), preparation, ("red, crimson", "green", "blue"), layers)


@pytest.fixture
def client():
    explorer = Explorer(classifier(), [HOST])
    with TestClient(explorer.app(), base_url=f"http://{HOST}") as opened:
        yield opened


@pytest.fixture
def tab(client):
    return opened(client)


def opened(client):
    told = client.post("/api/tabs", headers={"x-sfumato": "new"}).json()
    return {"x-sfumato": told["tab"]}


def encoded(picture, kind="PNG", **settings):
    file = io.BytesIO()
    picture.save(file, kind, **settings)
    return file.getvalue()


def square(colour="red", size=(40, 30)):
    return Image.new("RGB", size, colour)


def handed_in(client, tab, content=None):
    return client.post("/api/pictures", content=encoded(square()) if content is None else content, headers=tab)


def asked(client, tab, content=None, **question):
    said = {
        "picture": handed_in(client, tab, content).json()["picture"],
        "target": 0,
        "settings": {"steps": 3, "areas": [0.2, 0.5]},
    }
    return client.post("/api/jobs", content=json.dumps(said | question), headers=tab)


def heard(client, tab, job):
    with client.stream("GET", f"/api/jobs/{job}/events", headers=tab) as answer:
        return [json.loads(line) for line in answer.iter_lines()]


def ended(client, tab, **question):
    """The last that is told of a job."""
    answer = asked(client, tab, **question)
    assert answer.status_code == 201, answer.text
    return answer.json()["job"], heard(client, tab, answer.json()["job"])[-1]


# Pictures


def test_a_picture_is_told_by_its_classes(client, tab):
    told = handed_in(client, tab).json()
    assert told["top"][0]["label"] == "red, crimson"
    assert sum(each["share"] for each in told["top"]) == pytest.approx(1)
    assert told["seen"].startswith("data:image/jpeg;base64,")
    assert (told["width"], told["height"]) == (32, 32)


@pytest.mark.parametrize("size", [(1, 1), (20000, 20), (3, 4000)])
def test_pictures_of_any_shape_are_served(client, tab, size):
    assert handed_in(client, tab, encoded(square(size=size))).status_code == 200


def claiming(width, height):
    """A small PNG that says it is large."""

    def part(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(b"\0" * 100)) + part(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 422, "the file is empty"),
        (
            b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
            422,
            "not a picture of a known kind",
        ),
        (b"<!doctype html><script>alert(1)</script>", 422, "not a picture of a known kind"),
        (b"%PDF-1.4 not a picture", 422, "not a picture of a known kind"),
        (b"GIF89a" + b"\xff" * 50, 422, "cannot read picture 'the upload'"),
        (encoded(square())[:60], 422, "cannot read picture 'the upload'"),
        (claiming(60_000, 60_000), 422, "claims to be huge; expected at most 40000000 pixels"),
        (claiming(7_000, 7_000), 422, "claims to be huge"),
        (b"x" * (uploads.MOST_BYTES + 1), 413, "more than 20 MB"),
    ],
    ids=["empty", "svg", "html", "pdf", "broken gif", "truncated png", "bomb", "large", "too many bytes"],
)
def test_hostile_uploads_are_refused_in_a_sentence(client, tab, content, status, said):
    answer = handed_in(client, tab, content)
    assert answer.status_code == status
    assert said in answer.json()["message"]
    assert handed_in(client, tab).status_code == 200  # and the next one is served


def test_a_body_without_a_length_is_cut_off(client, tab):
    def endless():
        for _ in range(uploads.MOST_BYTES // 2**20 + 2):
            yield b"\0" * 2**20

    assert client.post("/api/pictures", content=endless(), headers=tab).status_code == 413


def test_metadata_does_not_come_back(client, tab):
    picture = square()
    exif = picture.getexif()
    exif[0x010E] = "<script>alert('exif')</script>"
    answer = handed_in(client, tab, encoded(picture, "JPEG", exif=exif, comment=b"<script>comment</script>"))
    assert answer.status_code == 200
    assert "script" not in answer.text
    assert b"script" not in Image.open(io.BytesIO(b64(answer.json()["seen"]))).tobytes()


def b64(address):
    import base64

    return base64.b64decode(address.partition(",")[2])


def test_samples_are_served_by_name_only(client, tab):
    assert client.get("/samples/chelsea").status_code == 200
    for name in ("nothing", "..%2f__init__.py", "%2e%2e/SOURCES.md"):
        assert client.get(f"/samples/{name}").status_code == 404
    assert client.post("/api/pictures?sample=chelsea", headers=tab).status_code == 200
    assert client.post("/api/pictures?sample=../x", headers=tab).status_code == 404


# Questions


def test_an_explanation_evolves_and_ends(client, tab):
    job = asked(client, tab).json()["job"]
    events = heard(client, tab, job)
    done = events[-1]
    assert done["type"] == "done"
    assert done["achieved"] == pytest.approx([0.2, 0.5], abs=1e-3)
    assert len(done["masks"]) == 2
    assert Image.open(io.BytesIO(b64(done["masks"][0]))).size == (32, 32)


def test_what_each_restart_found_comes_with_its_score(client, tab):
    _, done = ended(client, tab, settings={"steps": 60, "areas": [0.2, 0.5]})
    assert [len(sets) for sets in done["alternatives"]] == [2, 2]
    assert [len(scores) for scores in done["alternative_scores"]] == [2, 2]
    white = [np.mean(np.array(Image.open(io.BytesIO(b64(sets[0]))))) / 255 for sets in done["alternatives"]]
    assert white == pytest.approx([0.2, 0.5], abs=1 / 32**2)


@pytest.mark.parametrize("method", ["Gradient", "GradCAM", "RISE", "MeaningfulPerturbation", "Centre"])
def test_other_methods_give_maps(client, tab, method):
    settings = {"RISE": {"samples": 20}, "MeaningfulPerturbation": {"steps": 2}}.get(method, {})
    _, done = ended(client, tab, method=method, settings=settings)
    assert done["type"] == "done", done
    assert Image.open(io.BytesIO(b64(done["map"]))).size == (32, 32)


@pytest.mark.filterwarnings("ignore:the score of input 0 does not change")
@pytest.mark.parametrize("question", [{}, {"method": "MeaningfulPerturbation", "settings": {"steps": 2}}])
def test_masks_that_change_nothing_are_said_to_be_such(client, tab, question):
    _, done = ended(client, tab, **question)
    assert "warning" not in done
    unmoved = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    nn.init.zeros_(unmoved[1].weight)
    explorer = Explorer(replace(classifier(), net=unmoved.eval()), [HOST])
    with TestClient(explorer.app(), base_url=f"http://{HOST}") as other:
        _, done = ended(other, opened(other), **question)
    assert done["type"] == "done", done
    assert done["warning"].startswith("the score of input 0 does not change with the input")


def test_channels_of_a_layer(client, tab):
    _, done = ended(client, tab, method="ExtremalChannels", settings={"steps": 2, "counts": [1, 3]})
    assert done["type"] == "done", done
    assert len(done["channels"]) == 6
    assert done["masks"] == []


def test_the_smallest_area_comes_with_its_curve(client, tab):
    _, done = ended(client, tab, keep=0.5, settings={"steps": 3})
    assert done["type"] == "done", done
    assert len(done["curve"]["areas"]) == len(done["curve"]["scores"])
    assert 0 < done["curve"]["smallest"] <= 1


def test_the_report_of_a_search_shows_its_curve(client, tab, tmp_path):
    job, done = ended(client, tab, keep=0.5, settings={"steps": 3})
    page = client.get(f"/api/jobs/{job}/export/html", headers=tab).text
    assert page.count('class="tried"') == len(done["curve"]["areas"])
    assert 'class="least"' in page
    assert "The smallest area that keeps the score wanted" in page
    (tmp_path / "result.safetensors").write_bytes(
        client.get(f"/api/jobs/{job}/export/safetensors", headers=tab).content
    )
    told = sfumato.load(tmp_path / "result.safetensors").about["smallest"]
    assert told["scores"] == pytest.approx(done["curve"]["scores"], rel=1e-5)


@pytest.mark.parametrize("name", ["GradientShap", "InputXGradient", "IntegratedGradients", "Occlusion"])
def test_methods_of_captum_s_that_need_no_arguments(client, tab, name):
    pytest.importorskip("captum", reason="Captum is not installed")
    offered = client.post("/api/tabs", headers={"x-sfumato": "new"}).json()["methods"]
    assert {"name": f"captum:{name}", "settings": {}, "finds_smallest": False} in offered
    _, done = ended(client, tab, method=f"captum:{name}", settings={})
    assert done["type"] == "done", done
    assert Image.open(io.BytesIO(b64(done["map"]))).size == (32, 32)


def test_the_page_asks_each_method_for_its_own_game():
    forms = {entry["name"]: entry for entry in explaining.choices(classifier())}
    assert forms["ExtremalPerturbation"]["settings"]["game"] == "preserve"
    assert forms["ExtremalOrder"]["settings"]["game"] == "dual"
    assert not forms["ExtremalOrder"]["finds_smallest"]


def test_the_page_offers_the_search_for_the_smallest_area_where_a_method_has_it(client):
    offered = client.post("/api/tabs", headers={"x-sfumato": "new"}).json()["methods"]
    assert offered[0]["name"] == "ExtremalPerturbation"
    searches = {method["name"] for method in offered if method["finds_smallest"]}
    assert searches == {"ExtremalPerturbation", "ExtremalChannels"}


def test_a_method_that_tells_no_steps_ends_with_the_network_s_next_answer():
    net, job = Toy(), Job("a", lambda _: {})
    with explaining.cancellable(net, job):
        net(torch.zeros(1, 3, 8, 8))
        job.cancelled.set()
        with pytest.raises(CancelledError):
            net(torch.zeros(1, 3, 8, 8))
    net(torch.zeros(1, 3, 8, 8))  # and is left as it was


def test_a_contrast_is_another_score(client, tab):
    _, plain = ended(client, tab)
    _, contrast = ended(client, tab, against=1)
    assert contrast["whole"] != plain["whole"]


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"target": 3}, "target is the index of one of the 3 classes; got 3"),
        ({"target": "red"}, "target is the index"),
        ({"against": 0}, "the two classes are the same"),
        ({"method": "os:system"}, "no method 'os:system'; expected one of HSIC, "),
        ({"method": ["RISE"], "settings": {}}, "no method ['RISE']; expected one of"),
        ({"method": "Nothing"}, "no method 'Nothing'"),
        ({"method": "Captum", "settings": {}}, "no method 'Captum'; expected one of"),
        ({"method": "captum:DeepLift", "settings": {}}, "no method 'captum:DeepLift'"),
        ({"settings": {"areas": [20]}}, "areas must lie in (0, 1); got 20. Did you mean 0.2"),
        ({"settings": {"areas": [i / 20 for i in range(1, 16)]}}, "at most 12 areas"),
        ({"settings": {"steps": 10**6}}, "steps may be at most 1000 here"),
        ({"settings": {"perturbation": {"use": "os:system"}}}, "the page cannot set perturbation"),
        *(
            ({"settings": {setting: value}}, f"{setting} is a text, a number or a list of numbers here; got {value}")
            for setting in ("game", "seed", "layer")
            for value in ({"use": "builtins:print"}, [{"use": "builtins:print"}])
        ),
        ({"settings": "steps"}, "settings are names and values"),
        ({"keep": 90}, "keep is a share"),
        (
            {"keep": 0.9, "method": "Gradient", "settings": {}},
            "cannot search for the smallest area; choose one of ExtremalChannels, ExtremalPerturbation",
        ),
    ],
)
def test_what_cannot_be_asked_is_said(client, tab, question, said):
    answer = asked(client, tab, **question)
    assert answer.status_code == 422
    assert said in answer.json()["message"]


def test_what_fails_within_a_job_is_said(client, tab):
    _, told = ended(client, tab, method="GradCAM", settings={"layer": "nowhere"})
    assert told["type"] == "failed"
    assert "nowhere" in told["message"]


@pytest.mark.parametrize("content", [b"", b"no JSON", b"[1]", b"[" * 30_000])
def test_words_that_are_none(client, tab, content):
    assert client.post("/api/jobs", content=content, headers=tab).status_code == 400


def test_classes_are_found_by_name(client):
    headers = {"x-sfumato": "new"}
    assert client.get("/api/classes?q=crim", headers=headers).json() == [{"index": 0, "label": "red, crimson"}]
    assert [each["index"] for each in client.get("/api/classes?q=e", headers=headers).json()] == [0, 1, 2]
    assert client.get("/api/classes?q=2", headers=headers).json()[0]["label"] == "blue"


# What is taken away


def test_exports(client, tab, tmp_path):
    noise = Image.effect_noise((40, 40), 80).convert("RGB")
    job, _ = ended(client, tab, content=encoded(noise), settings={"steps": 3, "areas": [0.5, 0.8]})
    answers = {
        kind: client.get(f"/api/jobs/{job}/export/{kind}", headers=tab)
        for kind in ("safetensors", "coco", "apng", "gif", "html")
    }
    assert all(answer.status_code == 200 for answer in answers.values()), answers
    (tmp_path / "result.safetensors").write_bytes(answers["safetensors"].content)
    assert sfumato.load(tmp_path / "result.safetensors").masks.shape == (1, 2, 1, 32, 32)
    assert len(answers["coco"].json()["annotations"]) == 2
    for kind in ("apng", "gif"):
        assert Image.open(io.BytesIO(answers[kind].content)).n_frames == 3
    assert "red, crimson" in answers["html"].text
    assert client.get(f"/api/jobs/{job}/export/exe", headers=tab).status_code == 404


@pytest.mark.parametrize("game", ["preserve", "delete"])
def test_an_animation_shows_what_the_network_saw(game):
    noise = Image.effect_noise((32, 32), 80).convert("RGB")
    masks = torch.zeros(1, 1, 1, 8, 8)  # at a layer
    masks[..., :4] = 1
    about = {"method": as_json(ExtremalPerturbation(game=game))}
    result = Attribution(map=torch.zeros(1, 1, 32, 32), masks=masks, about=about)
    found = explaining.Answer(None, TabPicture("noise", noise, classifier().prepare(noise)[None]), result)
    file = exports.animation("PNG", "image/apng", found, classifier())
    seen, whole = (np.asarray(frame.copy()) for frame in ImageSequence.Iterator(Image.open(io.BytesIO(file.content))))
    same = [np.array_equal(seen[:, columns], whole[:, columns]) for columns in (slice(12), slice(20, 32))]
    assert same == [game == "preserve", game == "delete"]


# Strangers


def test_nobody_else_reaches_a_tabs_pictures_and_jobs(client, tab):
    job, _ = ended(client, tab)
    picture = handed_in(client, tab).json()["picture"]
    other = opened(client)
    assert client.get(f"/api/jobs/{job}/events", headers=other).status_code == 404
    assert client.get(f"/api/jobs/{job}/export/safetensors", headers=other).status_code == 404
    assert client.delete(f"/api/jobs/{job}", headers=other).status_code == 404
    answer = client.post("/api/jobs", content=json.dumps({"picture": picture, "target": 0}), headers=other)
    assert answer.status_code == 404
    assert client.post("/api/pictures", content=b"x", headers={"x-sfumato": "guessed"}).status_code == 410


@pytest.mark.parametrize(
    "headers",
    [
        {},  # no header of the page's own: a form of another page
        {"x-sfumato": "new", "origin": "https://elsewhere.example"},
        {"x-sfumato": "new", "origin": "null"},
        {"x-sfumato": "new", "host": "rebound.example:8765"},
        {"x-sfumato": "new", "host": "127.0.0.1:1"},
    ],
)
def test_other_pages_are_turned_away(client, headers):
    answer = client.post("/api/tabs", headers=headers)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_every_answer_protects_the_page(client, tab):
    pages = [client.get(path) for path in ("/", "/app.js", "/nowhere")]
    for answer in (*pages, handed_in(client, tab), client.post("/api/tabs")):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"


def test_the_page_is_light_and_names_no_other_machine(client):
    parts = [client.get(path) for path in ("/", "/app.js", "/style.css", "/icon.svg")]
    assert sum(len(part.content) for part in parts) < 300_000
    for part in parts:
        text = part.text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text


# Slow ones


@pytest.fixture
def served(monkeypatch):
    """An explorer that waits for nobody long, and its address."""
    slow_clients = pytest.importorskip("sfumato.web.slow_clients", reason="the page is served by uvicorn")
    monkeypatch.setattr(answers, "SLOW", 0.5)
    monkeypatch.setattr(slow_clients, "GRACE", 0.2)
    monkeypatch.setattr(slow_clients, "LATE", 0.1)
    monkeypatch.setattr(slow_clients, "CONNECTIONS", 8)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        address = listener.getsockname()
        explorer = Explorer(classifier(), [f"127.0.0.1:{address[1]}"])
        server = slow_clients.server(explorer.app())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield explorer, address
        server.should_exit = True
        thread.join(timeout=LONG)


def request(address, line, *headers):
    own = f"host: 127.0.0.1:{address[1]}"
    return "\r\n".join([f"{line} HTTP/1.1", own, *headers, "", ""]).encode()


def until_cut_off(address, begun, more):
    """What is heard on a connection, on which every now and then more is said, until the server ends it."""
    heard, deadline = b"", time.monotonic() + LONG
    with socket.create_connection(address) as line:
        line.settimeout(0.05)
        line.sendall(begun)
        while time.monotonic() < deadline:
            try:
                line.sendall(more)
                part = line.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                return heard
            if not part:
                return heard
            heard += part
    pytest.fail("the server still listens")


@pytest.mark.slow
def test_who_sends_a_byte_at_a_time_is_cut_off(served, monkeypatch):
    explorer, address = served
    tab = f"x-sfumato: {explorer.tabs.open().name}"
    assert until_cut_off(address, b"", b"") == b""
    assert until_cut_off(address, request(address, "GET /")[:-2] + b"x: ", b"x") == b""
    length = "content-length: 10000"
    monkeypatch.setattr("sfumato.web.slow_clients.GRACE", 2)  # enough for an answer, also on a busy machine
    assert b"200 OK" in until_cut_off(address, request(address, "GET /", length), b"x")
    told = until_cut_off(address, request(address, "POST /api/pictures", tab, length), b"x")
    assert b"the request took more than 0.5 seconds; try again" in told


def test_who_never_reads_is_cut_off_and_the_job_ends(served, monkeypatch):
    monkeypatch.setattr(explaining, "BETWEEN", 0)
    explorer, address = served
    tab = explorer.tabs.open()

    def said(path, content=b""):
        with socket.create_connection(address) as line:
            headers = (f"x-sfumato: {tab.name}", f"content-length: {len(content)}", "connection: close")
            line.sendall(request(address, f"POST {path}", *headers) + content)
            return json.loads(line.makefile("rb").read().partition(b"\r\n\r\n")[2])

    picture = said("/api/pictures", encoded(Image.effect_noise((40, 40), 80).convert("RGB")))["picture"]
    settings = {"steps": 1000, "areas": [place / 13 for place in range(1, 13)]}
    name = said("/api/jobs", json.dumps({"picture": picture, "target": 0, "settings": settings}).encode())["job"]
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        line.connect(address)
        line.sendall(request(address, f"GET /api/jobs/{name}/events", f"x-sfumato: {tab.name}"))
        finished([tab.jobs[name]])
    assert tab.jobs[name].last_event["type"] == "cancelled"


def test_a_crowd_that_says_nothing_stops_nobody(served, monkeypatch):
    _, address = served
    monkeypatch.setattr("sfumato.web.slow_clients.GRACE", LONG)
    crowd = [socket.create_connection(address) for _ in range(10)]
    time.sleep(0.3)  # longer than what is fair, and far shorter than what is patient
    answer = until_cut_off(address, request(address, "GET /", "connection: close"), b"")
    for each in crowd:
        each.close()
    assert b"200 OK" in answer


# The warm-up


def test_a_search_warms_up_before_the_page_is_served(monkeypatch):
    pytest.importorskip("uvicorn", reason="the page is served by uvicorn")
    said = []
    known = classifier()
    known.net.register_forward_hook(lambda *_: said.append("gradients" if torch.is_grad_enabled() else "scores"))
    monkeypatch.setattr("sfumato.models.load", lambda *_: known)
    monkeypatch.setattr(
        "sfumato.web.slow_clients.server", lambda _: SimpleNamespace(run=lambda **_: said.append("served"))
    )
    result = CliRunner().invoke(cli.app, ["serve", "--port", "0"])
    assert result.exit_code == 0, result.output
    assert said[-1] == "served"
    assert said.count("gradients") == 2  # of one row, whose memory is measured, and of the step


def test_a_warm_up_that_takes_long_is_given_up(monkeypatch):
    """With the network's next answer after its time, which comes here while the network computes the first."""
    timers = []

    class Timer:
        def __init__(self, seconds, expire):
            self.seconds, self.expire, self.running = seconds, expire, False
            timers.append(self)

        def start(self):
            self.running = True

        def cancel(self):
            self.running = False

    def computes(*_):
        calls.append(timers[0].running)
        timers[0].expire()

    monkeypatch.setattr(warm_up.threading, "Timer", Timer)
    known, calls = classifier(), []
    known.net.register_forward_hook(computes)
    assert warm_up.warm_up(known) == {"type": "cancelled"}
    assert calls == [True]
    assert [timer.seconds for timer in timers] == [warm_up.TIMEOUT]
    assert not timers[0].running


def test_a_warm_up_that_is_broken_off_leaves_no_timer():
    known = classifier()

    def interrupted(*_):
        raise KeyboardInterrupt

    known.net.register_forward_hook(interrupted)
    with pytest.raises(KeyboardInterrupt):
        warm_up.warm_up(known)
    assert not [
        thread
        for thread in threading.enumerate()
        if isinstance(thread, threading.Timer) and not thread.finished.is_set()
    ]


def test_a_warm_up_that_fails_keeps_nobody_from_the_page():
    assert warm_up.warm_up(replace(classifier(), net=nn.Conv2d(1, 1, 1)))["type"] == "failed"


# Turns


def waiting(queue, *tabs):
    """Jobs of these tabs, behind one that holds the queue until it is let go."""
    order, let_go, begun = [], threading.Event(), threading.Event()

    def held(_):
        begun.set()
        let_go.wait(LONG)
        return {"type": "done"}

    queue.submit(Job("first", held))
    begun.wait(LONG)
    jobs = []
    for tab in tabs:
        jobs.append(Job(tab, lambda job: order.append(job.tab) or {"type": "done"}))
        queue.submit(jobs[-1])
    return jobs, order, let_go


def finished(jobs, seconds=LONG):
    deadline = time.monotonic() + seconds
    while not all(job.ended for job in jobs):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_tabs_take_turns():
    queue = JobQueue()
    jobs, order, let_go = waiting(queue, "a", "a", "a", "b", "c", "b")
    assert [queue.position(job) for job in jobs] == [1, 4, 6, 2, 3, 5]
    let_go.set()
    finished(jobs)
    queue.close()
    assert order == ["a", "b", "c", "a", "b", "a"]


def test_a_job_that_waits_can_be_cancelled():
    queue = JobQueue()
    jobs, order, let_go = waiting(queue, "a", "b")
    queue.cancel(jobs[0])
    assert jobs[0].last_event == {"type": "cancelled"}
    let_go.set()
    finished(jobs)
    queue.close()
    assert order == ["b"]


def test_a_job_under_way_ends_with_its_next_step():
    queue = JobQueue()

    def work(job):
        for index in range(1000):
            job.report({"type": "step", "index": index, "steps": 1000})
            time.sleep(0.01)

    job = Job("a", work)
    queue.submit(job)
    while job.last_event.get("index", 0) < 2:
        time.sleep(0.01)
    queue.cancel(job)
    finished([job])
    queue.close()
    assert job.last_event == {"type": "cancelled"}


def test_a_tab_has_its_share_only():
    queue = JobQueue()
    jobs, _, let_go = waiting(queue, *["a"] * MOST_JOBS)
    with pytest.raises(BusyError, match=f"{MOST_JOBS} jobs of this tab are waiting"):
        queue.submit(Job("a", lambda _: {}))
    queue.submit(other := Job("b", lambda _: {"type": "done"}))
    let_go.set()
    finished([*jobs, other])
    queue.close()


def test_a_tab_that_is_closed_ends_its_job(client, tab):
    job = asked(client, tab, settings={"steps": 1000, "areas": [0.2]}).json()["job"]
    with client.stream("GET", f"/api/jobs/{job}/events", headers=tab) as answer:
        next(answer.iter_lines())
    assert heard(client, tab, job)[-1]["type"] == "cancelled"


def test_what_is_kept_is_bounded():
    tabs = Tabs()
    first = tabs.open()
    for _ in range(TABS):
        last = tabs.open()
    assert tabs.find(first.name) is None
    assert tabs.find(last.name) is last
    for index in range(PICTURES + 3):
        last.keep_picture(type("Shown", (), {"name": str(index)}))
    assert len(last.pictures) == PICTURES
    for _ in range(JOBS + 3):
        job = Job("a", lambda _: {"type": "done"})
        job.run()
        last.keep_job(job)
    assert len(last.jobs) == JOBS

"""The explorer's server: whom it serves, in what turn, and what it makes of what strangers send."""

import io
import json
import logging
import re
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
from sfumato.models.questions import Asked
from sfumato.scores import Logit
from sfumato.settings import as_json
from sfumato.web import app as answers
from sfumato.web import explaining, exports, guard, jobs, tabs, uploads, warm_up
from sfumato.web.app import Explorer
from sfumato.web.asking import Wanted
from sfumato.web.guard import Hosts
from sfumato.web.jobs import MOST_JOBS, MOST_OF_CLIENT, BusyError, CancelledError, Job, JobQueue
from sfumato.web.tabs import JOBS, OF_CLIENT, PICTURES, TABS, TabPicture, Tabs

HOST = "127.0.0.1:8765"
LOCAL = Hosts.of("127.0.0.1")
EVERYWHERE = "0.0.0.0"  # noqa: S104  # given, not bound
QUESTION = explaining.Question(ExtremalPerturbation(), "Extremal perturbations", Wanted("logit", 0))
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
    explorer = Explorer([classifier()], LOCAL)
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


def shown(done, role="mask"):
    """The pictures of a role in the panel of an answer."""
    addresses = re.findall(rf'<img src="([^"]*)"[^>]*data-role="{role}"', done["section"])
    return [Image.open(io.BytesIO(b64(address))) for address in addresses]


def written(done, name):
    """The numbers of an attribute in the panel of an answer."""
    return [float(value) for value in re.findall(rf'data-{name}="([^"]*)"', done["section"])]


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
    assert written(done, "area") == pytest.approx([0.2, 0.5], abs=1e-3)
    assert [mask.size for mask in shown(done)] == [(32, 32)] * 2
    assert len(shown(done, "picture")) == 1
    assert done["title"] == "red · Extremal perturbations"


def test_what_each_restart_found_comes_with_its_score(client, tab):
    _, done = ended(client, tab, settings={"steps": 60, "areas": [0.2, 0.5]})
    assert len(written(done, "score")) == 6  # of the answer and of two restarts, for two areas
    white = [np.mean(np.array(mask)) / 255 for mask in shown(done, "restart")]
    assert white == pytest.approx([0.2, 0.5, 0.2, 0.5], abs=1 / 32**2)
    assert written(done, "restart") == [1, 1, 2, 2]


@pytest.mark.parametrize("method", ["Gradient", "GradCAM", "RISE", "MeaningfulPerturbation", "Centre"])
def test_other_methods_give_maps(client, tab, method):
    settings = {"RISE": {"samples": 20}, "MeaningfulPerturbation": {"steps": 2}}.get(method, {})
    _, done = ended(client, tab, method=method, settings=settings)
    assert done["type"] == "done", done
    assert shown(done)[0].size == (32, 32)


@pytest.mark.filterwarnings("ignore:the score of input 0 does not change")
@pytest.mark.parametrize("question", [{}, {"method": "MeaningfulPerturbation", "settings": {"steps": 2}}])
def test_masks_that_change_nothing_are_said_to_be_such(client, tab, question):
    _, done = ended(client, tab, **question)
    assert "warning" not in done
    unmoved = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    nn.init.zeros_(unmoved[1].weight)
    explorer = Explorer([replace(classifier(), net=unmoved.eval())], LOCAL)
    with TestClient(explorer.app(), base_url=f"http://{HOST}") as other:
        _, done = ended(other, opened(other), **question)
    assert done["type"] == "done", done
    assert done["warning"].startswith("the score of input 0 does not change with the input")


def test_channels_of_a_layer(client, tab):
    noise = encoded(Image.effect_noise((40, 40), 80).convert("RGB"))
    _, done = ended(client, tab, content=noise, method="ExtremalChannels", settings={"steps": 2, "counts": [1, 3]})
    assert done["type"] == "done", done
    assert len(shown(done, "channel")) == 6
    assert done["section"].count('class="crop"') == 6
    assert done["masks"] is False


def test_the_smallest_area_comes_with_its_curve(client, tab):
    _, done = ended(client, tab, keep=0.5, settings={"steps": 3})
    assert done["type"] == "done", done
    assert done["section"].count('class="tried"') > 1
    assert "The smallest area that keeps the logit wanted" in done["section"]


def test_the_report_of_a_search_shows_its_curve(client, tab, tmp_path):
    job, done = ended(client, tab, keep=0.5, settings={"steps": 3})
    page = client.get(f"/api/jobs/{job}/export/html", headers=tab).text
    assert page.count('class="tried"') == done["section"].count('class="tried"')
    assert 'class="least"' in page
    assert "The smallest area that keeps the logit wanted" in page
    (tmp_path / "result.safetensors").write_bytes(
        client.get(f"/api/jobs/{job}/export/safetensors", headers=tab).content
    )
    told = sfumato.load(tmp_path / "result.safetensors").about["smallest"]
    assert len(told["scores"]) == page.count('class="tried"')


@pytest.mark.parametrize("name", ["GradientShap", "InputXGradient", "IntegratedGradients", "Occlusion"])
def test_methods_of_captum_s_that_need_no_arguments(client, tab, name):
    pytest.importorskip("captum", reason="Captum is not installed")
    offered = client.post("/api/tabs", headers={"x-sfumato": "new"}).json()["models"][0]["methods"]
    entry = next(entry for entry in offered if entry["name"] == f"captum:{name}")
    assert (entry["title"], entry["settings"]) == (f"{name} (Captum)", {})
    _, done = ended(client, tab, method=f"captum:{name}", settings={})
    assert done["type"] == "done", done
    assert shown(done)[0].size == (32, 32)


def test_the_page_asks_each_method_for_its_own_game():
    forms = {entry["name"]: entry for entry in explaining.choices(classifier())}
    assert forms["ExtremalPerturbation"]["settings"]["game"] == "preserve"
    assert forms["ExtremalOrder"]["settings"]["game"] == "dual"
    assert not forms["ExtremalOrder"]["finds_smallest"]


def test_the_page_offers_the_search_for_the_smallest_area_where_a_method_has_it(client):
    offered = client.post("/api/tabs", headers={"x-sfumato": "new"}).json()["models"][0]["methods"]
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
    assert contrast["title"] == "red, not green · Extremal perturbations"
    scores = [
        re.search(rf"{name}: (\S+) of the whole input", done["section"])[1]
        for name, done in (("Logit", plain), ("Contrast with a rival", contrast))
    ]
    assert scores[0] != scores[1]


@pytest.mark.parametrize(
    ("score", "title", "words"),
    [
        ("logit", "red", "logit"),
        ("probability", "red, its probability", "probability"),
        ("entropy", "how undecided the network is (entropy)", "undecided"),
    ],
)
def test_what_is_asked_of_a_class_may_be_chosen(client, tab, score, title, words):
    offered = client.post("/api/tabs", headers={"x-sfumato": "new"}).json()["models"][0]["scores"]
    assert score in [entry["name"] for entry in offered]
    _, done = ended(client, tab, score=score)
    assert done["title"] == f"{title} · Extremal perturbations"
    assert words in done["section"]


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"target": 3}, "target is the index of one of the 3 classes; got 3"),
        (
            {"score": "luck"},
            "score is one of logit, probability, log-odds, sigmoid, region, box, similarity, regression, entropy; got 'luck'",
        ),
        ({"score": "entropy", "against": 1}, "two classes are compared by their logits"),
        ({"score": "entropy", "certify": True}, "only explanations of a class can be tested"),
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
            "cannot search for the smallest area; choose one of Extremal channels, Extremal perturbations",
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


def test_classes_are_found_by_name(client, tab):
    headers = tab
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
    assert "<h2" in answers["html"].text
    assert "red</h2>" in answers["html"].text
    assert client.get(f"/api/jobs/{job}/export/exe", headers=tab).status_code == 404


def test_what_is_taken_away_has_the_shape_of_the_picture():
    squashing = classifier()
    picture = Image.effect_noise((64, 40), 80).convert("RGB")
    masks = torch.zeros(1, 1, 1, 32, 32)
    masks[..., :16] = 1
    result = Attribution(map=torch.zeros(1, 1, 32, 32), masks=masks)
    shown = TabPicture("noise", b"", squashing.prepare(picture)[None], size=picture.size)
    found = explaining.Answer(QUESTION, Asked(0, Logit(0), "red"), shown, result)
    with Image.open(io.BytesIO(exports.animation("GIF", "image/gif", found, squashing).content)) as frames:
        assert frames.size == (51, 32)
    assert 'data-shape="1.6"' in exports.report(found, squashing).content.decode()
    assert 'data-shape="1.6"' in found.event(squashing, "one")["section"]


@pytest.mark.parametrize("game", ["preserve", "delete"])
def test_an_animation_shows_what_the_network_saw(game):
    noise = Image.effect_noise((32, 32), 80).convert("RGB")
    masks = torch.zeros(1, 1, 1, 8, 8)  # at a layer
    masks[..., :4] = 1
    about = {"method": as_json(ExtremalPerturbation(game=game))}
    result = Attribution(map=torch.zeros(1, 1, 32, 32), masks=masks, about=about)
    found = explaining.Answer(
        QUESTION, Asked(0, Logit(0), "red"), TabPicture("noise", b"", classifier().prepare(noise)[None]), result
    )
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
        {"x-sfumato": "new", "host": "127.0.0.1.example:8765"},
        {"x-sfumato": "new", "host": "[::1"},
        {"x-sfumato": "new", "host": "192.168.1.7:8765"},  # as only this machine is served
        {"x-sfumato": "new", "origin": "http://127.0.0.1:3000"},  # another server of this machine
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
        explorer = Explorer([classifier()], LOCAL)
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


@pytest.mark.parametrize("path", ["/api/pictures", "/"])
def test_a_body_that_is_no_http_is_refused_once(served, path):
    explorer, address = served
    heard, log = [], logging.Handler()
    log.emit = lambda record: heard.append(record.levelname)
    logging.getLogger("uvicorn.error").addHandler(log)
    try:
        tab = f"x-sfumato: {explorer.tabs.open().name}"
        head = request(address, f"POST {path}", tab, "transfer-encoding: chunked")
        with socket.create_connection(address) as line:
            line.settimeout(LONG)
            line.sendall(head)
            time.sleep(0.05)  # so that the application waits for the body
            line.sendall(b"zz\r\n")
            answer = line.makefile("rb").read()
    finally:
        logging.getLogger("uvicorn.error").removeHandler(log)
    if path != "/":  # which is answered before the body
        assert answer.startswith(b"HTTP/1.1 400")
    assert b"default-src 'none'" in answer
    assert "ERROR" not in heard


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
    monkeypatch.setattr("sfumato.models.remarks", lambda _: [])  # which ask the network too
    monkeypatch.setattr(
        "sfumato.web.slow_clients.server", lambda _: SimpleNamespace(run=lambda **_: said.append("served"))
    )
    result = CliRunner().invoke(cli.app, ["serve", "--port", "0"])
    assert result.exit_code == 0, result.output
    assert said[-1] == "served"
    assert said.count("gradients") == 2  # of one row, whose memory is measured, and of the step


def test_the_address_answers_as_soon_as_it_is_told(monkeypatch):
    """Who opens it waits for the server to start, and is not refused."""
    pytest.importorskip("uvicorn", reason="the page is served by uvicorn")
    connected = []
    monkeypatch.setattr("sfumato.models.load", lambda *_: classifier())
    monkeypatch.setattr("sfumato.models.remarks", lambda _: [])
    monkeypatch.setattr("sfumato.web.warm_up.warm_up", lambda _: None)

    def told(_, text, **settings):
        port = int(re.search(r"http://127.0.0.1:(\d+)/", text)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=60):
            connected.append(port)

    monkeypatch.setattr("rich.console.Console.print", told)
    monkeypatch.setattr("sfumato.web.slow_clients.server", lambda _: SimpleNamespace(run=lambda **_: None))
    result = CliRunner().invoke(cli.app, ["serve", "--port", "0"])
    assert result.exit_code == 0, result.output
    assert len(connected) == 1


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


# Shared with other machines


def test_the_server_answers_to_its_names_at_any_port(client):
    """As a tunnel has a port of its own."""
    for host in ("localhost:9000", "127.0.0.1:1", "[::1]:8765", "LOCALHOST"):
        headers = {"x-sfumato": "new", "host": host, "origin": f"http://{host}"}
        assert client.post("/api/tabs", headers=headers).status_code == 200


def test_a_shared_server_needs_its_token():
    explorer = Explorer([classifier()], Hosts.of(EVERYWHERE, ["Lab.example.org"], ["box"]), token="secret")  # noqa: S106  # of a test
    with TestClient(explorer.app(), base_url="http://192.168.1.7:8765") as client:
        assert client.get("/").status_code == 200  # the page has nothing of anybody
        for token, status in ((None, 403), ("", 403), ("secre", 403), ("s\u00e9cret", 403), ("secret", 200)):
            own = {} if token is None else {"x-sfumato-token": token.encode()}
            assert client.post("/api/tabs", headers={"x-sfumato": "new", **own}).status_code == status
        assert client.get("/api/classes?q=red", headers={"x-sfumato": "new"}).status_code == 410
        token = {"x-sfumato": "new", "x-sfumato-token": "secret"}
        for host, status in (
            ("box:1", 200),
            ("lab.example.org", 200),
            ("[fe80::1]:8765", 200),
            ("rebound.example", 403),
        ):
            assert client.post("/api/tabs", headers={**token, "host": host}).status_code == status
        proxied = {**token, "host": "127.0.0.1:8765", "origin": "https://lab.example.org"}
        assert client.post("/api/tabs", headers=proxied).status_code == 200


@pytest.mark.parametrize("name", ["", "lab.example.org:8000", "https://lab.example.org", "a b", "fe80::1"])
def test_an_allowed_host_is_a_name(name):
    with pytest.raises(ValueError, match="an allowed host is a name without a port, such as lab.example.org; got"):
        Hosts.of("127.0.0.1", [name])


ALONE = {"127.0.0.1": True, "localhost": True, "::1": True, EVERYWHERE: False, "box": False}


@pytest.mark.parametrize(("host", "alone"), ALONE.items())
def test_which_servers_only_this_machine_reaches(host, alone):
    assert guard.is_loopback(host) == alone


def test_serve_prints_the_token_of_a_shared_server_and_a_warning(monkeypatch):
    pytest.importorskip("uvicorn", reason="the page is served by uvicorn")
    served = []
    monkeypatch.setattr("sfumato.models.load", lambda *_: classifier())
    monkeypatch.setattr(
        "sfumato.web.slow_clients.server", lambda app: SimpleNamespace(run=lambda **_: served.append(app))
    )
    shared = CliRunner().invoke(
        cli.app, ["serve", "--port", "0", "--host", EVERYWHERE, "--allowed-host", "lab.example.org"]
    )
    assert shared.exit_code == 0, shared.output
    token = re.search(r"http://(?!0\.0\.0\.0)\S+:\d+/#token=(\S{20,}) ", shared.output)[1]
    assert "Other machines can reach it" in shared.output
    with TestClient(served[0], base_url="http://lab.example.org") as client:
        assert client.post("/api/tabs", headers={"x-sfumato": "new", "x-sfumato-token": token}).status_code == 200
        assert client.post("/api/tabs", headers={"x-sfumato": "new"}).status_code == 403
    alone = CliRunner().invoke(cli.app, ["serve", "--port", "0"])
    assert "token" not in alone.output
    wrong = CliRunner().invoke(cli.app, ["serve", "--port", "0", "--allowed-host", "lab.example.org:80"])
    assert wrong.exit_code != 0
    assert "an allowed host is a name without a port" in wrong.output


def test_every_error_is_a_sentence_with_the_protecting_headers(client, tab, monkeypatch):
    job, _ = ended(client, tab)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    def broken(*_):
        raise TypeError("of no use")

    answers_ = [client.get("/nowhere"), client.put("/api/tabs", headers=tab), client.get("/samples/nothing")]
    monkeypatch.setitem(exports.KINDS, "gif", full_disk)
    answers_.append(client.get(f"/api/jobs/{job}/export/gif", headers=tab))
    monkeypatch.setitem(exports.KINDS, "gif", broken)
    answers_.append(client.get(f"/api/jobs/{job}/export/gif", headers=tab))
    assert [answer.status_code for answer in answers_] == [404, 405, 404, 503, 500]
    for answer in answers_:
        assert answer.json()["message"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "No space left on device" in answers_[3].json()["message"]


class Raising(Toy):
    def forward(self, inputs):
        raise RuntimeError("out of memory")


class Endless(Toy):
    def forward(self, inputs):
        return super().forward(inputs) * float("nan")


@pytest.mark.parametrize(
    ("net", "said"), [(Raising, "RuntimeError: out of memory"), (Endless, "not all finite numbers")]
)
def test_a_network_that_fails_is_said(net, said):
    explorer = Explorer([replace(classifier(), net=net().eval())], LOCAL)
    with TestClient(explorer.app(), base_url=f"http://{HOST}") as client:
        answer = handed_in(client, opened(client))
    assert answer.status_code == 422
    assert said in answer.json()["message"]


# Memory


def test_a_strip_of_pixels_is_served_and_an_input_that_is_too_large_is_refused(client, tab):
    assert handed_in(client, tab, encoded(square(size=(1, 100_000)))).status_code == 200
    whole = replace(classifier(), preparation=Preparation(None, 32, mean=(0.5,) * 3, std=(0.25,) * 3))
    with TestClient(Explorer([whole], LOCAL).app(), base_url=f"http://{HOST}") as other:
        for size, said in (
            ((1, 100_000), "would be resized to 32 × 3200000"),
            ((1, 2000), "an input of 32 × 64000 pixels"),
        ):
            answer = handed_in(other, opened(other), encoded(square(size=size)))
            assert answer.status_code == 422
            assert said in answer.json()["message"]


def test_the_pictures_of_all_tabs_have_a_bound(client, monkeypatch):
    mine, other = opened(client), opened(client)
    first = handed_in(client, mine).json()["picture"]
    monkeypatch.setattr(tabs, "MEMORY", 40_000)  # an input has 12,288 bytes
    for _ in range(4):
        last = handed_in(client, other).json()["picture"]
    question = {"target": 0, "settings": {"steps": 1, "areas": [0.2]}}
    answers_ = [
        client.post("/api/jobs", content=json.dumps({"picture": picture, **question}), headers=tab)
        for picture, tab in ((first, mine), (last, other))
    ]
    assert [answer.status_code for answer in answers_] == [404, 201]


def test_who_has_most_is_forgotten_first(monkeypatch):
    every = Tabs()
    quiet, busy = every.open("quiet"), [every.open("busy") for _ in range(2)]
    small, large = (TabPicture(str(size), b"x" * size, torch.zeros(0)) for size in (10, 60))
    quiet.keep_picture(small)
    for tab in busy:
        tab.keep_picture(large)
    monkeypatch.setattr(tabs, "MEMORY", 100)
    every.keep_within_memory()
    assert [len(tab.pictures) for tab in (quiet, *busy)] == [1, 0, 1]


def test_results_count_and_are_forgotten_before_pictures(monkeypatch):
    every = Tabs()
    tab = every.open()
    tab.keep_picture(TabPicture("a", b"x" * 60, torch.zeros(0)))
    job = Job(tab.name, lambda _: {"type": "done"}, memory=60)
    job.run()
    tab.keep_job(job)
    monkeypatch.setattr(tabs, "MEMORY", 100)
    every.keep_within_memory()
    assert (len(tab.pictures), len(tab.jobs)) == (1, 0)


def test_a_result_knows_its_bytes(client):
    explorer = Explorer([classifier()], LOCAL)
    with TestClient(explorer.app(), base_url=f"http://{HOST}") as other:
        tab = opened(other)
        job, done = ended(other, tab)
        assert explorer.tabs.find(tab["x-sfumato"]).jobs[job].memory > len(done["section"]) + 2 * 32 * 32 * 4


def test_a_closed_tab_is_forgotten_and_its_jobs_end():
    explorer = Explorer([classifier()], LOCAL)
    with TestClient(explorer.app(), base_url=f"http://{HOST}") as client:
        tab = opened(client)
        name = asked(client, tab, settings={"steps": 1000, "areas": [0.2]}).json()["job"]
        job = explorer.tabs.find(tab["x-sfumato"]).jobs[name]
        assert client.delete("/api/tab", headers=tab).status_code == 204
        finished([job])
        assert job.last_event == {"type": "cancelled"}
        assert handed_in(client, tab).status_code == 410
        assert list(explorer.tabs) == []


def test_the_tabs_of_a_client_have_a_bound():
    every = Tabs()
    other, first = every.open("other"), every.open("one")
    for _ in range(OF_CLIENT):
        last = every.open("one")
    assert [every.find(tab.name) is not None for tab in (other, first, last)] == [True, False, True]


def test_only_some_pictures_of_a_client_are_received_at_once(client, tab, monkeypatch):
    monkeypatch.setattr(answers, "AT_ONCE", 0)
    answer = handed_in(client, tab)
    assert answer.status_code == 429
    assert "on their way" in answer.json()["message"]


# Jobs that nobody follows


def test_a_job_that_nobody_follows_ends(monkeypatch):
    monkeypatch.setattr(jobs, "PATIENCE", 0.05)
    queue = JobQueue()

    def work(job):
        for index in range(10**6):
            job.report({"type": "step", "index": index, "steps": 10**6})
            time.sleep(0.001)

    alone, followed = Job("a", work), Job("b", lambda _: {"type": "done"})
    followed.follow()
    for job in (alone, followed):
        queue.submit(job)
    finished([alone, followed])
    queue.close()
    assert [job.last_event["type"] for job in (alone, followed)] == ["cancelled", "done"]


def test_waiting_jobs_that_nobody_follows_make_room(monkeypatch):
    queue = JobQueue()
    waiting_jobs, _, let_go = waiting(queue, *["a"] * MOST_JOBS)
    monkeypatch.setattr(jobs, "PATIENCE", 0)
    time.sleep(0.01)
    queue.submit(Job("a", lambda _: {"type": "done"}))  # which would be one too many
    assert all(job.ended for job in waiting_jobs)
    let_go.set()
    queue.close()


def test_clients_take_turns_and_so_do_the_tabs_of_each():
    queue, order = JobQueue(), []
    _, _, let_go = waiting(queue)
    names = ("a1", "a1", "a2", "a3", "b1", "b1")
    given = [Job(name, lambda job: order.append(job.tab) or {"type": "done"}, client=name[0]) for name in names]
    for job in given:
        queue.submit(job)
    assert [queue.position(job) for job in given] == [1, 6, 3, 5, 2, 4]
    let_go.set()
    finished(given)
    queue.close()
    assert order == ["a1", "b1", "a2", "b1", "a3", "a1"]


def test_a_client_has_its_share_only():
    queue = JobQueue()
    _, _, let_go = waiting(queue)
    given = [Job(str(index), lambda _: {"type": "done"}, client="one") for index in range(MOST_OF_CLIENT)]
    for job in given:
        queue.submit(job)
    with pytest.raises(BusyError, match=f"{MOST_OF_CLIENT} jobs from your machine are waiting"):
        queue.submit(Job("more", lambda _: {}, client="one"))
    queue.submit(other := Job("more", lambda _: {"type": "done"}, client="two"))
    let_go.set()
    finished([*given, other])
    queue.close()


# Names of files


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("my cat.jpg", "my cat.jpg"),
        ("C:\\photos\\cat.png", "cat.png"),
        ("../../etc/passwd", "passwd"),
        ("\u732b.jpg", "\u732b.jpg"),
        ("a\u202egpj.exe", "agpj.exe"),
        ("x" * 300 + ".jpeg", "x" * 95 + ".jpeg"),
        ("...", "picture.png"),
        ("", "picture.png"),
        ("\ud800.png", "png"),
    ],
)
def test_the_name_of_an_uploaded_file(sent, name):
    assert uploads.file_name(sent) == name


def test_files_have_the_name_of_the_picture(client, tab):
    from urllib.parse import quote, unquote

    own = {**tab, "x-file-name": quote("../Meine \u732b.jpg")}
    noise = encoded(Image.effect_noise((40, 40), 80).convert("RGB"))
    answer = client.post("/api/pictures", content=noise, headers=own).json()
    assert answer["file"] == "Meine \u732b.jpg"
    question = {"picture": answer["picture"], "target": 0, "settings": {"steps": 3, "areas": [0.5]}}
    job = client.post("/api/jobs", content=json.dumps(question), headers=tab).json()["job"]
    heard(client, tab, job)
    coco, tensors = (client.get(f"/api/jobs/{job}/export/{kind}", headers=tab) for kind in ("coco", "safetensors"))
    assert coco.json()["images"][0]["file_name"] == "Meine \u732b.jpg"
    names = [unquote(answer.headers["content-disposition"].partition("''")[2]) for answer in (coco, tensors)]
    assert names == ["Meine \u732b-red-coco.json", "Meine \u732b-red.safetensors"]


def test_an_annotation_of_one_mask(client, tab):
    noise = encoded(Image.effect_noise((40, 40), 80).convert("RGB"))
    job, _ = ended(client, tab, content=noise, settings={"steps": 3, "areas": [0.5, 0.8]})
    address = f"/api/jobs/{job}/export/coco"
    (one,) = client.get(f"{address}?row=1", headers=tab).json()["annotations"]
    assert one["area"] / 40**2 == pytest.approx(0.8, abs=0.05)
    for row in ("2", "-1", "x", "9" * 99):
        assert client.get(f"{address}?row={row}", headers=tab).status_code == 422


# What the explanation may claim


def test_what_an_explanation_may_claim_is_tested_and_shown(client, tab):
    settings = {"steps": 3, "areas": [0.3]}
    job = asked(
        client, tab, content=encoded(Image.effect_noise((40, 40), 80).convert("RGB")), settings=settings, certify=True
    )
    events = heard(client, tab, job.json()["job"])
    assert events[-1]["type"] == "done", events[-1]
    assert "What the explanation may claim" in events[-1]["section"]
    assert events[-1]["section"].count("<li><strong") == 7
    page = client.get(f"/api/jobs/{job.json()['job']}/export/html", headers=tab).text
    assert "What the explanation may claim" in page


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (
            {"method": "GradCAM", "settings": {}},
            "only sets of places can be tested; choose one of Extremal order, Extremal",
        ),
        ({"settings": {"layer": "features"}}, "only sets of places of the picture can be tested; choose no layer"),
        ({"certify": 1}, "certify is true or false; got 1"),
    ],
)
def test_what_cannot_be_tested_is_said(client, tab, question, said):
    answer = asked(client, tab, **({"certify": True} | question))
    assert answer.status_code == 422
    assert said in answer.json()["message"]


def test_layers_come_from_a_list_and_methods_have_everyday_names(client):
    (offered,) = client.post("/api/tabs", headers={"x-sfumato": "new"}).json()["models"]
    assert {layer["name"]: layer["text"] for layer in offered["layers"]} == {"features": "features, 6 × 32 × 32"}
    titles = {entry["name"]: entry["title"] for entry in offered["methods"]}
    assert (titles["GradCAM"], titles["Centre"]) == ("Grad-CAM", "Centre")
    assert titles["ExtremalPerturbation"] == "Extremal perturbations"
    assert all(entry["help"].endswith(".") for entry in offered["methods"])


def test_the_crop_of_the_network_comes_with_the_picture(client, tab):
    upright = square(size=(60, 40))
    exif = upright.getexif()
    exif[0x0112] = 6  # a quarter turn
    told = handed_in(client, tab, encoded(upright, "JPEG", exif=exif)).json()
    assert Image.open(io.BytesIO(b64(told["shown"]))).size == (40, 60)
    assert told["window"] == pytest.approx([0, 0, 1, 1])
    cropped = replace(classifier(), preparation=Preparation(32, 32, mean=(0.5,) * 3, std=(0.25,) * 3))
    with TestClient(Explorer([cropped], LOCAL).app(), base_url=f"http://{HOST}") as other:
        window = handed_in(other, opened(other), encoded(upright)).json()["window"]
    assert window == pytest.approx([1 / 6, 0, 5 / 6, 1])


def test_a_search_reports_the_windows_that_it_looks_at_before_its_first_step():
    said = []

    class Noting(Job):
        def report(self, event):
            said.append(event)

    known = classifier()
    inputs = known.prepare(Image.new("RGB", (8, 8)))[None]
    method = ExtremalPerturbation(areas=(0.2,), steps=2)
    method(known.net, inputs, 0, explaining.StepReporter(method, inputs, Noting("tab", lambda _: {})))
    stages = [event for event in said if "stage" in event]
    assert stages
    assert said[: len(stages)] == stages
    assert stages[0]["type"] == jobs.STEP
    assert stages[0]["stage"] == "looking at windows"
    assert stages[0]["index"] == 0
    assert stages[0]["steps"] > 1

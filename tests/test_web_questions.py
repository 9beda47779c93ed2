"""What the page asks besides the score of a class: a region, a box, a similarity, a number; and what it refuses."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

pytest.importorskip("starlette", reason="the page needs starlette")
pytest.importorskip("httpx2", reason="the test client of starlette needs httpx2")

from starlette.testclient import TestClient
from test_questions_command import PLAIN, Means, embedder, maps, means, squares
from test_web import HOST, LOCAL, encoded, handed_in, heard, opened
from typer.testing import CliRunner

import sfumato
from sfumato import cli
from sfumato.web.app import Explorer
from sfumato.web.asking import SCORES, corners, offered
from sfumato.web.warm_up import warm_up


def two():
    """A picture of 96 × 64 pixels, of which the network sees the middle at half its size: a red and a green square."""
    picture = Image.new("RGB", (96, 64), (60, 60, 60))
    picture.paste((250, 0, 0), (24, 16, 40, 48))
    picture.paste((0, 250, 0), (56, 16, 72, 48))
    return picture


class Page:
    """A tab of a server of a classifier, with a picture."""

    def __init__(self, client):
        self.client, self.tab = client, opened(client)
        self.picture = self.handed_in(two())

    def handed_in(self, picture, name="two.png"):
        return handed_in(self.client, {**self.tab, "x-file-name": name}, encoded(picture)).json()

    def asks(self, **question):
        said = {"picture": self.picture["picture"], "settings": {"steps": 2, "areas": [0.2]}}
        return self.client.post("/api/jobs", content=json.dumps(said | question), headers=self.tab)

    def answer(self, **question):
        """The last event, and the result as its file holds it."""
        answer = self.asks(**question)
        assert answer.status_code == 201, answer.text
        job = answer.json()["job"]
        done = heard(self.client, self.tab, job)[-1]
        assert done["type"] == "done", done
        return done, self.client.get(f"/api/jobs/{job}/export/safetensors", headers=self.tab).content

    def refusal(self, **question):
        answer = self.asks(**question)
        if answer.status_code == 201:
            event = heard(self.client, self.tab, answer.json()["job"])[-1]
            assert event["type"] == "failed", event
            return event["message"]
        assert answer.status_code == 422
        return answer.json()["message"]


@pytest.fixture
def page_of():
    clients = []

    def page(classifier):
        client = TestClient(Explorer([classifier], LOCAL).app(), base_url=f"http://{HOST}")
        clients.append(client)
        return Page(client.__enter__())

    yield page
    for client in clients:
        client.__exit__(None, None, None)


def inputs():
    return PLAIN(two())[None]


def loaded(content, tmp_path):
    (tmp_path / "result.safetensors").write_bytes(content)
    return sfumato.load(tmp_path / "result.safetensors")


def test_a_class_in_a_box_of_the_upload(page_of, tmp_path):
    done, content = page_of(maps()).answer(score="region", target=1, box=[56, 16, 72, 48])
    result = loaded(content, tmp_path)
    assert float(result.whole) == pytest.approx(float(inputs()[0, 1, 8:24, 20:28].mean()), rel=1e-5)
    assert done["title"] == "green in box 56,16,72,48 (1) · Extremal perturbations"
    assert done["section"].count('data-role="asked"') == 1


def masked(size=(96, 64), place=(56, 16, 72, 48)):
    mask = Image.new("1", size)
    if place:
        mask.paste(1, place)
    return mask


def test_a_class_where_a_mask_is_white(page_of, tmp_path):
    page = page_of(maps())
    mask = page.handed_in(masked(), "right.png")["picture"]
    done, content = page.answer(score="region", target=1, mask=mask)
    result = loaded(content, tmp_path)
    assert float(result.whole) == pytest.approx(float(inputs()[0, 1, 8:24, 20:28].mean()), rel=1e-5)
    assert done["title"] == "green in right (1) · Extremal perturbations"
    assert done["section"].count('data-role="asked"') == 1
    assert page.answer(score="region", mask=mask)[0]["title"].startswith("green in right")  # its strongest class


def test_what_is_transparent_in_a_mask_is_not_in_the_region(page_of, tmp_path):
    page, clear = page_of(maps()), Image.new("RGBA", (96, 64), (255, 255, 255, 0))
    clear.paste((255, 255, 255, 255), (56, 16, 72, 48))
    mask = page.handed_in(clear, "right.png")["picture"]
    _, content = page.answer(score="region", target=1, mask=mask)
    assert float(loaded(content, tmp_path).whole) == pytest.approx(float(inputs()[0, 1, 8:24, 20:28].mean()), rel=1e-5)


def test_masks_that_do_not_fit(page_of):
    page = page_of(maps())
    small, black = (page.handed_in(mask)["picture"] for mask in (masked((64, 64)), masked(place=None)))
    says = "the mask is a picture of 64 × 64 pixels, but the explained one has 96 × 64; give one of the same size"
    assert says in page.refusal(score="region", target=1, mask=small)
    assert "is white nowhere in what the network sees" in page.refusal(score="region", target=1, mask=black)
    both = page.refusal(score="region", target=1, mask=black, box=BOX)
    assert both.startswith("a region needs either a box or a mask, and got both")
    assert "a mask is for “a class in a box or a mask”" in page.refusal(score="regression", target=1, mask=black)


def test_the_strongest_class_of_a_box(page_of):
    done, _ = page_of(maps()).answer(score="region", box=[24, 16, 40, 48])
    assert done["title"].startswith("red in box")


def test_a_detector_s_boxes_come_with_the_picture_in_its_own_pixels(page_of):
    page = page_of(squares())
    assert page.picture["size"] == [96, 64]
    assert [(one["label"], one["box"]) for one in page.picture["top"]] == [
        ("red", pytest.approx([24, 16, 40, 48])),
        ("green", pytest.approx([56, 16, 72, 48])),
    ]


def test_a_box_of_a_detector(page_of, tmp_path):
    page = page_of(squares())
    done, content = page.answer(score="box", target=2, box=[56, 16, 72, 32])  # half of the green square
    green = float(inputs()[0, 1, 8:24, 20:28].mean())
    assert float(loaded(content, tmp_path).whole) == pytest.approx(0.25 * green, rel=1e-5)
    assert done["title"].startswith("green (2) in the box 56,16,72,32")
    done, content = page.answer(target=2)  # its surest box of the class; a detector is asked about boxes
    assert float(loaded(content, tmp_path).whole) == pytest.approx(0.5 * green, rel=1e-5)


@pytest.mark.parametrize("model", [embedder, means])
def test_how_similar_two_pictures_are(page_of, tmp_path, model):
    page = page_of(model())
    red = Image.new("RGB", (64, 64), (250, 40, 30))
    other = page.handed_in(red, "red.png")["picture"]
    done, content = page.answer(score="similarity", to=other)
    expected = torch.cosine_similarity(Means()(inputs()), Means()(PLAIN(red)[None]))
    assert float(loaded(content, tmp_path).whole) == pytest.approx(float(expected), rel=1e-5)
    assert done["title"] == "similarity to red.png · Extremal perturbations"


def test_an_output_that_estimates_a_number(page_of, tmp_path):
    done, content = page_of(means()).answer(score="regression", target=2)
    assert float(loaded(content, tmp_path).whole) == pytest.approx(float(Means()(inputs())[0, 2]), rel=1e-5)
    assert done["title"].startswith("output 2, blue (estimated number)")


BOX = [24, 16, 40, 48]


@pytest.mark.parametrize(
    ("model", "question", "says"),
    [
        (maps, {"score": "region", "target": 0}, "a region needs a box or a mask; draw a box on the picture"),
        (
            maps,
            {"score": "region", "target": 0, "box": [0, 0, 10, 60]},
            "the box lies outside of what the network sees",
        ),
        (
            maps,
            {"score": "region", "target": 0, "box": [9, 0, 9, 60]},
            "a box is four numbers in pixels of the picture",
        ),
        (maps, {"score": "region", "target": 0, "box": "1,2,3,4"}, "a box is four numbers in pixels of the picture"),
        (maps, {"score": "region", "target": 0, "box": [True, 0, 2, 3]}, "a box is four numbers"),
        (maps, {"score": "region", "target": 0, "box": [0, 0, 1e308, 3]}, "a box is four numbers"),
        (maps, {"score": "region", "target": 9, "box": BOX}, "target is the index of one of the 3 classes; got 9"),
        (
            maps,
            {"score": "box", "target": 0, "box": BOX},
            "is for detectors, and model 'maps' is none; choose “a class in a box or a mask”",
        ),
        (means, {"score": "region", "target": 0, "box": BOX}, "a Region is for outputs that are maps"),
        (means, {"target": 0, "box": BOX}, "a box is for “a class in a box or a mask” or “a box that it"),
        (means, {"target": 0, "mask": "x"}, "the mask is not here any more; choose it again"),
        (maps, {"score": "region", "mask": ["x"]}, "the mask is not here any more; choose it again"),
        (means, {"score": "similarity"}, "a similarity needs a second picture; choose the picture to compare with"),
        (means, {"score": "similarity", "to": "x"}, "the picture to compare with is not here any more"),
        (means, {"score": "similarity", "to": ["x"]}, "the picture to compare with is not here any more"),
        (squares, {"score": "logit", "target": 0}, "model 'squares' is a detector, which finds boxes; got “its score"),
        (squares, {"target": 0}, "squares finds no background; it finds red, green; name another class"),
        (embedder, {"target": 0}, "gives embeddings; choose “likeness to another picture”"),
        (means, {"score": "entropy", "certify": True}, "only explanations of a class can be tested"),
    ],
)
def test_what_is_refused(page_of, model, question, says):
    assert says in page_of(model()).refusal(**question)


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        (means, set(SCORES) - {"region", "box"}),
        (maps, set(SCORES) - {"box"}),
        (squares, {"box"}),
        (embedder, {"similarity"}),
    ],
)
def test_the_page_says_what_a_model_cannot_be_asked(model, asked):
    assert {entry["name"] for entry in offered(model()) if not entry["reason"]} == asked


@pytest.mark.parametrize("model", [means, maps, squares, embedder])
def test_every_kind_of_model_is_warmed_up(model):
    assert warm_up(model())["type"] == "done"


def test_corners_are_four_numbers_in_order():
    assert corners([1, 2.5, 3, 4]) == (1.0, 2.5, 3.0, 4.0)


def test_a_picture_of_another_tab_is_not_compared_with(page_of):
    page = page_of(means())
    other = handed_in(page.client, opened(page.client), encoded(two())).json()["picture"]
    assert "is not here any more" in page.refusal(score="similarity", to=other)


@pytest.mark.parametrize(
    ("model", "options", "passed"),
    [
        (squares, ["--labels", "names.txt"], ("asked:model", None, Path("names.txt"), False)),
        (embedder, ["--embeddings"], ("asked:model", None, None, True)),
    ],
)
def test_serve_takes_detectors_and_embedders(monkeypatch, model, options, passed):
    pytest.importorskip("uvicorn", reason="the page is served by uvicorn")
    loaded, served = [], []
    monkeypatch.setattr("sfumato.models.load", lambda *given: loaded.append(given) or model())
    monkeypatch.setattr(
        "sfumato.web.slow_clients.server", lambda app: SimpleNamespace(run=lambda **_: served.append(app))
    )
    run = CliRunner().invoke(cli.app, ["serve", "--port", "0", "--model", "asked:model", *options])
    assert run.exit_code == 0, run.output
    assert loaded == [passed]
    assert len(served) == 1

"""What the page gives away: masks for annotation tools, and a result that knows its picture."""

import base64
import hashlib
import io
import json
import zipfile
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from factories import importable
from PIL import Image

pytest.importorskip("starlette", reason="the page needs starlette")
pytest.importorskip("httpx2", reason="the test client of starlette needs httpx2")

from starlette.testclient import TestClient
from test_questions_command import embedder, means, squares
from test_web import HOST, LOCAL, encoded
from test_web_questions import Page, page_of, two  # noqa: F401  # a fixture
from typer.testing import CliRunner

import sfumato
from sfumato import cli
from sfumato.web.app import Explorer

AREAS = {"steps": 2, "areas": [0.1, 0.3]}


class Answered:
    """An answer of a page about a picture of 96 × 64 pixels, and its exports."""

    def __init__(self, page, **question):
        self.page = page
        self.job = page.asks(settings=AREAS, **question).json()["job"]
        with page.client.stream("GET", f"/api/jobs/{self.job}/events", headers=page.tab) as events:
            self.done = [json.loads(line) for line in events.iter_lines()][-1]
        assert self.done["type"] == "done", self.done

    def get(self, kind):
        return self.page.client.get(f"/api/jobs/{self.job}/export/{kind}", headers=self.page.tab)

    def file(self, kind):
        """The name and the content of an export."""
        answer = self.get(kind)
        assert answer.status_code == 200, answer.text
        return unquote(answer.headers["content-disposition"].partition("''")[2]), answer.content


@pytest.fixture(scope="module")
def answered():
    with TestClient(Explorer([squares()], LOCAL).app(), base_url=f"http://{HOST}") as client:
        yield Answered(Page(client), score="box", target=1)


def decoded(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_masks_as_png_are_a_zip_of_pictures_of_the_upload_s_size(answered):
    name, content = answered.file("masks")
    assert name.endswith("-masks.zip")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        masks = {file: decoded(archive.read(file)) for file in archive.namelist()}
    assert [mask.shape for mask in masks.values()] == [(64, 96)] * 2
    assert [(mask > 0).sum() / (64 * 64) for mask in masks.values()] == pytest.approx([0.1, 0.3], abs=0.02)
    first, second = sorted(masks)
    assert first.startswith("two-red-(1)-in-the-box-24,16,40,48-01-")
    assert first.endswith("-percent.png")
    name, content = answered.file("masks?row=1")
    assert name == second
    assert np.array_equal(decoded(content), masks[second])


def test_the_formats_hold_the_same_mask(answered):
    _, png = answered.file("masks?row=0")
    wanted = decoded(png) > 0
    rows, columns = (np.flatnonzero(wanted.any(axis)) for axis in (1, 0))
    name, labelme = answered.file("labelme?row=0")
    assert name.endswith("-labelme.json")
    content = json.loads(labelme)
    assert content["imagePath"] == "two.png"
    (shape,) = content["shapes"]
    assert shape["points"] == [[columns[0], rows[0]], [columns[-1], rows[-1]]]
    inside = wanted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert np.array_equal(decoded(base64.b64decode(shape["mask"])) > 0, inside)
    name, cvat = answered.file("cvat?row=0")
    assert name.endswith("-cvat.xml")
    (image,) = ET.fromstring(cvat).iter("image")  # noqa: S314  # our own file
    assert (image.get("name"), image.get("width"), image.get("height")) == ("two.png", "96", "64")
    (coco,) = answered.get("coco?row=0").json()["annotations"]
    assert coco["area"] == wanted.sum()


def test_all_masks_come_in_one_file_where_the_format_has_one(answered):
    assert len(answered.get("labelme").json()["shapes"]) == 2
    (image,) = ET.fromstring(answered.file("cvat")[1]).iter("image")  # noqa: S314
    assert len({shape.get("group_id") for shape in image}) == 2


@pytest.mark.parametrize("kind", ["coco", "labelme", "cvat", "masks"])
def test_a_mask_that_is_not_there(answered, kind):
    assert "there is no mask 2; expected a number from 0 to 1" in answered.get(f"{kind}?row=2").json()["message"]
    assert "row is the number of a mask" in answered.get(f"{kind}?row=-1").json()["message"]


def test_only_masks_have_rows(answered):
    answer = answered.get("gif?row=0")
    assert answer.status_code == 422
    assert "for one of coco, labelme, cvat, masks" in answer.json()["message"]


def test_masks_that_are_not_of_a_class_say_what_they_are_of(page_of):  # noqa: F811
    page = page_of(embedder())
    answered = Answered(page, score="similarity", to=page.handed_in(two(), "other.png")["picture"])
    assert [entry["name"] for entry in answered.get("coco").json()["categories"]] == ["similarity to other.png"]
    assert {shape["label"] for shape in answered.get("labelme").json()["shapes"]} == {"similarity to other.png"}
    page = page_of(means())
    answered = Answered(page, score="entropy")
    assert [one["name"] for one in answered.get("coco").json()["categories"]] == [
        "how undecided the network is (entropy)"
    ]


def report(folder, *options):
    """The page that `sfumato report` makes of the result in a folder."""
    page = folder / "report.html"
    arguments = ["report", str(folder / "result.safetensors"), "-o", str(page), "--model", "asked:squares"]
    run = CliRunner().invoke(cli.app, [*arguments, *options])
    assert run.exit_code == 0, run.output
    return page.read_text()


def test_a_result_knows_its_picture_and_a_report_shows_it(answered, tmp_path, monkeypatch):
    importable(monkeypatch, tmp_path, "asked", "test_questions_command")
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "downloads"
    for path in (elsewhere, folder):
        path.mkdir()
    monkeypatch.chdir(elsewhere)
    (folder / "result.safetensors").write_bytes(answered.file("safetensors")[1])
    about = sfumato.load(folder / "result.safetensors").about
    content = encoded(two())
    assert about["picture"] == "two.png"
    assert about["made_from"] == {"picture": hashlib.sha256(content).hexdigest()}
    assert (about["model"], about["target"]) == ("squares", {"index": 1, "label": "red"})
    assert "The picture is not shown" in report(folder)
    Image.new("RGB", (96, 64)).save(elsewhere / "two.png")  # another picture of that name
    changed = report(folder)
    assert "is not the picture that was explained" in changed
    assert 'data-role="picture"' not in changed
    (folder / "two.png").write_bytes(content)
    shown = report(folder)
    assert 'data-role="picture"' in shown
    assert "two.png: red (1) in the box 24,16,40,48" in shown
    assert 'data-role="picture"' in report(folder, "--picture", str(elsewhere / "two.png"))  # as it is told

"""A page of several networks: one question to two of them, whose answers stand side by side."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

pytest.importorskip("starlette", reason="the page needs starlette")
pytest.importorskip("httpx2", reason="the test client of starlette needs httpx2")

from starlette.testclient import TestClient
from test_web import HOST, LOCAL, classifier, encoded, handed_in, heard, opened, square
from typer.testing import CliRunner

import sfumato
from sfumato import cli
from sfumato.models import Preparation
from sfumato.web.app import Explorer
from sfumato.web.tabs import PICTURES

LABELS = ("azure, blue", "red, scarlet", "grey", "grey")
"""Red and blue have other numbers than in the first network, and green is missing."""


class Other(nn.Module):
    """Logits of blue, red, and twice of grey."""

    def forward(self, inputs):
        red, green, blue = inputs.mean((2, 3)).unbind(1)
        return torch.stack([blue, 2 * red, green, green], 1)


def other():
    return replace(
        classifier(), name="other", net=Other().eval(), labels=LABELS, preparation=Preparation(16, None), layers={}
    )


@pytest.fixture
def explorer():
    return Explorer([classifier(), other()], LOCAL)


@pytest.fixture
def client(explorer):
    with TestClient(explorer.app(), base_url=f"http://{HOST}") as client:
        yield client


@pytest.fixture
def tab(client):
    return opened(client)


@pytest.fixture
def picture(client, tab):
    return handed_in(client, tab).json()["picture"]


def prepared(client, tab, picture, model):
    return client.post(f"/api/pictures?of={picture}&model={model}", headers=tab)


def asked(client, tab, picture, **question):
    said = {"picture": picture, "target": 0, "settings": {"steps": 2, "areas": [0.2]}}
    return client.post("/api/jobs", content=json.dumps(said | question), headers=tab)


def like(client, tab, index, model=1, of=0):
    """The class of a network that has the name of a class of another one."""
    return client.get(f"/api/classes?like={index}&model={model}&of={of}", headers=tab)


def result(client, tab, job, tmp_path):
    file = client.get(f"/api/jobs/{job}/export/safetensors", headers=tab)
    (tmp_path / "result.safetensors").write_bytes(file.content)
    return sfumato.load(tmp_path / "result.safetensors"), file.headers["content-disposition"]


def test_the_page_is_told_of_each_network(client):
    told = client.post("/api/tabs", headers={"x-sfumato": "new"}).json()["models"]
    assert [(one["name"], one["classes"]) for one in told] == [("toy", 3), ("other", 4)]
    assert [bool(one["layers"]) for one in told] == [True, False]


def test_networks_of_one_name_get_numbers():
    explorer = Explorer([classifier(), other(), classifier()], LOCAL)
    assert [network.name for network in explorer.networks] == ["toy (1)", "other", "toy (2)"]


def test_one_question_to_two_networks(client, tab, picture, tmp_path):
    second = prepared(client, tab, picture, 1).json()
    assert (second["width"], second["top"][0]["label"]) == (16, "red, scarlet")
    titles, wholes, names = [], [], []
    for name, target in ((picture, 0), (second["picture"], like(client, tab, 0).json()[0]["index"])):
        job = asked(client, tab, name, target=target).json()["job"]
        done = heard(client, tab, job)[-1]
        assert done["type"] == "done", done
        loaded, file = result(client, tab, job, tmp_path)
        titles.append(done["title"])
        wholes.append(float(loaded.whole))
        names.append((loaded.about["model"], loaded.about["target"]["index"], file.rpartition("''")[2]))
    assert titles == ["red · Extremal perturbations · toy", "red · Extremal perturbations · other"]
    assert names == [("toy", 0, "picture-red-toy.safetensors"), ("other", 1, "picture-red-other.safetensors")]
    red = other().prepare(square())[None]
    assert wholes[1] == pytest.approx(float(Other()(red)[0, 1]), rel=1e-5)
    assert wholes[0] != pytest.approx(wholes[1], rel=0.1)


def test_a_picture_has_one_name_for_each_network(client, tab, picture):
    """However often it is asked about: else a tab would soon forget the picture itself."""
    names = {prepared(client, tab, picture, 1).json()["picture"] for _ in range(PICTURES + 1)}
    assert len(names) == 1
    assert asked(client, tab, picture).status_code == 201
    assert prepared(client, tab, names.pop(), 0).json()["picture"] == picture


def test_both_count_towards_the_memory(explorer, client, tab, picture):
    (opened_tab,) = list(explorer.tabs)
    before = opened_tab.memory
    prepared(client, tab, picture, 1)
    assert opened_tab.memory >= before + 4 * 3 * 16 * 16 + len(encoded(square()))


def test_a_class_that_the_second_network_lacks(client, tab):
    answer = like(client, tab, 1)
    assert answer.status_code == 422
    assert "other has no class of the name 'green', so it cannot be asked about it" in answer.json()["message"]


@pytest.mark.parametrize("index", ["3", "-1", "x", "", "9" * 5000])
def test_a_class_that_is_not_there(client, tab, index):
    answer = like(client, tab, index)
    assert answer.status_code == 422
    assert "like is the index of one of the 3 classes" in answer.json()["message"]


def test_a_class_is_found_by_any_of_its_names(explorer):
    toy, second = explorer.networks
    assert [second.class_of(toy, 2), toy.class_of(second, 0)] == [0, 2]
    assert second.class_of(second, 3) == 3  # two have its name, and one of them its number
    longer = replace(toy, classifier=replace(toy.classifier, labels=(*toy.classifier.labels, "x", "grey")))
    with pytest.raises(ValueError, match="other has 2 classes of the name 'grey'"):
        second.class_of(longer, 4)


def test_classes_are_searched_among_those_of_a_network(client, tab):
    found = [client.get(f"/api/classes?q=red&model={model}", headers=tab).json() for model in (0, 1)]
    assert [[entry["index"] for entry in entries] for entries in found] == [[0], [1]]


@pytest.mark.parametrize("model", ["2", "-1", "x", "9" * 5000, ""])
def test_a_network_that_is_not_there(client, tab, picture, model):
    assert prepared(client, tab, picture, model).status_code == 404
    assert like(client, tab, 0, model).status_code == like(client, tab, 0, of=model).status_code == 404


def test_a_picture_that_is_not_there(client, tab, picture):
    assert prepared(client, tab, "none", 1).status_code == 404
    assert prepared(client, opened(client), picture, 1).status_code == 404  # of another tab


def test_pictures_are_compared_by_one_network(client, tab, picture):
    second = prepared(client, tab, picture, 1).json()["picture"]
    answer = asked(client, tab, picture, score="similarity", target=None, to=second)
    assert "is not here any more" in answer.json()["message"]
    assert asked(client, tab, second, score="similarity", target=None, to=second).status_code == 201


def served(monkeypatch, *options):
    pytest.importorskip("uvicorn", reason="the page is served by uvicorn")
    loaded, apps = [], []

    def load(*given):
        loaded.append(given)
        return other() if given[0] == "other" else classifier()

    monkeypatch.setattr("sfumato.models.load", load)
    monkeypatch.setattr("sfumato.web.warm_up.warm_up", lambda _: None)
    monkeypatch.setattr(
        "sfumato.web.slow_clients.server", lambda app: SimpleNamespace(run=lambda **_: apps.append(app))
    )
    return CliRunner().invoke(cli.app, ["serve", "--port", "0", *options]), loaded, apps


def test_serve_takes_several_models_and_files_of_each(monkeypatch):
    models = ("--model", "toy", "--model", "other")
    run, loaded, apps = served(monkeypatch, *models, "--checkpoint", "own", "--checkpoint", "mine.pth")
    assert run.exit_code == 0, run.output
    assert "shows what toy and other need to see" in run.output
    assert loaded == [("toy", None, None, False), ("other", Path("mine.pth"), None, False)]
    with TestClient(apps[0], base_url=f"http://{HOST}") as client:
        assert len(client.post("/api/tabs", headers={"x-sfumato": "new"}).json()["models"]) == 2


@pytest.mark.parametrize(("option", "count"), [("--checkpoint", 1), ("--labels", 3)])
def test_serve_refuses_files_that_belong_to_no_model(monkeypatch, option, count):
    run, loaded, _ = served(monkeypatch, "--model", "toy", "--model", "other", *[option, "file"] * count)
    assert run.exit_code != 0
    said = " ".join(run.output.split())
    assert f"{option} is given once for each model, in their order; there are 2 models, and {count} of it." in said
    assert f"Write {option} own where" in said
    assert loaded == []

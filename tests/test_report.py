"""Reports: pages that need nothing but themselves, whatever their names hold."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from sfumato import report
from sfumato.attribution import Attribution
from sfumato.cli.report import report as command
from sfumato.data.labels import imagenet
from sfumato.figures.report.cases import by_case
from sfumato.figures.report.markup import Html, tag
from sfumato.figures.report.notebook import notebook
from sfumato.figures.report.page import page
from sfumato.figures.report.pictures import perturbed_levels
from sfumato.methods.sufficient import SmallestArea
from sfumato.metrics.estimate import Measure, mean
from sfumato.models import Classifier, Preparation
from sfumato.perturbations import Blur, Constant, Fade
from sfumato.runs.execution.session import begin
from sfumato.runs.plans.plan import parse
from sfumato.runs.results.record import Place
from sfumato.settings import as_json

HOSTILE = "\"><script>alert('x')</script><img src=http://evil.example/ onerror=alert(1)>&amp;\x00\ud800"

CHROMIUM = shutil.which("chromium")

VOID = {"br", "img", "input", "meta", "link"}


class Parsed(HTMLParser):
    """A page's elements, each with its attributes and its words; raises where an element is not closed."""

    def __init__(self, content):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(content)
        self.close()
        assert not self._open

    def handle_starttag(self, name, attributes):
        names = [key for key, _ in attributes]
        assert len(names) == len(set(names))
        element = {"name": name, "words": "", **{f"@{key}": value for key, value in attributes}}
        self.elements.append(element)
        if name not in VOID:
            self._open.append(element)

    def handle_endtag(self, name):
        assert self._open.pop()["name"] == name

    def handle_data(self, data):
        for element in self._open:
            element["words"] += data

    def all(self, name, **attributes):
        wanted = {f"@{key.rstrip('_').replace('_', '-')}": value for key, value in attributes.items()}
        return [
            each
            for each in self.elements
            if each["name"] == name and all(each.get(key) == value for key, value in wanted.items())
        ]

    def one(self, name, **attributes):
        (found,) = self.all(name, **attributes)
        return found


def blobs(size, places):
    """Smooth masks `(V, 1, H, W)` about places (x, y, width), as methods make them."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    each = [torch.exp(-(((x - across) ** 2 + (y - down) ** 2) / (2 * width**2))) for across, down, width in places]
    return torch.stack(each)[:, None]


def result(queries=1, size=32, about=None):
    masks = blobs(
        size, [(size / 2, size / 3, size / 16), (size / 2, size / 3, size / 8), (size / 3, size / 2, size / 4)]
    )
    masks = masks.expand(queries, -1, -1, -1, -1)
    return Attribution(
        map=masks.mean(1),
        masks=masks,
        areas=torch.tensor([0.02, 0.1, 0.4]),
        achieved=torch.tensor([[0.02, 0.1, 0.4]]).expand(queries, -1),
        scores=torch.tensor([[2.0, 5.0, 9.5]]).expand(queries, -1),
        complements=torch.tensor([[9.0, 7.0, 3.25]]).expand(queries, -1),
        whole=torch.full((queries,), 11.0),
        blank=torch.full((queries,), 1.0),
        about=about
        or {"method": {"class": "a.b:Mine", "steps": 7}, "score": {"class": "a.b:Logit", "target": 3}, "model": "net"},
    )


def searched():
    found = result()
    only = replace(
        found,
        **{name: getattr(found, name)[:, 2:] for name in ("masks", "achieved", "scores", "complements")},
        areas=None,
    )
    return SmallestArea(
        area=torch.tensor([0.4]),
        reached=torch.tensor([True]),
        wanted=torch.tensor([9.0]),
        attribution=only,
        curve_areas=torch.tensor([0.1, 0.4, 0.8]),
        curve_scores=torch.tensor([[4.0, 9.5, float("nan")]]),
    )


def pictures(queries=1, size=32):
    return torch.rand(queries, 3, size, size, generator=torch.Generator().manual_seed(0))


def classifier(labels=("one", "two", "three", "four, fourth")):
    return Classifier("net", torch.nn.Identity(), Preparation(size=32, resize=None), labels)


def photograph():
    """As detailed as a photograph: the sample picture."""
    from sfumato import samples

    return Preparation().restore(Preparation()(Image.open(samples.path("chelsea"))))[None]


def rows_of(page):
    return [
        {"said": each["@data-sentence"], "current": "@aria-current" in each}
        for each in page.elements
        if "@data-sentence" in each
    ]


def test_a_page_holds_a_slider_its_curve_and_its_numbers():
    page = Parsed(report.html(result(), pictures(), label="a cat", title="Mine"))
    assert page.one("title")["words"] == page.one("h1")["words"] == "Mine"
    assert page.one("h2")["words"] == "a cat"
    assert page.one("h3")["words"] == "Mine"  # the method's class
    slider = page.one("input", type="range")
    assert (slider["@min"], slider["@max"], slider["@step"], slider["@value"]) == ("0", "2", "1", "1")
    assert page.one("label", for_=slider["@id"])["words"] == "Area, 2 % to 40 %"
    assert [each["@value"] for each in page.all("input", type="radio")] == ["overlay", "black", "seen", "heat"]
    assert len({each["@name"] for each in page.all("input", type="radio")}) == 1
    rows = rows_of(page)
    assert [row["current"] for row in rows] == [False, True, False]
    assert slider["@aria-valuetext"] == rows[1]["said"]
    assert (
        rows[1]["said"]
        == "10 % of the picture is worth 40 % (Logit 5); without it 7 is left; one run: no restarts to compare"
    )
    assert [each["words"] for each in page.all("td")][:10] == [
        "2 %",
        "2 %",
        "2",
        "10 %",
        "9",
        "10 %",
        "10 %",
        "5",
        "40 %",
        "7",
    ]
    settings = {
        key["words"]: value["words"]
        for key, value in zip(page.all("th", scope="row"), page.all("td")[15:], strict=True)
    }
    assert settings == {
        "method": "a.b:Mine",
        "method.steps": "7",
        "score": "a.b:Logit",
        "score.target": "3",
        "model": "net",
    }


def test_the_curve_is_where_the_numbers_say():
    page = Parsed(report.html(result(), pictures()))
    kept = page.all("circle", class_="point kept") + page.all("circle", class_="point kept now")
    kept = sorted(kept, key=lambda each: int(each["@data-row"]))
    x, y = ([float(each[f"@{axis}"]) for each in kept] for axis in ("cx", "cy"))
    assert (x[2] - x[0]) / (x[1] - x[0]) == pytest.approx((0.4 - 0.02) / (0.1 - 0.02), abs=0.02)
    whole, blank = (float(page.one("line", class_=f"bound {name}")["@y1"]) for name in ("whole", "blank"))
    for height, score in zip(y, (2.0, 5.0, 9.5), strict=True):
        assert (blank - height) / (blank - whole) == pytest.approx((score - 1) / 10, abs=0.01)
    assert page.one("circle", class_="point kept now")["@data-row"] == "1"


def test_the_search_for_the_smallest_area_is_told():
    page = Parsed(report.html(searched(), pictures()))
    assert "The smallest area that keeps the Logit wanted, 9: a* = 40 %." in [each["words"] for each in page.all("p")]
    assert len(page.all("circle", class_="tried")) == 2  # where it is no number, nothing is drawn
    least, point = page.one("line", class_="least"), page.one("circle", class_="point kept now")
    assert least["@x1"] == point["@cx"]
    assert not page.all("input", type="range")  # there is one mask
    assert not any("nan" in str(value) for each in page.all("circle") + page.all("polyline") for value in each.values())


def test_what_a_file_tells_of_a_search_is_told():
    about = {"smallest": {"keep": 0.5, "reached": False, "area": None}}
    page = Parsed(report.html(result(about=about)))
    assert any("No area that was tried keeps the score wanted, 5.5" in each["words"] for each in page.all("p"))


def test_a_map_alone_has_no_slider():
    saliency = Attribution(map=torch.rand(1, 1, 4, 4), whole=torch.tensor([3.0]))
    page = Parsed(report.html(saliency, pictures()))
    assert not page.all("input", type="range")
    assert not page.all("svg")
    assert [each["@value"] for each in page.all("input", type="radio")] == ["overlay", "heat"]
    assert len(page.all("img", data_role="mask")) == 1


def test_methods_stand_side_by_side_and_queries_below_one_another():
    both = {"one": result(queries=2), "two": result(queries=2), "map": Attribution(map=torch.rand(2, 1, 32, 32))}
    page = Parsed(report.html(both, pictures(2), label=["a", "b"]))
    assert [each["words"] for each in page.all("h2")] == ["a", "b"]
    assert [each["words"] for each in page.all("h3")] == ["one", "two", "map"] * 2
    assert len(page.all("img", data_role="picture")) == 2  # each picture once
    assert len(page.all("input", data_role="together")) == 2
    named = [each["@id"] for each in page.elements if "@id" in each]
    assert len(named) == len(set(named))
    for each in page.elements:
        for reference in ("@for", "@aria-labelledby"):
            assert each.get(reference) in [None, *named]


def test_classes_are_named_by_the_result_and_the_classifier():
    given = replace(result(2), about={"score": {"class": "a:Logit", "target": [3, 9]}})
    inputs = classifier().preparation(Image.new("RGB", (32, 32)))[None].expand(2, -1, -1, -1)
    page = Parsed(report.html(given, inputs, classifier()))
    assert [each["words"] for each in page.all("h2")] == ["four (3)", "class 9"]
    page = Parsed(report.html(given[1], inputs[1:], classifier()))
    assert [each["words"] for each in page.all("h2")] == ["class 9"]
    old = replace(given[1], about=given.about)  # a part saved with the batch's list: which of them is not known
    page = Parsed(report.html(old, inputs[1:], classifier()))
    assert [each["words"] for each in page.all("h2")] == ["query 1"]


def test_without_inputs_there_are_masks_alone():
    page = Parsed(report.html(result()))
    assert not page.all("img", data_role="picture")
    assert page.one("article")["@data-views"] == "heat"
    sound = Attribution(map=torch.rand(1, 1, 50), masks=torch.rand(1, 3, 1, 50), scores=torch.rand(1, 3))
    page = Parsed(report.html(sound))
    assert not page.all("canvas")
    assert len(rows_of(page)) == 3


def test_scores_that_are_no_numbers_are_left_out():
    given = replace(result(), scores=torch.tensor([[float("nan"), 5.0, float("inf")]]), complements=None)
    page = Parsed(report.html(given))
    assert rows_of(page)[0]["said"] == "2 % of the picture"
    assert len(page.all("circle")) == 1


@pytest.mark.parametrize("where", ["label", "title", "name", "about", "labels"])
def test_nothing_that_is_told_becomes_markup(where):
    plain = Parsed(report.html(result(), pictures()))
    given, arguments = {"Mine": result()}, {}
    if where == "name":
        given = {HOSTILE: result()}
    elif where == "about":
        given = {"Mine": result(about={HOSTILE: {HOSTILE: [HOSTILE]}, "method": {"class": HOSTILE, "layer": HOSTILE}})}
    elif where == "labels":
        arguments = {"label": [HOSTILE]}
    else:
        arguments = {where: HOSTILE}
    content = report.html(given, pictures(), **arguments)
    page = Parsed(content)
    content.encode()
    for name in ("script", "iframe", "link", "object", "form"):
        assert len(page.all(name)) == len(plain.all(name))
    assert not [key for each in page.elements for key in each if key.startswith("@on")]
    assert any("<script>" in each["words"] for each in page.elements if each["name"] != "script")


def test_a_page_asks_nobody_for_anything():
    content = report.html({"a": result(), "b": searched()}, pictures())
    page = Parsed(content)
    for each in page.elements:
        for key in ("@src", "@href", "@srcset", "@action", "@style"):
            assert each.get(key, "data:").startswith("data:")
        assert each.get("@href") is None
    assert "://" not in content
    assert not re.search(r"@import|url\((?!data:)", content)
    policy = page.one("meta", http_equiv="Content-Security-Policy")["@content"]
    assert "default-src 'none'" in policy
    for name in ("script", "style"):
        words = page.one(name)["words"]
        hashed = base64.b64encode(hashlib.sha256(words.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{hashed}'" in policy


def test_an_ordinary_page_is_small():
    given = result(size=224)
    content = report.html(given, photograph())
    assert len(content.encode()) < 400_000


def test_pictures_keep_their_values():
    page = Parsed(report.html(result(), pictures()))
    masks = [
        Image.open(io.BytesIO(base64.b64decode(each["@src"].partition(",")[2])))
        for each in page.all("img", data_role="mask")
    ]
    for shown, mask in zip(masks, result().masks[0, :, 0], strict=True):
        assert np.abs(np.asarray(shown) / 255 - mask.numpy()).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("perturbation", [Blur(max_sigma=4, levels=5), Fade()])
def test_what_is_hidden_looks_as_the_network_saw_it(perturbation):
    given = replace(result(), about={"method": {"perturbation": as_json(perturbation)}})
    net = classifier()
    inputs = net.preparation(Image.fromarray((255 * pictures()[0].permute(1, 2, 0)).byte().numpy()))[None]
    levels = [*perturbed_levels(given, inputs, net).levels, net.restore(inputs)[0]]
    height = torch.tensor(0.37)
    low = int(height * (len(levels) - 1))
    share = height * (len(levels) - 1) - low
    blended = torch.lerp(levels[low], levels[low + 1], share)
    seen = perturbation(inputs)(height.expand(1, 1, 32, 32), torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(blended, net.restore(seen)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (as_json(Blur(max_sigma=1e9)), "is too large for a page"),
        (as_json(Blur(levels=33)), "is too large for a page"),
        ({"class": "os:system"}, "'os:system', which cannot be built again"),
        ({"class": 3}, "cannot be built again"),
        ({"class": "sfumato.methods.rise:RISE"}, "cannot be built again"),  # callable, but nothing that hides
        (["mine:hide"], "'mine:hide', which cannot be built again"),
        (as_json(Constant((1.0, 2.0))), "2 values"),
    ],
)
def test_what_hid_places_and_cannot_be_shown_is_said_and_not_replaced(wrong, said):
    given = replace(result(), about={"method": {"perturbation": wrong}})
    page = Parsed(report.html(given, pictures()))
    assert [each["@value"] for each in page.all("input", type="radio")] == ["overlay", "black", "heat"]
    assert not page.all("img", data_role="level")
    assert len([words for each in page.all("p") if said in (words := each["words"])]) == 1


def test_a_blur_for_display_is_called_so():
    page = Parsed(report.html(result(), pictures()))  # it does not say what hid places
    assert len(page.all("img", data_role="level")) == Blur().levels - 1
    assert any("the blur is for display" in each["words"] for each in page.all("p"))
    known = Parsed(report.html(replace(result(), about={"perturbation": as_json(Blur(4, 5))}), pictures()))
    assert len(known.all("img", data_role="level")) == 4
    assert not any("display" in each["words"] for each in known.all("p"))


def test_panels_that_hide_in_several_ways_are_named_for_neither():
    both = {
        name: replace(result(), about={"perturbation": as_json(perturbation)})
        for name, perturbation in (("one", Blur(4, 5)), ("two", Fade()))
    }
    said = [each["words"] for each in Parsed(report.html(both, pictures())).all("label")]
    assert "As the network saw it" in said
    assert "Blurred" not in said


def test_pictures_of_any_form_are_reported_alike():
    """The same picture as the model's input, a batch of 8 bits, arrays of both orders, and PIL's, one or a list."""
    eight_bits = (255 * pictures()).round().byte()
    array = eight_bits[0].permute(1, 2, 0).numpy()
    picture = Image.fromarray(array)
    expected = report.html(result(), eight_bits.float() / 255)
    for given in (eight_bits, array[None], [array], (array / 255)[None], picture, [picture], [eight_bits[0]]):
        assert report.html(result(), given) == expected
    net = classifier()
    assert report.html(result(), picture, net) == report.html(result(), net.prepare(picture)[None], net)


@pytest.mark.parametrize(
    ("size", "shape"), [((64, 32), "2.0"), ((32, 40), "0.8"), ((32, 32), None), ((400, 32), None), ((322, 320), None)]
)
def test_a_squashed_picture_is_shown_in_its_own_shape(size, shape):
    squashing = Classifier(
        "net", torch.nn.Identity(), Preparation(size=32, resize=None), ("one", "two", "three", "four")
    )
    page = Parsed(report.html(result(), Image.new("RGB", size, "red"), squashing))
    (section,) = page.all("section")
    assert section.get("@data-shape") == shape
    cropped = replace(squashing, preparation=Preparation(size=32, resize=32))
    (section,) = Parsed(report.html(result(), Image.new("RGB", size, "red"), cropped)).all("section")
    assert section.get("@data-shape") is None  # the network sees a square of it


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"inputs": 3 * torch.rand(1, 3, 32, 32)}, "give classifier="),
        ({"inputs": pictures(2)}, "inputs must be those of the result's 1 queries"),
        ({"inputs": torch.rand(1, 3, 32)}, "a report shows pictures"),
        ({"inputs": torch.zeros(1, 3, 32, 32, dtype=torch.long)}, "inputs must be floating-point"),
        ({"inputs": "a.png"}, "got str"),
        ({"inputs": []}, "inputs are empty"),
        ({"inputs": [torch.rand(3, 32, 32), torch.rand(3, 16, 16)]}, "must have the same size"),
        ({"inputs": torch.rand(1, 1, 32, 32), "classifier": classifier()}, "inputs of 3 channels; got 1"),
        ({"label": ["a", "b"]}, "label must be one for each"),
        ({"result": {}}, "a report needs a result"),
        ({"result": {"a": result(), "b": result(2)}}, "must have the same queries"),
    ],
)
def test_what_does_not_fit_is_said(arguments, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        report.html(**({"result": result()} | arguments))


def test_it_is_written_whole(tmp_path):
    report.write(tmp_path / "a.html", result(), pictures(), title=HOSTILE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == report.html(result(), pictures(), title=HOSTILE)


def test_a_notebook_shows_the_masks_in_a_frame():
    frame = Parsed(notebook(result(queries=6))).one("iframe")
    assert frame["@sandbox"] == "allow-scripts"
    inside = Parsed(frame["@srcdoc"])
    assert len(inside.all("article")) == 4
    assert any("2 more queries" in each["words"] for each in inside.all("p"))


# ---- in a browser


def in_browser(content, script, folder):
    """What a script of the test, added to the page, writes into its title."""
    content = re.sub(r"<meta http-equiv[^>]*>", "", content)  # whose policy would not let it run
    path = folder / "page.html"
    path.write_text(content.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--dump-dom", path.as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return json.loads(Parsed(ended.stdout).one("title")["words"])


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_slider_moves_through_the_masks(tmp_path):
    script = """
    const told = [];
    const look = () => {
      const canvas = document.querySelector("canvas");
      const [x, y] = [0.5, 0.34].map((share) => Math.round(share * canvas.width));
      return {
        said: document.querySelector("output").textContent,
        row: document.querySelector("tr[aria-current]").dataset.row,
        now: document.querySelector("circle.kept.now").dataset.row,
        middle: [...canvas.getContext("2d").getImageData(x, y, 1, 1).data],
        corner: [...canvas.getContext("2d").getImageData(canvas.width - 1, canvas.height - 1, 1, 1).data],
        other: document.querySelectorAll("input[type=range]")[1].value,
      };
    };
    const go = () => {
      const slider = document.querySelector("input[type=range]");
      const choose = (name) => document.querySelector(`input[value=${name}]`).click();
      for (const view of ["overlay", "black", "seen", "heat"]) {
        choose(view);
        for (const row of [0, 2]) {
          slider.value = row;
          slider.dispatchEvent(new Event("input"));
          told.push({ view, ...look() });
        }
      }
      choose("black");
      document.querySelector("input[data-role=rest]").click();
      told.push({ view: "rest", ...look() });
      document.title = JSON.stringify(told);
    };
    window.addEventListener("load", go);
    """
    picture = torch.ones(1, 3, 32, 32) * torch.tensor([0.8, 0.4, 0.2]).view(1, 3, 1, 1)
    given = replace(result(), masks=torch.cat([torch.zeros(1, 1, 1, 32, 32), result().masks[:, 1:]], 1))
    told = in_browser(report.html({"a": given, "b": result()}, picture), script, tmp_path)
    assert [each["row"] for each in told] == [each["now"] for each in told] == ["0", "2"] * 4 + ["2"]
    assert [each["other"] for each in told] == ["0", "2"] * 4 + ["2"]  # the other goes along
    assert told[0]["said"].startswith("2 % of the picture is worth 10 %")
    assert told[1]["said"].startswith("40 % of the picture is worth 85 %")
    by = {(each["view"], each["row"]): each for each in told}
    assert by["black", "0"]["middle"] == [0, 0, 0, 255]
    wide = float(result().masks[0, 2, 0, 11, 16])
    np.testing.assert_allclose(by["black", "2"]["middle"][:3], [wide * 255 * each for each in (0.8, 0.4, 0.2)], atol=4)
    np.testing.assert_allclose(
        by["rest", "2"]["middle"][:3], [(1 - wide) * 255 * each for each in (0.8, 0.4, 0.2)], atol=4
    )
    np.testing.assert_allclose(by["seen", "2"]["middle"][:3], [204, 102, 51], atol=4)  # one colour, blurred
    assert by["heat", "0"]["middle"] == [0, 0, 4, 255]
    assert by["overlay", "0"]["middle"] == by["overlay", "0"]["corner"]
    assert by["overlay", "2"]["middle"] != by["overlay", "2"]["corner"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_s_own_policy_lets_it_run(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(report.html(result(), pictures(), title=HOSTILE), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--enable-logging=stderr", "--dump-dom", path.as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    assert Parsed(ended.stdout).one("section")["@class"] == "query live"
    assert "CONSOLE" not in ended.stderr


# ---- the command


def run_command(*arguments):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_the_command_finds_names_and_neighbours(tmp_path):
    (tmp_path / "in").mkdir()
    story = {"picture": "gone/cat.jpg", "model": "lite0", "target": {"index": 3, "label": "four, fourth"}}
    result().save(tmp_path / "in" / "cat-four-grad-cam.safetensors")
    result().save(tmp_path / "in" / "cat-four-extremal.safetensors")
    summary = story | {"methods": {"extremal": {}, "grad-cam": {}}}
    (tmp_path / "in" / "cat-four.json").write_text(json.dumps(summary))
    replace(result(), about=story).save(tmp_path / "in" / "dog.safetensors")
    ended = run_command(tmp_path / "in", "-o", tmp_path / "out.html")
    assert ended.exit_code == 0, ended.output
    page = Parsed((tmp_path / "out.html").read_text())
    assert [each["words"] for each in page.all("h2")] == ["cat.jpg: four (3)"]
    assert [each["words"] for each in page.all("h3")] == ["extremal", "grad-cam", "result"]
    assert any(each["words"].startswith("The picture is not shown: ") for each in page.all("p"))


def test_the_command_names_the_class_of_every_query_of_a_file(tmp_path):
    given = replace(result(2), about={"score": {"class": "a:Logit", "target": [3, 9]}})
    given.save(tmp_path / "both.safetensors")
    given[1].save(tmp_path / "second.safetensors")
    assert run_command(tmp_path, "-o", tmp_path / "out.html").exit_code == 0
    heads = [each["words"] for each in Parsed((tmp_path / "out.html").read_text()).all("h2")]
    assert heads == ["both.safetensors: class 3", "both.safetensors: class 9", "second.safetensors: class 9"]


def test_the_command_names_classes_from_a_file(tmp_path):
    given = replace(result(2), about={"score": {"class": "sfumato.scores.of_class:Logit", "target": [3, 1]}})
    given.save(tmp_path / "both.safetensors")
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\ndog\n")
    options = ["--labels", tmp_path / "classes.txt", "-o", tmp_path / "out.html"]
    assert run_command(tmp_path, *options).exit_code == 0
    heads = [each["words"] for each in Parsed((tmp_path / "out.html").read_text()).all("h2")]
    assert heads == ["both.safetensors: dog (3)", "both.safetensors: bee (1)"]
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    ended = run_command(tmp_path, *options)
    assert ended.exit_code == 2
    assert "--labels has 2 names, but" in ended.stderr


def test_the_command_names_other_questions(tmp_path):
    (tmp_path / "cat-entropy.json").write_text(json.dumps({"question": "how undecided the network is (entropy)"}))
    about = {"score": {"class": "sfumato.scores.entropy:Entropy", "link": "softmax"}}
    replace(result(), about=about).save(tmp_path / "cat-entropy.safetensors")
    assert run_command(tmp_path, "-o", tmp_path / "out.html").exit_code == 0
    heads = [each["words"] for each in Parsed((tmp_path / "out.html").read_text()).all("h2")]
    assert heads == ["cat-entropy.safetensors: how undecided the network is (entropy)"]


@pytest.mark.parametrize(
    ("score", "name"),
    [
        ({"class": "sfumato.scores.of_class:Logit", "target": 3}, "logit"),
        ({"class": "sfumato.scores.of_class:Probability", "target": 3, "link": "softmax"}, "softmax probability"),
        ({"class": "sfumato.scores.entropy:Entropy", "link": "softmax"}, "entropy"),
        (None, "score"),
    ],
)
def test_a_score_has_its_name_everywhere(score, name):
    given = replace(result(), about={} if score is None else {"score": score})
    page = Parsed(report.html(given, pictures()))
    assert f"is worth 40 % ({name} 5)" in rows_of(page)[1]["said"]
    heads = [each["words"] for each in page.all("th")]
    assert [head for head in heads if name in head] == [name, f"{name} without"]
    assert page.all("text")[-1]["words"] == name
    begun = name[0].upper() + name[1:]
    assert any(each["words"].startswith(f"{begun}: 11 of the whole input") for each in page.all("p"))
    assert page.one("svg")["@aria-label"].startswith(f"{begun} against area")
    without = replace(given, whole=None, blank=None)
    assert rows_of(Parsed(report.html(without, pictures())))[1]["said"].startswith(f"10 % of the picture: {name} 5;")


def test_the_command_does_not_run_what_a_file_names(tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w').close()\nmake = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    Image.new("RGB", (40, 40)).save(tmp_path / "p.png")
    about = {"picture": str(tmp_path / "p.png"), "model": "trap:make"}
    replace(result(), about=about).save(tmp_path / "a.safetensors")
    ended = run_command(tmp_path / "a.safetensors", "-o", tmp_path / "out.html")
    assert ended.exit_code == 0
    assert not (tmp_path / "sprung").exists()
    assert "allow it with --model" in (tmp_path / "out.html").read_text()
    assert run_command(tmp_path / "a.safetensors", "-o", tmp_path / "b.html", "--model", "trap:make").exit_code == 2
    assert (tmp_path / "sprung").exists()


def test_the_command_shows_the_picture_that_it_is_given(tmp_path, monkeypatch):
    (tmp_path / "squared.py").write_text(
        "import torch\nfrom sfumato.models import Classifier, Preparation\n"
        "def make():\n    return Classifier('s', torch.nn.Identity(), Preparation(size=32, resize=None), ['a'] * 4)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    Image.new("RGB", (64, 48), "red").save(tmp_path / "p.png")
    result().save(tmp_path / "a.safetensors")
    options = ["--model", "squared:make", "--picture", tmp_path / "p.png", "-o", tmp_path / "out.html"]
    assert run_command(tmp_path / "a.safetensors", *options).exit_code == 0
    shown = Parsed((tmp_path / "out.html").read_text()).one("img", data_role="picture")["@src"]
    picture = Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2])))
    assert picture.size == (32, 32)
    np.testing.assert_allclose(picture.getpixel((5, 5)), (255, 0, 0), atol=6)


def test_what_cannot_be_read_is_complained_of_and_the_rest_is_done(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    result().save(tmp_path / "good.safetensors")
    ended = run_command(tmp_path, "-o", tmp_path / "out.html")
    assert ended.exit_code == 1
    assert "not a safetensors file" in ended.output
    assert len(Parsed((tmp_path / "out.html").read_text()).all("article")) == 1
    for arguments in ([tmp_path / "bad.safetensors"], [tmp_path / "none"], [tmp_path, "-o", tmp_path]):
        assert run_command(*arguments).exit_code == 2


# ---- runs

SUBJECT = """
import torch
from torch import nn
from sfumato.models import Classifier, Preparation

class Seer(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return x.mean((2, 3)) + 0.1 * self.features(x).mean((2, 3))

def seer():
    preparation = Preparation(size=24, resize=None, mean=(0.5,) * 3, std=(0.25,) * 3)
    return Classifier("seer", Seer().eval(), preparation, ["blue", "green", "red <b>"])
"""

PLAN = """
masks = {masks}

[models]
seer = "{module}:seer"

[methods]
gradient = "Gradient"
centre = "Centre"

[data.squares]
use = "Folder"
path = "pictures"

[protocols]
accuracy = {{ use = "Accuracy", methods = ["gradient"] }}
insertion = {{ use = "InsertionDeletion", steps = 4 }}
"""


def ran(folder, monkeypatch, masks="false"):
    name = f"report_subject_{time.monotonic_ns()}"
    (folder / f"{name}.py").write_text(SUBJECT)
    monkeypatch.syspath_prepend(folder)
    generator = np.random.default_rng(0)
    for channel, colour in enumerate(("red <b>", "green", "blue")):
        (folder / "pictures" / colour).mkdir(parents=True)
        for index in range(3):
            values = generator.integers(0, 80, (30, 30, 3), np.uint8)
            values[5 : 12 + index, 8:20, channel] = 240
            Image.fromarray(values).save(folder / "pictures" / colour / f"{index}.png")
    (folder / "pictures" / "green" / "1.png").write_bytes(b"no picture")
    place = Place(folder / "run")
    session = begin(parse(PLAN.format(module=name, masks=masks), folder), place)
    list(session.work())
    return place


def test_a_run_s_tables_and_telling_cases(tmp_path, monkeypatch):
    place = ran(tmp_path, monkeypatch)
    content = report.for_run(place.folder)
    page = Parsed(content)
    assert page.one("h1")["words"] == "run"
    assert page.one("h2")["words"] == "squares, seer"
    assert [each["words"] for each in page.all("h3")] == ["accuracy", "insertion"]
    assert any("27 of 27 items are done, of which 3 failed." in each["words"] for each in page.all("p"))
    assert any("cannot read picture" in each["words"] for each in page.all("li"))
    notes = [each["words"] for each in page.all("p")]
    # Of eight pictures, on which nothing is settled: no method is shown as better.
    assert sum("few: of fewer than 10 pictures, too few for an interval" in note for note in notes) == 2
    assert sum("*: the best of its column, or not settled worse" in note for note in notes) == 1
    assert len([each for each in page.all("td", class_="best") if each["words"].endswith(" few *")]) == 6
    assert any(each["words"] == "too few" for each in page.all("td"))
    heads = [each["words"] for each in page.all("h4")]
    assert {"gradient, worst", "gradient, best", "centre, worst", "centre, best"} <= set(heads)
    cases = [each["words"] for each in page.all("figcaption")]
    with place.store() as store:
        from sfumato.runs.execution import session as sessions
        from sfumato.runs.results import summary

        rows = [
            each
            for each in summary.rows(sessions.read_record(place), store)
            if each["protocol"] == "insertion" and not each["failed"]
        ]
    best = max((row for row in rows if row["method"] == "centre"), key=lambda row: row["insertion"])
    said = f"{best['example']}, {('blue', 'green', 'red <b>')[best['target']]}"
    assert any(each.startswith(said) and each.endswith(f": {best['insertion']:.3g}") for each in cases)
    disagreeing = [each for each in page.all("summary") if "disagree" in each["words"]]
    assert len(disagreeing) == 1  # accuracy is of one method
    assert not page.all("img")
    assert 1 <= len(re.findall(r"\.t\d+ \{", page.one("style")["words"])) <= 8  # each picture once
    assert "://" not in content


def test_the_maps_that_a_run_keeps_are_shown(tmp_path, monkeypatch):
    place = ran(tmp_path, monkeypatch, masks="true")
    page = Parsed(report.for_run(place.folder, title=HOSTILE))
    explained = [each for each in page.all("span", role="img") if "as centre explains it" in each["@aria-label"]]
    assert explained
    plain = [each for each in page.all("span", role="img") if "explains it" not in each["@aria-label"]]
    assert {each["@class"] for each in plain}.isdisjoint(each["@class"] for each in explained)
    for picture in (tmp_path / "pictures").rglob("*.png"):
        picture.write_bytes(bytes(picture.stat().st_size))
    page = Parsed(report.for_run(place.folder))
    assert not page.all("span", role="img")
    assert page.all("span", class_="thumbnail")


def test_the_command_reports_runs(tmp_path, monkeypatch):
    place = ran(tmp_path, monkeypatch)
    result().save(tmp_path / "a.safetensors")
    out = tmp_path / "out.html"
    assert run_command(place.folder, tmp_path / "a.safetensors", "-o", out, "--title", HOSTILE).exit_code == 0
    page = Parsed(out.read_text())
    assert [each["words"] for each in page.all("h2")] == ["a.safetensors: class 3", "Run run", "squares, seer"]


def test_a_folder_without_a_run_is_said(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        report.for_run(tmp_path / "none")


def test_cases_are_judged_alone():
    hits = np.array([1.0, np.nan, *(index / 600 for index in range(600))])
    values = by_case(Measure("hit", mean("hit")), {"hit": hits, "picture": np.arange(len(hits))})
    np.testing.assert_allclose(values, hits)


def test_labels_of_a_thousand_classes_fit():
    given = replace(result(), about={"score": {"target": 285}})
    inputs = classifier().preparation(Image.new("RGB", (32, 32)))[None]
    page = Parsed(report.html(given, inputs, classifier(imagenet())))
    assert page.one("h2")["words"] == "Egyptian cat (285)"


def test_files_of_the_package_are_plain():
    """What stands between `<script>` and `</script>` must not end it."""
    folder = Path(report.__file__).parent
    for name in ("script.js", "style.css"):
        assert "</" not in (folder / name).read_text()


def test_text_that_is_added_to_markup_is_escaped_too():
    assert tag("p", "a", title="b") + "<i>" == '<p title="b">a</p>&lt;i&gt;'
    assert Html("<b>{}</b>").format("<i>") == "<b>&lt;i&gt;</b>"


def test_a_page_is_plain_text_whose_style_is_as_it_was_given():
    style = 'main > p::before { content: "\'" }'
    content = page("a < b", style=style)
    assert type(content) is str
    assert style in content
    assert "<h1>a &lt; b</h1>" in content


def test_the_strongest_channels_are_heat_with_the_part_where_each_is_most_active():
    picture = torch.zeros(1, 3, 20, 20)
    picture[0, 0, :8, 12:] = 1  # a red corner
    activation = torch.zeros(1, 3, 5, 5)
    activation[0, 1, 0, 4] = 2  # channel 1 is active in this corner, and channel 0 everywhere alike
    activation[0, 0] = 1
    masks = torch.tensor([[0.0, 1, 0], [1.0, 1, 0]])[None, :, :, None, None]
    result = Attribution(
        map=torch.zeros(1, 1, 5, 5), masks=masks, activation=activation, achieved=masks.flatten(2).mean(2)
    )
    page = report.html(result, picture)
    listed = page.partition('<ol class="channels">')[2].partition("</ol>")[0]
    assert re.findall(r"channel (\d)<br>weight ([\d.]+)", listed) == [("1", "1.00"), ("0", "0.50"), ("2", "0.00")]
    heats = re.findall(r'<img src="([^"]*)" alt="Where channel (\d) is active" data-role="channel">', listed)
    assert [channel for _, channel in heats] == ["1", "0", "2"]
    first = pixels_of(heats[0][0])
    assert first[0, -1] == 255
    assert first[-1, 0] == 0
    (crop,) = re.findall(r'<img src="([^"]*)" alt="The part where channel 1 is most active" class="crop">', listed)
    assert pixels_of(crop).shape == (8, 8, 3)
    assert pixels_of(crop)[..., 0].min() > 200  # the corner, and nothing else
    assert listed.count('class="crop"') == 1  # a channel that is the same everywhere is nowhere most active


def pixels_of(address):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))

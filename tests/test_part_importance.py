"""Importance of parts, beside a literal computation and networks whose evidence is known."""

import math
import time
from dataclasses import replace

import pytest
import torch

from sfumato.attribution import Attribution
from sfumato.data import Scenes
from sfumato.data.scenes import DISTRACTOR, Drawing
from sfumato.metrics import Case, PartImportance
from sfumato.runs.execution.session import begin
from sfumato.runs.plans.plan import parse
from sfumato.runs.results import summary
from sfumato.runs.results.record import Place, read_record

SCENES = Scenes(cue=1, cue_elsewhere=1)
WITH_ALL = 3


def weighted(seed=0, classes=4):
    """A network whose logits are weighted sums of the pixels."""
    weights = torch.randn(classes, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) / 20
    return lambda x: torch.einsum("nchw,kchw->nk", x, weights)


def magenta(x):
    """A network that counts pixels of the cue's colour, for class 0, and knows nothing else."""
    red, green, blue = x.unbind(1)
    count = ((red > 0.85) & (green < 0.05) & (blue > 0.7)).float().sum((1, 2))
    return torch.stack([count / 10, torch.zeros_like(count)], 1)


def blind_to_corners(x):
    """A network that sees only the middle of the picture."""
    return weighted()(x * (torch.nn.functional.pad(torch.ones(36, 36), (14,) * 4)))


def case(model, saliency, scene=WITH_ALL, order=None, target=1, scenes=SCENES):
    drawing = scenes.drawing(scene)
    x = drawing.picture()[None].float() / 255
    whole = None if order is None else order[None, None]
    return Case(Attribution(map=saliency[None, None].float(), order=whole), model, x, target, picture=str(scene))


def literal_ranks(values):
    return [sum(b < a for b in values) + (sum(b == a for b in values) + 1) / 2 for a in values]


def literal_correlation(a, b):
    x, y = literal_ranks(a), literal_ranks(b)
    mean = (len(x) + 1) / 2
    top = sum((p - mean) * (q - mean) for p, q in zip(x, y, strict=True))
    return top / math.sqrt(sum((p - mean) ** 2 for p in x) * sum((q - mean) ** 2 for q in y))


def literal_effects(model, scenes, index, target):
    """The log-odds that are lost, of scenes from whose list of elements one was struck."""
    scene = scenes.scene(index)

    def log_odds(drawn):
        logits = model(Drawing(drawn).picture()[None].float() / 255)[0].double().tolist()
        chances = [math.exp(logit - max(logits)) for logit in logits]
        return math.log(chances[target] / (sum(chances) - chances[target]))

    return {
        name: log_odds(scene)
        - log_odds(replace(scene, elements=tuple(element for element in scene.elements if element.name != name)))
        for name in scene.names
        if Drawing(scene).visible()[name].any()
    }


@pytest.mark.parametrize("index", [0, 3, 9])
def test_a_row_beside_a_literal_computation(index):
    model = weighted()
    saliency = torch.rand(64, 64, generator=torch.Generator().manual_seed(index))
    judged = case(model, saliency, index)
    effects = literal_effects(model, SCENES, index, 1)
    assert dict(PartImportance(SCENES).effects(judged)) == pytest.approx(
        effects, abs=1e-3
    )  # of logits near 10, in float32
    row = PartImportance(SCENES, slight=0.3).measure(judged)
    kinds = {element.name: element.kind for element in SCENES.scene(index).elements}
    values = {}
    for name, pixels in SCENES.drawing(index).visible().items():
        values[name] = [float(saliency[y, x]) for y, x in pixels.nonzero().tolist()]
    parts = [name for name in effects if kinds[name] != DISTRACTOR]
    lost = [effects[name] for name in parts]
    means = [sum(values[name]) / len(values[name]) for name in parts]
    assert row["rank_correlation"] == pytest.approx(literal_correlation(lost, means))
    assert row["sum_correlation"] == pytest.approx(literal_correlation(lost, [sum(values[name]) for name in parts]))
    assert row["first"] == (lost.index(max(lost)) == means.index(max(means)))
    largest = max(map(abs, effects.values()))
    assert row["effect"] == pytest.approx(largest, rel=1e-3)
    assert row["cue_effect"] == pytest.approx(effects["cue"] / largest, abs=1e-3)
    idle = [name for name in effects if kinds[name] == DISTRACTOR and abs(effects[name]) <= 0.3 * largest]
    least = float(saliency.min())
    total = sum(value - least for line in saliency.tolist() for value in line)
    share = sum(value - least for name in idle for value in values[name]) / total if idle else math.nan
    area = sum(len(values[name]) for name in idle) / 64**2 if idle else math.nan
    assert (row["distractors"], row["distractors_area"]) == pytest.approx((share, area), rel=1e-4, nan_ok=True)
    assert row["distractors_above"] == pytest.approx(share - area, abs=1e-6, nan_ok=True)


def said(effects, index=WITH_ALL, scenes=SCENES):
    """A map that says on each element what was measured."""
    saliency = torch.zeros(64, 64)
    for name, pixels in scenes.drawing(index).visible().items():
        saliency[pixels] = effects[name]
    return saliency


def test_what_was_measured_ranks_best_its_opposite_worst_and_nothing_in_between():
    model, protocol = weighted(), PartImportance(SCENES)
    saliency = said(protocol.effects(case(model, torch.zeros(64, 64))))
    rows = [protocol.measure(case(model, values)) for values in (saliency, -saliency, torch.ones(64, 64))]
    assert [row["rank_correlation"] for row in rows] == pytest.approx([1, -1, 0])
    assert [row["first"] for row in rows[:2]] == [True, False]
    best = protocol.measure(case(model, -saliency, order=saliency))
    assert best["rank_correlation"] == pytest.approx(1), "the order stands for the map"


def test_a_cue_that_the_network_uses_is_found_or_not():
    protocol = PartImportance(SCENES)
    visible = SCENES.drawing(WITH_ALL).visible()
    hit, missed = (protocol.measure(case(magenta, visible[name], target=0)) for name in ("cue", "eye"))
    assert (hit["cue_found"], missed["cue_found"], hit["cue_effect"]) == (1, 0, 1)
    assert math.isnan(hit["cue_accused"])
    assert hit["rank_correlation"] == pytest.approx(1)
    noisy = protocol.measure(case(lambda x: magenta(x) + 1e-6 * weighted(classes=2)(x), visible["cue"], target=0))
    assert noisy["rank_correlation"] == pytest.approx(1), "effects that are rounding only are equal"


def test_a_cue_that_the_network_does_not_see_is_accused_or_not():
    protocol = PartImportance(SCENES)
    visible = SCENES.drawing(WITH_ALL).visible()
    rows = [protocol.measure(case(blind_to_corners, visible[name])) for name in ("cue", "eye")]
    assert [row["cue_accused"] for row in rows] == [1, 0]
    assert all(math.isnan(row["cue_found"]) for row in rows)
    without = protocol.__class__(Scenes()).measure(case(blind_to_corners, visible["eye"], scenes=Scenes()))
    assert math.isnan(without["cue_accused"])
    assert math.isnan(without["cue_effect"])


def test_the_share_on_distractors_without_an_effect():
    protocol, drawing = PartImportance(SCENES), SCENES.drawing(WITH_ALL)
    idle = torch.stack([drawing.visible()[e.name] for e in drawing.scene.elements if e.kind == DISTRACTOR]).any(0)
    all_there, nowhere, everywhere = (
        protocol.measure(case(blind_to_corners, saliency)) for saliency in (idle, ~idle, torch.ones(64, 64))
    )
    assert (all_there["distractors"], nowhere["distractors"]) == (1, 0)
    assert everywhere["distractors"] == everywhere["distractors_area"] == pytest.approx(float(idle.float().mean()))


def test_normalised_inputs():
    plain = case(weighted(), torch.rand(64, 64))
    shifted = replace(plain, inputs=(plain.inputs - 0.5) / 0.25, model=lambda x: plain.model(x * 0.25 + 0.5))
    protocol = PartImportance(SCENES, mean=[0.5] * 3, std=[0.25] * 3)
    assert dict(protocol.effects(shifted)) == pytest.approx(dict(PartImportance(SCENES).effects(plain)), abs=1e-3)
    with pytest.raises(ValueError, match=r"the inputs are not scene 3 of .* check scenes, mean and std"):
        PartImportance(SCENES).measure(shifted)


def test_a_table_of_rows():
    protocol = PartImportance(SCENES)
    model = weighted()
    rows = [dict(protocol.measure(case(model, torch.rand(64, 64), index))) | {"picture": index} for index in range(3)]
    table = protocol.summarise(rows)
    assert table["rank correlation"].value == pytest.approx(sum(row["rank_correlation"] for row in rows) / 3)
    assert protocol.compared(rows, rows)["rank correlation"].value == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"picture": "bird.png"}, "needs the index of a scene as the case's picture"),
        ({"picture": "4"}, "the inputs are not scene 4 of"),
        ({"inputs": torch.zeros(1, 3, 32, 32)}, "neither crops nor resizes"),
        ({"inputs": None}, "PartImportance needs inputs; got none"),
        ({"attribution": Attribution(map=torch.full((1, 1, 64, 64), math.nan))}, "not finite"),
    ],
)
def test_cases_that_show_something_else(change, message):
    with pytest.raises(ValueError, match=message):
        PartImportance(SCENES).measure(replace(case(weighted(), torch.rand(64, 64)), **change))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PartImportance(scenes=Scenes), r"scenes must be a configuration such as Scenes\(cue=0.9\)"),
        (lambda: PartImportance(score="softmax"), "score must be one of"),
        (lambda: PartImportance(slight=5), "slight is a share of the largest change"),
        (lambda: PartImportance(mean=0.5), "mean must be three numbers, for red, green and blue; got 0.5"),
        (lambda: PartImportance(std=(1, 1, 0)), "std is three numbers"),
    ],
)
def test_settings_that_cannot_be_used(build, message):
    with pytest.raises(ValueError, match=message):
        build()


NET = """
import torch
from sfumato.models import Classifier, Preparation

class Magenta(torch.nn.Module):
    def forward(self, x):
        red, green, blue = (x * 0.25 + 0.5).unbind(1)
        count = ((red > 0.85) & (green < 0.05) & (blue > 0.7)).float().sum((1, 2))
        return torch.stack([count / 10 + 0 * x.sum((1, 2, 3))] + 7 * [torch.zeros_like(count)], 1)

def magenta():
    labels = tuple(f"creature {label}" for label in range(8))
    return Classifier("magenta", Magenta().eval(), Preparation(64, None, (0.5,) * 3, (0.25,) * 3), labels)
"""
PLAN = """
[models]
magenta = "MODULE:magenta"

[methods]
centre = "Centre"

[protocols.parts]
use = "PartImportance"
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
scenes = { use = "sfumato.data:Scenes", cue = 1.0 }

[data.planted]
use = "Planted"
path = "drawn"
pictures = 2
first = 7
scenes = { use = "sfumato.data:Scenes", cue = 1.0 }
"""


def test_a_run_over_the_data_set(tmp_path, monkeypatch):
    module = f"magenta_{time.monotonic_ns()}"
    (tmp_path / f"{module}.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    session = begin(parse(PLAN.replace("MODULE", module), tmp_path), Place(tmp_path / "run"))
    assert list(session.work())[-1].done == 2
    record = read_record(Place(tmp_path / "run"))
    with record.place.store() as store:
        rows = {row["example"]: row for row in summary.rows(record, store)}
    assert rows["8"]["cue_effect"] == 1
    assert rows["8"]["cue_found"] == 0
    assert rows["7"]["effect"] == 0

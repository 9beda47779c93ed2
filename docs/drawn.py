"""The pictures on the pages of the methods, drawn by what they show: the demo model explains the sample pictures.

None is committed. One that is missing, or older than this file or than a module that it shows, is drawn as a build begins.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image
from sphinx.errors import ExtensionError
from sphinx.util import logging
from torch import Tensor

import sfumato
from sfumato.figures.plots import percent
from sfumato.models import Classifier

FOLDER = Path(__file__).parent / "methods" / "drawn"
SOURCES = Path(sfumato.__file__).parent

_log = logging.getLogger(__name__)


def sample(classifier: Classifier, name: str) -> tuple[Tensor, Tensor]:
    """A sample picture as inputs `(1, 3, 224, 224)`, and what is to be shown of it."""
    inputs = classifier.prepare(Image.open(sfumato.samples.path(name)))[None]
    return inputs, classifier.restore(inputs)[0]


CAT, ESPRESSO = 285, 967


def extremal(classifier: Classifier) -> Figure:
    """Masks of three areas, what they show, and the score against the area."""
    inputs, picture = sample(classifier, "coffee")
    method = sfumato.ExtremalPerturbation(areas=(0.1, 0.2, 0.4), steps=65)
    return sfumato.plots.figure(method(classifier.net, inputs, ESPRESSO), picture)


def meaningful(classifier: Classifier) -> Figure:
    """What the deletion game removes at three weights of the area."""
    inputs, picture = sample(classifier, "coffee")
    results, titles = [], []
    for weight in (1e-4, 1e-3, 1e-2):
        result = sfumato.MeaningfulPerturbation(l1=weight, steps=40)(classifier.net, inputs, ESPRESSO)
        left = percent((result.complements[0, 0] / result.whole[0]).item())
        results.append(result)
        titles.append(f"$\\lambda_1$ = {weight:g}: {percent(result.achieved[0, 0].item())} removed,\n{left} left")
    return sfumato.plots.comparison(results, picture, titles)


def backpropagation(classifier: Classifier) -> Figure:
    """Three ways back through the rectifiers."""
    inputs, picture = sample(classifier, "chelsea")
    methods = {
        "gradient": sfumato.Gradient(),
        "deconvnet": sfumato.Deconvnet(),
        "guided backpropagation": sfumato.GuidedBackprop(),
    }
    return compared(classifier, inputs, picture, CAT, methods)


def layers(classifier: Classifier) -> Figure:
    """Four ways to read a layer."""
    inputs, picture = sample(classifier, "chelsea")
    methods = {
        "Grad-CAM": sfumato.GradCAM(layer="head"),
        "linear approximation": sfumato.LinearApproximation(layer="head"),
        "excitation backprop": sfumato.ExcitationBackprop(layer="blocks.10"),
        "contrastive": sfumato.ContrastiveExcitationBackprop(layer="blocks.10"),
    }
    return compared(classifier, inputs, picture, CAT, methods)


def rise(classifier: Classifier) -> Figure:
    """The estimate after more and more masks, each map from its least value up."""
    inputs, picture = sample(classifier, "coffee")
    rounds: list[Any] = []
    sfumato.RISE(samples=256)(classifier.net, inputs, ESPRESSO, progress=rounds.append)
    maps = [sfumato.Attribution(map=each.map - each.map.amin()) for each in rounds]
    titles = [f"{int(each.samples)} masks,\nstandard error {percent(each.relative.item())}" for each in rounds]
    return sfumato.plots.comparison(maps, picture, titles)


def greedy(classifier: Classifier) -> Figure:
    """The order of the cells of a coarse grid."""
    inputs, picture = sample(classifier, "coffee")
    result = sfumato.GreedyOrder(sfumato.Cells(5))(classifier.net, inputs, ESPRESSO)
    return sfumato.plots.comparison([result], picture, ["the greedy order of 25 cells"])


def order(classifier: Classifier) -> Figure:
    """Sets within sets."""
    inputs, picture = sample(classifier, "coffee")
    result = sfumato.ExtremalOrder(steps=60)(classifier.net, inputs, ESPRESSO)
    return sfumato.plots.figure(result, picture)


def channels(classifier: Classifier) -> Figure:
    """The channels of one picture: overlay, curve, and those that weigh most."""
    inputs, picture = sample(classifier, "chelsea")
    method = sfumato.ExtremalChannels(layer="head", counts=(5, 10, 25, 50), steps=40)
    result = method(classifier.net, inputs, CAT)
    found = sfumato.smallest(method, classifier.net, inputs, CAT)
    return sfumato.sheets.channels(result, picture, count=6, found=found)


def inversion(classifier: Classifier) -> Figure:
    """A picture from layers of growing depth."""
    inputs, picture = sample(classifier, "chelsea")
    figure = Figure(figsize=(9.2, 2.5), layout="constrained")
    cells = figure.subplots(1, 4)
    colours = {"mean": classifier.preparation.mean, "std": classifier.preparation.std}
    shown = {"the input": picture}
    for layer in ("blocks.5", "blocks.10", "head"):
        activations = sfumato.activations(classifier.net, layer, inputs)
        found = sfumato.invert(classifier.net, layer, activations, steps=40, **colours)
        shown[f"{layer}, error {found.errors.item():.3f}"] = found.pictures[0]
    for axes, (title, each) in zip(cells, shown.items(), strict=True):
        axes.imshow(each.permute(1, 2, 0))
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    return figure


def compared(classifier: Classifier, inputs: Tensor, picture: Tensor, target: int, methods: dict[str, Any]) -> Figure:
    """The maps of several methods side by side."""
    results = [method(classifier.net, inputs, target) for method in methods.values()]
    return sfumato.plots.comparison(results, picture, list(methods))


MASKS = ("masks/smooth", "perturbations", "search/projected", "search/search")
DRAWN: dict[str, tuple[Callable[[Classifier], Figure], tuple[str, ...]]] = {
    "extremal": (extremal, (*MASKS, "methods/extremal", "figures/plots")),
    "order": (order, (*MASKS, "methods/extremal_order", "search/nested", "figures/plots")),
    "meaningful": (meaningful, ("methods/meaningful", "masks/grid", "perturbations", "figures/plots")),
    "backpropagation": (backpropagation, ("methods/gradient", "model/backward/rules", "layers/flow", "figures/plots")),
    "layers": (
        layers,
        ("methods/grad_cam", "methods/excitation_backprop", "model/backward/rules", "layers/flow", "figures/plots"),
    ),
    "rise": (rise, ("methods/rise", "figures/plots")),
    "greedy": (greedy, ("methods/greedy_order", "masks/regions", "figures/plots")),
    "channels": (
        channels,
        (*MASKS, "methods/extremal_channels", "masks/channels", "methods/sufficient", "figures/sheets"),
    ),
    "inversion": (inversion, ("methods/inversion", "methods/natural")),
}
"""How each picture is drawn, and the modules whose doing it shows."""


def due(folder: Path) -> list[str]:
    """The pictures to be drawn there."""

    def fresh(name: str) -> bool:
        drawn = folder / f"{name}.png"
        of = [Path(__file__), *(SOURCES / f"{module}.py" for module in DRAWN[name][1])]
        return drawn.is_file() and drawn.stat().st_mtime >= max(source.stat().st_mtime for source in of)

    return [name for name in DRAWN if not fresh(name)]


def draw(folder: Path = FOLDER) -> list[str]:
    """Draw what is due there, and say what it was; an `ExtensionError` where the demo model is missing."""
    names = due(folder)
    if names:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            classifier = sfumato.models.load("lite0")
        except ModuleNotFoundError as error:
            raise ExtensionError(f"the pictures of docs/methods are drawn by the demo model: {error}") from error
        for name in names:
            _log.info("drawing %s", name)
            sfumato.plots.save(DRAWN[name][0](classifier), folder / f"{name}.png")
    return names


def setup(app: Any) -> dict[str, bool]:
    """Have Sphinx draw them before it reads the pages."""
    app.connect("builder-inited", lambda _: draw())
    return {"parallel_read_safe": True, "parallel_write_safe": True}

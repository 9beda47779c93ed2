"""The backward methods beside TorchRay, Captum and grad-cam: the largest difference of their maps, and why there is one.

`python bench/agreement.py` prints a table; models and pictures are read where SFUMATO_SHARED says. It needs torchray
1.0.0.2 (installed without its dependencies), captum and grad-cam. A difference is a fraction of the peer's largest value.
"""

import argparse
import importlib
import json
import os
import statistics
import sys
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image
from torch import Tensor, nn

from sfumato.methods.deconvnet import Deconvnet
from sfumato.methods.excitation_backprop import ContrastiveExcitationBackprop, ExcitationBackprop
from sfumato.methods.grad_cam import GradCAM
from sfumato.methods.gradient import Gradient
from sfumato.methods.guided_backprop import GuidedBackprop
from sfumato.methods.linear_approximation import LinearApproximation
from sfumato.model.backward.excitation import PARTS, BatchNormRule, ExcitationRule, MeanRule, PassRule, SumRule
from sfumato.model.backward.functions import RECTIFIERS, every
from sfumato.model.backward.rules import RULES
from sfumato.models.classifier import Preparation

SHARED = Path(os.environ.get("SFUMATO_SHARED", "../shared/data"))
CLOSE = 1e-4

MODELS = {  # name in zoo.py: size of a picture, a layer amid, the last with space, where to contrast
    "squeezenet1_1": (224, "features.7", "features.11", "features.10"),
    "vgg16_coco": (224, "features.23", "features.29", "features.28"),
    "cifar_resnet": (32, "layer2", "layer3", "layer3.2.relu2"),
    "efficientnet_lite0": (224, "_blocks.9", "_conv_head", "_avg_pooling"),
}

BY_MODULES = "vgg16_coco by modules"
MODELS[BY_MODULES] = MODELS["vgg16_coco"]
"""The same network with its mean over space as a module, which TorchRay knows."""

MEAN = "TorchRay leaves x.mean() its gradient: places get equal shares, not by what they contributed; see next row"
SUM = "TorchRay leaves + and x.mean() their gradients: each residual sum doubles probability; no norm folded; see next row"
RELU6 = "the peer has no rule for ReLU6: its map is the plain gradient"
REASONS = {
    **{
        ("efficientnet_lite0", what): RELU6
        for what in ("deconvnet", "guided_backprop", "Deconvolution", "GuidedBackprop")
    },
    ("efficientnet_lite0", "excitation"): "as for cifar_resnet; besides, TorchRay has no rule for ReLU6",
    ("efficientnet_lite0", "contrastive"): "as for cifar_resnet; besides, TorchRay has no rule for ReLU6",
    ("vgg16_coco", "excitation"): MEAN,
    ("vgg16_coco", "contrastive"): MEAN,
    ("cifar_resnet", "excitation"): SUM,
    ("cifar_resnet", "contrastive"): SUM,
}
ROUNDING = "rounding at kinks of ReLUs and near ties of maxima: see float64"

Row = tuple[str, str, str, float | None, float | None, str]


def loaded(name: str, count: int) -> tuple[nn.Module, Tensor, list[int]]:
    """A network of the zoo, pictures, and what it takes them for."""
    sys.path.insert(0, str(SHARED))
    zoo = importlib.import_module("zoo")
    net = getattr(zoo, name.split(maxsplit=1)[0])()
    prepare = Preparation(size=MODELS[name][0], resize=None, mean=net.norm[0], std=net.norm[1])
    if name == BY_MODULES:
        parts = {"features": net.features, "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": net.classifier}
        net = nn.Sequential(OrderedDict(parts)).eval()
    images = json.loads((SHARED / "imagenet-val-dev" / "annotations.json").read_text())["images"]
    folder = SHARED / "imagenet-val-dev"
    files = [next(folder.rglob(image["file"].split("/")[-1])) for image in images[:count]]
    inputs = torch.stack([prepare(Image.open(file)) for file in files])
    with torch.no_grad():
        return net, inputs, net(inputs).argmax(1).tolist()


def torchray(net: nn.Module, name: str) -> Iterator[tuple[str, Callable[[], Any], Callable[[Tensor, int], Tensor]]]:
    """Of every method that both have: what, ours, theirs."""

    def theirs(module: str, function: str, **options: Any) -> Callable[[Tensor, int], Tensor]:
        found = getattr(importlib.import_module(f"torchray.attribution.{module}"), function)
        return lambda x, target: found(net, x.clone(), target, **options)

    _, amid, last, contrast = MODELS[name]
    plain = (("gradient", Gradient), ("deconvnet", Deconvnet), ("guided_backprop", GuidedBackprop))
    for module, ours in plain:
        for layer in ("", amid):
            yield (
                f"{module} at {layer or 'input'}",
                ours(layer=layer, resize=False),
                theirs(module, module, saliency_layer=layer),
            )
    yield (
        f"linear approximation at {amid}",
        LinearApproximation(layer=amid, resize=False),
        theirs("linear_approx", "linear_approx", saliency_layer=amid),
    )
    yield f"Grad-CAM at {last}", GradCAM(layer=last, resize=False), theirs("grad_cam", "grad_cam", saliency_layer=last)
    yield (
        f"excitation at {amid}",
        ExcitationBackprop(layer=amid, resize=False),
        theirs("excitation_backprop", "excitation_backprop", saliency_layer=amid),
    )
    yield (
        f"contrastive at {amid} from {contrast}",
        ContrastiveExcitationBackprop(layer=amid, contrast_layer=contrast, resize=False),
        theirs("excitation_backprop", "contrastive_excitation_backprop", saliency_layer=amid, contrast_layer=contrast),
    )


def captum(net: nn.Module, name: str) -> Iterator[tuple[str, Any, Callable[[Tensor, int], Tensor]]]:
    from captum import attr

    def largest(found: Tensor) -> Tensor:
        return found.abs().amax(1, keepdim=True)

    kinds = ((attr.Saliency, Gradient), (attr.Deconvolution, Deconvnet), (attr.GuidedBackprop, GuidedBackprop))
    for kind, ours in kinds:

        def attribute(x: Tensor, target: int, kind: Any = kind) -> Tensor:
            return largest(kind(net).attribute(x.clone().requires_grad_(), target=target).detach())

        yield f"{kind.__name__} at input", ours(), attribute
    last = MODELS[name][2]

    def cam(x: Tensor, target: int) -> Tensor:
        layer = net.get_submodule(last)
        return attr.LayerGradCam(net, layer).attribute(x, target=target, relu_attributions=True).detach()

    yield f"LayerGradCam at {last}", GradCAM(layer=last, resize=False), cam

    def times(x: Tensor, target: int) -> Tensor:
        found = attr.InputXGradient(net).attribute(x.clone().requires_grad_(), target=target)
        return found.sum(1, keepdim=True).detach()

    yield "InputXGradient at input", LinearApproximation(layer="input"), times


def grad_cam(net: nn.Module, name: str) -> Iterator[tuple[str, Any, Callable[[Tensor, int], Tensor]]]:
    from pytorch_grad_cam import GradCAM as Theirs
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    last = MODELS[name][2]

    def theirs(x: Tensor, target: int) -> Tensor:
        with Theirs(model=net, target_layers=[net.get_submodule(last)]) as cam:
            return torch.from_numpy(cam(input_tensor=x, targets=[ClassifierOutputTarget(target)]))[:, None]

    def ours(model: nn.Module, x: Tensor, target: int) -> Any:
        result = GradCAM(layer=last, resize=False)(model, x, target)
        size = x.shape[2:]
        stretched = nn.functional.interpolate(_stretched(result.map), size, mode="bilinear", align_corners=False)
        return _stretched(stretched)

    yield f"GradCAM at {last}, stretched to [0, 1]", ours, theirs


def _stretched(maps: Tensor) -> Tensor:
    """As grad-cam gives them."""
    maps = maps - maps.amin((1, 2, 3), keepdim=True)
    return maps / (maps.amax((1, 2, 3), keepdim=True) + 1e-7)


def compared(name: str, count: int) -> Iterator[Row]:
    for peer, methods in (("TorchRay", torchray), ("Captum", captum), ("grad-cam", grad_cam)):
        if name == BY_MODULES and peer != "TorchRay":
            continue
        net, inputs, targets = loaded(name, count)  # anew, since TorchRay leaves parameters without gradients
        for what, ours, theirs in methods(net, name):
            exact = None
            try:
                worst: float | None = difference(net, inputs, targets, ours, theirs)
                reason = ""
                if worst is not None and worst > CLOSE:
                    exact = difference(net.double(), inputs.double(), targets, ours, theirs)
                    reason = ROUNDING if exact <= CLOSE else REASONS.get((name, what.split(" at ")[0]), "")
            except Exception as error:  # noqa: BLE001  # a peer's failure is a result
                worst, reason = None, f"fails: {type(error).__name__}: {str(error).splitlines()[0][:90]}"
            net.float()
            yield name, peer, what, worst, exact, reason
            if reason in (MEAN, SUM):
                with mock.patch.dict(RULES, {"excitation": without_torchray_gaps()}):
                    worst = difference(net, inputs, targets, ours, theirs)
                yield name, peer, f"{what}, our rules without those", worst, None, ""


def without_torchray_gaps() -> ExcitationRule:
    """Excitation as TorchRay runs it: sums, means and ReLUs written as functions keep their gradients, norms no sign.

    What one finds by running it; that the maps then agree shows that there is no other difference.
    """
    others = [part for part in PARTS if not isinstance(part, SumRule | MeanRule | PassRule | BatchNormRule)]
    means = MeanRule(MeanRule().of - every("mean", "sum"))
    passing = PassRule((PassRule().of - RECTIFIERS) | every("batch_norm"))
    return ExcitationRule((*others, means, passing))


def difference(
    net: nn.Module, inputs: Tensor, targets: list[int], ours: Callable[..., Any], theirs: Callable[..., Tensor]
) -> float:
    """The largest one over all pictures, as a fraction of the largest of theirs."""
    worst = 0.0
    for x, target in zip(inputs.split(1), targets, strict=True):
        found, expected = ours(net, x, target), theirs(x, target)
        found = found if isinstance(found, Tensor) else found.map
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30)))
    return worst


def agreement(names: list[str], count: int) -> None:
    columns = ("model", "peer", "method", "largest difference", "in float64", "within 1e-4", "why not")
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for name in names:
        for model, peer, what, worst, exact, reason in compared(name, count):
            numbers = ["–" if each is None else f"{each:.1e}" for each in (worst, exact)]
            within = [words for each, words in ((worst, "yes"), (exact, "in float64")) if (each or 0) <= CLOSE]
            close = "–" if worst is None else within[0] if within else "**no**"
            print(f"| {model} | {peer} | {what} | {' | '.join(numbers)} | {close} | {reason} |", flush=True)


def overhead(names: list[str], count: int, repeats: int) -> None:
    """Processor time of each method as a multiple of one bare forward and backward pass to the input.

    The inputs lie as they will be computed with, so that the trial of that, once a call, is left out.
    """
    print(f"\n| model, {count} pictures | method | times a forward and backward pass |\n| --- | --- | --- |")
    for name in names:
        net, inputs, targets = loaded(name, count)
        wanted = torch.tensor(targets)[:, None]
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        net.requires_grad_(False)

        def bare() -> None:
            x = inputs.clone().requires_grad_()
            torch.autograd.grad(net(x).gather(1, wanted).sum(), x)

        _, amid, last, _ = MODELS[name]
        methods: dict[str, Any] = {
            "gradient": Gradient(),
            "guided": GuidedBackprop(),
            "deconvnet": Deconvnet(),
            f"Grad-CAM at {last}": GradCAM(layer=last),
            f"excitation at {amid}": ExcitationBackprop(layer=amid),
            f"contrastive at {amid}": ContrastiveExcitationBackprop(layer=amid),
            "excitation at input": ExcitationBackprop(layer="input"),
        }
        ratios: dict[str, list[float]] = {what: [] for what in methods}
        bare()
        for _ in range(repeats):
            for what, method in methods.items():  # in turns, so that what else the machine does strikes both
                base = seconds(bare)
                ratios[what].append(seconds(lambda: method(net, inputs, targets)) / base)
        for what, values in ratios.items():
            print(f"| {name} | {what} | {statistics.median(values):.2f} |", flush=True)


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS), help=f"of {', '.join(MODELS)}; all if none is named")
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--overhead", type=int, metavar="REPEATS", help="measure time instead, on so many repeats")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.overhead:
        overhead(given.models, given.pictures, given.overhead)
    else:
        agreement(given.models, given.pictures)


if __name__ == "__main__":
    main()

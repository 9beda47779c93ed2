r"""Cascading randomisation: whether a map changes when the network's parameters become random.

J. Adebayo, J. Gilmer, M. Muelly, I. Goodfellow, M. Hardt, B. Kim: *Sanity checks for saliency maps*, NeurIPS 2018,
arXiv 1810.03292, section 4.1.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.layers.capture import watched_calls
from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.likeness import spearman, ssim_of_maps
from sfumato.metrics.part_scores import finite
from sfumato.metrics.protocol import Protocol
from sfumato.model.effects import frozen
from sfumato.model.modes import Surroundings
from sfumato.settings import check_whole

DRAWS = ("reset", "normal", "permutation")


@dataclass(frozen=True)
class Randomisation(Protocol):
    r"""Compares the map of the network with maps of a copy whose layers are randomised one after the other.

    The cascade begins with the last layer and ends with the first; layers that are random stay so. Maps are compared by
    Spearman's rank correlation and by structural similarity (of maps stretched to [0, 1]). A layer is a module with parameters
    of its own; the last layer is the one that the network calls last.

    - `draw`: how a layer is randomised. "reset" calls the layer's `reset_parameters`, the initialisation before training; for
      batch normalisation this also resets the running means. A layer without that method gets "normal". "normal" draws
      numbers with the mean and the standard deviation of each parameter. "permutation" shuffles each parameter.
    - `looks`: at how many stages of the cascade a map is made, with one call of the method each. The stages are spread evenly
      from the first (only the last layer is random) to the last (all layers are); 1 is the last stage only. By default a map
      is made after every layer, as published.

    The random numbers come from the case's seed and from the layer's place in the cascade, and do not depend on `looks`. The
    model must be a `torch.nn.Module` that can be copied; it is not changed. A method that ignores the network has correlation
    and similarity 1: for both, less is better.

    A row holds `rank_correlation` and `ssim`, means over the stages; `rank_correlation all` and `ssim all` of the network in
    which all layers are random; `rank_correlation LAYER` and `ssim LAYER` of every stage, by the layer that was randomised
    last; `layers`, the number of layers; and `constant`, the number of stages whose map has one value everywhere, for example
    because no signal reaches the input. The correlation of such a stage is NaN, and the mean leaves it out.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model", "method"})

    draw: str = "reset"
    looks: int | None = None

    def __post_init__(self) -> None:
        if self.draw not in DRAWS:
            raise ValueError(f"draw must be one of {', '.join(DRAWS)}; got {self.draw!r}")
        if self.looks is not None:
            check_whole("looks", self.looks)

    def measure(self, case: Case) -> Row:
        method, model, inputs, target = (
            case.need(name, "Randomisation") for name in ("method", "model", "inputs", "target")
        )
        before = finite(case.map)
        row: dict[str, Any] = {"layers": 0}
        correlations, similarities = [], []
        for count, name, network in self.cascade(model, inputs, case.seed):
            after = finite(Case(method(network, inputs, target), inputs=inputs).map)
            correlations.append(spearman(before, after))
            similarities.append(ssim_of_maps(before, after))
            row |= {f"rank_correlation {name}": correlations[-1], f"ssim {name}": similarities[-1], "layers": count}
        return row | {
            "constant": sum(math.isnan(value) for value in correlations),
            "rank_correlation": float(torch.tensor(correlations, dtype=torch.float64, device="cpu").nanmean()),
            "ssim": sum(similarities) / len(similarities),
            "rank_correlation all": correlations[-1],
            "ssim all": similarities[-1],
        }

    def cascade(self, model: Any, inputs: Float[Tensor, "B C *S"], seed: int) -> Iterator[tuple[int, str, nn.Module]]:
        """Yield, at every stage with a map: the number of random layers, the name of the last one, and the random network."""
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"Randomisation needs a torch.nn.Module, to replace parameters in a copy of it; got {model!r}"
            )
        network = copy.deepcopy(model)
        layers = [*reversed(called(network, inputs))]
        if not layers:
            raise ValueError("the model has no layer with floating-point parameters, which Randomisation could replace")
        stages = self._stages(len(layers))
        surroundings = Surroundings.now(inputs.device)
        for index, (name, layer) in enumerate(layers):
            with surroundings.computing():
                torch.default_generator.manual_seed(_mixed(seed, index))  # not the generators of other devices
                randomise_(layer, self.draw)
            if index in stages:
                yield index + 1, name or "itself", network

    def _stages(self, layers: int) -> set[int]:
        """The stages of the cascade, from 0, at which a map is made."""
        looks = min(self.looks or layers, layers)
        return {round(look * (layers - 1) / (looks - 1)) for look in range(looks)} if looks > 1 else {layers - 1}

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:
        stages = dict.fromkeys(key.partition(" ")[2] for row in rows for key in row if key.startswith("ssim "))
        return tuple(
            Measure(f"{title} {stage}".strip(), mean(f"{key} {stage}".strip()), higher_is_better=False)
            for stage in ("", "all", *(stage for stage in stages if stage != "all"))
            for key, title in (("rank_correlation", "rank correlation"), ("ssim", "SSIM"))
        )


def called(network: nn.Module, inputs: Float[Tensor, "B C *S"]) -> list[tuple[str, nn.Module]]:
    """The modules with parameters of their own, with their names, in the order of their first calls.

    Some modules are never called themselves, such as the projection inside torch's attention. They follow the module that
    contains them.
    """
    owning = {
        name: module
        for name, module in network.named_modules()
        if any(parameter.is_floating_point() for parameter in module.parameters(recurse=False))
    }
    order: dict[str, None] = {}
    surroundings = Surroundings.now(inputs.device)
    with ExitStack() as effects:
        effects.enter_context(watched_calls(dict(network.named_modules()), called=order.setdefault))
        for effect in (frozen(network), surroundings.computing(), torch.no_grad()):
            effects.enter_context(effect)
        surroundings.call(network, inputs)
    layers: list[tuple[str, nn.Module]] = []
    for name in order:
        uncalled = [inner for inner in owning if inner not in order and _nearest(inner, order) == name]
        layers += [(layer, owning[layer]) for layer in (name, *uncalled) if layer in owning]
    return layers


def randomise_(layer: nn.Module, draw: str) -> None:
    """Replace the layer's own parameters by random ones from torch's global generator; the caller seeds and restores it.

    The numbers are drawn on the CPU, so that they are the same for every device.
    """
    if draw == "reset" and callable(getattr(layer, "reset_parameters", None)):
        fresh = copy.deepcopy(layer).cpu()
        fresh.reset_parameters()  # type: ignore[operator]  # it is callable
        layer.load_state_dict(fresh.state_dict())
        return
    with torch.no_grad():
        for parameter in layer.parameters(recurse=False):
            if not parameter.is_floating_point():
                continue
            values = parameter.detach().float().cpu()
            if draw == "permutation":
                order = torch.randperm(values.numel(), dtype=torch.long, device="cpu")
                values = values.flatten()[order].view(values.shape)
            else:
                values = values.mean() + values.std(correction=0) * torch.randn(
                    values.shape, dtype=torch.float32, device="cpu"
                )
            parameter.copy_(values)


def _nearest(name: str, order: dict[str, None]) -> str:
    """The innermost called module that contains the module of this name."""
    while name and name not in order:
        name = name.rpartition(".")[0]
    return name


def _mixed(seed: int, index: int) -> int:
    """A seed for each pair of a seed and a small index; neighbouring pairs get unrelated seeds."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return int(torch.randint(2**62, (index + 1,), generator=generator, dtype=torch.long, device="cpu")[-1])

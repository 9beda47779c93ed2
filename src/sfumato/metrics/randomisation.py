r"""Cascading randomisation: whether a map changes when the network forgets what it has learnt.

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
from torch import Tensor, nn

from sfumato.layers.capture import watched_calls
from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.likeness import spearman, ssim_of_maps
from sfumato.metrics.protocol import Protocol
from sfumato.metrics.question import finite
from sfumato.model.effects import frozen
from sfumato.model.modes import Surroundings
from sfumato.settings import check_whole

DRAWS = ("reset", "normal", "permutation")


@dataclass(frozen=True)
class Randomisation(Protocol):
    r"""The map of the network beside those of a copy whose layers are randomised one after the other, from the last to the
    first, each on top of those before: Spearman's rank correlation and structural similarity (each map stretched to [0, 1]).

    A layer is a module with parameters of its own; the last is the one that is called last.

    - `draw`: how. "reset" calls the layer's `reset_parameters`, the initialisation from which such a layer is trained (which
      for batch normalisation forgets the running means too); a layer without one gets "normal" numbers, of the mean and the
      deviation that each of its parameters has. Or "normal" or "permutation" for all: the latter shuffles each parameter.
    - `looks`: at how many stages of the cascade the map is made, one call of the method each, evenly from the first (the last
      layer alone) to the last (all layers), for 1 the last only; by default after every layer, as published.

    All is drawn from the case's seed, a layer's numbers from its place in the cascade as well, whatever `looks` is. The model
    must be a `torch.nn.Module` that can be copied; it is left as it was. A method that ignores the network has correlation
    and similarity 1: for both, less is better.

    A row holds `rank_correlation` and `ssim`, means over the stages; `rank_correlation all` and `ssim all`, those of the
    wholly random network; `rank_correlation LAYER` and `ssim LAYER` for every stage, by the layer that was randomised last,
    from the network's end; `layers`, how many there are; and `constant`, how many of the stages gave a map with one value
    everywhere, as where no signal is left. There the correlation is NaN, and the mean is over the others.
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

    def cascade(self, model: Any, inputs: Tensor, seed: int) -> Iterator[tuple[int, str, nn.Module]]:
        """The copy at every stage that is looked at: how many layers are random, the name of the last of them, and itself."""
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"Randomisation needs a torch.nn.Module, whose parameters it can replace in a copy; got {model!r}"
            )
        network = copy.deepcopy(model)
        layers = [*reversed(called(network, inputs))]
        if not layers:
            raise ValueError("the model has no layer with floating-point parameters, so that nothing can be randomised")
        stages = self._stages(len(layers))
        surroundings = Surroundings.now(inputs.device)
        for index, (name, layer) in enumerate(layers):
            with surroundings.computing():
                torch.default_generator.manual_seed(_mixed(seed, index))  # and no other device's
                randomise_(layer, self.draw)
            if index in stages:
                yield index + 1, name or "itself", network

    def _stages(self, layers: int) -> set[int]:
        """Which stages of the cascade, from 0, are looked at."""
        looks = min(self.looks or layers, layers)
        return {round(look * (layers - 1) / (looks - 1)) for look in range(looks)} if looks > 1 else {layers - 1}

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:
        stages = dict.fromkeys(key.partition(" ")[2] for row in rows for key in row if key.startswith("ssim "))
        return tuple(
            Measure(f"{shown} {stage}".strip(), mean(f"{key} {stage}".strip()), higher_is_better=False)
            for stage in ("", "all", *(stage for stage in stages if stage != "all"))
            for key, shown in (("rank_correlation", "rank correlation"), ("ssim", "SSIM"))
        )


def called(network: nn.Module, inputs: Tensor) -> list[tuple[str, nn.Module]]:
    """The modules with parameters of their own that the network uses, by name, in the order in which they are called first.

    A module that is never called itself, as the projection inside torch's attention, goes right after the one that holds it.
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
    found: list[tuple[str, nn.Module]] = []
    for name in order:
        silent = [other for other in owning if other not in order and _nearest(other, order) == name]
        found += [(each, owning[each]) for each in (name, *silent) if each in owning]
    return found


def randomise_(layer: nn.Module, draw: str) -> None:
    """Replace the layer's own parameters by random ones, from torch's global state, which the caller seeds and restores.

    They are drawn on the processor, so that every device gets the same numbers.
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
    """The innermost module around the one of that name that was called."""
    while name and name not in order:
        name = name.rpartition(".")[0]
    return name


def _mixed(seed: int, index: int) -> int:
    """A seed for every pair of a seed and a small index; neighbours have nothing in common."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return int(torch.randint(2**62, (index + 1,), generator=generator, dtype=torch.long, device="cpu")[-1])

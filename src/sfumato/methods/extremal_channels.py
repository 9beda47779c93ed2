r"""Extremal channels: among all sets of so many channels of a layer, the one that plays the game best.

$m_a = \arg\max_m \Phi_l(m \otimes \Phi^l(x))$ over $m \in [0, 1]^K$ of mean $a$, where $\Phi^l(x)$ is what layer $l$ puts out
for $x$, $\Phi_l$ the network above it, and $m$ the same at all places. R. Fong, M. Patrick, A. Vedaldi: *Understanding deep
networks via extremal perturbations and smooth masks*, ICCV 2019, arXiv 1910.08485, section 4.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.attribution import overlaid
from sfumato.games import PRESERVE, Game
from sfumato.layers.above import AboveLayer
from sfumato.layers.capture import check_layer
from sfumato.layers.tokens import check_layout
from sfumato.masks.channels import Channels
from sfumato.methods.masked import MaskMethod
from sfumato.model.subject import Subject
from sfumato.perturbations import Fade, Perturbation, Perturbed, seeded
from sfumato.search.penalised import PenalisedAscent
from sfumato.search.problem import Ascent
from sfumato.search.projected import ProjectedAscent
from sfumato.search.search import Search
from sfumato.settings import check_flag, check_whole, is_whole, later, renewed
from sfumato.space.jitter import Jitter
from sfumato.space.smoothing import enlarged

PAPERS = {
    "binary=True": "Y. Bengio, N. Léonard, A. Courville: *Estimating or propagating gradients through stochastic neurons for "
    "conditional computation*, 2013, arXiv 1308.3432"
}
"""Of settings, for `sfumato.citation`."""


@dataclass(frozen=True)
class ExtremalChannels(MaskMethod):
    """For each count of channels, those of a layer whose mask plays the game best.

    Called with a model, inputs `(B, C, *S)` and targets, it returns an `Attribution` with masks `(B, V, K, 1, …)`, whose
    `areas` are shares of the K channels. `activation` is what the layer puts out, and `map` the channels' overlay on the
    input, $\\sum_k m_k \\Phi_k(x)$ for the mean of the masks, enlarged.

    - `layer`: the dotted name of a module whose output is masked, or, `at` the "input", what it takes in; by default the last
      one with places that the outputs depend on, which `about["method"]` then names. "input" means the model's input.
    - `counts`: V numbers of channels, from 1 up, growing.
    - `groups`: how many groups of neighbouring channels are masked as one, K then. The heads of an attention are the
      groups of what its output projection takes in: `layer="blocks.5.attn.proj", at="input", groups=6`.
    - `binary`: whether masks are sets of channels, of 0 and 1. As published they are in [0, 1] and only add up to the count, so
      that more channels than that take part; they keep more of the score, as they may also scale channels.
    - `game`: "preserve" (these channels suffice), "delete" (these are needed), "dual", or a `Game`.
    - `steps`: of the ascent, for each mask.
    - `perturbation`: what takes the place of a channel; by default zeros, as published.
    - `ascent`: how the best is sought.
    - `layout`: which axis of the layer's values is which, where that cannot be found out: "BCHW", "BHWC", or "BNC" for
      tokens; see `ExtremalPerturbation`.
    - `call`: which of the layer's calls, if the model calls it several times: from 0, or from -1, the last, backwards.
    - `deterministic`: on a GPU, compute in full float32 and by deterministic kernels.
    - `seed`: of all that is random. `memory`: GiB that the network above the layer may keep for its backward pass.
    - `score`: what a class index means, "logit", "probability", "log-odds" or "sigmoid"; any other target is a score itself.

    How to choose:

    - `layer`: the one that you ask about; `sfumato layers MODEL` lists the names. Deep layers are fast: only the network above
      the layer runs.
    - `counts`: numbers that double; for one set let the score decide: `sfumato.smallest`.
    - `binary`: True to name channels, False for the published masks.
    - `groups`: the number of heads, at the input of an attention's output projection; else none.
    - `steps`: the default. At middle layers more steps can find fewer channels; at the last one the sets are optimal already.
    """

    needs_layer: ClassVar[bool | None] = True
    by_channel: ClassVar[bool] = True
    finds_smallest: ClassVar[bool] = True

    layer: str = ""
    counts: tuple[int, ...] = (5, 10, 25, 50)
    game: Game | str = PRESERVE
    steps: int = 100
    perturbation: Perturbation = Fade()
    ascent: Ascent = ProjectedAscent()
    groups: int | None = None
    binary: bool = True
    at: str = "output"
    layout: str = later("")
    call: int = later(-1)
    seed: int = 0
    memory: float | None = renewed(None, 2.0)
    deterministic: bool = later(False)
    score: str = later("logit")

    def __post_init__(self) -> None:
        check_layer(self.layer, self.at, self.call)
        check_layout(self.layout)
        object.__setattr__(self, "counts", check_counts(self.counts))
        object.__setattr__(self, "game", Game.named(self.game))
        check_flag("binary", self.binary)
        check_whole("steps", self.steps, 1)
        if self.groups is not None:
            check_whole("groups", self.groups, 1)
        if not callable(self.perturbation) or isinstance(self.perturbation, type):
            raise ValueError(f"perturbation must be a configuration such as Fade(); got {self.perturbation!r}")
        if not callable(self.ascent) or isinstance(self.ascent, type | PenalisedAscent):
            raise ValueError(f"ascent must be one that holds areas, such as ProjectedAscent(); got {self.ascent!r}")
        super().__post_init__()

    def areas_for(self, search: Search) -> Float[Tensor, " V"]:
        """The shares of the layer's channels, or groups of them, that the counts are."""
        channels = search.parametrisation.size[0]
        if max(self.counts) > channels:
            raise ValueError(
                f"layer {self.layer!r} has {channels} channels or groups of them; got counts={self.counts}"
            )
        return torch.tensor(self.counts, dtype=torch.float32, device=search.whole.device) / channels

    def search(self, subject: Subject) -> Search:
        r"""The network above the layer as $\Phi_l$, masks $m$ of its channels, and $m \otimes \Phi^l(x)$."""
        space = tuple(subject.inputs.shape[2:])
        subject = self.at_layer(subject)
        seen = subject.inputs
        with subject.surroundings.computing():
            parametrisation = self.family(seen)

        def hide() -> tuple[Perturbed, ...]:
            of_channels = seeded(self.perturbation, self.seed)(seen)
            return (lambda masks, query: of_channels(spread(masks, seen.shape[1]), query),)

        def shown(masks: Float[Tensor, "B V K *ones"]) -> dict[str, Tensor]:
            activation = subject.shown() if isinstance(subject, AboveLayer) else seen
            overlay = overlaid(masks.mean(1).flatten(1), activation)
            return {"map": enlarged(overlay, space), "activation": activation}

        return self.searching(subject, parametrisation, hide, shown, Jitter(0, flip=False), jitter=None)

    def family(self, seen: Float[Tensor, "B C *L"]) -> Channels:
        """Masks for the channels of what is seen, `(B, C, *L)`, or for their groups."""
        channels = seen.shape[1]
        groups = self.groups or channels
        if channels % groups:
            raise ValueError(
                f"{channels} channels do not fall into {groups} groups of one size; give a divisor of {channels}"
            )
        return Channels(groups, seen.ndim - 2, self.binary, seen.device)


def spread(masks: Float[Tensor, "N K *ones"], channels: int) -> Float[Tensor, "N {channels} *ones"]:
    """Masks of groups `(N, K, 1, …)` as masks of so many channels, `(N, C, 1, …)`."""
    return masks.repeat_interleave(channels // masks.shape[1], 1)


def check_counts(counts: Any) -> tuple[int, ...]:
    """Counts of channels as a tuple, if they are growing whole numbers from 1 up."""
    values = tuple(counts) if isinstance(counts, Iterable) else (counts,)
    for count in values:
        if not is_whole(count, 1):
            raise ValueError(f"counts are numbers of channels, whole and from 1 up; got {count!r}")
    if not values or values != tuple(sorted(set(values))):
        raise ValueError(f"counts must grow, each named once, and be at least one; got {values}")
    return values

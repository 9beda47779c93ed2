r"""Greedy order: regions in the order in which they serve the score best together.

$r_{k+1} = \arg\max_r F(S_k \cup \{r\})$ with $S_{k+1} = S_k \cup \{r_{k+1}\}$ and
$F(S) = \lambda_1\, \Phi(m_S \otimes x) - \lambda_2\, \Phi((1 - m_S) \otimes x)$.

R. Chen, H. Zhang, S. Liang, J. Li, X. Cao: *Less is more: fewer interpretable region via submodular subset selection*, ICLR
2024, arXiv 2402.09164. It needs only the model's outputs.

With `windows`, several regions are accepted at once: Z. Gu, R. Chen, J. Zhang, Y. Hu, H. Zhang, X. Cao: *PhaseWin search
framework enable efficient object-level interpretation*, CVPR 2026, arXiv 2511.10914.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sfumato.attribution import Attribution, saliency
from sfumato.games import Game
from sfumato.masks.regions import Cells, Regions, check_regions, labels_of
from sfumato.methods.method import Method
from sfumato.methods.sampled import default_batch
from sfumato.model.black_box import NoAnswerError, warn_of_stop
from sfumato.model.evaluate import Evaluation
from sfumato.model.inputs import warn_of_no_effect
from sfumato.model.subject import Subject
from sfumato.perturbations import Fade, Perturbation, check_single, seeded
from sfumato.search.loop import Progress
from sfumato.settings import Settings, check_flag, check_number, check_whole, later


@dataclass(frozen=True, eq=False)
class Choice:
    """A region is chosen for each query that still has two or more."""

    index: int
    """The number of the choice, from 0."""
    steps: int
    """How many there will be."""
    values: Float[Tensor, " B"]
    r"""$F$ with the region that was chosen last."""
    areas: Float[Tensor, " B"]
    """The share of the places in regions that were chosen."""


@dataclass(frozen=True)
class PhaseWindows(Settings):
    r"""Windows of regions, of which several are accepted at once (Gu et al., PhaseWin, CVPR 2026).

    The search goes in phases. A phase scores all regions that are left, and accepts the best. It scores the others again.
    Regions with less than `drop` of the largest gain are put aside until the end. Those with at least `keep` of it, the best
    `size` first, are the window. From then on only the window is scored: at each look all regions are accepted, the best
    first, that have `accept` of the window's largest gain and `keep` of the phase's. Others that were to wait move up.

    A phase ends where no region of the window is accepted, or where gains begin to fall faster: where $g_{t-1} / g_t$ exceeds
    $g_{t-2} / g_{t-1}$ by more than `jump`, for the gains g of regions in the order of their acceptance. That region waits for
    the next phase, unless its gain is at least 0.95 of the one before. When no region that is left has a gain, all that have no
    place are ordered by theirs, those that were put aside last.

    The published search also lets some regions wait at random; this one does not.
    """

    size: int = 16
    keep: float = 0.8
    drop: float = 0.3
    accept: float = 0.9
    jump: float = 0.02

    def __post_init__(self) -> None:
        check_whole("size", self.size, 1)
        for name in ("keep", "drop", "accept"):
            check_number(name, getattr(self, name), "a share of the largest gain", above=0, most=1)
        if self.drop > self.keep:
            raise ValueError(
                f"drop must be at most keep, as what is put aside cannot wait; got {self.drop} and {self.keep}"
            )
        check_number("jump", self.jump, "a difference between ratios of gains", above=0)


STEADY = 0.95
"""A region with this share of the gain before is accepted though it ends the phase."""


@dataclass(frozen=True)
class GreedyOrder(Method):
    r"""The place of each region in the greedy order: 1 for the first, down to 1/n for the last of n.

    A call with a model, inputs `(B, C, *S)` and targets returns an `Attribution` with `map` `(B, 1, *S)`; `progress` is called
    with each `Choice`. The model needs no gradients, and may return numpy arrays.

    - `regions`: what is shown or hidden as a whole: `Cells()`, a grid of 7 × 7 for pictures, or `Superpixels()`, as published,
      which need scikit-image; or a function from inputs `(B, C, *S)` to the number of each place's region, `(B, *S)`.
    - `game`: the weights λ of what the chosen regions keep, and of what is left without them; 20 and 1 as published. The
      published sum has two further terms, the diversity of regions and the network's confidence, with small weights.
    - `both_ends`: after each choice, the `candidates` with the least F are compared by what is kept without them and without
      the tail, and the one that is missed least goes to the tail, before those that are there. So about half of the
      evaluations suffice. Without it, all regions that are left are compared for each place.
    - `windows`: `PhaseWindows()` to accept several regions at once, from the first place on. `both_ends` and `candidates` are
      then not used.
    - `perturbation`: what hides a place.
    - `smooth`: width of a Gaussian that smooths the map, as a fraction of the input's shortest side.
    - `score`: what a class index means, "probability" (published), "logit", "log-odds" or "sigmoid"; any other target is a
      score itself.

    n regions take about n²/4 + `candidates` · n/2 masks, 49 of them 820, and twice as many passes with both weights; without
    `both_ends` n²/2. With windows it depends on the gains.
    """

    regions: Regions = Cells()
    game: Game | str = Game(keep=20, drop=1)
    both_ends: bool = True
    candidates: int = 8
    perturbation: Perturbation = Fade()
    smooth: float = 0.0
    seed: int = 0
    memory: float | None = None
    score: str = "probability"
    windows: PhaseWindows | None = later(None)

    def __post_init__(self) -> None:
        if not (self.windows is None or isinstance(self.windows, PhaseWindows)):
            raise ValueError(f"windows must be PhaseWindows(), or None for one region at a time; got {self.windows!r}")
        object.__setattr__(self, "game", Game.named(self.game))
        check_flag("both_ends", self.both_ends)
        check_whole("candidates", self.candidates)
        check_regions(self.regions)
        check_single(self.perturbation, type(self).__name__)
        super().__post_init__()

    def explain(self, subject: Subject, progress: Progress | None) -> Attribution:
        """The maps of all queries. `progress` is called with each `Choice`."""
        most, whole = subject.probe(self.memory)
        inputs = subject.inputs
        with subject.surroundings.computing():
            labels = labels_of(self.regions, inputs)
            batch_rows = min(default_batch(inputs.device), most)
            searches = [RegionSearch(self, one.unique(return_inverse=True)[1]) for one in labels]
            evaluation = Evaluation(subject, (seeded(self.perturbation, self.seed)(inputs),), subject.query, batch_rows)
        try:
            for choice in subject.surroundings.iterate(_choose(searches, evaluation, Game.named(self.game))):
                if progress is not None:
                    progress(choice)
        except NoAnswerError as error:
            if not any(search.front for search in searches):
                raise
            warn_of_stop(error)
        with subject.surroundings.computing(), torch.no_grad():
            maps = torch.stack([search.map for search in searches])[:, None]
            warn_of_no_effect(
                torch.tensor([search.flat for search in searches], dtype=torch.bool, device=maps.device), ""
            )
            details = {"regions": [search.count for search in searches]}
            return Attribution(
                map=saliency(maps[:, None], self.smooth), whole=whole, about=self.about(subject, details)
            )


class RegionSearch:
    """The search for one query, over regions with the numbers 0, …, n − 1."""

    def __init__(self, method: GreedyOrder, labels: Int[Tensor, " *S"]) -> None:
        self.method, self.labels = method, labels
        self.count = int(labels.max()) + 1
        self.front: list[int] = []
        self.tail: list[int] = []
        """From the last place on."""
        self.value = torch.zeros((), dtype=torch.float32, device=labels.device)
        self.choices = self._in_windows(method.windows) if method.windows else self._choices()
        self.masks = next(self.choices, None)
        """What is to be scored next, `(K, 1, *S)`; `None` at the end."""
        self.flat = self.masks is not None
        """Whether in all choices all candidates had the same value."""

    def answer(self, values: Float[Tensor, " K"]) -> None:
        """Take the scores of `masks`, and go on."""
        values = tied(values)
        self.flat = self.flat and bool((values == values[0]).all())
        try:
            self.masks = self.choices.send(values)
        except StopIteration:
            self.masks = None

    @property
    def map(self) -> Float[Tensor, " *S"]:
        """1 in the first region, down to 1/n in the last. Regions that have no place yet share the mean of those left."""
        device = self.labels.device
        places = torch.linspace(1, 1 / self.count, self.count, dtype=torch.float32, device=device)
        chosen, dropped = len(self.front), self.count - len(self.tail)
        ranks = places[chosen:dropped].mean().expand(self.count).clone()
        ranks[torch.tensor(self.front, dtype=torch.long, device=device)] = places[:chosen]
        ranks[torch.tensor(self.tail[::-1], dtype=torch.long, device=device)] = places[dropped:]
        return ranks[self.labels]

    @property
    def area(self) -> float:
        """The share of the places in regions of the front."""
        return float(self._shown(self.front).float().mean())

    def _choices(self) -> Generator[Float[Tensor, "K 1 *S"], Float[Tensor, " K"], None]:
        """Masks to be scored, which are answered with their values."""
        left = list(range(self.count))
        while len(left) > 1:
            values = yield torch.stack([self._shown([*self.front, region]) for region in left])[:, None].float()
            best = int(values.argmax())
            self.value = values[best]
            self.front.append(left.pop(best))
            if self.method.both_ends and len(left) > 1:
                values = torch.cat([values[:best], values[best + 1 :]])
                lowest = [left[place] for place in values.argsort(stable=True)[: self.method.candidates].tolist()]
                missed = yield torch.stack([~self._shown([*self.tail, region]) for region in lowest])[:, None].float()
                region = lowest[int(missed.argmax())]
                left.remove(region)
                self.tail.append(region)
        self.front += left

    def _in_windows(self, windows: PhaseWindows) -> Generator[Float[Tensor, "K 1 *S"], Float[Tensor, " K"], None]:
        """The same, with several regions accepted at once; see `PhaseWindows`."""
        left, dropped = list(range(self.count)), list[int]()
        while len(left) > 1:
            gains = yield from self._gains(left)
            best = max(gains, key=gains.__getitem__)
            if gains[best] <= 0:
                break
            self.front.append(best)
            left.remove(best)
            last, before = gains[best], None
            gains = yield from self._gains(left)
            most = max(gains.values())
            if most <= 0:
                break
            dropped += [region for region in left if gains[region] < windows.drop * most]
            left = sorted((region for region in left if region not in dropped), key=gains.__getitem__, reverse=True)
            waiting = [region for region in left if gains[region] >= windows.keep * most]
            ended = False
            while waiting and not ended:
                gains = yield from self._gains(waiting[: windows.size])
                least = max(windows.keep * most, windows.accept * max(gains.values()))
                accepted = sorted(
                    (region for region in gains if gains[region] >= least), key=gains.__getitem__, reverse=True
                )
                ended = not accepted
                for region in accepted:
                    gain = gains[region]
                    ended = before is not None and last / gain - before / last > windows.jump
                    if ended and gain < STEADY * last:
                        break
                    self.front.append(region)
                    left.remove(region)
                    waiting.remove(region)
                    last, before = gain, last
                    if ended:
                        break
        for rest in (left, dropped):
            gains = (yield from self._gains(rest)) if len(rest) > 1 else dict.fromkeys(rest, 0.0)
            self.front += sorted(rest, key=gains.__getitem__, reverse=True)

    def _gains(self, regions: list[int]) -> Generator[Float[Tensor, "K 1 *S"], Float[Tensor, " K"], dict[int, float]]:
        """What each of the regions adds to the value of the front."""
        values = yield torch.stack([self._shown([*self.front, *more]) for more in [[], *([one] for one in regions)]])[
            :, None
        ].float()
        self.value = values[1:].max()
        return dict(zip(regions, (values[1:] - values[0]).tolist(), strict=True))

    def _shown(self, regions: list[int]) -> Bool[Tensor, " *S"]:
        shown = torch.zeros(self.count, dtype=torch.bool, device=self.labels.device)
        shown[regions] = True
        return shown[self.labels]


ROUNDING = 16.0
"""How many units in the last place of the largest score two scores may differ by and still be a tie."""


def tied(values: Float[Tensor, " K"]) -> Float[Tensor, " K"]:
    """The values, where those that differ by rounding only are equal: the largest of them.

    The first of equal regions is taken. If rounding decided, it would be another one in another batch.

    >>> tied(torch.tensor([1.0, 3.0, 1.0000002]))
    tensor([1.0000, 3.0000, 1.0000])
    """
    ordered, order = values.sort(descending=True)
    rounding = ROUNDING * torch.finfo(values.dtype).eps * values.abs().max()
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[1:] = ordered[:-1] - ordered[1:] > rounding
    return torch.empty_like(values).scatter(0, order, ordered[begins][begins.cumsum(0) - 1])


def _choose(searches: list[RegionSearch], evaluation: Evaluation, game: Game) -> Iterator[Choice]:
    """The choices of all queries, whose masks are scored together."""
    steps = max(search.count for search in searches) - 1
    while any(search.masks is not None for search in searches):
        asked = {number: search.masks for number, search in enumerate(searches) if search.masks is not None}
        device = evaluation.query.device
        counts = torch.tensor([len(masks) for masks in asked.values()], dtype=torch.long, device=device)
        query = torch.tensor(list(asked), dtype=torch.long, device=device).repeat_interleave(counts)
        values = replace(evaluation, query=query).values(torch.cat(list(asked.values())), game)
        for number, part in zip(asked, values.split(counts.tolist()), strict=True):
            searches[number].answer(part)
        placed = min(len(search.front) + len(search.tail) for search in searches if search.count > steps)
        yield Choice(
            min(max(placed - 1, 0), steps - 1),
            steps,
            torch.stack([search.value for search in searches]),
            torch.tensor([search.area for search in searches], dtype=torch.float32, device=device),
        )

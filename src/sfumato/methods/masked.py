"""The base of methods that search for masks: of places, or of a layer's channels."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.games import Game
from sfumato.layers.above import above
from sfumato.layers.capture import place_of
from sfumato.masks.family import Parametrisation
from sfumato.methods.method import Method
from sfumato.model.evaluate import Evaluation
from sfumato.model.rounded import rounded
from sfumato.model.subject import Subject
from sfumato.perturbations import Perturbed
from sfumato.search.loop import Progress
from sfumato.search.problem import Ascent
from sfumato.search.search import Search
from sfumato.space.jitter import Jitter, MirrorEvenSteps


class MaskMethod(Method):
    """A method with the settings `game`, `ascent`, `steps`, `memory`, and of a layer `layer`, `at`, `layout` and `call`."""

    needs_layer: ClassVar[bool | None] = None
    by_channel: ClassVar[bool] = False
    """Whether it masks a layer's channels, not its places."""

    game: Game | str
    ascent: Ascent
    steps: int
    memory: float | None
    layer: str = ""
    at: str = "output"
    layout: str = ""
    call: int = -1

    @abstractmethod
    def search(self, subject: Subject) -> Search:
        r"""The model as $\Phi$, a family of masks $m$ over what it sees, and $m \otimes x$."""

    @abstractmethod
    def areas_for(self, search: Search) -> Float[Tensor, " V"]:
        """The areas to search masks for, `(V,)`."""

    def used_precision(self) -> str:
        """That of the gradients, of `sfumato.model.rounded.PRECISIONS`."""
        return "full"

    def explain(self, subject: Subject, progress: Progress | None) -> Attribution:
        """The masks of each area, for all queries at once."""
        search = self.search(subject)
        areas = self.areas_for(search).expand(len(subject.inputs), -1)
        last = search.ascend(areas, progress)
        return search.attribution(last.parameters, areas, last.alternatives, last.order)

    def at_layer(self, subject: Subject) -> Subject:
        """The subject itself, or the network above the layer."""
        if not (place := self.layer and place_of(subject.model, self.layer)):
            return subject
        subject.probe(self.memory)
        return above(subject, place, self.at, self.by_channel, self.layout, self.call)

    def searching(
        self,
        subject: Subject,
        parametrisation: Parametrisation,
        hide: Callable[[], tuple[Perturbed, ...]],
        shown: Callable[[Float[Tensor, "B V K *S"]], Mapping[str, Tensor]],
        moves: Jitter | MirrorEvenSteps,
        **used: Any,
    ) -> Search:
        """The search over a subject's masks; `hide` makes what they hide places with, `used` goes into `about`."""
        rows, whole = subject.probe(self.memory)
        lower = rounded(subject, self.used_precision())
        if lower is not None:
            used["precision"] = "bfloat16"
        with subject.surroundings.computing():
            perturbed = hide()
        return Search(
            evaluation=Evaluation(subject, perturbed, subject.query, rows, lower),
            parametrisation=parametrisation,
            game=Game.named(self.game),
            ascent=self.ascent,
            steps=self.steps,
            jitter=moves,
            seed=self.seed,
            whole=whole,
            shown=shown,
            about=self.about(subject, **used),
            layer=self.layer and place_of(subject.model, self.layer),
        )

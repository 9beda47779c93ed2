"""A certificate: what an explanation's set of places may claim, each claim tested with the network."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.evidence.chance import BetterThanChance
from sfumato.evidence.claim import Claim, Finding
from sfumato.evidence.elsewhere import HoldsElsewhere
from sfumato.evidence.needed import MostlyNeeded
from sfumato.evidence.only import OnlyOne
from sfumato.evidence.same_answer import SameAnswer
from sfumato.evidence.steady import Steady
from sfumato.evidence.suffices import Suffices
from sfumato.evidence.tested import Tested, method_of, tested
from sfumato.methods.method import Method
from sfumato.model.arguments import WithArguments
from sfumato.model.effects import Model
from sfumato.model.of_pictures import PictureModel
from sfumato.scores import AUTO, SIGMOID, Score, as_score, as_target
from sfumato.settings import Settings, as_json, check_number, from_json, keywords_told, number, part_of

MARKS = {True: "yes", False: "NO", None: "?"}
"""How it is printed whether a claim holds."""


@dataclass(frozen=True, eq=False)
class Certificate:
    """What was found about one set of one picture. `print(certificate)` shows it in plain words."""

    places: Bool[Tensor, "*S"]
    """The set."""
    area: float
    """The share of the input that it takes."""
    variant: int
    """The number of its mask in the result."""
    findings: tuple[Finding, ...]
    """Of each claim, in the order in which they were tested."""
    passes: int
    """How many inputs the network was given for it; one with a backward pass counts as three."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: the settings of the claims, and `about` of the result."""

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return all(finding.holds for finding in self.findings)

    def __getitem__(self, claim: str) -> Finding:
        """The finding of a claim, by its name."""
        for finding in self.findings:
            if finding.claim == claim:
                return finding
        raise KeyError(f"no claim {claim!r}; there are {', '.join(finding.claim for finding in self.findings)}")

    def __str__(self) -> str:
        """A line for each claim: whether it holds, and the sentence."""
        width = max((len(finding.claim) for finding in self.findings), default=0)
        return "\n".join(
            f"{MARKS[finding.holds]:<4}{finding.claim:<{width}}  {finding.sentence}" for finding in self.findings
        )

    def summary(self) -> dict[str, Any]:
        """What a result's `about` says of it as "certificate", in plain JSON: reports show it."""
        content = self.as_json()
        return {name: content[name] for name in ("area", "holds", "findings")}

    def as_json(self) -> dict[str, Any]:
        """Plain JSON of all but the sets."""
        return {
            "area": self.area,
            "holds": self.holds,
            "passes": self.passes,
            "findings": [
                {
                    "claim": finding.claim,
                    "holds": finding.holds,
                    "sentence": finding.sentence,
                    "numbers": {name: number(value) for name, value in finding.numbers.items()},
                }
                for finding in self.findings
            ],
            "about": dict(self.about),
        }


@dataclass(frozen=True)
class Certify(Settings):
    """Tests the set of an explanation by a list of claims.

    Called with a result of `ExtremalPerturbation` (or `ExtremalOrder`), the model and the inputs `(B, C, *S)` that made it, it
    returns a `Certificate` for each query. Of the masks of several areas it takes the smallest that is worth the share `keep`
    of the score, or else the largest.

    - `claims`: what is tested, in this order. Leave one out, or give one of your own: a subclass of `Claim`.

    Three claims ask the network some hundred times each; `OnlyOne` searches again, for one area.

    >>> [type(claim).__name__ for claim in Certify().claims]
    ['Suffices', 'SameAnswer', 'HoldsElsewhere', 'BetterThanChance', 'MostlyNeeded', 'OnlyOne', 'Steady']
    """

    claims: tuple[Claim, ...] = (
        Suffices(),
        SameAnswer(),
        HoldsElsewhere(),
        BetterThanChance(),
        MostlyNeeded(),
        OnlyOne(),
        Steady(),
    )
    keep: float = 0.9

    def __post_init__(self) -> None:
        object.__setattr__(self, "claims", tuple(self.claims))
        if not self.claims:
            raise ValueError(
                "claims must be one or more claims such as Suffices(); got none, and nothing would be tested"
            )
        for claim in self.claims:
            if not isinstance(claim, Claim):
                raise ValueError(f"claims must be claims such as Suffices(); got {claim!r}")
        check_number("keep", self.keep, "a share of the score", above=0, most=1)

    def with_rivals(self, *methods: Method) -> "Certify":
        """The same claims, where `BetterThanChance` compares the set with those of these methods too."""
        claims = (
            replace(claim, rivals=(*claim.rivals, *methods)) if isinstance(claim, BetterThanChance) else claim
            for claim in self.claims
        )
        return replace(self, claims=tuple(claims))

    @keywords_told
    def __call__(
        self,
        result: Attribution,
        model: Model | PictureModel,
        inputs: Any,
        targets: Any = None,
        models: Mapping[str, Model] | None = None,
        labels: Sequence[str] = (),
        backgrounds: Any = None,
        progress: Callable[[Claim, int, int], object] | None = None,
    ) -> tuple[Certificate, ...]:
        """A certificate for each query of the result, which is of `inputs` `(B, C, *S)`.

        `targets` are those that the method was given; by default the classes that the result names. `models`: other networks
        that take the same inputs, by name. `labels`: the names of the classes. `backgrounds`: other pictures `(K, C, *S)`,
        prepared as the inputs, on which the set is pasted. With a `Classifier` in place of the model, inputs and backgrounds
        may be pictures, targets names of classes, and the labels are its own. `progress` is called before each claim
        is tested, with the claim, its number from 0, and how many there are for all queries.

        Raises `ValueError` for a result without sets of the input's places, for inputs that are not those of the result, for
        targets that the result does not name, and for backgrounds of another shape.
        """
        if not isinstance(result, Attribution):
            raise ValueError(
                f"Certify()(result, model, inputs) tests the result of a method, e.g. of ExtremalPerturbation; got a "
                f"{type(result).__name__}"
            )
        if isinstance(model, PictureModel):
            labels = labels or getattr(model, "labels", ())
            inputs = model.inputs_of(inputs)
            targets = None if targets is None else model.targets_of(targets, inputs)
            backgrounds = None if backgrounds is None else model.inputs_of(backgrounds)
            link = SIGMOID if getattr(model, "multi_label", False) else AUTO
            model = model.net
        else:
            link = AUTO
        if len(inputs) != len(result):
            raise ValueError(f"the result is of {len(result)} inputs; got {len(inputs)}")
        if backgrounds is not None:
            _check_backgrounds(backgrounds, inputs)
        certificates = []
        for query in range(len(result)):
            part, target = result[query], _target(result, targets, query)
            others = {name: _of_query(other, query) for name, other in (models or {}).items()}
            network, row = _of_query(model, query), inputs[query : query + 1]
            with tested(part, network, row, target, self.keep, others, labels, backgrounds, link) as subject:
                _check_same(part, float(subject.subject.whole()[0]))
                findings: tuple[Finding, ...] = (NO_SET,)
                if subject.places.any():
                    findings = tuple(self._tested(subject, query, len(result), progress))
                certificates.append(
                    Certificate(
                        subject.places,
                        subject.area,
                        subject.variant,
                        findings,
                        subject.passes,
                        {"certify": as_json(self), "result": dict(part.about)},
                    )
                )
        return tuple(certificates)

    def _tested(
        self, subject: Tested, query: int, queries: int, progress: Callable[[Claim, int, int], object] | None
    ) -> Iterator[Finding]:
        """What is found of each claim, one after the other."""
        count = len(self.claims)
        for index, claim in enumerate(self.claims):
            if progress is not None:
                progress(claim, query * count + index, queries * count)
            yield claim.test(subject)


NO_SET = Finding("A set", False, "The mask shows no place by more than one half, so that there is no set.")
"""All that is found where a mask is too faint for a set."""


def _of_query(model: Model, query: int) -> Model:
    """The model with the further arguments of one query, if it has any."""
    return model.part([query]) if isinstance(model, WithArguments) else model


def _target(result: Attribution, targets: Any, query: int) -> Any:
    """The target of one query."""
    if targets is None:
        try:
            return from_json(result[query].about.get("score"))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"the result does not name its targets ({error}); give them, as the method got them"
            ) from error
    as_score(targets, len(result), method_of(result).score)  # checks them
    if isinstance(targets, Score):
        return part_of(targets, query, len(result))
    if callable(targets):
        return targets
    wanted = as_target(targets)
    return wanted[query] if isinstance(wanted, tuple) else wanted


def _check_backgrounds(backgrounds: Any, inputs: Any) -> None:
    """Raise `ValueError` unless these are pictures of the inputs' size."""
    shape, wanted = tuple(getattr(backgrounds, "shape", ())), tuple(inputs.shape[1:])
    if shape[1:] != wanted or not len(backgrounds):
        what = f"shape {shape}" if shape else f"a {type(backgrounds).__name__}"
        raise ValueError(
            f"backgrounds are other pictures, prepared as the inputs: (K, {', '.join(map(str, wanted))}); got {what}"
        )


def _check_same(result: Attribution, whole: float) -> None:
    """Raise `ValueError` where the whole input has another score than the result says: another model, input or target."""
    if result.whole is None:
        raise ValueError(
            "the result does not say the score of the whole input, so nobody knows what made it; explain anew"
        )
    expected = float(result.whole[0])
    span = 0.0 if result.blank is None else abs(expected - float(result.blank[0]))
    if not abs(whole - expected) <= 1e-2 * max(abs(expected), span):
        raise ValueError(
            f"the model gives this input the score {whole:.4g}, and the result says {expected:.4g}; give the model, the inputs "
            "and the targets with which the result was made"
        )

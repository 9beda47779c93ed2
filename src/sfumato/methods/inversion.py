r"""Feature inversion: pictures that a layer cannot tell from one that it saw, or from what is left of its activations.

A. Mahendran, A. Vedaldi: *Understanding deep image representations by inverting them*, CVPR 2015, arXiv 1412.0035;
for channels: R. Fong, M. Patrick, A. Vedaldi, ICCV 2019, arXiv 1910.08485, section 4.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sfumato.about import versions
from sfumato.attribution import TensorResult
from sfumato.layers.below import below
from sfumato.methods.natural import Fourier, Prior
from sfumato.model.effects import Model, saved_bytes
from sfumato.model.inputs import described
from sfumato.model.subject import GIB, Subject
from sfumato.search.loop import Look, climb
from sfumato.search.rules import Momentum, by_size, half_cosine
from sfumato.settings import as_json, check_number, check_seed, check_whole, is_whole
from sfumato.space.normalisation import IMAGENET_MEAN, IMAGENET_STD, Normalisation
from sfumato.space.transforms import Transform


@dataclass(frozen=True, eq=False)
class Inversion(TensorResult):
    """The pictures found for `B` targets."""

    pictures: Tensor
    """`(B, C, *S)`, in [0, 1], or of any value where there is no normalisation."""
    inputs: Tensor
    """What the network sees of them, `(B, C, *S)`."""
    errors: Tensor
    r"""$\lVert \Phi_l(I) - t \rVert^2 / \lVert t \rVert^2$ of the pictures as they are, untransformed, `(B,)`."""
    snapshots: tuple[tuple[int, Tensor], ...] = ()
    """After how many steps, and the pictures then."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """How they were made; plain JSON."""


def invert(
    model: Model,
    layer: str,
    activations: Tensor,
    *,
    shape: Sequence[int] = (3, 224, 224),
    mean: tuple[float, ...] | None = IMAGENET_MEAN,
    std: tuple[float, ...] | None = IMAGENET_STD,
    at: str = "output",
    call: int = -1,
    prior: Prior = Fourier(),
    steps: int = 200,
    rate: float | None = None,
    seed: int = 0,
    every: int = 0,
    memory: float = 2.0,
    progress: "Callable[[Step], object] | None" = None,
) -> Inversion:
    r"""Find the pictures whose activations at a layer are nearest to the targets `activations` `(B, …)`.

    $I^* = \arg\min_I \lVert \Phi_l(I) - t \rVert^2 / \lVert t \rVert^2 + R(I)$

    A target is what the layer makes of a picture, which `lower.activations` tells, or a part of it, which `masked` makes.

    - `layer`, `at`, `call`: as for `lower.activations`; "" is the model's input.
    - `shape`: of a picture, `(C, *S)`, with up to three axes of space.
    - `mean`, `std`: the network sees $(I - mean) / std$ of pictures in [0, 1]; one number per channel. With None for both,
      what is found is the network's input itself, of any value.
    - `prior`: `Fourier(…)` or `Pixels(…)`: how pictures are written down, and $R$.
    - `steps`: of gradient descent; `rate`, if given, takes the place of the prior's own.
    - `seed`: of all that is random, the same for all targets. A target's picture does not depend on the others.
    - `every`: keep the pictures after every so many steps as `snapshots`; 0 for none.
    - `memory`: GiB that the model may keep for its backward pass. `progress` is told each `Step`.

    Departures from the paper. During the first half of the steps only the angle between $\Phi_l(I)$ and the target counts,
    $1 - \cos$ instead of the relative error: of activations few of which are positive, as behind a ReLU, the error alone
    first makes all smaller, right and wrong ones, and the way back is long. Every step is as long as the last (the gradient
    is divided by its root mean square), with momentum 0.9, at a rate that falls to zero along half a cosine.

    The model is left as it was. Raises `ValueError` for what cannot be used.
    """
    normalisation = Normalisation(mean, std)
    shape = _checked_shape(shape)
    normalisation.check(shape[0])
    for name, value, least in (("steps", steps, 1), ("every", every, 0)):
        check_whole(name, value, least)
    check_seed(seed)
    check_number("memory", memory, "in GiB", above=0)
    if not isinstance(prior, Prior):
        raise ValueError(f"prior must be Fourier(…), Pixels(…) or what has their methods; got {prior!r}")
    if rate is not None:
        prior = replace(prior, rate=rate)  # type: ignore[type-var]  # a dataclass, as are all configurations
    target = _checked_target(activations)
    about = {
        "layer": layer,
        "at": at,
        "call": call,
        "shape": shape,
        "mean": mean,
        "std": std,
        "prior": prior,
        "steps": steps,
    }
    about = as_json(about | {"seed": seed}) | {"versions": versions()}

    example = torch.zeros(1, *shape, dtype=_dtype(model), device=target.device)
    with Subject.prepared(model, example, 0, seed=seed) as subject:  # no score is asked for, hence any
        surroundings, run = subject.surroundings, lambda seen: subject.outputs(seen, subject.query)
        with below(subject.model, layer, at, run, call) as phi:
            with surroundings.computing():
                with torch.no_grad():
                    subject.settle_layout(phi(subject.inputs), phi)
                target = target.clone().to(torch.promote_types(target.dtype, torch.float32))
                kept = saved_bytes(lambda: _fitting(phi, subject.inputs.clone().requires_grad_(), target, layer, at))
                rows = max(1, int(memory * GIB / max(kept, example.nbytes)))
            descent = Descent(phi, target, prior, normalisation, shape, rows)
            pictures, snapshots = target, []
            for step in surroundings.iterate(descent.steps(steps, seed)):
                pictures = step.pictures
                if every and (step.index + 1) % every == 0:
                    snapshots.append((step.index + 1, pictures))
                if progress is not None:
                    progress(step)
            with surroundings.computing(), torch.no_grad():
                inputs = normalisation.seen(pictures)
                errors = torch.cat([descent.errors(inputs[part], part) for part in descent.parts])
    return Inversion(pictures, inputs, errors, tuple(snapshots), about)


def masked(activations: Tensor, mask: Tensor, axis: int = 1) -> Tensor:
    r"""Activations with each channel $k$ times $m_k$: $m \otimes \Phi_l(x)$.

    `mask` is `(K,)`, or `(B, K)` with one for each row; `axis` is that of the channels: 1 for `(B, K, *L)`, -1 for a
    transformer's tokens `(B, T, K)`. The targets worth inverting side by side are the activations themselves, `masked(a, m)`,
    its complement `masked(a, 1 - m)`, and with a mask that is 1 at one channel and else 0, that channel alone. Nothing need
    come near a part: few pictures excite one channel only. Behind a ReLU, a channel that an empty picture leaves silent has no
    gradient and may stay so, with an error of 1.

    >>> masked(torch.ones(1, 3, 2), torch.tensor([0.0, 0.5, 1.0]))
    tensor([[[0.0000, 0.0000],
             [0.5000, 0.5000],
             [1.0000, 1.0000]]])
    """
    if not -activations.ndim <= axis < activations.ndim or axis % activations.ndim == 0:
        raise ValueError(f"axis={axis} is no axis of channels of activations of shape {tuple(activations.shape)}")
    channels = activations.shape[axis]
    if tuple(mask.shape) not in ((channels,), (len(activations), channels)):
        raise ValueError(
            f"a mask of shape {tuple(mask.shape)} does not fit activations of shape {tuple(activations.shape)} with channels "
            f"along axis {axis}: give ({channels},) or ({len(activations)}, {channels})"
        )
    size = [1] * activations.ndim
    size[0], size[axis] = (len(mask) if mask.ndim == 2 else 1), channels
    return activations * mask.view(size)


@dataclass(frozen=True, eq=False)
class Step:
    """One step of an inversion. The last one holds the answer."""

    index: int
    """From 0."""
    steps: int
    """How many there will be."""
    pictures: Tensor
    """`(B, C, *S)`, to which the step led."""
    values: Tensor
    """The relative errors of those that it set out from, transformed as they were seen, `(B,)`."""

    @property
    def areas(self) -> Tensor:
        """1: the whole picture is seen. What shows the steps of masks asks for it."""
        return torch.ones_like(self.values)


MOMENTUM = 0.9

ANGLE = 0.5
"""The share of the steps, from the first, in which only the angle counts."""


@dataclass(frozen=True, eq=False)
class Descent:
    """The way down to the pictures of targets `(B, …)`."""

    phi: Callable[[Tensor], Tensor]
    target: Tensor
    prior: Prior
    normalisation: Normalisation
    shape: tuple[int, ...]
    rows: int
    """How many go through the network at once."""

    @property
    def parts(self) -> list[slice]:
        return [slice(start, start + self.rows) for start in range(0, len(self.target), self.rows)]

    def steps(self, count: int, seed: int) -> Iterator[Step]:
        """The steps, one at a time."""
        generator = torch.Generator("cpu").manual_seed(seed)
        start = self.prior.start(self.shape, generator).to(self.target)
        transforms = self.prior.transforms.draws(len(self.shape) - 1, generator)

        def look(parameters: Tensor, index: int) -> Look:
            transform = next(transforms)
            found = [self._gradient(parameters[part], part, transform, index < ANGLE * count) for part in self.parts]
            gradient, errors = (torch.cat(each) for each in zip(*found, strict=True))
            return Look(errors, -gradient, torch.ones_like(errors))

        steps = climb(
            look,
            start.expand(len(self.target), *[-1] * (start.ndim - 1)).clone(),
            count,
            Momentum(self.prior.rate, MOMENTUM, by_size, 1 - MOMENTUM, half_cosine),
            lambda parameters, _: self.prior.confined(parameters, self.normalisation),
        )
        for step in steps:
            assert step.following is not None  # noqa: S101  # for the type checker: the loop gives it
            yield Step(step.index, count, self._pictures(step.following), step.values)

    def errors(self, seen: Tensor, part: slice) -> Tensor:
        """The relative errors `(N,)` of what the network sees, `(N, C, *S)`, for a part of the targets."""
        return relative_errors(self.phi(seen), self.target[part])

    def _gradient(self, parameters: Tensor, part: slice, transform: Transform, angle: bool) -> tuple[Tensor, Tensor]:
        """The gradient with respect to parameters `(N, …)`, and the relative errors `(N,)`, for a part of the targets."""
        leaf, target = parameters.detach().requires_grad_(), self.target[part]
        seen = self.normalisation.seen(self.prior.pictures(leaf, self.shape, self.normalisation))
        activation = self.phi(transform(seen))
        if not activation.requires_grad:
            raise ValueError(
                "the layer's activations have no gradient with respect to the input; the model must be differentiable up to "
                "it (no .detach(), no torch.no_grad(), no argmax on the way)"
            )
        errors = relative_errors(activation, target)
        loss = (one_less_cosine(activation, target) if angle else errors) + self.prior.penalty(seen)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        if not torch.isfinite(gradient).all():
            raise ValueError(
                f"the gradient is not finite (relative errors {errors.tolist()}); check the model, or use a wider type than "
                "its present one"
            )
        return gradient, errors.detach()

    def _pictures(self, parameters: Tensor) -> Tensor:
        with torch.no_grad():
            return self.normalisation.within(self.prior.pictures(parameters, self.shape, self.normalisation))


def relative_errors(activations: Tensor, targets: Tensor) -> Tensor:
    r"""$\lVert a - t \rVert^2 / \lVert t \rVert^2$ of each row, `(N,)`, in the targets' precision."""
    return (activations.to(targets.dtype) - targets).flatten(1).square().sum(1) / targets.flatten(1).square().sum(1)


def one_less_cosine(activations: Tensor, targets: Tensor) -> Tensor:
    r"""$1 - a \cdot t / (\lVert a \rVert \lVert t \rVert)$ of each row, `(N,)`, in the targets' precision."""
    found, wanted = activations.to(targets.dtype).flatten(1), targets.flatten(1)
    lengths = [torch.linalg.vector_norm(each, dim=1) for each in (found, wanted)]
    floor = 1e-6 * lengths[1]  # of no length, activations have no angle: whatever they become is as good
    return 1 - (found * wanted).sum(1) / (lengths[0].maximum(floor) * lengths[1])


def _fitting(phi: Callable[[Tensor], Tensor], example: Tensor, target: Tensor, layer: str, at: str) -> Tensor:
    """The activations for one picture, if targets `(B, …)` are of their shape."""
    found = phi(example)
    if len(found) != 1 or found.shape[1:] != target.shape[1:]:
        raise ValueError(
            f"the activations have shape {tuple(target.shape)}, but at the {at} of the layer {layer!r} one picture of shape "
            f"{tuple(example.shape[1:])} makes {tuple(found.shape)}; they must agree but for the first axis, that of the batch"
        )
    return found


def _checked_shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, Sequence) or not 2 <= len(shape) <= 4 or not all(is_whole(length, 1) for length in shape):
        raise ValueError(
            f"shape is that of one picture, (C, *S), e.g. (3, 224, 224), with 1 to 3 axes of space; got {shape!r}"
        )
    return tuple(shape)


def _checked_target(activations: Any) -> Tensor:
    if not isinstance(activations, Tensor) or not activations.is_floating_point() or activations.ndim < 2:
        kind = activations.dtype if isinstance(activations, Tensor) and activations.ndim > 1 else described(activations)
        raise ValueError(f"activations must be a floating-point tensor (B, …), with one target a row; got {kind}")
    if 0 in activations.shape:
        raise ValueError(f"activations are empty: shape {tuple(activations.shape)}")
    if not torch.isfinite(activations).all():
        raise ValueError("activations contain NaN or infinity; check how they were made")
    empty = (activations == 0).flatten(1).all(1)
    if empty.any():
        raise ValueError(
            f"activations are all zero in rows {empty.nonzero().flatten().tolist()}: there is nothing to find, and no error "
            "relative to them; is the mask empty, or is the channel silent?"
        )
    return activations.detach()


def _dtype(model: Model) -> torch.dtype:
    """In which the model works."""
    parameters = model.parameters() if isinstance(model, torch.nn.Module) else ()
    return next((each.dtype for each in parameters if each.is_floating_point()), torch.float32)

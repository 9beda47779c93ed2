r"""Feature inversion: pictures whose activations at a layer are nearest to given ones, of all channels or of some.

A. Mahendran, A. Vedaldi: *Understanding deep image representations by inverting them*, CVPR 2015, arXiv 1412.0035;
for channels: R. Fong, M. Patrick, A. Vedaldi: *Understanding deep networks via extremal perturbations and smooth masks*, ICCV
2019, arXiv 1910.08485, section 4.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor

from sfumato.about import versions
from sfumato.attribution import TensorResult
from sfumato.layers.below import below
from sfumato.methods.natural import Fourier, Prior
from sfumato.model.effects import Model, saved_bytes
from sfumato.model.inputs import describe
from sfumato.model.memory import rows_within
from sfumato.model.of_pictures import PictureModel
from sfumato.model.subject import Subject
from sfumato.search.loop import Look, Progress, climb
from sfumato.search.rules import Momentum, by_size, half_cosine
from sfumato.settings import as_json, check_memory, check_seed, check_whole, is_whole, keywords_told
from sfumato.space.normalisation import IMAGENET_MEAN, IMAGENET_STD, Normalisation
from sfumato.space.transforms import Transform


@dataclass(frozen=True, eq=False)
class Inversion(TensorResult):
    """The pictures for `B` targets."""

    pictures: Float[Tensor, "B C *S"]
    """In [0, 1], or of any value without a normalisation."""
    inputs: Float[Tensor, "B C *S"]
    """The pictures as inputs of the network, i.e. normalised."""
    errors: Float[Tensor, " B"]
    r"""$\lVert \Phi_l(I) - t \rVert^2 / \lVert t \rVert^2$ of the pictures without random transforms."""
    snapshots: tuple[tuple[int, Float[Tensor, "B C *S"]], ...] = ()
    """Pairs of a number of steps and the pictures after them."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """How the pictures were made; plain JSON."""


@keywords_told
def invert(
    model: Model | PictureModel,
    layer: str,
    activations: Float[Tensor, "B ..."],
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
    memory: float | None = None,
    progress: Progress | None = None,
) -> Inversion:
    r"""Find the pictures whose activations at a layer are nearest to the targets `activations`.

    $I^* = \arg\min_I \lVert \Phi_l(I) - t \rVert^2 / \lVert t \rVert^2 + R(I)$

    A target is the activation of a picture at the layer, as `sfumato.activations` computes it, or a part of it, as `masked`
    makes it.

    - `layer`, `at`, `call`: as for `sfumato.activations`; "" is the model's input.
    - `shape`: the shape of a picture, `(C, *S)`, with up to three axes of space.
    - `mean`, `std`: the network's input is $(I - mean) / std$ for pictures in [0, 1]; one number per channel. With None for
      both, the result is the network's input itself, of any value.
    - `prior`: `Fourier(…)` or `Pixels(…)`, which defines the parameters of pictures, and $R$.
    - `steps`: the number of steps of gradient descent. `rate` replaces the rate of the prior.
    - `seed`: the seed of all random numbers, the same for all targets. A target's picture does not depend on the others.
    - `every`: the number of steps between two `snapshots` of the pictures; 0 for none.
    - `memory`: GiB that the model may keep for its backward pass; by default 0.5, for six rows up to 1.5, on a GPU half of
      what is free.
    - `progress` is called with each `InversionStep`.

    How to choose:

    - `layer`: early and middle ones. From the last layer no prior gives a picture that resembles the photograph.
    - `prior`: `Fourier()` for pictures that a person recognises, `Pixels()` for the published penalties.
    - `steps`: the default; 20 to 50 for a first look.
    - `mean`, `std`, `shape`: those with which the network's inputs are prepared, `classifier.preparation`.
    - `every`: to see whether the pictures still change.

    Departures from the paper. In the first half of the steps the loss is $1 - \cos$ of the angle between $\Phi_l(I)$ and
    the target, instead of the relative error. If few activations are positive, as behind a ReLU, the error alone first
    reduces all of them, right and wrong ones, and takes long to recover. All steps have one length (the gradient is divided
    by its root mean square), with momentum 0.9 and a rate that falls to zero along half a cosine.

    The model is left unchanged. Raises `ValueError` for arguments that cannot be used, for targets that do not have the
    shape of the layer's activations, and if the gradient is missing or not finite.
    """
    normalisation = Normalisation(mean, std)
    shape = _check_shape(shape)
    normalisation.check(shape[0])
    for name, value, least in (("steps", steps, 1), ("every", every, 0)):
        check_whole(name, value, least)
    check_seed(seed)
    check_memory(memory)
    if not isinstance(prior, Prior):
        raise ValueError(f"prior must be Fourier(…), Pixels(…) or an object with their methods; got {prior!r}")
    if rate is not None:
        prior = replace(prior, rate=rate)  # type: ignore[type-var]  # all settings are dataclasses
    target = _check_target(activations)
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

    if isinstance(model, PictureModel):
        model = model.net
    example = torch.zeros(1, *shape, dtype=_dtype(model), device=target.device)
    with Subject.prepared(model, example, 0, seed=seed) as subject:  # the score is not used
        surroundings = subject.surroundings

        def run(inputs: Tensor) -> Any:
            return subject.outputs(inputs, subject.query.expand(len(inputs)))  # all rows belong to the example

        with below(subject.model, layer, at, run, call) as phi:
            with surroundings.computing():
                with torch.no_grad():
                    subject.settle_layout(phi(subject.inputs), phi)
                target = target.clone().to(torch.promote_types(target.dtype, torch.float32))
                first = subject.inputs.clone().requires_grad_()
                row_bytes = saved_bytes(lambda: _check_activations(phi, first, target, layer, at))
                rows = rows_within(memory, max(row_bytes, example.nbytes), example.device)
            optimisation = PictureOptimisation(phi, target, prior, normalisation, shape, rows)
            pictures, snapshots = target, []
            for step in surroundings.iterate(optimisation.steps(steps, seed)):
                pictures = step.pictures
                if every and (step.index + 1) % every == 0:
                    snapshots.append((step.index + 1, pictures))
                if progress is not None:
                    progress(step)
            with surroundings.computing(), torch.no_grad():
                inputs = normalisation.seen(pictures)
                errors = torch.cat([optimisation.errors(inputs[chunk], chunk) for chunk in optimisation.chunks])
    return Inversion(pictures, inputs, errors, tuple(snapshots), about)


def masked(
    activations: Float[Tensor, " B *P"], mask: Real[Tensor, " K"] | Real[Tensor, "B K"], axis: int = 1
) -> Float[Tensor, " B *P"]:
    r"""Activations with each channel $k$ multiplied by $m_k$: $m \otimes \Phi_l(x)$.

    `mask` is one for all rows, or one for each. `axis` is that of the channels: 1 for `(B, K, *L)`, -1 for a
    transformer's tokens `(B, T, K)`. Useful targets to compare are the activations `a` themselves, `masked(a, m)`, its
    complement `masked(a, 1 - m)`, and one channel alone, with a mask that is 1 there and 0 elsewhere. There may be no
    picture with such activations, as few pictures excite one channel only. Behind a ReLU, a channel that is 0 for the first
    picture has no gradient and may remain 0, with an error of 1. Raises `ValueError` if the axis or the shape of the mask
    does not fit.

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
class InversionStep:
    """One step of an inversion. The last one has the result."""

    index: int
    """The number of the step, from 0."""
    steps: int
    """The number of all steps."""
    pictures: Float[Tensor, "B C *S"]
    """The pictures after the step."""
    values: Float[Tensor, " B"]
    """The relative errors before the step, of transformed pictures."""

    @property
    def areas(self) -> Float[Tensor, " B"]:
        """Ones, as there are no masks; see `sfumato.search.loop.AnyStep`."""
        return torch.ones_like(self.values)


MOMENTUM = 0.9

ANGLE = 0.5
"""The share of the steps, from the first, in which the loss is that of the angle."""


@dataclass(frozen=True, eq=False)
class PictureOptimisation:
    """The optimisation of the pictures of targets."""

    phi: Callable[[Float[Tensor, "N C *S"]], Float[Tensor, "N ..."]]
    target: Float[Tensor, "B ..."]
    prior: Prior
    normalisation: Normalisation
    shape: tuple[int, ...]
    rows: int
    """The number of pictures in one batch."""

    @property
    def chunks(self) -> list[slice]:
        """The targets of each batch."""
        return [slice(start, start + self.rows) for start in range(0, len(self.target), self.rows)]

    def steps(self, count: int, seed: int) -> Iterator[InversionStep]:
        """The steps of gradient descent."""
        generator = torch.Generator("cpu").manual_seed(seed)
        start = self.prior.start(self.shape, generator).to(self.target)
        transforms = self.prior.transforms.draws(len(self.shape) - 1, generator)

        def look(parameters: Tensor, index: int) -> Look:
            transform = next(transforms)
            angle = index < ANGLE * count
            pairs = [self._gradient(parameters[chunk], chunk, transform, angle) for chunk in self.chunks]
            gradient, errors = (torch.cat(tensors) for tensors in zip(*pairs, strict=True))
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
            yield InversionStep(step.index, count, self._pictures(step.following), step.values)

    def errors(self, inputs: Float[Tensor, "N C *S"], chunk: slice) -> Float[Tensor, " N"]:
        """The relative errors of inputs of the network, for a chunk of the targets."""
        return relative_errors(self.phi(inputs), self.target[chunk])

    def _gradient(
        self, parameters: Float[Tensor, " N *P"], chunk: slice, transform: Transform, angle: bool
    ) -> tuple[Float[Tensor, " N *P"], Float[Tensor, " N"]]:
        """The gradient with respect to the parameters, and the relative errors, for a chunk of the targets.

        With `angle`, the gradient is that of the angle to the target instead of the error.
        """
        leaf, target = parameters.detach().requires_grad_(), self.target[chunk]
        inputs = self.normalisation.seen(self.prior.pictures(leaf, self.shape, self.normalisation))
        activation = self.phi(transform(inputs))
        if not activation.requires_grad:
            raise ValueError(
                "the layer's activations have no gradient with respect to the input; the model must be differentiable up to "
                "it (no .detach(), no torch.no_grad(), no argmax on the way)"
            )
        errors = relative_errors(activation, target)
        loss = (one_less_cosine(activation, target) if angle else errors) + self.prior.penalty(inputs)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        if not torch.isfinite(gradient).all():
            raise ValueError(
                f"the gradient is not finite (relative errors {errors.tolist()}); check the model, or use a wider type than "
                "its present one"
            )
        return gradient, errors.detach()

    def _pictures(self, parameters: Float[Tensor, "N ..."]) -> Float[Tensor, "N C *S"]:
        with torch.no_grad():
            return self.normalisation.within(self.prior.pictures(parameters, self.shape, self.normalisation))


def relative_errors(activations: Float[Tensor, " N *P"], targets: Float[Tensor, " N *P"]) -> Float[Tensor, " N"]:
    r"""$\lVert a - t \rVert^2 / \lVert t \rVert^2$ of each row, in the targets' precision."""
    return (activations.to(targets.dtype) - targets).flatten(1).square().sum(1) / targets.flatten(1).square().sum(1)


def one_less_cosine(activations: Float[Tensor, " N *P"], targets: Float[Tensor, " N *P"]) -> Float[Tensor, " N"]:
    r"""$1 - a \cdot t / (\lVert a \rVert \lVert t \rVert)$ of each row, in the targets' precision."""
    a, t = activations.to(targets.dtype).flatten(1), targets.flatten(1)
    length_a, length_t = (torch.linalg.vector_norm(vectors, dim=1) for vectors in (a, t))
    floor = 1e-6 * length_t  # zero activations have no angle, and must not divide by zero
    return 1 - (a * t).sum(1) / (length_a.maximum(floor) * length_t)


def _check_activations(
    phi: Callable[[Float[Tensor, "N C *S"]], Float[Tensor, "..."]],
    example: Float[Tensor, "1 C *S"],
    target: Float[Tensor, "B ..."],
    layer: str,
    at: str,
) -> Float[Tensor, "1 ..."]:
    """The activations of one picture. Raises `ValueError` unless targets have the same shape."""
    activation = phi(example)
    if len(activation) != 1 or activation.shape[1:] != target.shape[1:]:
        raise ValueError(
            f"the activations have shape {tuple(target.shape)}, but at the {at} of the layer {layer!r} one picture of shape "
            f"{tuple(example.shape[1:])} makes {tuple(activation.shape)}; all axes after the first, the batch, must be the same"
        )
    return activation


def _check_shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, Sequence) or not 2 <= len(shape) <= 4 or not all(is_whole(length, 1) for length in shape):
        raise ValueError(
            f"shape is that of one picture, (C, *S), e.g. (3, 224, 224), with 1 to 3 axes of space; got {shape!r}"
        )
    return tuple(shape)


def _check_target(activations: Any) -> Float[Tensor, "B ..."]:
    if not isinstance(activations, Tensor) or not activations.is_floating_point() or activations.ndim < 2:
        kind = activations.dtype if isinstance(activations, Tensor) and activations.ndim > 1 else describe(activations)
        raise ValueError(f"activations must be a floating-point tensor (B, …) with one target in each row; got {kind}")
    if 0 in activations.shape:
        raise ValueError(f"activations are empty: shape {tuple(activations.shape)}")
    if not torch.isfinite(activations).all():
        raise ValueError("activations contain NaN or infinity; check how they were made")
    empty = (activations == 0).flatten(1).all(1)
    if empty.any():
        raise ValueError(
            f"activations are all zero in rows {empty.nonzero().flatten().tolist()}, so that an error relative to them is not "
            "defined; leave out these rows, whose mask may be empty or whose channel may be 0"
        )
    return activations.detach()


def _dtype(model: Model) -> torch.dtype:
    """The type of the model's floating-point parameters; float32 if it has none."""
    parameters = model.parameters() if isinstance(model, torch.nn.Module) else ()
    return next((parameter.dtype for parameter in parameters if parameter.is_floating_point()), torch.float32)

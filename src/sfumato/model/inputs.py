"""Checks of a user's inputs and model before any computation, with errors that name the remedy."""

import re
import reprlib
import sys
import warnings
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from sfumato.model.effects import modules_of


def check_inputs(inputs: Any) -> Float[Tensor, "B C *S"]:
    """The inputs, detached. Raises `ValueError` unless they are a batch `(B, C, *S)` of finite floating-point numbers with 1 to
    3 axes of space."""
    if not isinstance(inputs, Tensor):
        raise ValueError(
            f"inputs must be a torch tensor (B, C, *S); got {type(inputs).__name__}. Write torch.stack(inputs) for a list of "
            "tensors, torch.from_numpy(inputs) for an array, or classifier.prepare(picture)[None] for a picture"
        )
    shape = tuple(inputs.shape)
    if inputs.ndim < 3:
        raise ValueError(
            f"inputs must be a batch (B, C, *S), e.g. (1, 3, 224, 224) for a picture; got shape {shape}, which has no "
            "axis of space"
        )
    if inputs.ndim > 5:
        raise ValueError(f"inputs have 1 to 3 axes of space, (B, C, *S); got shape {shape}")
    if 0 in shape:
        raise ValueError(f"inputs are empty: shape {shape}")
    if not inputs.is_floating_point():
        remedy = "inputs.float() / 255" if inputs.dtype == torch.uint8 else "inputs.float()"
        raise ValueError(
            f"inputs must be floating-point, prepared as in the model's training; got {inputs.dtype}. Write {remedy}, and then "
            "normalise, or prepare pictures with classifier.prepare(picture)"
        )
    if not inputs.is_meta and not torch.isfinite(inputs).all():
        bad = ~torch.isfinite(inputs)
        rows = marked(bad.flatten(1).any(1))
        raise ValueError(
            f"inputs contain NaN or infinity: {int(bad.sum())} of {bad.numel()} values, in input {rows}; expected finite "
            "numbers. Check how they were prepared, or write inputs = inputs.nan_to_num(0, 0, 0)"
        )
    warn_of_eight_bits(inputs)
    if inputs.ndim == 3:
        warn_of_turned_axes(inputs)
    return inputs.detach()


def check_model(model: Any, inputs: Float[Tensor, "B C *S"]) -> None:
    """Raise `ValueError` unless the model can be called on the inputs, and differentiated if it is an `nn.Module`."""
    if not callable(model):
        remedy = f". Write sfumato.models.load({model!r}).net for the model of a name" if isinstance(model, str) else ""
        if isinstance(getattr(model, "net", None), nn.Module):  # a Classifier, whose repr is that of all its layers
            remedy = ". Write its .net for the model, and classifier.prepare(picture)[None] for the inputs"
        raise ValueError(f"the model must be an nn.Module or a function of inputs; got {reprlib.repr(model)}{remedy}")
    if inputs.is_meta:
        raise ValueError("inputs are on the meta device, which holds no numbers; move inputs and model to a real one")
    if not isinstance(model, nn.Module):
        warn_of_training(model)
    else:
        if any(is_lazy(tensor) for tensor in [*model.parameters(), *model.buffers()]):
            raise ValueError(
                "the model has layers whose sizes are not known yet (lazy modules); run it once on an input, e.g. "
                "model(inputs), before it is explained"
            )
        if any(parameter.is_inference() for parameter in model.parameters()):
            raise ValueError(
                "the model was made under torch.inference_mode(), so that no gradients flow through it; make it outside"
            )
        devices = {str(parameter.device) for parameter in model.parameters()}
        if "meta" in devices:
            raise ValueError(
                "the model has parameters on the meta device, which holds no numbers; load its weights before it is explained"
            )
        if len(devices) == 1 and devices != {str(inputs.device)}:  # a model on several devices moves its inputs itself
            raise ValueError(
                f"the model is on {', '.join(sorted(devices))} and the inputs are on {inputs.device}; "
                "move both to one device, e.g. inputs.to(device)"
            )


def compiled_part(model: Any) -> tuple[str, str] | None:
    """The first part of a model that is compiled, so that Python does not call its functions; None without such a part.

    Returns the part and the compiler in words for messages: "the model" or "its part 'x'", and "torch.jit" or "torch.compile".
    """
    for name, part in model.named_modules() if isinstance(model, nn.Module) else [("", model)]:
        words = f"its part {name!r}" if name else "the model"
        if isinstance(part, torch.jit.ScriptModule | torch.jit.ScriptFunction):
            return words, "torch.jit"
        attributes = ("_orig_mod", "_torchdynamo_orig_callable")
        if any(hasattr(part, attribute) for attribute in attributes):
            return words, "torch.compile"
        if getattr(part, "_compiled_call_impl", None) is not None:
            return words, "torch.compile"
    return None


def explain_failure(inputs: Float[Tensor, "B C *S"], error: Exception) -> None:
    """Raise `ValueError` from a model's error about the shape or the type of its inputs, with advice for the likely reason.

    These are a missing batch axis, as in `(3, 224, 224)`, channels that come last, as in `(1, 224, 224, 3)`, and half inputs of
    a model in single precision. Other errors are left alone, also this package's own, which say what to do.
    """
    if isinstance(error, ValueError) and raised_here(error):
        return
    shape, words = tuple(inputs.shape), str(error)
    if len(shape) == 3 and shape[0] in CHANNELS:
        raise ValueError(
            f"the model fails on inputs of shape {shape}; if this is one picture, add the batch axis: inputs[None] ({error})"
        ) from error
    if not isinstance(error, RuntimeError):
        return
    if OF_TYPES.search(words):
        raise ValueError(
            f"the model fails on inputs of {inputs.dtype}; write inputs.float(), or give them the type of its parameters, "
            f"inputs.to(next(model.parameters()).dtype) ({error})"
        ) from error
    if any(word in words for word in ("shape", "size", "channels")):
        if len(shape) == 4 and shape[3] in CHANNELS and shape[1] not in CHANNELS:
            raise ValueError(
                f"the model fails on inputs of shape {shape}; if the channels come last, write inputs.permute(0, 3, 1, 2) "
                f"({error})"
            ) from error
        raise ValueError(f"the model fails on inputs of shape {shape}: {error}") from error


def raised_here(error: Exception) -> bool:
    """Whether an error was raised by this package, not by the model or a library that it calls."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and str(last.tb_frame.f_globals.get("__name__")).split(".")[0] == __name__.split(".")[0]


def warn_of_eight_bits(inputs: Float[Tensor, "B C *S"]) -> None:
    """Warn about pictures with values as in files, from 0 to 255, which few networks take so."""
    if inputs.ndim != 4 or inputs.shape[1] not in CHANNELS or inputs.is_meta:
        return
    least, most = (float(value) for value in inputs.detach().aminmax())
    if least >= 0 and 128 < most <= 255:
        warnings.warn(
            f"inputs have values from {least:.3g} to {most:.3g}, as pictures of 8 bits; most networks expect "
            "inputs / 255, less a mean and divided by a standard deviation. Ignore this if the model takes 0 to 255",
            stacklevel=1 + frames_of_ours(),
        )


MANY = 16
"""Channels that few sensors and no stereo sounds have."""


def warn_of_turned_axes(inputs: Float[Tensor, "B C S"]) -> None:
    """Warn about inputs `(B, C, S)` with many channels and fewer places: mostly `(B, times, features)`.

    A mask hides all channels of a place together, so that it would be one over the features, for all times.
    """
    _, channels, places = inputs.shape
    if channels > max(MANY, places):
        warnings.warn(
            f"inputs (B, C, S) have {channels} channels and {places} places, and a mask hides all channels of a place "
            "together; if their second axis is time, write inputs.mT, or inputs.mT[:, None] for masks of frequencies and "
            "times, and let the model turn them back. Ignore this if the places come last",
            stacklevel=1 + frames_of_ours(),
        )


def warn_of_training(function: Any) -> None:
    """Warn about a function that calls a network with batch normalisation in training mode.

    A network itself is explained in evaluation mode. What a function calls is left as it is, and each call would mix the inputs
    of a batch, and change the network.
    """
    if isinstance(function, nn.Module):
        return
    for net in modules_of(function):
        if any(isinstance(part, _BatchNorm) and part.training for part in net.modules()):
            warnings.warn(
                f"the function calls a {type(net).__name__} in training mode, whose batch normalisation mixes the inputs of a "
                "batch and changes with each call; write net.eval() first, or give the network itself",
                stacklevel=1 + frames_of_ours(),
            )


CHANNELS = (1, 3, 4)
"""How many channels a picture has."""

OF_TYPES = re.compile("same dtype|scalar type|type .* should be the same")
"""What errors of torch about two types of numbers say."""


def warn_of_no_effect(queries: Bool[Tensor, " B"], layer: str) -> None:
    """Warn about the marked queries, whose score does not depend on the places of the layer, or of the input."""
    if queries.any():
        warnings.warn(no_effect(queries, layer), stacklevel=1 + frames_of_ours())


def warn_of_empty_maps(queries: Bool[Tensor, " B"], name: str) -> None:
    """Warn about the marked queries, whose map is 0 everywhere although the score depends on the layer."""
    if queries.any():
        rows = marked(queries)
        warnings.warn(
            f"the map of {name} is 0 everywhere for input {rows}, so that it means nothing for it: no place of the layer "
            "speaks for the score, and what speaks against it does not count; name another layer, or use LinearApproximation, "
            "which keeps the sign",
            stacklevel=1 + frames_of_ours(),
        )


def frames_of_ours() -> int:
    """The number of callers in this package, from that of this function upwards, so that a warning names the user's line."""
    package, count, frame = __name__.split(".")[0], 0, sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__")).split(".")[0] in (package, "contextlib"):
        count, frame = count + 1, frame.f_back  # type: ignore[assignment]
    return count


def marked(queries: Bool[Tensor, " B"]) -> str:
    """The numbers of the marked queries, for messages."""
    return ", ".join(map(str, queries.nonzero().flatten().tolist()))


def no_effect(queries: Bool[Tensor, " B"], layer: str) -> str:
    """The warning about the marked queries, whose score does not depend on the places of the layer, or of the input."""
    rows = marked(queries)
    where = f"the places of layer {layer!r}" if layer else "the input"
    remedy = (
        "name an earlier layer, e.g. one before the last attention if the model reads only the class token"
        if layer
        else "see that the score depends on the input, and is not saturated"
    )
    return f"the score of input {rows} does not change with {where}, so that the result means nothing for it; {remedy}"


def describe(value: Any) -> str:
    """A value's type and length, or shape, for messages."""
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

"""Gradients of a search in bfloat16, where a processor computes them faster and they point the same way.

A search only follows gradients, and averages over many of them. What it finds is scored in full precision.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.model.inputs import compiled_part
from sfumato.model.subject import Subject, backward_pass

PRECISIONS = ("auto", "full", "bfloat16")

LEAST_BYTES = 4 * 2**20
"""What a network keeps of one row for its backward pass, at least, so that shorter products outweigh conversions."""

LEAST_COSINE = 0.5
"""Between the two gradients at the whole input. Rounding leaves .7 and more on networks of pictures."""


def check_precision(precision: object) -> None:
    """Raise `ValueError` unless it is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(map(repr, PRECISIONS))}; got {precision!r}")


def rounded(subject: Subject, precision: str) -> Subject | None:
    """The subject under an autocast to bfloat16, for gradients; or `None` where its own precision is to be used.

    "auto" takes bfloat16 for float32 inputs on a processor with instructions for it, where the caller has no autocast, the
    network is large enough to gain, and its gradient for the first input keeps its direction. The subject must have been
    probed. Raises `ValueError` for "bfloat16" with a model that fails in it.
    """
    if precision == "full":
        return None
    under = replace(subject.surroundings, autocast=True, dtype=torch.bfloat16)
    other = replace(subject, surroundings=under)
    if precision == "auto" and not _gains(subject):
        return None
    try:
        found = gradient(other)
    except (RuntimeError, TypeError, ValueError) as error:  # such as a part that takes float32 alone
        if precision == "auto":
            return None
        raise ValueError(f'the model has no gradient in bfloat16: {error}. Write precision="full"') from error
    if precision == "bfloat16" or torch.cosine_similarity(found, gradient(subject), dim=0) >= LEAST_COSINE:
        return other
    return None


def _gains(subject: Subject) -> bool:
    """Whether bfloat16 is faster, and nothing speaks against it."""
    own = subject.surroundings
    return (
        subject.inputs.device.type == "cpu"
        and has_bfloat16()
        and subject.inputs.dtype == torch.float32
        and not own.autocast
        and not own.deterministic
        and isinstance(subject.model, nn.Module)
        and compiled_part(subject.model) is None  # which would be compiled again
        and subject.habits.row_bytes >= LEAST_BYTES
    )


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 numbers by instructions of its own."""
    able: dict[str, object] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # which older versions of torch do not tell
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def gradient(subject: Subject) -> Float[Tensor, " D"]:
    """The gradient of the first input's score, `(C · places,)`, in float32."""
    row, query = subject.inputs[:1].clone(), subject.query[:1]
    with subject.surroundings.computing(), backward_pass():
        row.requires_grad_()
        (found,) = torch.autograd.grad(subject.phi(row, query).sum(), row)
    return found.flatten().float()

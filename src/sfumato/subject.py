"""What is explained: a model, its inputs, and the score of its outputs. Every method begins here."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.inputs import check_batch_axis, check_inputs, check_model
from sfumato.probing import Model, Surroundings, frozen, saved_bytes
from sfumato.scores import Score, as_score, check_finite, check_score

GIB = 2**30

WHOLE = "the whole inputs"
"""What messages call them."""

BLACK_BOX = 16
"""Rows at once through a model of whose memory nothing can be seen."""


@dataclass(frozen=True)
class Subject:
    """A model, inputs `(B, C, *S)` and the score of `B` queries, checked, with the model held still."""

    model: Model
    inputs: Tensor
    score: Score
    surroundings: Surroundings
    layouts: list[torch.memory_format]
    """How the numbers of what the model sees may lie in memory; what it cannot take is dropped."""
    _resolved: list[Score] = field(default_factory=list, kw_only=True, repr=False)
    """`used_score`, once outputs have been seen."""

    @classmethod
    @contextmanager
    def prepared(cls, model: Model, inputs: Tensor, targets: Any, meaning: str = "logit") -> Iterator["Subject"]:
        """Check what was given, and hold the model frozen meanwhile. Raises `ValueError` for what cannot be used.

        `meaning` is that of a class index, of `OF_A_CLASS`.
        """
        inputs = check_inputs(inputs)
        check_model(model, inputs)
        score = as_score(targets, len(inputs), meaning)
        surroundings = Surroundings.now(inputs.device)
        with frozen(model):
            with surroundings.computing():
                inputs = inputs.clone()  # what was made in inference mode cannot serve a backward pass
            yield cls(model, inputs, score, surroundings, _layouts(model, inputs))

    @property
    def query(self) -> Tensor:
        """The index of each input, `(B,)`."""
        return torch.arange(len(self.inputs), device=self.inputs.device)

    def outputs(self, seen: Tensor, query: Tensor) -> Any:
        """The model's outputs for `(N, C, *S)`, in the inputs' precision and under the caller's autocast.

        The rows belong to the queries `(N,)`.
        """
        seen = seen.to(self.inputs.dtype)
        try:
            outputs = self.surroundings.call(self.model, seen.contiguous(memory_format=self.layouts[0]))
        except RuntimeError as error:
            if len(self.layouts) == 1 or "view size is not compatible" not in str(error):
                raise
            self.layouts.pop(0)
            return self.outputs(seen, query)
        return as_tensors(outputs, self.inputs.device)

    def phi(self, seen: Tensor, query: Tensor) -> Tensor:
        """The scores `(N,)` of `seen` `(N, C, *S)`, whose rows belong to the queries `(N,)`."""
        return self.scored(self.outputs(seen, query), query)

    def scored(self, outputs: Any, query: Tensor) -> Tensor:
        """The scores `(N,)` of the model's outputs for rows of the queries `(N,)`."""
        scores = check_score(self.score(outputs, query), outputs, len(query)).float()
        if not self._resolved:
            self._resolved.append(self.score.resolve(outputs))
        return scores

    @property
    def used_score(self) -> Score:
        """The score as it was read for the model's outputs: what a result says of itself."""
        return self._resolved[0] if self._resolved else self.score

    def whole(self, rows: int | None = None) -> Tensor:
        r"""$\Phi(x)$, `(B,)`, in chunks of `rows`; raises `ValueError` where it is not finite."""
        with self.surroundings.computing(), torch.no_grad():
            chunks = self.query.split(rows or len(self.inputs))
            return check_finite(torch.cat([self.phi(self.inputs[chunk], chunk) for chunk in chunks]), WHOLE)

    def rows_in_memory(self, gib: float) -> int:
        """How many rows may go through the model at once if what it keeps for a backward pass is to fit into so many GiB."""
        return self._rows(gib, lambda one: self.outputs(one, self.query[:1]))

    def looked_at(self, gib: float) -> tuple[int, Tensor]:
        """`rows_in_memory` and `whole`: of a single input in one pass, so that a search begins soon."""
        seen: list[Tensor] = []
        if len(self.inputs) == 1:
            rows = self._rows(gib, lambda one: seen.append(self.phi(one, self.query).detach()))
        else:
            rows = self.rows_in_memory(gib)
        return rows, check_finite(seen[0], WHOLE) if seen else self.whole(rows)

    def _rows(self, gib: float, run: Callable[[Tensor], object]) -> int:
        with self.surroundings.computing():
            one = self.inputs[:1].clone().requires_grad_()
            try:
                kept = saved_bytes(lambda: run(one))
            except (RuntimeError, BufferError) as error:
                if "grad" in str(error):  # a black box may refuse a tensor with gradients, as numpy does
                    return BLACK_BOX
                check_batch_axis(tuple(self.inputs.shape), error)
                raise
        return max(1, int(gib * GIB / max(kept, one.nbytes)))


LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def _layouts(model: Model, inputs: Tensor) -> list[torch.memory_format]:
    """Channels last where the caller has them so, or where that is faster: a processor's convolutions.

    Models that call `.view` on what a convolution gives cannot take it: they get ordinary inputs after all.
    """
    last, ordinary = LAST.get(inputs.ndim), torch.contiguous_format
    if last is None:
        return [ordinary]
    if inputs.is_contiguous(memory_format=last) and not inputs.is_contiguous():
        return [last]
    # A compiled model chooses for itself; what is no module may be a session that wants its own.
    fast = inputs.device.type == "cpu" and isinstance(model, nn.Module) and not hasattr(model, "_orig_mod")
    return [last, ordinary] if fast else [ordinary]


def as_tensors(outputs: Any, device: torch.device) -> Any:
    """The outputs with numpy arrays, also those in a list, tuple or dict, as tensors."""
    if isinstance(outputs, np.ndarray):
        array = torch.from_numpy(np.array(outputs))  # a copy, as a session's own may be read-only or change
        return array.to(device, torch.float32 if array.is_floating_point() else array.dtype)
    if isinstance(outputs, Mapping) and any(isinstance(item, np.ndarray) for item in outputs.values()):
        return {key: as_tensors(item, device) for key, item in outputs.items()}
    if isinstance(outputs, list | tuple) and any(isinstance(item, np.ndarray) for item in outputs):
        return [as_tensors(item, device) for item in outputs]
    return outputs

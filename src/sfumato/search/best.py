"""Wrappers of loops: the best so far as the answer, and rounds that begin from it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfumato.model.black_box import NoAnswerError, warn_of_stop
from sfumato.search.loop import Step
from sfumato.search.rules import like

LOWEST = torch.finfo(torch.float32).min


class Best:
    """The best parameters of each row so far, of all that count."""

    def __init__(self, parameters: Float[Tensor, " N *L"]) -> None:
        self.parameters = parameters
        """`(N, …)`; where nothing has counted yet, those to begin from."""
        self.values = parameters.new_full((len(parameters),), LOWEST, dtype=torch.float32)

    def see(self, step: Step) -> None:
        """Keep what is better in a step than all before, if it counts."""
        if step.look is None or not step.look.counts:
            return
        self._keep(step.parameters, step.values)
        if step.look.tried is not None and step.look.tried_values is not None:
            for parameters, values in zip(step.look.tried.unbind(1), step.look.tried_values.unbind(1), strict=True):
                self._keep(parameters, values)

    def _keep(self, parameters: Float[Tensor, " N *L"], values: Float[Tensor, " N"]) -> None:
        better = improves(values, self.values)
        self.values = torch.where(better, values, self.values)
        self.parameters = torch.where(like(better, parameters), parameters, self.parameters)

    def answer(self, step: Step, project: Callable[[Float[Tensor, " N *L"]], Float[Tensor, " N *L"]]) -> Step:
        """The step with the best, projected, in place of its own; rows of which nothing counted keep their own."""
        counted = self.values > LOWEST
        parameters = project(torch.where(like(counted, step.parameters), self.parameters, step.parameters))
        return replace(step, parameters=parameters, values=torch.where(counted, self.values, step.values))


def improves(values: Float[Tensor, " N"], best: Float[Tensor, " N"]) -> Bool[Tensor, " N"]:
    """Better by more than a thousandth: else rounding, which differs between batches, would choose among equals."""
    return values > best + 1e-3 * best.abs()


def best_of(
    start: Float[Tensor, " N *L"],
    lengths: Sequence[int],
    climb_from: Callable[[Float[Tensor, " N *L"], int, int], Iterator[Step]],
    project: Callable[[Float[Tensor, " N *L"]], Float[Tensor, " N *L"]],
) -> Iterator[Step]:
    """The steps of one loop or of several, one after the other; the last step holds the best of all that count, projected.

    `climb_from` is given the best so far, at first `start` `(N, …)`, the round's number and how many steps it has. Where a
    black box gives no more answers, the steps end with the best so far.
    """
    best, index, steps = Best(start), 0, sum(lengths)
    numbered = None
    try:
        for number, length in enumerate(lengths):
            for step in climb_from(best.parameters, number, length):
                best.see(step)
                numbered = replace(step, index=index, steps=steps)
                yield best.answer(numbered, project) if index == steps - 1 else numbered
                index += 1
    except NoAnswerError as error:
        if numbered is None:
            raise
        warn_of_stop(error)
        yield best.answer(numbered, project)

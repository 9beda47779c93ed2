"""A wrapper of loops: the mean of several runs, and what a last run makes of it, as the answer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from sfumato.search.loop import Step


def consensus(
    start: Float[Tensor, " N *L"],
    lengths: Sequence[int],
    climb_from: Callable[[Float[Tensor, " N *L"], int, int], Iterator[Step]],
    answer: Callable[[Float[Tensor, " N *L"]], Float[Tensor, " N *L"]],
) -> Iterator[Step]:
    """The steps of several loops, one after the other; the last step holds the mean of the last loop, as `answer`
    makes it.

    All loops but the last begin from `start` `(N, …)`, the last from the mean of their means. The mean of a loop is
    that of the parameters at all its steps that count; a loop in which none counts has the mean of its last step.
    `climb_from` is given where to begin, the loop's number and how many steps it has. A single loop begins from
    `start`.
    """
    index, steps, means = 0, sum(lengths), start.new_zeros(start.shape)
    for number, length in enumerate(lengths):
        final = number == len(lengths) - 1
        begin = means / number if final and number else start
        total, count = start.new_zeros(start.shape), 0
        for step in climb_from(begin, number, length):
            if step.look is None or step.look.counts or (count == 0 and step.index == length - 1):
                total, count = total + step.parameters, count + 1
            numbered = replace(step, index=index, steps=steps)
            yield replace(numbered, parameters=answer(total / count)) if index == steps - 1 else numbered
            index += 1
        means = means + total / count

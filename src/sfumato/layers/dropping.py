"""A transformer without the tokens of hidden places: it never sees them, so that nothing has to take their place.

S. Jain, H. Salman, E. Wong et al.: *Missingness bias in model debugging*, ICLR 2022, arXiv 2204.08945.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from sfumato.layers.default import is_block, modules_seen
from sfumato.layers.tokens import Layout, LayoutError, layout
from sfumato.model.effects import hooked
from sfumato.model.inputs import compiled_part
from sfumato.model.subject import Subject


@dataclass(frozen=True)
class FirstBlock:
    """Where a transformer takes in the tokens of places: its first block, the block's name, and how to read the tokens."""

    block: nn.Module
    layer: str
    layout: Layout

    @contextmanager
    def shown(self, places: Bool[Tensor, "*S"]) -> Iterator[None]:
        """The transformer without the tokens of all places but these, in this thread. All inputs of a batch lose the same ones.

        A token stays if at least half of its places are shown; class tokens and others without a place always stay.
        """
        laid = self.layout
        assert laid.grid is not None  # noqa: S101  # for the type checker
        share = nn.functional.interpolate(places[None, None].float(), size=laid.grid, mode="area")
        middle = (share.flatten() >= 0.5).cpu()
        before_them, behind = (
            torch.ones(count, dtype=torch.bool, device="cpu") for count in (laid.leading, laid.trailing)
        )
        kept = torch.cat([before_them, middle, behind]).nonzero()[:, 0]

        def before(arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            tokens, *others = arguments
            if tokens.ndim != 3 or tokens.shape[laid.tokens] != len(middle) + laid.leading + laid.trailing:
                raise ValueError(
                    f"the block {self.layer!r} takes in shape {tuple(tokens.shape)}, and not a token for each of {laid.grid}"
                )
            return tokens.index_select(laid.tokens, kept.to(tokens.device)), *others

        with hooked(self.block, before):
            yield


def first_block(subject: Subject) -> FirstBlock | None:
    """The first block of a subject's network whose tokens are places of the input; `None` for a network that has none.

    A block is one of several parts of the same class that put out tokens. A network of windows, or one whose tokens lie in a
    map, has none. It takes one forward pass. Raises what the network raises.
    """
    net = subject.model
    if not isinstance(net, nn.Module) or compiled_part(net):
        return None
    space, query = tuple(subject.inputs.shape[2:]), subject.query[:1]
    parts = dict(net.named_modules())
    with subject.surroundings.computing():
        example = torch.zeros_like(subject.inputs[:1])
        _, seen = modules_seen(net, example, lambda rows: subject.outputs(rows, query))
    for name, shape, axes in seen:
        if len(shape) != 3 or not _is_one_of_several(name, parts):
            continue
        try:
            laid = layout(shape, space, name, axes)
        except LayoutError:
            continue
        if laid.grid is not None and len(laid.grid) == len(space):
            return FirstBlock(parts[name], name, laid)
    return None


def _is_one_of_several(name: str, parts: dict[str, nn.Module]) -> bool:
    """Whether a module with parts has siblings of its class."""
    container, own = parts[name.rpartition(".")[0]], parts[name]
    return is_block(own) and sum(type(part) is type(own) for part in container.children()) > 1

"""`sfumato layers`: the layers of a model, to choose one for methods that use a layer."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli.errors import reporting_errors
from sfumato.cli.naming import Checkpoint
from sfumato.cli.tables import console, table

if TYPE_CHECKING:
    from sfumato.layers.outline import LayerShape
    from sfumato.models import Classifier

SCREEN = 40
"""How many layers are listed without --depth, at most."""


def layers(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model; see `sfumato models`.")] = "lite0",
    checkpoint: Checkpoint = None,
    depth: Annotated[
        int | None, typer.Option(help="Levels of nested modules. [default: as many as fit a screen]")
    ] = None,
    like: Annotated[str | None, typer.Option(metavar="TEXT", help="Only layers with this in their name.")] = None,
) -> None:
    """List a model's layers, by the names that --layer takes, with the shapes of their outputs."""
    with reporting_errors():
        if depth is not None and depth < 1:
            raise ValueError(f"--depth must be at least 1; got {depth}")

        import torch

        from sfumato import models
        from sfumato.layers.outline import outline

        classifier = models.load(model, checkpoint)
        shape = classifier.preparation.shape
        all_layers = outline(classifier.net, torch.zeros(2, *shape, dtype=torch.float32, device="cpu"))
        if not all_layers:
            raise ValueError(f"model {model!r} has no layers: it is one module without submodules")
        matching = [layer for layer in all_layers if like is None or like.casefold() in layer.name.casefold()]
        if not matching:
            raise ValueError(f"no layer of {model!r} has {like!r} in its name; leave out --like to see them all")
        defaults = _defaults(classifier)
        if depth is None:
            depth = _depth_of_screen(matching) if like is None else max(map(_level, matching))
        rows = [layer for layer in matching if _level(layer) <= depth or layer.name in defaults]
        _print(rows, defaults)
        console().print(f"\n{_summary(len(rows), matching, depth, like)}", soft_wrap=True)


def _level(layer: "LayerShape") -> int:
    """1 for a child of the model, 2 for a child of a child."""
    return layer.name.count(".") + 1


def _depth_of_screen(layers: Sequence["LayerShape"]) -> int:
    """The deepest level up to which the list fits a screen; the first level with a layer if none fits."""
    levels = sorted(map(_level, layers))
    depths = [depth for depth in levels if sum(level <= depth for level in levels) <= SCREEN]
    return max(depths, default=levels[0])


def _defaults(classifier: "Classifier") -> dict[str, list[str]]:
    """For each layer that the classifier names, the methods that use it by default."""
    defaults: dict[str, list[str]] = {}
    for method, name in classifier.layers.items():
        defaults.setdefault(name, []).append(method)
    return defaults


def _print(layers: Sequence["LayerShape"], defaults: Mapping[str, Sequence[str]]) -> None:
    """Print the layers as a table."""
    from sfumato.layers.outline import in_words

    rows = table("layer", "kind", "output", "remarks")
    names, _, outputs, remarks = rows.columns
    names.min_width = max((len(layer.name) for layer in layers), default=0)  # names are copied, so none may be cut
    names.no_wrap = outputs.no_wrap = True
    remarks.overflow = "fold"
    for layer in layers:
        rows.add_row(layer.name, layer.kind, in_words(layer), _remarks(layer, defaults))
    console().print(rows)


def _remarks(layer: "LayerShape", defaults: Mapping[str, Sequence[str]]) -> str:
    """What a user should know of a layer: how its axes are read, its heads and calls, and which methods use it."""
    from sfumato.layers.tokens import BY_SIZES

    remarks = []
    if layer.readings:
        remarks.append("ask: " + " or ".join(f'layout="{reading}"' for reading in layer.readings))
    elif layer.layout is None and layer.reason:
        remarks.append(f"no map: {layer.reason}")
    elif layer.reason == BY_SIZES:
        remarks.append(f"axes {BY_SIZES}")
    if layer.heads is not None:
        remarks.append(f"joins {layer.heads} heads")
    if layer.calls > 1:
        remarks.append(f"called {layer.calls} times")
    if layer.name in defaults:
        remarks.append(f"default of {', '.join(defaults[layer.name])}")
    return "; ".join(remarks)


def _summary(count: int, matching: Sequence["LayerShape"], depth: int, like: str | None) -> str:
    """How many layers there are, and how to see more."""
    total = f"{len(matching)} {'layer' if len(matching) == 1 else 'layers'}"
    condition = "" if like is None else f" with {like!r} in the name"
    if count == len(matching):
        return f"{total}{condition}."
    deeper = min(level for level in map(_level, matching) if level > depth)
    by_name = ", or find names with --like TEXT" if like is None else ""
    return f"{count} of {total}{condition}; see more with --depth {deeper}{by_name}."

"""`sfumato layers`: the layers of a model, to choose one for methods that look inside."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli.naming import Checkpoint
from sfumato.cli.speaking import speaking_plainly
from sfumato.cli.tables import console, table

if TYPE_CHECKING:
    from sfumato.layers.outline import LayerShape
    from sfumato.models import Classifier

SCREEN = 40  # layers listed where nobody says how deep


def layers(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model; see `sfumato models`.")] = "lite0",
    checkpoint: Checkpoint = None,
    depth: Annotated[
        int | None, typer.Option(help="Levels of parts within parts. [default: as many as fit a screen]")
    ] = None,
    like: Annotated[str | None, typer.Option(metavar="TEXT", help="Only layers with this in their name.")] = None,
) -> None:
    """List a model's layers with what they put out, as --layer takes them."""
    with speaking_plainly():
        if depth is not None and depth < 1:
            raise ValueError(f"--depth is at least 1; got {depth}")

        import torch

        from sfumato import models
        from sfumato.layers.outline import outline

        classifier = models.load(model, checkpoint)
        shape = classifier.preparation.shape
        found = outline(classifier.net, torch.zeros(2, *shape, dtype=torch.float32, device="cpu"))
        if not found:
            raise ValueError(f"model {model!r} has no layers to look into: it is one module without parts")
        matching = [layer for layer in found if like is None or like.casefold() in layer.name.casefold()]
        if not matching:
            raise ValueError(f"no layer of {model!r} has {like!r} in its name; leave out --like to see them all")
        defaults = _defaults(classifier)
        if depth is None:
            depth = _fitting(matching) if like is None else max(map(_level, matching))
        shown = [layer for layer in matching if _level(layer) <= depth or layer.name in defaults]
        _print(shown, defaults)
        console().print(f"\n{_summary(len(shown), matching, depth, like)}", soft_wrap=True)


def _level(layer: "LayerShape") -> int:
    """1 for a part of the model, 2 for a part of that."""
    return layer.name.count(".") + 1


def _fitting(found: Sequence["LayerShape"]) -> int:
    """The deepest level to which a list fits a screen, or the first that has any layer."""
    levels = sorted(map(_level, found))
    fitting = [level for level in levels if sum(each <= level for each in levels) <= SCREEN]
    return max(fitting, default=levels[0])


def _defaults(classifier: "Classifier") -> dict[str, list[str]]:
    """For each layer that the classifier names, the methods that look there unless told otherwise."""
    defaults: dict[str, list[str]] = {}
    for method, name in classifier.layers.items():
        defaults.setdefault(name, []).append(method)
    return defaults


def _print(shown: Sequence["LayerShape"], defaults: Mapping[str, Sequence[str]]) -> None:
    from sfumato.layers.outline import in_words

    listed = table("layer", "kind", "output", "remarks")
    names, _, outputs, remarks = listed.columns
    names.min_width = max((len(layer.name) for layer in shown), default=0)  # they are to be copied: none may be cut
    names.no_wrap = outputs.no_wrap = True
    remarks.overflow = "fold"
    for layer in shown:
        listed.add_row(layer.name, layer.kind, in_words(layer), _remarks(layer, defaults))
    console().print(listed)


def _remarks(layer: "LayerShape", defaults: Mapping[str, Sequence[str]]) -> str:
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


def _summary(shown: int, matching: Sequence["LayerShape"], depth: int, like: str | None) -> str:
    """How many layers there are, and how to see more."""
    count = f"{len(matching)} {'layer' if len(matching) == 1 else 'layers'}"
    named = "" if like is None else f" with {like!r} in the name"
    if shown == len(matching):
        return f"{count}{named}."
    deeper = min(level for level in map(_level, matching) if level > depth)
    by_name = ", or those of a name with --like TEXT" if like is None else ""
    return f"{shown} of {count}{named}; see more with --depth {deeper}{by_name}."

"""Pictures that excite only some channels of a layer, for sheets of channels."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.methods import ExtremalChannels
    from sfumato.models import Classifier

STEPS = 100


def invert_masks(
    classifier: "Classifier", method: "ExtremalChannels", activations: "Tensor", masks: "Tensor"
) -> "list[Tensor]":
    """For each mask of channels `(N, K)`, a picture `(3, H, W)` in which the layer has the masked activations.

    `activations` are `(N, …)`, or `(1, …)` for all masks. If nothing is left of them, the picture is grey.
    """
    import torch

    from sfumato.cli.progress import progress_bar
    from sfumato.layers.flow import axes_at
    from sfumato.layers.tokens import channel_layout
    from sfumato.methods.inversion import invert, masked
    from sfumato.model.effects import device_of, frozen

    preparation = classifier.preparation
    shape = preparation.shape
    with frozen(classifier.net), torch.no_grad():
        empty = torch.zeros(2, *shape, dtype=torch.float32, device=device_of(classifier.net))
        axes = axes_at(classifier.net, method.layer, method.at, empty, classifier.net, method.layout, method.call)
    axis = channel_layout(activations.shape, shape[1:], method.layer, axes, method.layout, method.at).channels
    masks = masks.to(activations.device)
    spread = masks.repeat_interleave(activations.shape[axis] // masks.shape[1], 1).to(activations)
    targets = masked(activations.expand(len(masks), *activations.shape[1:]), spread, axis)
    has_values = (targets != 0).flatten(1).any(1)
    pictures = torch.full((len(masks), *shape), 0.5, dtype=torch.float32, device="cpu")
    with progress_bar("inversion") as progress:
        inversion = invert(
            classifier.net,
            method.layer,
            targets[has_values],
            shape=shape,
            mean=preparation.mean,
            std=preparation.std,
            at=method.at,
            steps=STEPS,
            seed=method.seed,
            progress=progress,
        )
    pictures[has_values.cpu()] = inversion.pictures.float().cpu()
    return list(pictures.expand(-1, 3, -1, -1))

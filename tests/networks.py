"""Small networks that several tests share."""

import torch
from torch import nn

BY_AXES = {
    1: (nn.Conv1d, nn.AdaptiveAvgPool1d),
    2: (nn.Conv2d, nn.AdaptiveAvgPool2d),
    3: (nn.Conv3d, nn.AdaptiveAvgPool3d),
}
"""The convolution and the pooling for inputs with so many axes of space."""


def network(axes=2, channels=3):
    """Five logits of inputs `(B, channels, *S)`, each side 4 long at least."""
    torch.manual_seed(axes)
    convolution, pool = BY_AXES[axes]
    layers = convolution(channels, 4, 3), nn.Tanh(), pool(2), nn.Flatten(), nn.Linear(4 * 2**axes, 5)
    return nn.Sequential(*layers).eval()

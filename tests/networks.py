"""Small networks that several tests share, and settings of methods for them."""

import torch
from torch import nn

from sfumato import Constant, GridMask

PATHS = {"steps": 3, "points": 2, "l1": 0.0, "tv": 0.02, "mask": GridMask(3, 0), "perturbation": Constant(-2.0)}
"""Of I-GOS and iGOS++. What hides places lowers the score of every picture."""

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


class Network(nn.Module):
    """Statistics, randomness, in-place and functional activations, a residual sum, and a hook of the user's."""

    def __init__(self, error=None, after=0):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.more = nn.Conv2d(6, 6, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 5)
        self.error, self.after, self.calls, self.hooked = error, after, 0, 0
        self.head.weight.requires_grad_(False)
        self.head.bias.grad = torch.full_like(self.head.bias, 3.0)
        self.more.register_forward_hook(self._hook)

    def _hook(self, *_):
        self.hooked += 1

    def forward(self, inputs):
        self.calls += 1
        if self.error and self.calls > self.after:
            raise self.error
        torch.rand(())  # draws from the global random state
        values = self.features(inputs)
        values = torch.relu(self.more(values)) + values
        return self.head(self.drop(values.mean((2, 3))))


class OneLayer(nn.Module):
    """A network whose only part is its `layer`; what it does with that, a test says in `forward`."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer


class Counted(nn.Module):
    """Knows how often it was called; raises in its call number `last`."""

    def __init__(self, inner, error=None, last=0):
        super().__init__()
        self.inner, self.calls, self.error, self.last = inner, 0, error, last

    def forward(self, x):
        self.calls += 1
        if self.calls == self.last:
            raise self.error
        return self.inner(x)

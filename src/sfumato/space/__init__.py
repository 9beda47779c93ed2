"""Functions of 1, 2 or 3 axes of space: smoothing, resampling, and small moves of inputs."""

from sfumato.space.jitter import Jitter, MirrorEvenSteps
from sfumato.space.transforms import Transforms

__all__ = ["Jitter", "MirrorEvenSteps", "Transforms"]

"""Pictures and clips from files, and the network's inputs for them."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from sfumato.models import Classifier


def shown(path: Path, classifier: "Classifier") -> tuple["Image | Tensor", tuple[int, int], "Tensor"]:
    """The picture or clip of a file, its width and height, and the network's input for it. Raises `ValueError`."""
    from sfumato.data import pictures
    from sfumato.data.clips import read_clip
    from sfumato.models.clips import takes_clips

    if not takes_clips(classifier):
        picture = pictures.read(path)
        return picture, picture.size, classifier.prepare(picture)
    clip = read_clip(path)
    try:
        inputs = classifier.prepare(clip)
    except ValueError as error:
        raise ValueError(f"cannot use clip {str(path)!r}: {error}") from error
    return classifier.restore(inputs), (inputs.shape[-1], inputs.shape[-2]), inputs
